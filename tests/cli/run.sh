#!/usr/bin/env bash
# The command line as a contract: flags, JSON fields, exit statuses, output directories, bad input. Runs a built lacuna on tiny models, and on
# SmolLM2 when that can be had. Prints "ok NAME" or "not ok NAME" a test (with what was seen), and "done".
#   tests/cli/run.sh LACUNA_BINARY
set -u
lacuna=$(realpath "${1:?the lacuna binary is needed}")
tiny=$(dirname "$lacuna")/tests/tiny_models
root=$(realpath "$(dirname "$0")/../..")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
export OMP_WAIT_POLICY=passive

# run STATUS ARGUMENTS...: lacuna ends with this status; a failure (1, 2) leaves exactly one sentence on stderr. Output in out, err.
run() {
  local want=$1 got
  shift
  timeout 300 "$lacuna" "$@" >out 2>err </dev/null && got=0 || got=$?
  if [ $got != "$want" ]; then echo "lacuna $*: status $got, $want expected: $(tail -n 3 err)"; return 1; fi
  case $want in 1 | 2)
    if [ "$(grep -vc '^warning: ' err)" != 1 ] || ! grep -q "^lacuna" err; then echo "lacuna $*: no single sentence: $(cat err)"; return 1; fi ;;
  esac
}
says() { grep -qF -- "$1" "${2:-err}" || { echo "'$1' is not in: $(head -c 600 "${2:-err}")"; return 1; }; }
has() { "$tiny" has "$@" <out; }
absent() { [ ! -e "$1" ] || { echo "$1 was left"; return 1; }; }
nothing_new() { [ -z "$(find . -maxdepth 2 \( -name '*.tmp*' -o -name '.*.tmp*' \))" ] || { echo "left: $(find . -name '*tmp*')"; return 1; }; }
same() { cmp -s "$1" "$2" || { echo "$1 and $2 differ"; return 1; }; }
not() { ! "$@"; }
# The first command of the function that fails ends it: hence no "&&" in the functions below, and no function in a condition ("set -e" would
# not count there).
t() { # NAME FUNCTION ARGUMENTS...
  local name=$1 seen status
  shift
  seen=$(set -e; "$@" 2>&1)
  status=$?
  if [ $status = 0 ]; then echo "ok $name"; else echo "not ok $name"; echo "$seen" | head -n 6 | sed 's/^/    /'; fi
}
unnoticed() { run 0 --version; says "these words" out; run 0 --version; }
case $(t "" unnoticed) in "not ok"*) echo "ok a check that fails is noticed" ;; *) echo "not ok a check that fails is noticed" ;; esac

"$tiny" make models || { echo "not ok tiny models"; echo done; exit 1; }
M=models/llama
words="the cat sat on a mat and saw two birds fly far away"
for i in $(seq 40); do echo "$words; $i times the dog ran after them, and no one knew why."; done >text.txt
head -n 4 text.txt >held.txt
for i in $(seq 24); do echo "{\"prompt\": \"the cat $i\", \"completion\": \" sat on mat $((i * 7 % 11))\"}"; done >rows.jsonl
small="--steps 4 --batch 2 --seq 32 --dtype f32 --density 0.05 --quiet"

# ---- help, statuses, suggestions ----
helps() { # COMMAND
  run 0 "$1" --help; says "usage: lacuna $1" out
  for f in json seed threads quiet help; do says "--$f" out; done
}
commands=$("$lacuna" --help | sed -n 's/^  \([a-z]*\) .*/\1/p')
for c in $commands; do t "help of $c" helps "$c"; done
all_commands() { for c in info train eval generate embed merge convert diff ship methods objectives tokenize logits bench report; do echo "$commands" | grep -qx $c || { echo "no command $c"; return 1; }; done; }
t "the commands are there" all_commands
version() { run 0 --version; grep -Eq '^lacuna [0-9]+\.[0-9]+\.[0-9]+$' out; }
t "version" version
no_command() { local got=0; timeout 9 "$lacuna" >out 2>err || got=$?; [ $got = 2 ]; }
t "no command: status 2" no_command
wrong_command() { run 2 trian; says "did you mean 'train'"; }
t "an unknown command suggests" wrong_command
wrong_flag() { run 2 train --densty 0.1; says "did you mean '--density'"; }
t "an unknown flag suggests" wrong_flag
wrong_method() { run 2 train -m $M -d text.txt --method shirra -o x; says "'shira'"; absent x; }
t "an unknown method suggests" wrong_method
wrong_option() { run 2 train -m $M -d text.txt --method shira --set maks=random -o x; says "'mask'"; absent x; }
t "an unknown option of a method suggests" wrong_option
wrong_number() { run 2 train -m $M -d text.txt --method shira --density 1.5 -o x; says density; absent x; }
t "a number out of range" wrong_number
no_target() { run 2 train -m $M -d text.txt --method shira --targets nosuch $small -o x; says nosuch; absent x; }
t "targets that match nothing, and OUT is as before" no_target
missing_value() { run 2 eval -m; says "needs a value"; }
t "a flag without its value" missing_value
twice() { run 2 eval -m $M -m $M -d text.txt; says "twice"; }
t "a flag given twice" twice

