#!/usr/bin/env python3
"""Speed of generation beside llama.cpp: the same GGUF files, in turns (ours, theirs, ours, theirs ...), medians and ratios.

    bench/peers/llama_compare.py [--json] [--rounds N] [--threads N] GGUF [GGUF ...]

Prompt: 512 tokens at once. Generation: 128 tokens one at a time from an empty context, which is what llama-bench times.
llama-bench is built by setup.sh; VENV is $LACUNA_VENV, else .venv in the repository's root.
"""
import argparse, json, os, statistics, subprocess, sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
VENV = Path(os.environ.get("LACUNA_VENV", TOP / ".venv"))
PROMPT, TOKENS = 512, 128


def out_of(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def ours(lacuna, gguf, threads, what):
    """The rate, and what a rate is a share of: of the read bandwidth in generation."""
    prompt, tokens = (PROMPT, 1) if what == "prefill" else (1, TOKENS)
    j = out_of([lacuna, "bench", "decode", "-m", gguf, "--json", "--repeat", 1, "--threads", threads,
                "--prompt-tokens", prompt, "--tokens", tokens])
    row = next(r for r in j["rows"] if r["what"] == what)
    return row["rate"], row.get("of_ceiling")


def theirs(gguf, threads, what):
    sizes = ["-p", PROMPT, "-n", 0] if what == "prefill" else ["-p", 0, "-n", TOKENS]
    return out_of([VENV / "llama.cpp-build/bin/llama-bench", "-m", gguf, "-t", threads, "-r", 1, "-o", "json", *sizes])[0]["avg_ts"]


def compare(args, gguf, what):
    mine, share, other = [], [], []
    for _ in range(args.rounds):
        rate, of = ours(args.lacuna, gguf, args.threads, what)
        mine.append(rate)
        share.append(of or 0)
        other.append(theirs(gguf, args.threads, what))
    a, b = statistics.median(mine), statistics.median(other)
    return {"file": Path(gguf).name, "what": what, "lacuna": a, "llama.cpp": b, "ratio": a / b,
            "of_bandwidth": statistics.median(share) if what == "decode" else None, "all": {"lacuna": mine, "llama.cpp": other}}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("gguf", nargs="+")
    p.add_argument("--lacuna", default=TOP / "build/lacuna")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    rows = []
    for gguf in args.gguf:
        for what in ("decode", "prefill"):
            r = compare(args, gguf, what)
            rows.append(r)
            if not args.json:
                of = f"  {r['of_bandwidth']:.2f} of the read bandwidth" if r["of_bandwidth"] else ""
                print(f"{r['file']:32} {what:8} lacuna {r['lacuna']:7.1f}  llama.cpp {r['llama.cpp']:7.1f} tokens/s  "
                      f"ratio {r['ratio']:.2f}{of}", flush=True)
    if args.json:
        print(json.dumps({"name": "llama_compare", "threads": args.threads, "rounds": args.rounds, "rows": rows}))


if __name__ == "__main__":
    main()
