#!/bin/sh
# docker build -f infra/Dockerfile --build-arg DEVICE=cuda ...
# Compiles the one C file that Triton compiles where it first meets a GPU, so that the image needs no compiler (which
# model.compile does need). The CUDA driver, to which it is linked, is on the nodes only: here an empty library stands for
# it.
set -eu
venv=/opt/m2f-batch
nvidia=$(echo "$venv"/lib/python3*/site-packages/triton/backends/nvidia)
test -d "$nvidia" || exit 0  # a part of the packages without Triton
gcc -shared -Wl,-soname,libcuda.so.1 -o /tmp/libcuda.so.1 -x c /dev/null
gcc "$nvidia/driver.c" -O3 -shared -fPIC -Wno-psabi -o "$venv/lib/cuda_utils.so" -L/tmp -l:libcuda.so.1 \
    -I"$nvidia/include" -I"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')"
install --mode 755 "$(dirname "$0")/triton-cc" "$venv/bin/triton-cc"