too_many() { run 2 generate -m $M -p "the cat" sat; says "'sat'"; run 2 train extra; says "'extra'"; run 2 diff a b c d; says "'d'"; }
t "a word that no flag takes" too_many
meaningless() { run 2 eval -m $M -d rows.jsonl --incremental; says "--incremental"; run 2 eval -m $M -d text.txt --stop x; says "--stop"; run 2 eval -m $M -d rows.jsonl --metric accuracy --context 9; says "--context"; }
t "eval: a flag that the metric does not use is refused" meaningless
stops() { local many=() i; for i in $(seq 70); do many+=(--stop "x$i"); done; run 2 generate -m $M -p "the cat" "${many[@]}"; says "more than"; }
t "more stop strings than are kept are refused, not dropped" stops

# ---- JSON that other programs read ----
info() { run 0 info "$1" --json; has architecture parameters layers context_length tensors; grep -q '"nnz":' out; grep -q '"dtype":' out; grep -q '"shape":' out; grep -q '"bytes":' out; }
for m in llama gpt2 llama.gguf; do t "info of $m" info models/$m; done
tokenize() {
  run 0 tokenize -m $M "a cat, 12 birds" --json; has ids
  run 0 tokenize -m $M --decode "$(sed 's/.*\[\(.*\)\].*/\1/' out)"; [ "$(cat out)" = "a cat, 12 birds" ]
}
t "tokenize, and back" tokenize
perplexity() { run 0 eval -m "$1" -d held.txt --context 32 --json; has metric value n context stride; }
for m in llama gpt2 llama.gguf; do t "eval on $m" perplexity models/$m; done
incremental() {
  run 0 eval -m $M -d held.txt --context 32 --json; sed 's/.*"value":\([0-9.]*\).*/\1/' out >a
  run 0 eval -m $M -d held.txt --context 32 --incremental --json; sed 's/.*"value":\([0-9.]*\).*/\1/' out >b
  awk -v a="$(cat a)" -v b="$(cat b)" 'BEGIN { exit !(a > 1 && (a - b) / a < 0.005 && (b - a) / a < 0.005) }'
}
t "eval --incremental agrees" incremental
generate() { run 0 generate -m $M -p "the cat" -n 5 --temp 0 --ignore-eos --json; has text finish_reason prompt_tokens generated_tokens prefill_tokens_per_s decode_tokens_per_s; }
t "generate" generate
seeded() { run 0 generate -m $M -p "the cat" -n 12 --seed 7 --json; sed 's/,"prefill.*//' out >a; run 0 generate -m $M -p "the cat" -n 12 --seed 7 --json; sed 's/,"prefill.*//' out >b; same a b; }
t "generate: a seed gives the same text again" seeded
logits() { run 0 logits -m $M --ids 5,7,9 -o l.safetensors --labels 5,7,9 --grads g.safetensors --json; has loss; grep -aq '"logits"' l.safetensors; grep -aq 'q_proj.weight' g.safetensors; }
t "logits with gradients" logits
wrong_ids() { run 2 logits -m $M --ids 5,99999 -o no.safetensors; says 99999; absent no.safetensors; }
t "logits: an id beyond the vocabulary" wrong_ids
methods() { run 0 methods --json; has methods; for m in full lora shira spiel; do says "\"$m\"" out; run 0 methods $m --quiet; says "options (--set key=value)" out; run 0 methods --json; done; }
t "methods" methods
costs() {
  run 0 methods -m $M --json --quiet; has costs; says '"name":"snella"' out; says '"estimate":true' out; says state_bytes out; says "from=PATH" out
    run 0 methods shira -m $M --density 0.05 --json; grep -o '"state_bytes":[0-9]*' out >a
    run 0 train -m $M -d text.txt --method shira $small -o co --json; grep '"event":"done"' out | grep -o '"state_bytes":[0-9]*' >b; same a b
    run 2 methods -m $M --set r=4; says "name it"; run 2 methods lora --density 0.1; says "give -m MODEL"
}
t "methods on a model: state as a run's" costs
events() {
  run 0 train -m $M -d text.txt --eval-data held.txt --method shira $small --save-every 2 -o ev --json
  has start:event step:step step:loss step:lr step:grad_norm step:tokens step:tokens_per_s step:rss_mib eval:step eval:loss eval:perplexity checkpoint:step checkpoint:path \
    done:steps done:seconds done:tokens_per_s done:peak_rss_mib done:trainable done:state_bytes done:output
}
t "train: a JSON line an event" events

