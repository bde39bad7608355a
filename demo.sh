#!/usr/bin/env bash
# Fine-tunes SmolLM2-135M-Instruct on the King James Bible by changing 1 % of the weights of its linear layers, in about ten minutes on two cores.
# Installs what is missing (and says what), builds, times two updates to choose how many there is time for, trains, and shows perplexity on a book that
# was held out, a sample before and after, and a report. What is there already (packages, build, model, text, a finished run) is kept.
#   ./demo.sh [--again] [--seconds N]     --again trains anew; --seconds: how long training may take (300)
set -eu
cd "$(dirname "$0")"
again='' seconds=300
while [ $# -gt 0 ]; do
  case $1 in
    --again) again=1 ;;
    --seconds) shift; seconds=${1:?--seconds needs a number} ;;
    *) echo "demo.sh: there is no flag '$1' (--again, --seconds N)" >&2; exit 2 ;;
  esac
  shift
done
say() { printf '\n== %s\n' "$*"; }
field() { sed -n "s/.*\"$1\":\(\"\([^\"]*\)\"\|\([-0-9.e+]*\)\).*/\2\3/p" | tail -n 1; } # a number or a plain string of the last JSON line that has it

began=$(date +%s)
. scripts/deps.sh
say "packages"
# shellcheck disable=SC2086
lacuna_deps $LACUNA_BUILD_PACKAGES bible-kjv bible-kjv-text
echo "all there"

say "build (Release, in build/)"
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null
ninja -C build lacuna >build/demo-build.log 2>&1 || { tail -n 30 build/demo-build.log >&2; exit 1; }
lacuna=build/lacuna
$lacuna --version

say "model"
model=$(lacuna_model .cache/model)
echo "$model"

say "text: the King James Bible (Debian's bible-kjv-text); Acts is held out"
text=.cache/text
if [ ! -s $text/acts.txt ]; then
  mkdir -p $text
  bible -f 'gen1:1-rev22:21' </dev/null 2>/dev/null >$text/all.tmp # a verse a line: "Ge1:1 In the beginning ..."
  grep -v '^Ac[a-z]*[0-9]' $text/all.tmp | sed 's/^[^ ]* //' >$text/kjv.txt
  grep '^Ac[a-z]*[0-9]' $text/all.tmp | sed 's/^[^ ]* //' >$text/acts.tmp
  rm $text/all.tmp
  mv $text/acts.tmp $text/acts.txt
fi
wc -c $text/kjv.txt $text/acts.txt | head -n 2

out=.cache/demo
prompt='And it came to pass in those days'
recipe=(-m "$model" -d $text/kjv.txt --method shira --density 0.01 --batch 4 --seq 256 --lr 3e-3)
measure() { # NAME [-a ADAPTER]: perplexity and a sample, kept in .cache/demo-NAME.*
  local name=$1
  shift
  $lacuna eval -m "$model" "$@" -d $text/acts.txt --dtype auto --limit 8 --json --quiet >".cache/demo-$name.eval"
  $lacuna generate -m "$model" "$@" -p "$prompt" -n 60 --temp 0 --repeat-penalty 1.1 --quiet >".cache/demo-$name.sample"
}
[ -z "$again" ] || rm -rf $out .cache/demo-*

if [ ! -s .cache/demo-before.sample ]; then
  say "before: perplexity on Acts, and a sample"
  measure before
fi
echo "perplexity $(field value <.cache/demo-before.eval)"

if [ ! -s $out/adapter_model.safetensors ]; then
  say "how fast is this machine?"
  rm -rf .cache/demo-timing
  rate=$($lacuna train "${recipe[@]}" --steps 3 --keep 0 -o .cache/demo-timing --json --quiet | grep '"event":"step"' | field tokens_per_s)
  rm -rf .cache/demo-timing
  steps=$(awk -v r="$rate" -v s="$seconds" 'BEGIN { n = int(s * r / (4 * 256)); print (n < 5 ? 5 : n > 200 ? 200 : n) }')
  echo "$rate tokens/s: $steps updates of 1024 tokens"
  say "training: SHiRA, 1 % of the entries of every linear layer"
  resume=
  if ls -d $out/checkpoint-* >/dev/null 2>&1; then resume=--resume; else rm -rf $out; fi
  $lacuna train "${recipe[@]}" --steps "$steps" --eval-data $text/acts.txt --eval-limit 16 --eval-every $(((steps + 3) / 4)) \
    --sample-prompt "$prompt" --base-name SmolLM2-135M-Instruct -o $out $resume
fi
[ -s .cache/demo-after.sample ] && [ .cache/demo-after.sample -nt $out/adapter_model.safetensors ] || measure after -a $out
$lacuna report $out >/dev/null

before=$(field value <.cache/demo-before.eval) after=$(field value <.cache/demo-after.eval)
done_line=$(grep '"event":"done"' $out/log.jsonl)
say "what the model writes after \"$prompt\""
printf 'before: %s\n\nafter:  %s\n' "$(cat .cache/demo-before.sample)" "$(cat .cache/demo-after.sample)"
say "in numbers"
awk -v b="$before" -v a="$after" 'BEGIN { printf "  %-34s %.2f -> %.2f  (%+.1f %%)\n", "perplexity on Acts (held out)", b, a, 100 * (a / b - 1) }'
row() { printf '  %-34s %s\n' "$1" "$2"; }
row "trained values" "$(field trainable <<<"$done_line")"
row "updates, tokens" "$(field steps <<<"$done_line"), $(field tokens <<<"$done_line")"
row "training" "$(field seconds <<<"$done_line" | cut -d. -f1) s at $(field tokens_per_s <<<"$done_line" | cut -d. -f1) tokens/s"
row "peak memory" "$(field peak_rss_mib <<<"$done_line" | cut -d. -f1) MiB"
row "adapter (PEFT's format)" "$(awk -v n="$(stat -c %s $out/adapter_model.safetensors)" 'BEGIN { printf "%.1f MB", n / 1e6 }'), $out"
row "report" "$PWD/$out/report.html"
row "this took" "$(($(date +%s) - began)) s"
