#!/usr/bin/env python3
"""Training beside PyTorch + PEFT: the same model, rows and shapes, in turns; speed, memory, and the loss where both start from one adapter.

    bench/peers/train_compare.py --gguf GGUF [--hf DIR] [--data TEXT] [--steps N] [--json] RUN RUN ...

A RUN is PROGRAM:METHOD:DTYPE[:recompute]: lacuna or peft; lora (r = 8), shira (r = 4, PEFT's budget), shira1, spiel (1 % density), full; bf16 or
f32; recompute is --recompute here and gradient checkpointing there. All runs live at once and take turns of a few updates, stopped
(SIGSTOP) in between: what else happens on the machine meets all alike. A run's speed is the median wall clock from one step event to the
next, the first update (sizing, warm-up) left out; its memory is the operating system's peak for the process, mapped pages included.
lora and shira start in PEFT from the adapter that lacuna wrote with one update at a rate of 1e-30, and the losses of each step are compared.
VENV is $LACUNA_VENV, else .venv in the repository's root. HF: the GGUF's own numbers as a Hugging Face directory, made when missing.
"""
import argparse, json, os, signal, statistics, subprocess, sys, tempfile, time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("LACUNA_VENV", TOP / ".venv")) / "bin/python"
OURS = {"lora": ["lora", "--set", "r=8", "--set", "alpha=16"], "shira": ["shira", "--set", "r=4"],
        "shira1": ["shira", "--density", 0.01], "spiel": ["spiel", "--density", 0.01], "full": ["full"]}
STARTS = ("lora", "shira")


class Run:
    """One training process; advance() lets it make updates, and it stands still otherwise."""

    def __init__(self, name, command):
        self.name, self.losses, self.seconds, self.peak = name, [], [], 0
        self.p = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True)

    def advance(self, n):
        self.p.send_signal(signal.SIGCONT)
        last = time.perf_counter()
        while n and (line := self.p.stdout.readline()):
            if not line.startswith("{"):
                continue
            e = json.loads(line)
            if e.get("event") != "step":
                continue
            now = time.perf_counter()
            if self.losses:
                self.seconds.append(now - last)
            last = now
            self.losses.append(e["loss"])
            status = Path(f"/proc/{self.p.pid}/status").read_text()
            self.peak = max([self.peak] + [int(s.split()[1]) / 1024 for s in status.splitlines() if s.startswith("VmHWM")])
            n -= 1
        if n:
            sys.exit(f"{self.name} ended after {len(self.losses)} updates")
        self.p.send_signal(signal.SIGSTOP)

    def end(self):
        self.p.kill()
        self.p.wait()


def ours(args, method, dtype, recompute, out, steps, lr):
    return [args.lacuna, "train", "-m", args.gguf, "-d", args.data, "--method", *OURS[method], "--dtype", dtype, "--seq", args.seq, "--batch",
            args.batch, "--micro-batch", args.batch, "--threads", args.threads, "--no-shuffle", "--schedule", "constant", "--warmup", 0,
            "--clip", 1, "--optimizer", "adamw", "--seed", 42, "--lr", lr, "--steps", steps, "-o", out, "--overwrite", "--json",
            *(["--recompute"] if recompute else [])]