bench() {
  run 0 bench train -m $M --method shira --density 0.05 --seq 32 --batch 2 --steps 2 --repeat 1 --json; has name machine ceilings rows; grep -q '"tokens_per_s":.*"peak_rss_mib":' out
  run 0 bench decode -m $M --tokens 4 --prompt-tokens 8 --repeat 1 --json; has name machine ceilings rows; grep -q '"form":.*"seconds":.*"rate":.*"unit":' out
  run 0 bench decode --shape 2,64,96,4,2 --forms bf16,q8_0,q4_1 --tokens 3 --prompt-tokens 2 --repeat 1 --json; grep -q '"form":"q4_1".*"of_ceiling":' out
  run 0 bench prefill --shape 1,64,96,4,2 --forms q4_0 --repeat 1 --json; grep -q '"form":"q4_0".*"T":32,.*"rate":.*"of_ceiling":' out
  run 0 bench load -m $M --repeat 1 --json; grep -q '"what":"first-token".*"what":"program".*"seconds":' out
  run 2 bench decode --shape 2,64,96; says "L,C,F,H,KV"
  run 2 bench decode --shape 2,64,96,4,2 --forms q9; says q9
  run 2 bench sideways; says sideways
}
t "bench" bench

# ---- train: what OUT holds and what it is good for ----
result() { # METHOD ADAPTER-FILE
  run 0 train -m $M -d text.txt --eval-data held.txt --method "$1" $small -o "run-$1"
  for f in "$2" recipe.yaml log.jsonl run.sqlite tokenizer.json checkpoint-4 best; do [ -e "run-$1/$f" ] || { echo "run-$1/$f is missing"; return 1; }; done
  nothing_new
}
t "train: OUT of lora" result lora adapter_model.safetensors
t "train: OUT of shira" result shira adapter_model.safetensors
t "train: OUT of spiel" result spiel lacuna_adapter.safetensors
t "train: OUT of full" result full model.safetensors
value() { sed 's/.*"value":\([0-9.]*\).*/\1/' out; }
use() { # METHOD: the adapter changes the model, and merged, in either format, it is the same model
  run 0 eval -m $M -d held.txt --context 32 --json; value >a
  run 0 eval -m $M -a "run-$1" -d held.txt --context 32 --json; value >b
  not cmp -s a b || { echo "the adapter changes nothing"; return 1; }
  run 0 eval -m $M -a "run-$1:0" -d held.txt --context 32 --json; value >c; same a c
  run 0 generate -m $M -a "run-$1" -p "the cat" -n 4 --temp 0 --quiet
  run 0 diff $M "run-$1" --json; has changed update_sparsity
  run 0 merge -m $M -a "run-$1" -o "merged-$1" --outtype f32 --quiet
  run 0 merge -m $M -a "run-$1" -o "merged-$1.gguf" --outtype f32 --quiet
  for m in "merged-$1" "merged-$1.gguf"; do
    run 0 eval -m "$m" -d held.txt --context 32 --json
    awk -v a="$(cat b)" -v b="$(value)" 'BEGIN { d = (a - b) / a; exit !(d < 1e-4 && d > -1e-4) }' || { echo "$m: $(value), $(cat b) expected"; return 1; }
  done
}
exported() { # spiel's own layout to PEFT's SHiRA, and back: the same model
  run 0 eval -m $M -a run-spiel -d held.txt --context 32 --json; value >a
  run 0 convert -m $M -a run-spiel -o spiel-shira --json; has output layout; [ -e spiel-shira/adapter_model.safetensors ]; says SHIRA spiel-shira/adapter_config.json
  run 0 convert -m $M --adapter spiel-shira --layout native -o spiel-native; [ -e spiel-native/lacuna_adapter.safetensors ]
  for x in spiel-shira spiel-native; do run 0 eval -m $M --adapter "$x" -d held.txt --context 32 --json; value >b; same a b; done
  run 1 convert -m $M -a run-spiel -o spiel-shira; says exists
  run 1 convert -m $M -a run-lora -o lora-shira; says lora; absent lora-shira
  run 2 convert -m $M --layout native -o x.gguf; absent x.gguf
}
t "spiel travels to SHiRA's layout and back" exported
near() { awk -v a="$(cat "$1")" -v b="$(cat "$2")" 'BEGIN { d = (a - b) / a; exit !(d < 1e-6 && d > -1e-6) }' || { echo "$(cat "$1") and $(cat "$2") differ"; return 1; }; }
perplexity() { run 0 eval -m $M "$@" -d held.txt --context 32 --json; value; }
slices() { # S2FT's blocks as lists of entries, bit for bit; low rank and entries on one weight are two kinds
  run 0 train -m $M -d text.txt --method s2ft $small -o run-s2ft; run 0 convert -m $M -a run-s2ft --layout native -o slices; run 0 convert -m $M -a run-s2ft -o slices-shira
  run 0 merge -m $M -a run-s2ft -o slices-a --outtype f32 --quiet; run 0 merge -m $M -a slices -o slices-b --outtype f32 --quiet; same slices-a/model.safetensors slices-b/model.safetensors
  run 0 merge -m $M -a slices-shira -o slices-c --outtype f32 --quiet; same slices-a/model.safetensors slices-c/model.safetensors
  run 0 train -m $M -d text.txt --method dsee $small -o run-dsee; run 1 convert -m $M -a run-dsee -o no; says "has a mask change"; absent no
}
t "slices become entries; what is of two kinds is refused" slices
one_adapter() { # the sum of adapters is one, with its values
  run 0 merge -m $M -a run-shira:0.5 -a run-spiel:-2 --as adapter -o both --json; has output layout; perplexity -a run-shira:0.5 -a run-spiel:-2 >a; perplexity -a both >b; near a b
  perplexity >c; not cmp -s a c
  run 0 merge -m $M -a run-lora:0.5 -a run-lora:0.25 --as adapter -o loras; says '"r": 16' loras/adapter_config.json; perplexity -a run-lora:0.75 >a; perplexity -a loras >b; near a b
  run 0 merge -m $M -a run-shira -a run-shira:0 --average --as adapter -o mean-adapter; perplexity -a run-shira:0.5 >a; perplexity -a mean-adapter >b; same a b
  run 1 merge -m $M -a run-lora -a run-shira --as adapter -o no; says "cannot hold both"; absent no
  run 1 merge -m $M -a run-shira --as adapter -o both; says exists; run 2 merge -m $M -a run-shira --as adapter --outtype f32 -o no; absent no
}
t "merge writes one adapter" one_adapter
together() { run 0 eval -m $M -a run-shira -a "second=run-spiel:0.5" --adapter run-lora:0 -d held.txt --context 32 --json; value >a; run 0 eval -m $M -a run-shira -d held.txt --context 32 --json; value >b; not cmp -s a b; }
t "several adapters, a name, a scale" together
other_method() { run 0 train --recipe run-shira/recipe.yaml --method lora -o recipe-lora; grep -q '^steps: 4' recipe-lora/recipe.yaml; grep -q '^method: lora' recipe-lora/recipe.yaml; }
t "another method keeps a recipe's other options" other_method
average() { # the mean of an adapter and of nothing is half of it
  run 0 merge -m $M -a run-shira:0.5 -o half --outtype f32 --quiet; run 0 merge -m $M -a run-shira -a run-shira:0 --average -o mean --outtype f32 --quiet
  same half/model.safetensors mean/model.safetensors
}
for m in lora shira spiel; do t "adapter of $m: eval, scale 0, generate, diff, merge" use $m; done
t "merge averages" average
full() { run 0 eval -m run-full -d held.txt --context 32 --json; run 0 diff $M run-full --json; has changed; }
t "result of full is a model" full
not_finite() { # what JSON has no form for is null in a result, and a line that cannot be made is said
  cp -r $M no-number; size=$(wc -c <no-number/model.safetensors); printf '\000\000\300\177' | dd of=no-number/model.safetensors bs=1 seek=$((size - 4)) conv=notrunc 2>/dev/null
  run 0 diff $M no-number --json; has changed largest; says '"largest":null' out; says '"relative_norm":null' out
  run 1 merge -m $M -a run-shira -o "$(printf 'o\377')" --quiet --json; says "is missing"
}
t "numbers that are not finite, names that are no UTF-8" not_finite
convert() { run 0 convert -m $M -o "c-$1.gguf" --outtype "$1" --json; has output; run 0 info "c-$1.gguf" --json; run 0 convert -m "c-$1.gguf" -o "c-$1" --outtype f32 --quiet; run 0 eval -m "c-$1" -d held.txt --context 32; }
for type in f32 f16 bf16 q8_0; do t "convert to $type GGUF and back" convert $type; done
ship() {
  run 0 ship run-full/model.safetensors -o anchor --version 7 --quiet; run 0 ship --apply anchor -o from-anchor; says "anchor 7" out; same run-full/model.safetensors from-anchor
  run 0 merge -m $M -a run-shira -o ship-a --outtype f32 --quiet; run 0 merge -m $M -a run-shira:0.5 -o ship-b --outtype f32 --quiet
  run 0 ship ship-a/model.safetensors ship-b/model.safetensors -o changes --json; has changed version
  run 0 ship --apply changes ship-a/model.safetensors -o next --quiet; same ship-b/model.safetensors next
  run 1 ship --apply changes ship-b/model.safetensors -o never; says "does not follow"; absent never
  run 2 ship --apply changes ship-a/model.safetensors -o never --version 3; says "reads it from FILE"; absent never
}
t "ship: changed values, an anchor, a chain" ship
objectives() {
  printf '{"prompt": "the cat", "chosen": " sat", "rejected": " flew away"}\n{"prompt": "a mat", "chosen": " is", "rejected": " far"}\n' >pairs.jsonl
  run 0 train -m $M -d pairs.jsonl --method shira --density 0.05 --objective dpo --with beta=0.2 --steps 3 --batch 2 -o run-dpo --json; says '"accuracy"' out; says '0.69314' out
  grep -q '^objective: dpo' run-dpo/recipe.yaml; grep -q '^  beta: 0.2' run-dpo/recipe.yaml; run 0 train --recipe run-dpo/recipe.yaml -o run-dpo2 --quiet; same run-dpo/adapter_model.safetensors run-dpo2/adapter_model.safetensors
  run 2 train -m $M -d pairs.jsonl --method shira --objective dop -o x; says "did you mean 'dpo'"; absent x
  run 2 train -m $M -d pairs.jsonl --method shira --objective dpo --with betta=1 -o x; says "did you mean 'beta'"; absent x
  run 2 train -m $M -d pairs.jsonl --method shira -o x --quiet; says "preferences"; absent x
}
t "objectives: preferences, options, a recipe" objectives
report() {
  run 0 report run-shira --json; has output steps; says "</html>" run-shira/report.html; says "Where the change sits" run-shira/report.html
  run 0 report run-shira -o page.html; [ "$(cat out)" = page.html ]
  not grep -Eq '(src|href)="?http' page.html
}
t "report" report
escaped() {
  run 0 train -m $M -d rows.jsonl --method shira $small --sample-prompt '<script>alert("&")</script>' --sample-tokens 4 -o esc
  run 0 report esc -o esc.html; not grep -q '<script' esc.html; says '&lt;script&gt;alert(&quot;&amp;&quot;)' esc.html
}
t "report escapes what the run holds" escaped
no_report() { run 1 report models; says run.sqlite; mkdir -p broken; head -c 2000 run-shira/run.sqlite >broken/run.sqlite; run 1 report broken -o b.html; absent b.html; echo text >broken/run.sqlite; run 1 report broken -o b.html; absent b.html; }
t "report of no run, of a damaged run" no_report

