#!/usr/bin/env bash
# install.sh PACKAGE...: installs those of the Debian packages that are missing.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build
missing=
for package in "$@"; do
  dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
as_root=; [ "$(id -u)" = 0 ] || as_root=sudo
echo "installing Debian packages:$missing"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get -qq -o DPkg::Lock::Timeout=300 update
$as_root apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $missing > build/apt.log 2>&1 || { cat build/apt.log; exit 1; }
