#!/usr/bin/env bash
# Builds the program without training and its tests for ARM, and runs all of them under emulation.
#
# The compiler and qemu are installed; the libraries are Debian's for arm64, unpacked into .deps/arm64 and not installed, so
# that nothing of this machine's own changes.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh cmake ninja-build pkg-config g++-aarch64-linux-gnu qemu-user

packages="libhwy-dev libpcre2-dev libutf8proc-dev libzstd-dev libfmt-dev libopenblas-dev liblapacke-dev libgtest-dev libgmock-dev
  nlohmann-json3-dev libcli11-dev"
root=$PWD/.deps/arm64
if [ ! -e "$root/.ready" ]; then
  echo "fetching Debian's libraries for arm64 (31 MB)"
  rm -rf "$root"
  mkdir -p "$root/apt/lists/partial" "$root/apt/archives/partial"
  # apt as on an arm64 machine where nothing is installed yet: it finds all that the packages need.
  touch "$root/apt/status"
  cat > "$root/apt/apt.conf" << END
Dir::State "$root/apt";
Dir::State::status "$root/apt/status";
Dir::Cache "$root/apt";
APT::Architecture "arm64";
APT::Architectures "arm64";
APT::Sandbox::User "";
END
  export APT_CONFIG=$root/apt/apt.conf
  apt-get -qq update
  apt-get -qq install -y --download-only --no-install-recommends $packages > "$root/apt/log" 2>&1 || { cat "$root/apt/log"; exit 1; }
  unset APT_CONFIG
  for archive in "$root"/apt/archives/*.deb; do dpkg -x "$archive" "$root"; done
  rm -rf "$root/apt"
  # What the packages' scripts would link by update-alternatives.
  cd "$root/usr/lib/aarch64-linux-gnu"
  ln -s openblas-pthread/*.so* .
  cd pkgconfig
  ln -s ../openblas-pthread/pkgconfig/openblas.pc .
  for name in blas lapack; do ln -s "../openblas-pthread/pkgconfig/$name-openblas.pc" "$name.pc"; done
  cd "$root/../.."
  touch "$root/.ready"
fi

cmake --preset arm > build/configure_arm.log || { cat build/configure_arm.log; exit 1; }
cmake --build --preset arm
ctest --test-dir build/arm -j "$(nproc)" --output-on-failure