# ---- the same run again, and going on ----
again() { # METHOD FILE
  run 0 train --recipe "run-$1/recipe.yaml" -o "again-$1" --quiet; same "run-$1/$2" "again-$1/$2"
}
t "a recipe repeats its run bit for bit: shira" again shira adapter_model.safetensors
t "a recipe repeats its run bit for bit: spiel" again spiel lacuna_adapter.safetensors
threads() { run 0 train --recipe run-shira/recipe.yaml -o one --threads 1 --quiet; same run-shira/adapter_model.safetensors one/adapter_model.safetensors; }
t "one thread, the same bits" threads
go_on() {
  run 0 train --recipe run-lora/recipe.yaml -o part --stop-after 2 --quiet
  run 1 train --recipe run-lora/recipe.yaml -o part --quiet; says "--resume"
  touch part/recipe.yaml.tmp-123-0; mkdir part/.lacuna-new
  run 0 train --recipe run-lora/recipe.yaml -o part --stop-after 0 --resume --quiet; same run-lora/adapter_model.safetensors part/adapter_model.safetensors
  absent part/recipe.yaml.tmp-123-0; absent part/.lacuna-new # what a killed run leaves
}
t "resume gives the bits of a run that never stopped" go_on
nothing_to_resume() { run 1 train -m $M -d text.txt --method shira $small -o fresh --resume; says resume; }
t "nothing to resume is an error" nothing_to_resume
changed() { cp -r run-shira changed; rm changed/adapter_model.safetensors; run 1 train --recipe run-shira/recipe.yaml --seed 43 -o changed --resume --quiet; says "'seed'"; }
t "a resume with another seed is refused by name" changed
# A long run is told to stop once it has written updates: it saves, ends with 128 + signal, and goes on to the same bits.
stopped() { # SIGNAL STATUS
  local out=stop-$1 pid got=0
  "$lacuna" train -m $M -d text.txt --method shira --steps 3000 --batch 2 --seq 32 --dtype f32 --density 0.05 --quiet -o "$out" >o 2>e &
  pid=$!
  for _ in $(seq 600); do [ "$(grep -c '"event":"step"' "$out/log.jsonl" 2>/dev/null)" -ge 3 ] 2>/dev/null && break; sleep 0.05; done
  kill "-$1" $pid
  wait $pid || got=$?
  [ $got = "$2" ] || { echo "status $got, $2 expected: $(cat e)"; return 1; }
  local step
  step=$(ls -d "$out"/checkpoint-* | sed 's/.*-//' | sort -n | tail -n 1)
  [ "$step" -ge 3 ]; [ "$step" -lt 3000 ]
  run 0 train --recipe "$out/recipe.yaml" -o "$out" --resume --stop-after $((step + 3)) --quiet
  run 0 train --recipe "$out/recipe.yaml" -o "whole-$1" --stop-after $((step + 3)) --quiet
  same "$out/adapter_model.safetensors" "whole-$1/adapter_model.safetensors"
}
t "SIGTERM saves, 143, and resumes to the same bits" stopped TERM 143
t "SIGINT saves, 130, and resumes to the same bits" stopped INT 130
t "SIGHUP saves, 129, and resumes to the same bits" stopped HUP 129
t "SIGUSR1 saves, 138, and resumes to the same bits" stopped USR1 138
hung_up() {
  nohup "$lacuna" train -m $M -d text.txt --method shira --steps 3000 --batch 2 --seq 32 --dtype f32 --density 0.05 --quiet -o hung >o 2>e </dev/null &
  local pid=$! n
  steps() { grep -c '"event":"step"' hung/log.jsonl 2>/dev/null || true; }
  for _ in $(seq 600); do n=$(steps); [ "${n:-0}" -ge 3 ] && break; sleep 0.05; done
  kill -HUP $pid
  for _ in $(seq 600); do [ "$(steps)" -gt $((n + 2)) ] && break; sleep 0.05; done
  kill -0 $pid; kill -TERM $pid; local got=0; wait $pid || got=$?
  [ $got = 143 ]
}
t "under nohup it goes on after SIGHUP" hung_up

