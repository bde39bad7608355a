"""Do small entries make the better directions? MeZO, a random share, the smallest entries at three sparsities and the largest, on a task of a byte-level
Llama of 0.11 M weights that was pretrained on Shakespeare: a line without its final mark, was it a question (balanced)? Held-out loss of the
answer and of the end after it (knowing the end, chance is 0.347 nats) after 600 updates of 16 rows; each arm's rate is the best of a ladder on seed 0 and other rows. Adam for reference.

    python3 bench/experiments/sparse_mezo.py [--seeds 3]
    python3 bench/experiments/sparse_mezo.py --memory [--model SMOLLM2.gguf]   peak memory of 20 updates on SmolLM2-135M in f32 beside `lacuna eval`
"""
import os
import random
import re
import subprocess
import sys

import common
from common import Runs, arguments, data, mean_sd, smollm2, table, verdict, write_rows
from tiny import Tiny

ARMS = {"MeZO": ("mezo", []), "random, s 0.75": ("sparse-mezo", ["mask=random"]), "smallest, s 0.5": ("sparse-mezo", ["sparsity=0.5"]),
        "smallest, s 0.75": ("sparse-mezo", ["sparsity=0.75"]), "smallest, s 0.9": ("sparse-mezo", ["sparsity=0.9"]),
        "largest, s 0.75": ("sparse-mezo", ["mask=large"])}
LADDER = [1e-3, 3e-3, 1e-2, 3e-2]
STEPS, AT = 600, [200, 400, 600]


def peak(argv):
    r = subprocess.run(["/usr/bin/time", "-v", *map(str, argv)], capture_output=True, text=True)
    if r.returncode:
        sys.exit(f"{' '.join(map(str, argv))}: {r.stderr.strip()}")
    return int(re.search(r"Maximum resident set size \(kbytes\): (\d+)", r.stderr)[1]) / 1024


def memory():
    p = arguments(__doc__)
    p.add_argument("--memory", action="store_true")
    p.add_argument("--model", help="SmolLM2-135M-Instruct as GGUF")
    a = p.parse_args()
    runs = Runs(a.lacuna, a.work)
    f32, rows = runs.path("smollm2-f32"), runs.path("rows.jsonl")
    if not os.path.exists(os.path.join(f32, "config.json")):
        subprocess.run([a.lacuna, "convert", "-m", smollm2(a.model), "-o", f32, "--outtype", "f32", "--quiet"], check=True)
    gsm = common.read_rows(data("gsm8k", "train.jsonl"))[:64]
    write_rows(rows, [{"prompt": g["question"], "completion": g["answer"]} for g in gsm])
    out, common_flags = [], ["-m", f32, "-d", rows, "--dtype", "f32"]
    base = peak([a.lacuna, "eval", *common_flags, "--quiet"])
    for name, flags in {"mezo": ["--lr", "1e-6"], "sparse-mezo": ["--lr", "2e-6"], "full": ["--lr", "1e-5"]}.items():
        mib = peak([a.lacuna, "train", *common_flags, "--method", name, "--steps", 20 if name != "full" else 2, "--batch", 4, "--micro-batch", 1, "--seq", 256,
                    "--keep", 0, *flags, "-o", runs.path("m"), "--overwrite", "--quiet"])
        out.append((name, f"{mib:.0f}", f"{mib / base:.2f}"))
    table(("", "peak MiB", "of eval's"), [("eval", f"{base:.0f}", "1"), *out])


def rows_of(text, seed):
    lines = [s.strip() for s in text.split("\n")]
    ask = [s[:-1] for s in lines if s.endswith("?") and 12 < len(s) < 44]
    say = [s[:-1] for s in lines if s.endswith(".") and 12 < len(s) < 44]
    rng = random.Random(seed)
    rng.shuffle(ask)
    rng.shuffle(say)
    n = min(len(ask), len(say))
    rows = [{"prompt": s, "completion": "?"} for s in ask[:n]] + [{"prompt": s, "completion": "."} for s in say[:n]]
    rng.shuffle(rows)
    return rows


def main():
    t = Tiny(__doc__)
    text = t.texts["shakespeare"][0]
    rows, later = rows_of(text[:800_000], 1)[:1000], rows_of(text[800_000:], 2)
    files = {n: write_rows(t.runs.path(n + ".jsonl"), r) for n, r in (("tune", rows), ("held", later[:200]), ("pilot", later[200:400]))}
    every, loss, out = 200, {}, []
    for name, (method, sets) in ARMS.items():
        go = lambda label, held, rate, seed: t.call(  # noqa: E731
            f"{label}-{rate:g}-{seed}", ["train", "-m", t.base, "-d", files["tune"], "--eval-data", files[held], "--method", method, "--lr", rate,
                                         "--steps", STEPS, "--batch", 16, "--seq", 48, "--seed", seed, "--schedule", "constant", "--warmup", 0,
                                         "--dtype", "f32", "--eval-every", every, "--keep", 0, *[x for s in sets for x in ("--set", s)]])
        tried = {r: go(f"pilot {name}", "pilot", r, 0)["loss"][str(STEPS)] for r in LADDER}
        rate = min(tried, key=tried.get)
        rs = [go(name, "held", rate, s) for s in range(1, t.a.seeds + 1)]
        loss[name] = {at: mean_sd([r["loss"][str(at)] for r in rs]) for at in AT}
        out.append((name, f"{rs[0]['done']['density']:.2f}", f"{rate:g}", *(f"{loss[name][at][0]:.3f} ± {loss[name][at][1]:.3f}" for at in AT),
                    f"{mean_sd([r['done']['seconds'] for r in rs])[0]:.0f}"))
        print(f"{name}: {', '.join(f'{r:g}: {v:.3f}' for r, v in tried.items())}", flush=True)
    adam = [t.run("Adam", "full", [], files["held"], files["tune"], 1e-3, 120, s)["loss"] for s in range(1, t.a.seeds + 1)]
    print(f"\nbefore: {adam[0]['0']:.3f}; Adam, full, 120 updates of 8 rows: {mean_sd([r['120'] for r in adam])[0]:.3f}\n")
    table(("arm", "moves", "rate", *(f"{at} updates" for at in AT), "seconds"), out)
    best = min((n for n in ARMS if n.startswith("smallest")), key=lambda n: loss[n][STEPS][0])
    verdict("the smallest entries end below MeZO", loss[best][STEPS][0] < loss["MeZO"][STEPS][0], f"{best}: {loss[best][STEPS][0]:.3f} against {loss['MeZO'][STEPS][0]:.3f}")
    verdict("and below a random share", loss[best][STEPS][0] < loss["random, s 0.75"][STEPS][0])
    verdict("the largest are the worst mask", all(loss["largest, s 0.75"][STEPS][0] >= loss[n][STEPS][0] for n in ARMS))


memory() if "--memory" in sys.argv else main()
