#!/bin/sh
# sh infra/s3/role.sh
# Makes the role m2f-batch with the policies beside this file, after you have put your bucket, prefixes, account and cluster
# there; again, it brings them up to date. Needs the aws command with the right to change roles. No key is made.
set -eu
here=$(dirname "$0")
json() { "${PYTHON:-.venv/bin/python}" -c 'import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))' < "$here/$1.yaml"; }
trust=$(json "${TRUST:-trust}")
aws iam create-role --role-name m2f-batch --assume-role-policy-document "$trust" ||
    aws iam update-assume-role-policy --role-name m2f-batch --policy-document "$trust"
for policy in read write; do
    aws iam put-role-policy --role-name m2f-batch --policy-name "$policy" --policy-document "$(json "$policy")"
done
