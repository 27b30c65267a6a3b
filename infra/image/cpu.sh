#!/bin/sh
# docker build -f infra/Dockerfile --build-arg DEVICE=cpu ...
# Takes out of a part of the packages what torch loads on a GPU only. The rest of CUDA has to stay: torch's own libraries
# are linked to it.
set -eu
packages=$(echo /opt/m2f-batch/lib/python3*/site-packages)
python3 -m uv pip uninstall --quiet --python /opt/m2f-batch triton || true
find "$packages" -path '*/nvidia/cudnn/lib/libcudnn_*' -delete
find "$packages" -path '*/nvidia/nvshmem/lib/*.bc' -delete
find "$packages" \( -path '*/nvidia/*/libcusolverMg*' -o -path '*/nvidia/*/libnvperf*' -o -path '*/nvidia/*.a' \) -delete
