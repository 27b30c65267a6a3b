#!/bin/sh
# sh infra/s3/role.sh
# Makes the role m2f-batch (or $ROLE, trusted as in $TRUST.yaml) with the policies beside this file, after you have put your
# bucket, prefixes, account and cluster there. Again, it brings them up to date. Needs the aws command with the right to
# change roles, and a Python with PyYAML: that of make, or PYTHON=python3. No key is made.
set -eu
here=$(dirname "$0")
role=${ROLE:-m2f-batch}
python=${PYTHON:-.venv/bin/python}
if ! "$python" -c 'import yaml' 2> /dev/null; then
    echo "role.sh: $python has no PyYAML (or is not there); run make .venv/ready, or name a Python with it: PYTHON=python3" >&2
    exit 1
fi
json() {
    "$python" -c 'import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))' \
        < "$here/$1.yaml"
}
trust=$(json "${TRUST:-trust}")
aws iam create-role --role-name "$role" --assume-role-policy-document "$trust" ||
    aws iam update-assume-role-policy --role-name "$role" --policy-document "$trust"
for policy in read write ${MORE:-}; do
    document=$(json "$policy")
    aws iam put-role-policy --role-name "$role" --policy-name "$(basename "$policy")" --policy-document "$document"
done
