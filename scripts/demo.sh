#!/usr/bin/env bash
# The main job on a real model: demo.sh FATHOM MODEL EVAL_TEXT FOLDER MINUTES
set -euo pipefail
fathom=$1 model=$2 text=$3 folder=$4 minutes=$5
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "1. SmolLM2-135M loses an eighth of its layers' weights, in two ways; the better is trained back by the original"
"$fathom" compress "$model" --out "$folder/smollm2-smaller" --eval-text "$text" --target 0.88 --minutes "$minutes" --overwrite

say "2. The smaller model answers"
"$fathom" generate "$folder/smollm2-smaller" --chat --prompt "What is the capital of France?" --max-tokens 48

say "3. What was done and what it cost"
echo "report:  $folder/smollm2-smaller/report.html"
echo "account: $folder/smollm2-smaller/account.json"
