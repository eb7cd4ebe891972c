#!/usr/bin/env bash
# A real text that no part of the demo trains on: the Debian FAQ, from Debian's package, its paragraphs unwrapped.
#   fetch_text.sh FILE
set -euo pipefail
file=$(realpath -m "$1")
mkdir -p "$(dirname "$file")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
fetch() { apt-get -qq download debian-faq 2> /dev/null; }
as_root=; [ "$(id -u)" = 0 ] || as_root=sudo
fetch || { $as_root apt-get -qq update && fetch; }
dpkg -x debian-faq_*.deb .
zcat usr/share/doc/debian/FAQ/debian-faq.en.txt.gz | python3 -c '
import re, sys
paragraphs = re.split(r"\n\s*\n", sys.stdin.read())
unwrapped = (" ".join(line.strip() for line in p.splitlines()) for p in paragraphs)
print("\n\n".join(p for p in unwrapped if len(p) > 80))' > "$file.part"
mv "$file.part" "$file"
