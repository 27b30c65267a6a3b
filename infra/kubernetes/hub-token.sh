#!/bin/sh
# sh infra/kubernetes/hub-token.sh < FILE
# Makes the Secret with a token of the Hugging Face hub, which Ray's pods take where it is there. FILE holds the token, for
# reading the models of M2F_BATCH_ALLOW and nothing else.
set -eu
kubectl get namespace m2f-batch >/dev/null 2>&1 || kubectl apply -f "$(dirname "$0")/base/namespace.yaml"
tr -d '\n' |
    kubectl create secret generic m2f-batch-hub-token --namespace m2f-batch --from-file=token=/dev/stdin