def start_of(args, spec, tmp):
    program, method, dtype, *recompute = spec.split(":")
    steps = args.steps + 2
    if program == "lacuna":
        return Run(spec, ours(args, method, dtype, recompute, tmp / spec.replace(":", "-"), steps, args.lr))
    adapter = []
    if method in STARTS:
        out = tmp / f"start-{method}"
        if not out.exists():
            done = subprocess.run([str(c) for c in ours(args, method, dtype, [], out, 1, 1e-30)], capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{method}: no start: {done.stderr[-500:]}")
        adapter = ["--adapter", out]
    return Run(spec, [PYTHON, TOP / "bench/peers/peft_train.py", "-m", args.hf, "--method", method, "--dtype", dtype, "--seq", args.seq, "--batch",
                      args.batch, "--steps", steps, "--warmup", 0, "--threads", args.threads, "--lr", args.lr, "--ids", tmp / "ids.json",
                      "--events", *adapter, *(["--checkpointing"] if recompute else [])])


def rows_of(args, tmp):
    """A text of rows for all updates, and the rows that lacuna cuts it into, for PEFT."""
    text, times = Path(args.data).read_text(), 1
    while True:
        (tmp / "data.txt").write_text(text * times)
        out = subprocess.run([args.lacuna, "tokenize", "-m", args.gguf, "-f", tmp / "data.txt", "--json"], capture_output=True, text=True, check=True)
        ids = json.loads(out.stdout)["ids"]
        if len(ids) >= (args.steps + 3) * args.batch * args.seq:
            break
        times *= 2
    args.data = tmp / "data.txt"
    rows = [ids[i:i + args.seq] for i in range(0, len(ids) - args.seq + 1, args.seq)]
    (tmp / "ids.json").write_text(json.dumps(rows))


def report(args, runs):
    rows = []
    for r in runs:
        seconds = statistics.median(r.seconds)
        rows.append(dict(run=r.name, updates=len(r.seconds), seconds=seconds, tokens_per_s=args.seq * args.batch / seconds, peak_mib=r.peak,
                         losses=r.losses))
    pairs = []
    for a in rows:
        for b in rows:
            same = a["run"].count(":recompute") == b["run"].count(":recompute")
            if not a["run"].startswith("lacuna") or b["run"].startswith("lacuna") or not same:
                continue
            pair = dict(ours=a["run"], theirs=b["run"], speed=a["tokens_per_s"] / b["tokens_per_s"], memory=a["peak_mib"] / b["peak_mib"])
            if a["run"].split(":")[1:] == b["run"].split(":")[1:]:
                pair["loss"] = max(abs(x / y - 1) for x, y in zip(a["losses"], b["losses"]))
            pairs.append(pair)
    if args.json:
        return print(json.dumps({"name": "train_compare", "seq": args.seq, "batch": args.batch, "threads": args.threads, "rows": rows, "ratios": pairs}))
    for r in rows:
        print(f"{r['run']:28} {r['tokens_per_s']:7.0f} tokens/s  {r['seconds']:6.3f} s a step ({r['updates']} steps)  peak {r['peak_mib']:6.0f} MiB  "
              f"loss {r['losses'][0]:.4f} to {r['losses'][-1]:.4f}")
    for p in pairs:
        loss = f"  loss within {100 * p['loss']:.2f} %" if "loss" in p else ""
        print(f"{p['ours']} / {p['theirs']}: {p['speed']:.2f} times the speed, {p['memory']:.2f} of the memory{loss}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", nargs="+")
    p.add_argument("--gguf", required=True)
    p.add_argument("--hf", default=Path(tempfile.gettempdir()) / "lacuna-peers-hf", type=Path)
    p.add_argument("--data", default="/usr/share/common-licenses/GPL-3", help="a plain text")
    p.add_argument("--lacuna", default=TOP / "build/lacuna")
    p.add_argument("--steps", type=int, default=20, help="timed updates of each run")
    p.add_argument("--limit", type=float, default=1e9, help="seconds after which no turn begins")
    p.add_argument("--turn", type=int, default=2, help="updates a turn")
    p.add_argument("--seq", type=int, default=512)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--lr", type=float, default=5e-4)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    if any(r.startswith("peft") for r in args.run) and not args.hf.exists():
        subprocess.run([PYTHON, TOP / "bench/parity/smollm.py", "dequantise", args.gguf, args.hf], check=True, stdout=sys.stderr)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        rows_of(args, tmp)
        runs = []
        try:
            for spec in args.run:
                runs.append(start_of(args, spec, tmp))
                runs[-1].advance(1)
            for _ in range(0, args.steps, args.turn):
                if time.perf_counter() - began > args.limit:
                    break
                for r in runs:
                    r.advance(args.turn)
        finally:
            for r in runs:
                r.end()
        if not all(r.seconds for r in runs):
            sys.exit("no update was timed: --limit passed before the first turn")
        report(args, runs)


if __name__ == "__main__":
    main()
