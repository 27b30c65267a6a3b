#!/bin/sh
# sh infra/ray/profiles.sh
# The two instance profiles of infra/ray/aws.yaml: of the workers, which may do what infra/s3/read.yaml and write.yaml say,
# and of the head, which may also start and end workers.
set -eu
here=$(dirname "$0")
profile() {
    ROLE=$1 MORE=${2:-} TRUST=trust-ec2 sh "$here/../s3/role.sh"
    aws iam create-instance-profile --instance-profile-name "$1"
    aws iam add-role-to-instance-profile --instance-profile-name "$1" --role-name "$1"
}
profile m2f-batch
profile m2f-batch-head ../ray/start-workers
