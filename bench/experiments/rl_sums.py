"""Does the loop of reinforcement learning work? A byte-level model learns sums of one- and two-digit numbers, first from written
answers, then from rewards for its own.

A Llama of 0.42 M weights (2 layers, D = 128) is trained from scratch on 7,600 rows "07+58=" -> "560" (the sum in three digits, last
digit first) by a teacher who forgets every carry in 65 % of the rows: its greedy answers are right where nothing is to be carried.
From there GRPO samples 8 answers to each of 32 training prompts an update and rewards those that are exactly right; the control is the
same run with the update's rewards dealt out at random. Reward on 200 held-out sums is that of greedy answers. Then the runs are compared with their start (lacuna diff), and one is
repeated with only the weights that it changed most (method rl-subnetworks).

    python3 bench/experiments/rl_sums.py
"""
import json
import os
import random
import statistics
import sys

import byte_model
from common import Runs, arguments, mean_sd, table, verdict, write_rows

PRETRAIN = ["--method", "full", "--lr", "2e-3", "--warmup", 50, "--schedule", "constant", "--batch", 64, "--micro-batch", 64, "--seq", 16,
            "--dtype", "f32", "--seed", 42]
RATE = 5e-4


FORGETS = 0.65


def rows(pairs, key, forgets=0.0):
    """-> rows of the sums; with `forgets`, that share of the answers leaves out the carries"""
    rng = random.Random(2)
    wrong = [(a % 10 + b % 10) % 10 + 10 * ((a // 10 + b // 10) % 10) for a, b in pairs]
    answers = [w if rng.random() < forgets else a + b for (a, b), w in zip(pairs, wrong)]
    return [{"prompt": f"{a:02d}+{b:02d}=", key: f"{c:03d}"[::-1]} for (a, b), c in zip(pairs, answers)]


def split():
    """-> training pairs (those with a one-digit number twice), held-out pairs"""
    rng = random.Random(1)
    pairs = [(a, b) for a in range(100) for b in range(100)]
    small, large = [p for p in pairs if min(p) < 10], [p for p in pairs if min(p) > 9]
    rng.shuffle(small)
    rng.shuffle(large)
    return small[50:1900] * 2 + large[150:4050], small[:50] + large[:150]


def sampled(out):
    """-> mean reward of the answers sampled in the first and the last 20 updates, and the answers' length in the last"""
    with open(os.path.join(out, "log.jsonl"), encoding="utf-8") as f:
        steps = [e for e in map(json.loads, f) if e["event"] == "step"]
    return {"sampled": [statistics.fmean(e["reward"] for e in part) for part in (steps[:20], steps[-20:])],
            "length": statistics.fmean(e["answer_tokens"] for e in steps[-20:]), "kl": statistics.fmean(e.get("kl", 0) for e in steps[-20:])}


def main():
    p = arguments(__doc__)
    p.add_argument("--pretrain", type=int, default=1600, help="updates of 64 written answers [1600]")
    p.add_argument("--steps", type=int, default=100, help="updates of 32 prompts x 8 answers [100]")
    a = p.parse_args()
    runs = Runs(a.lacuna, a.work)
    train, held = split()
    files = {"sft": rows(train, "completion", FORGETS), "ask": rows(train, "answer"), "held": rows(held, "answer")}
    files = {n: write_rows(runs.path(n + ".jsonl"), r) for n, r in files.items()}
    print(f"{byte_model.write(runs.path('start'), width=128, layers=2, heads=4, positions=32)} parameters", flush=True)
    runs.train("base", "-m", runs.path("start"), "-d", files["sft"], *PRETRAIN, "--steps", a.pretrain, keep=True)
    base = runs.path("base")

    def tune(name, seed, *more, method=("full",)):
        return runs.train(f"{name}-{seed}", "-m", base, "-d", files["ask"], "--eval-data", files["held"], "--method", *method, "--objective", "grpo",
                          "--with", "group=8", "--with", "max-tokens=5", "--with", "beta=0", *more, "--lr", RATE, "--schedule", "constant",
                          "--warmup", 0, "--batch", 32, "--micro-batch", 256, "--seq", 16, "--dtype", "f32", "--seed", seed, "--steps", a.steps,
                          "--keep", 0, then=sampled, keep=True)

    seeds = range(1, a.seeds + 1)
    real = [tune("grpo", s) for s in seeds]
    dealt = [tune("dealt", s, "--with", "shuffle-rewards=true") for s in seeds]
    lines = []
    for name, rs in (("rewards of the answers", real), ("dealt out at random", dealt)):
        gain = [r["before"] - r["after"] for r in rs]
        mean, sd = mean_sd(gain)
        lines.append((name, f"{-rs[0]['before']:.1%}", ", ".join(f"{-r['after']:.1%}" for r in rs), f"{mean:+.1%} ± {sd:.1%}",
                      ", ".join(f"{r['sampled'][0]:.1%} → {r['sampled'][1]:.1%}" for r in rs)))
    print()
    table(("rewards", "held-out before", "after, by seed", "rise", "sampled in training, first and last 20 updates"), lines)
    ok = verdict("the start is right on 10 to 40 %", 0.1 <= -real[0]["before"] <= 0.4, f"{-real[0]['before']:.1%}")
    ok &= verdict("reward rises by at least 20 points on held-out sums, every seed", all(r["before"] - r["after"] >= 0.2 for r in real))
    ok &= verdict("with rewards dealt out at random it does not rise", all(r["before"] - r["after"] < 0.05 for r in dealt))

    print("\nWhat changed (lacuna diff; f32 and as bf16)")
    lines = []
    for dtype in ("f32", "bf16"):
        d = runs.lines("diff", base, runs.path("grpo-1"), runs.path("grpo-2"), "--dtype", dtype, "--tolerance", "1e-5", "--rank", 6, "--null-lr", RATE,
                       "--null-steps", a.steps)[-1]
        o = d["overlap"]
        lines.append((dtype, f"{d['sparsity']['0']:.2%}", f"{d['sparsity']['1e-05']:.2%}", f"{d['null_model']['0']:.2%} / {d['null_model']['1e-05']:.2%}",
                      f"{d['rank_share']:.1%}", f"{o['of_first']:.1%} ({o['chance_of_first']:.1%})" if o else "not defined"))
    table(("type", "unchanged at 0", "at 1e-5", "null model at 0 / 1e-5", "rank of the change", "overlap of two seeds (chance)"), lines)

    print("Only the weights that run 1 changed most, from the same start")
    lines = []
    for tolerance in (0.005, 0.01):
        d = runs.lines("diff", base, runs.path("grpo-1"), runs.path("grpo-2"), "--tolerance", tolerance)[-1]
        r = tune(f"sub-{tolerance:g}", 1, "--set", f"from={runs.path('grpo-1')}", "--set", f"tolerance={tolerance:g}", "--set", "storage=dense",
                 method=("rl-subnetworks",))
        e = runs.lines("diff", runs.path("grpo-1"), runs.path(f"sub-{tolerance:g}-1"))[-1]
        o = d["overlap"]
        lines.append((f"{tolerance:g}", f"{d['share']:.1%}", f"{o['of_first']:.1%} ({o['chance_of_first']:.1%})", f"{-r['after']:.1%}",
                      f"{e['sparsity']['1e-05']:.2%}"))
    table(("tolerance", "trained", "of them in seed 2's (chance)", f"held-out reward (all weights: {-real[0]['after']:.1%})", "equal to run 1 within 1e-5"), lines)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
