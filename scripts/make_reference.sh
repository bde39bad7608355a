#!/usr/bin/env bash
# Writes docs/reference.md from the program itself: --help of every command, `lacuna methods` and `lacuna objectives`.
#   scripts/make_reference.sh [LACUNA_BINARY] >docs/reference.md
set -eu
lacuna=${1:-$(dirname "$0")/../build/lacuna}
echo "# Reference"
echo
echo "Made by \`scripts/make_reference.sh\` from the program's own tables; change those, not this page."
echo
echo "Exit status: 0 done, 1 it failed (one sentence on stderr), 2 the arguments are wrong, 128 + the signal's number when interrupted with the state saved."
echo
echo '## Commands'
"$lacuna" --help | sed -n 's/^  \([a-z]*\) .*/\1/p' | while read -r command; do
  printf '\n### lacuna %s\n\n```text\n' "$command"
  "$lacuna" "$command" --help </dev/null
  printf '```\n'
done
printf '\n## Methods\n'
"$lacuna" methods --json | tr '{' '\n' | sed -n 's/^"name":"\([a-z0-9-]*\)","title".*/\1/p' | while read -r method; do
  printf '\n### %s\n\n```text\n' "$method"
  "$lacuna" methods "$method" </dev/null | fold -s -w 120
  printf '```\n'
done
printf '\n## Objectives\n'
"$lacuna" objectives --json | tr '{' '\n' | sed -n 's/^"name":"\([a-z0-9-]*\)","title".*/\1/p' | while read -r objective; do
  printf '\n### %s\n\n```text\n' "$objective"
  "$lacuna" objectives "$objective" </dev/null | fold -s -w 120
  printf '```\n'
done
