#!/bin/sh
# sh infra/kubernetes/ray-token.sh
# Makes the Secret with Ray's token, which the manifests name, if it is not there. The token is neither printed nor kept in
# a file.
set -eu
kubectl get namespace m2f-batch >/dev/null 2>&1 || kubectl apply -f "$(dirname "$0")/base/namespace.yaml"
if kubectl get secret m2f-batch-ray-token --namespace m2f-batch >/dev/null 2>&1; then
    echo "the Secret m2f-batch-ray-token is there already"
    exit 0
fi
openssl rand -hex 32 | tr -d '\n' |
    kubectl create secret generic m2f-batch-ray-token --namespace m2f-batch --from-file=auth_token=/dev/stdin
