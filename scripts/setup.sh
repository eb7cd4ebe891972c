#!/usr/bin/env bash
# What the build needs: Debian packages, and libtorch from PyPI's wheel into .deps/torch. Does nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build

packages="g++ cmake ninja-build pkg-config python3-venv nlohmann-json3-dev libcli11-dev libfmt-dev libpcre2-dev libutf8proc-dev
  libzstd-dev libtomlplusplus-dev libhwy-dev libopenblas-dev liblapacke-dev libgloo-dev libgtest-dev libgmock-dev"
missing=
for package in $packages; do
  dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
  as_root=; [ "$(id -u)" = 0 ] || as_root=sudo
  echo "installing Debian packages:$missing"
  export DEBIAN_FRONTEND=noninteractive
  $as_root apt-get -qq -o DPkg::Lock::Timeout=300 update
  $as_root apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $missing > build/apt.log 2>&1 || { cat build/apt.log; exit 1; }
fi

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
