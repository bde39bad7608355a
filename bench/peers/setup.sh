#!/bin/bash
# Makes the Python environment that bench/ and the generators under tests/golden/ use; lacuna itself needs none.
#
#   bench/peers/setup.sh [--no-llama] [VENV]      VENV: $LACUNA_VENV, else .venv in the repository's root
#
# Everything comes from PyPI. torch there is linked against CUDA, so the libraries it names must be present even on a
# machine without a GPU; only triton is left out, since nothing here compiles for a device. llama.cpp is built from the
# sources that the sdist of llama-cpp-python carries, once, for this machine: the Python bindings and llama-bench share
# the libraries. Runs again cheaply: what is there is kept.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
llama=1
[ "${1:-}" = "--no-llama" ] && { llama=0; shift; }
venv=${1:-${LACUNA_VENV:-$top/.venv}}
py=$venv/bin/python
jobs=${JOBS:-1}

[ -x "$py" ] || python3 -m venv "$venv"
pip() { "$py" -m pip --disable-pip-version-check -q "$@"; }

if ! "$py" -c 'import torch, transformers, peft, accelerate, gguf, tokenizers, safetensors, PIL' 2>/dev/null; then
  pip install -U pip
  pip install --no-deps torch
  # torch's own list of requirements for this platform, without triton
  "$py" - > "$venv/torch-needs.txt" <<'PY'
import importlib.metadata as m
from pip._vendor.packaging.requirements import Requirement
for r in map(Requirement, m.requires("torch")):
    if r.name != "triton" and "extra" not in str(r.marker or "") and (not r.marker or r.marker.evaluate()):
        r.marker = None
        print(r)
PY
  pip install -r "$venv/torch-needs.txt"
  # accelerate and peft ask for torch with all it asks for: their other requirements are named here instead
  pip install --no-deps accelerate peft
  pip install transformers tokenizers safetensors gguf numpy psutil pillow
fi
"$py" -c 'import torch, transformers, peft; print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")'
[ $llama = 1 ] || exit 0

build=$venv/llama.cpp-build
if ! "$py" -c 'import llama_cpp' 2>/dev/null || [ ! -x "$build/bin/llama-finetune" ]; then
  if ! ls -d "$venv"/src/llama_cpp_python-*/ >/dev/null 2>&1; then
    mkdir -p "$venv/src"
    pip download --no-deps --no-binary llama-cpp-python -d "$venv/src" llama-cpp-python
    tar -C "$venv/src" -xf "$venv"/src/llama_cpp_python-*.tar.gz
  fi
  src=$(ls -d "$venv"/src/llama_cpp_python-*/ | tail -1)
  # gcc 12's _tile_loadconfig names 8 bytes of the configuration, so the stores to the rest are dropped and AMX products end in "illegal instruction"
  amx=$src/vendor/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp
  grep -q '"memory"' "$amx" || sed -i 's|^    _tile_loadconfig(&tc);|    __asm__ volatile("" : : "r"(\&tc) : "memory");\n&|' "$amx"
  pip install cmake ninja
  PATH=$venv/bin:$PATH
  launch=; command -v ccache >/dev/null && launch="-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache"
  cmake -S "$src/vendor/llama.cpp" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release $launch -DBUILD_SHARED_LIBS=ON \
    -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=ON \
    -DLLAMA_BUILD_SERVER=OFF > "$venv/llama-build.log"
  nice ninja -C "$build" -j"$jobs" llama llama-bench llama-quantize llama-finetune >> "$venv/llama-build.log"
  # the bindings without a second build of the same sources: they load the libraries from their own lib/
  CMAKE_ARGS="-DLLAMA_BUILD=OFF" pip install "$src"
  lib=$("$py" -c 'import importlib.util as u; print(u.find_spec("llama_cpp").submodule_search_locations[0])')/lib
  mkdir -p "$lib"
  cp -P "$build"/bin/*.so* "$lib/"
fi
LD_LIBRARY_PATH="" "$py" -c 'import llama_cpp; print("llama_cpp", llama_cpp.__version__)'
