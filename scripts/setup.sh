#!/usr/bin/env bash
# What the build needs: Debian packages, and libtorch from PyPI's wheel into .deps/torch. Does nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh g++ cmake ninja-build pkg-config python3-venv nlohmann-json3-dev libcli11-dev libfmt-dev libpcre2-dev libutf8proc-dev \
  libzstd-dev libtomlplusplus-dev libhwy-dev libopenblas-dev liblapacke-dev libgloo-dev libgtest-dev libgmock-dev

# The wheel is the CUDA build, but its CPU half needs only two small packages of CUDA (cmake/torch.cmake); without --no-deps
# pip would bring 2 GB more.
torch=2.13.0
if [ ! -e ".deps/torch/.ready-$torch" ]; then
  echo "fetching libtorch $torch (540 MB)"
  rm -rf .deps/torch
  python3 -m venv .deps/torch
  .deps/torch/bin/pip install -q --disable-pip-version-check --no-deps "torch==$torch" nvidia-cuda-cupti nvidia-cuda-runtime
  touch ".deps/torch/.ready-$torch"
fi
