#!/bin/bash
# Speed of llama.cpp on a GGUF: prefill (512 tokens) and decoding (128 tokens), as JSON on stdout.
#
#   bench/peers/llama_bench.sh GGUF [VENV]      VENV: $LACUNA_VENV, else .venv in the repository's root
#
# llama-bench is built for this machine by setup.sh from the sources in llama-cpp-python's sdist. THREADS sets the number of
# threads (default: the processors this shell may use); more options of llama-bench go in LLAMA_BENCH_ARGS.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
[ $# -ge 1 ] || { sed -n '2,7s/^# \?//p' "$0" >&2; exit 2; }
gguf=$1
venv=${2:-${LACUNA_VENV:-$top/.venv}}
bench=$venv/llama.cpp-build/bin/llama-bench
[ -x "$bench" ] || { echo "$bench is not there: run bench/peers/setup.sh $venv" >&2; exit 1; }
# shellcheck disable=SC2086
exec "$bench" -m "$gguf" -t "${THREADS:-$(nproc)}" -p 512 -n 128 -o json ${LLAMA_BENCH_ARGS:-}