# ---- bad input: status 1, one sentence that names the file, nothing half-written ----
bad_model() { # PATH WORD...
  local m=$1
  shift
  run 1 info "$m"
  for w in "$@"; do says "$w"; done
  run 1 convert -m "$m" -o bad.gguf; absent bad.gguf; run 1 train -m "$m" -d text.txt --method shira $small -o bad; absent bad; nothing_new
}
head -c 20000 models/llama.gguf >cut.gguf
cp -r models/llama cut && head -c 20000 models/llama/model.safetensors >cut/model.safetensors
cp -r models/llama noconfig && rm noconfig/config.json
cp -r models/llama strange && sed -i 's/LlamaForCausalLM/StrangeForCausalLM/' strange/config.json
cp -r models/llama huge && sed -i 's/"hidden_size": *[0-9]*/"hidden_size": 1152921504606846976/' huge/config.json
: >empty.gguf
t "a truncated GGUF" bad_model cut.gguf cut.gguf
t "a truncated safetensors" bad_model cut model.safetensors
t "an empty file" bad_model empty.gguf empty.gguf
t "no config.json" bad_model noconfig config.json
t "an unknown architecture" bad_model strange StrangeForCausalLM
t "a huge dimension" bad_model huge huge
t "a missing tensor" bad_model models/missing up_proj
t "no such model" bad_model nowhere nowhere
bad_rows() { # NAME TEXT WORD...
  local name=$1
  { head -n 2 rows.jsonl; printf "$2\n"; } >"$name.jsonl"
  shift 2
  run 1 train -m $M -d "$name.jsonl" --method shira $small -o badrows; says "$name.jsonl"; absent badrows/checkpoint-0
  for w in "$@"; do says "$w"; done
  run 0 train -m $M -d "$name.jsonl" --method shira $small --skip-bad -o "skip-$name"
}
t "a malformed row is named by its line" bad_rows torn '{"prompt": "a", ' 3
t "a row of no known shape" bad_rows shape '{"question": "a"}' 3
t "a row with bad UTF-8" bad_rows utf8 '{"prompt": "a", "completion": "\\xff\\xfe"}' 3
no_vocabulary() { # the tokenizer knows an id that the embedding has no row for
  cp -r models/llama vocabulary; sed -i 's/"added_tokens": *\[/&{"id":4000,"content":"<extra>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},/' vocabulary/tokenizer.json
  echo '{"text": "the <extra> cat"}' >extra.jsonl
  run 1 train -m vocabulary -d extra.jsonl --method shira $small -o vocabulary-out; says 4000; absent vocabulary-out
}
t "a token id beyond the vocabulary is refused before step 1" no_vocabulary
named_text() { printf 'ab\xff' >torn.txt; for c in "eval -m $M -d" "generate -m $M -f" "tokenize -m $M -f"; do run 1 $c torn.txt; says torn.txt; done; }
t "bad UTF-8 in a text names the file" named_text
no_data() { run 1 train -m $M -d nowhere.txt --method shira $small -o x; says nowhere.txt; absent x; : >empty.txt; run 1 train -m $M -d empty.txt --method shira $small -o x; says empty.txt; absent x; }
t "no data, empty data" no_data
unwritable() {
  echo file >file
  run 1 train -m $M -d text.txt --method shira $small -o file/out; says file
  run 1 convert -m $M -o file/out.gguf; says file
  run 1 merge -m $M -a run-shira -o file/out.gguf; says file
  run 1 logits -m $M --ids 1,2 -o file/l.safetensors; says file
  run 1 report run-shira -o file/page.html; says file
  [ "$(cat file)" = file ]
}
t "an output that cannot be written" unwritable
limited() { # a write that fails half-way: one sentence, and what was begun is gone
  (ulimit -f 40; run 1 convert -m $M -o full.gguf --outtype f32; says full.gguf); absent full.gguf
  (ulimit -f 40; run 1 merge -m $M -a run-shira -o fulldir --outtype f32; says fulldir); absent fulldir; absent fulldir.partial
  (ulimit -f 60; run 1 train -m $M -d text.txt --method full $small -o fullrun; says fullrun); absent fullrun/checkpoint-4; absent fullrun/.lacuna-new; nothing_new
}
t "a disk that fills up" limited
full_disk() { local got=0; timeout 60 "$lacuna" methods >/dev/full 2>err || got=$?; [ $got = 1 ]; says "cannot be written"; }
t "stdout on a full disk" full_disk
not_empty() { run 1 train -m $M -d text.txt --method shira $small -o run-shira; says "not empty"; mkdir -p mine; echo keep >mine/keep; run 1 train -m $M -d text.txt --method shira $small -o mine --overwrite; [ -s mine/keep ]; }
t "a directory that holds something is not overwritten" not_empty
base_safe() { run 2 train -m $M -d text.txt --method full $small -o $M --overwrite; [ -s $M/model.safetensors ]; }
t "the base is never written" base_safe
bad_adapter() { cp -r run-shira cutadapter; head -c 300 run-shira/adapter_model.safetensors >cutadapter/adapter_model.safetensors; run 1 eval -m $M -a cutadapter -d held.txt; says cutadapter; run 1 eval -m models/gpt2 -a run-lora -d held.txt; says run-lora; }
typed() { cp -r run-lora typed; sed -i 's/"r": *[0-9]*/"r": "x"/' typed/adapter_config.json; run 1 eval -m $M -a typed -d held.txt; says typed/adapter_config.json; says "'r'"; }
t "a value of the wrong type names the file" typed
t "a truncated adapter, an adapter of another model" bad_adapter
gpt2_shira() { run 0 train -m models/gpt2 -d text.txt --method shira $small -o gpt2-shira; [ -e gpt2-shira/lacuna_adapter.safetensors ]; run 0 eval -m models/gpt2 -a gpt2-shira -d held.txt --context 32; }
t "shira on GPT-2 is native" gpt2_shira

