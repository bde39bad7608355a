#!/usr/bin/env bash
# Installs what is missing, builds, runs every test. Ends with "N passed, N failed".
#   ./check.sh [--quick] [--fuzz SECONDS]     --quick leaves out the sanitizer build and the forced instruction sets
set -u
cd "$(dirname "$0")" || exit 1
quick= fuzz=0
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=1 ;;
    --fuzz) shift; fuzz=${1:?--fuzz needs seconds} ;;
    *) echo "check.sh: there is no flag '$1'" >&2; exit 2 ;;
  esac
  shift
done
. scripts/deps.sh
# shellcheck disable=SC2086
lacuna_deps $LACUNA_BUILD_PACKAGES || exit 1

passed=0 failed=0
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT

# suite NAME BUILD-DIR [ctest arguments]: adds up ctest's counts.
suite() {
  local name=$1 dir=$2 total bad began=$SECONDS
  shift 2
  echo "== $name"
  ctest --test-dir "$dir" --output-on-failure -j 2 "$@" >"$log/out" 2>&1
  grep -E '^ *[0-9]+/[0-9]+ Test.*\*\*\*|Failed|\[  FAILED|\[   LINE|ERROR: |runtime error' "$log/out" | head -n 60
  total=$(sed -n 's/.*tests passed, [0-9]* tests failed out of \([0-9]*\).*/\1/p' "$log/out")
  bad=$(sed -n 's/.*tests passed, \([0-9]*\) tests failed out of.*/\1/p' "$log/out")
  if [ -z "$total" ]; then cat "$log/out"; failed=$((failed + 1)); return; fi
  echo "   $((total - bad)) of $total, $((SECONDS - began)) s"
  passed=$((passed + total - bad)) failed=$((failed + bad))
}

build() { # DIR cmake-flags...; of targets, when they are set
  local dir=$1
  shift
  cmake -S . -B "$dir" -G Ninja "$@" >"$log/cmake" 2>&1 || { cat "$log/cmake"; return 1; }
  ninja -C "$dir" ${targets:-all} >"$log/ninja" 2>&1 || { grep -E 'error|FAILED' "$log/ninja" | head -n 40; return 1; }
}

echo "== build"
if ! build build; then echo "the build failed"; echo "0 passed, 1 failed"; exit 1; fi
suite "tests" build

if [ -x tests/cli/run.sh ]; then
  echo "== command line"
  tests/cli/run.sh build/lacuna >"$log/cli" 2>&1
  grep -v '^ok ' "$log/cli"
  ok=$(grep -c '^ok ' "$log/cli"); not=$(grep -c '^not ok ' "$log/cli")
  tail -n 1 "$log/cli" | grep -q '^done$' || { echo "the command-line tests broke off"; not=$((not + 1)); }
  echo "   $ok of $((ok + not))"
  passed=$((passed + ok)) failed=$((failed + not))
fi

# Every instruction set that this machine has below its best: kernels, products, gradients, parity with transformers, training to the bit.
# OpenBLAS reads its core type when it is loaded, hence from here.
if [ -z "$quick" ]; then
  able=
  for isa in scalar:Prescott avx2:Haswell avx512:SkylakeX avx512_bf16:SkylakeX amx:SkylakeX; do
    LACUNA_ISA=${isa%:*} build/lacuna methods >/dev/null 2>&1 && able="$able $isa"
  done
  for isa in ${able% *}; do # the last one is what runs anyway
    LACUNA_ISA=${isa%:*} OPENBLAS_CORETYPE=${isa#*:} suite "tests, ${isa%:*} kernels" build \
      -R '^test_(kernels|gemm|ops|delta|sampled|optim|model_parity|adapter|spiel_trajectory|train_bits|infer_session)$'
  done
  if build build-asan -DLC_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo; then
    ASAN_OPTIONS=detect_leaks=1 suite "tests, address and undefined-behaviour sanitizers" build-asan
  else
    echo "the sanitizer build failed"; failed=$((failed + 1))
  fi
fi

if [ "$fuzz" -gt 0 ] && [ -d fuzz ]; then
  lacuna_deps clang libclang-rt-14-dev || lacuna_deps clang || exit 1
  if targets=fuzz build build-fuzz -DLC_FUZZ=ON -DCMAKE_C_COMPILER=clang; then
    for target in build-fuzz/fuzz/fuzz_*; do
      [ -x "$target" ] && [ -f "$target" ] || continue
      name=${target##*/fuzz_}
      echo "== fuzz $name, $fuzz s"
      mkdir -p "$log/corpus-$name"
      if "$target" -max_total_time="$fuzz" -timeout=5 -rss_limit_mb=2048 "$log/corpus-$name" "fuzz/corpus/$name" >"$log/fuzz" 2>&1; then passed=$((passed + 1))
      else tail -n 20 "$log/fuzz"; failed=$((failed + 1)); fi
    done
  else
    failed=$((failed + 1))
  fi
fi

echo "$SECONDS s in all"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
