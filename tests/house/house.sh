#!/usr/bin/env bash
# Holds the house to its rules (run by ctest from tests/): arrows between rooms, threads in one place, a library that neither prints nor exits,
# files of readable size, and documentation for what is there (the tour names each file). Prints what breaks them, and fails.
set -u
cd "$(dirname "$0")/../.." || exit 1
bad=0
broken() { echo "$*"; bad=1; }

# ---- arrows: a room may include itself and these ----
below() {
  case $1 in
    core) echo core ;;
    kernels) echo kernels core ;;
    sparse | tensor) echo "$1 sparse tensor kernels core" ;;
    text | io | image) echo "$1 io tensor core" ;;
    nn) echo nn text io image sparse tensor kernels core ;;
    model) echo model optim nn text io image sparse tensor kernels core ;;
    optim) echo optim nn text io image sparse tensor kernels core ;;
    infer) echo infer model optim nn text io image sparse tensor kernels core ;;
    train) echo train infer model optim nn text io image sparse tensor kernels core ;;
    method) echo method train infer model optim nn text io image sparse tensor kernels core ;;
    api | cli) echo "$1 method train infer model optim nn text io image sparse tensor kernels core" ;;
    *) echo "" ;;
  esac
}
# What is allowed beside: kernels speak of dtypes, which lie in tensor.
excepted() { [ "$1 $2" = "kernels tensor/dtype.h" ]; }
for dir in src/*/; do
  room=$(basename "$dir") allowed=" $(below "$(basename "$dir")") "
  [ "$allowed" != "  " ] || { broken "$dir: a room that tests/house/house.sh does not know"; continue; }
  while IFS=: read -r file header; do
    from=${header%%/*}
    [ -d "src/$from" ] || continue
    case $allowed in *" $from "*) ;; *) excepted "$room" "$header" || broken "$file includes $header: the arrow points upwards" ;; esac
  done < <(grep -rnoE --include='*.[ch]' '^#include "[^"]+"' "$dir" | sed 's/:[0-9]*:#include "/:/; s/"$//')
done
# The public header stands alone.
while read -r line; do broken "include/ includes lacuna's own headers: $line"; done < <(grep -nE '#include "' include/*.h 2>/dev/null | grep -v '"lacuna.h"')

# ---- threads: one place ----
while read -r line; do broken "threads outside core/pool.c: $line"; done < <(grep -rnE --include='*.[ch]' '#pragma omp|pthread_create' src | grep -v '^src/core/pool.c:')

# ---- the library is silent and never ends the program ----
while read -r line; do broken "the library prints or exits: $line"; done < <(
  grep -rnE --include='*.[ch]' '(^|[^a-zA-Z_>.])(v?printf|puts|putchar|perror|exit|_exit|abort|_Exit|quick_exit)\(|(^|[^a-zA-Z_])(stdout|stderr)([^a-zA-Z_]|$)' src |
    grep -v '^src/cli/' | grep -vE ':[0-9]+: *(/?\*|//)|/\*[^/]*(stdout|stderr|abort|exit|print)')

# ---- files, words ----
while read -r n file; do [ "$file" = total ] || [ "$n" -le 600 ] || broken "$file has $n lines: find its second idea"; done < <(find src include -name '*.[ch]' -exec wc -l {} +)
while read -r line; do broken "left over: $line"; done < <(grep -rnE --include='*.[ch]' --include='*.sh' --include='*.md' --include='*.py' '\b(TODO|FIXME|XXX)\b' src include tests fuzz bench docs scripts ./*.sh ./*.md 2>/dev/null | grep -v 'tests/house/')
while read -r file; do head -n 3 "$file" | grep -q '/\*' || broken "$file has no head comment"; done < <(find src include -name '*.[ch]')

# ---- documentation for what is there ----
for f in src/method/*.c; do
  name=$(basename "$f" .c)
  [ "$name" = methods ] || grep -q "lc_method_${name//-/_}" src/method/methods.c || continue
  [ "$name" = methods ] || [ -s "docs/methods/$name.md" ] || broken "docs/methods/$name.md: the method has no page"
done
for f in src/*/*.c; do
  grep -qF "${f##*/}\`" docs/tour.md || broken "docs/tour.md does not say what $f is for"
done
for page in tour design reference formats kernels how-to-add-an-op how-to-add-an-architecture how-to-add-a-method; do
  [ -s "docs/$page.md" ] || broken "docs/$page.md is missing"
done
for c in $(grep -oE 'ROW\([a-z]+\)' src/cli/main.c | sed 's/ROW(//; s/)//' | grep -v '^name$'); do
  grep -q "^### lacuna $c\$" docs/reference.md || broken "docs/reference.md: nothing of '$c': scripts/make_reference.sh"
done
# Relative links of the documentation lead somewhere.
for f in README.md docs/*.md docs/*/*.md; do
  [ -f "$f" ] || continue
  while read -r link; do [ -e "$(dirname "$f")/${link%%#*}" ] || broken "$f: a link to $link leads nowhere"; done < <(grep -oE '\]\([^)#][^)]*\)' "$f" | sed 's/^](//; s/)$//' | grep -vE '^(https?:|mailto:)')
done
exit $bad