# ---- a real model ----
real() {
  grep -v '^Ac[a-z]*[0-9]' kjv.all | sed 's/^[^ ]* //' | head -n 140 >genesis.txt
  run 0 eval -m "$model" -d genesis.txt --limit 4 --json
  has value n
  awk -v v="$(value)" 'BEGIN { exit !(v > 5.2730 && v < 5.2837) }' || { echo "perplexity $(value)"; return 1; }
}
real_text() {
  run 0 generate -m "$model" -p "The capital of France is" -n 12 --temp 0 --dtype f32 --quiet
  [ "$(head -n 1 out)" = " Paris." ]; says "The answer is: 201" out
}
. "$root/scripts/deps.sh"
model=
if model=$(cd "$root" && lacuna_model .cache/model 2>"$work/err") && lacuna_deps bible-kjv bible-kjv-text >/dev/null 2>&1; then
  model=$root/$model
  bible -f 'gen1:1-rev22:21' </dev/null 2>/dev/null >kjv.all
  t "SmolLM2: perplexity of Genesis" real
  t "SmolLM2: greedy text" real_text
else
  echo "skipped: SmolLM2 cannot be fetched here: $(tail -n 1 err)"
fi
# ---- tasks with labels, encoders ----
E=models/encoder
for i in $(seq 20); do echo "{\"text\": \"the cat $i\", \"label\": \"$([ $((i % 2)) = 0 ] && echo even || echo odd)\"}"; done >labels.jsonl
for i in $(seq 20); do echo "{\"tokens\": [\"the\", \"cat\"], \"tags\": [0, $((i % 3))]}"; done >tags.jsonl
classify() { # MODEL
  run 0 train -m "$1" -d labels.jsonl --task classification --method lora --eval-data labels.jsonl $small -o "$2" --overwrite
  [ -f "$2/adapter_model.safetensors" ]; says modules_to_save "$2/adapter_config.json"; says '"even"' "$2/lacuna_adapter.json"
  run 0 eval -m "$1" -a "$2" -d labels.jsonl --metric accuracy --json --log-samples log.jsonl; has value n loss stderr macro_f1
  awk -F'"' '{so[$4]++; said[$8]++; both[$4] += $4 == $8} END {for (k in so) said[k] += 0; for (k in said) {n++; f += 2 * both[k] / (so[k] + said[k])} printf "%.6f", f / n}' log.jsonl >f1
  grep -o '"macro_f1": *[0-9.]*' out | grep -o '[0-9.]*$' | awk '{printf "%.6f", $1}' | cmp - f1
  [ "$(wc -l <log.jsonl)" = 20 ]; says '"predicted"' log.jsonl
  run 2 eval -m "$1" -a "$2" -d labels.jsonl; says "has labels"
  run 0 merge -m "$1" -a "$2" -o "$2-merged"; says ForSequenceClassification "$2-merged/config.json"; says '"odd"' "$2-merged/config.json"
  run 0 eval -m "$2-merged" -d labels.jsonl --metric accuracy --json
}
t "an encoder becomes a classifier, and merges" classify $E classifier
t "a decoder becomes a classifier, and merges" classify $M classifier2
tagger() {
  run 0 train -m $E -d tags.jsonl --task token-classification --method spiel $small -o tagger
  [ -f tagger/lacuna_head.safetensors ]; run 0 eval -m $E -a tagger -d tags.jsonl --metric accuracy --json; has value n
}
t "a label for each word" tagger
full_classifier() {
  run 0 train -m $E -d labels.jsonl --task classification --method full --set part=head $small -o whole
  run 0 eval -m whole -d labels.jsonl --metric accuracy; run 0 train -m whole -d labels.jsonl --task classification --method lora --head frozen $small -o again
  run 1 train -m whole -d tags.jsonl --task classification --method lora $small -o no; says "line 1"; absent no
}
t "a classifier as a model, and on from it" full_classifier
label_refusals() {
  run 1 train -m $E -d labels.jsonl --task classification --method mezo $small -o no; says "mezo has no gradients to train a new head with"; absent no
  run 2 train -m $E -d labels.jsonl --method lora $small -o no; says "predicts no next token"; absent no
  run 1 train -m $E -d rows.jsonl --task classification --method lora $small -o no; says "no row has a label"; absent no
  run 2 train -m $E -d labels.jsonl --task classification --head frozen --method lora $small -o no; says "--head frozen"; absent no
  run 2 train -m $M -d rows.jsonl --head new --method lora $small -o no; says "of a --task with labels"; absent no
  run 1 generate -m $E -p the; run 1 embed -m $M the; says "no head for embedding"
}
t "what has no labels is refused" label_refusals
embeds() {
  run 0 embed -m $E "the cat" --json; has text embedding; says "no modules.json"
  printf 'the cat\nsat\n' >lines.txt; run 0 embed -m $E -f lines.txt; [ "$(wc -l <out)" = 2 ]; run 2 embed -m $E; run 2 embed -m $E x -f lines.txt
}
t "embed" embeds
embeds_again() { # a model of sentence-transformers, written again
  cp -r "$E" st; mkdir -p st/1_Pooling; echo '{"pooling_mode_cls_token": true}' >st/1_Pooling/config.json
  echo '[{"type": "Transformer", "path": ""}, {"type": "Pooling", "path": "1_Pooling"}]' >st/modules.json
  run 0 embed -m st "the cat" --json; cp out first; run 0 convert -m st -o st2 --outtype f32; run 0 embed -m st2 "the cat" --json; cmp out first
}
t "embed, of a model that was written" embeds_again

echo done
