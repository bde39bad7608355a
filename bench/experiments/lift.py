"""LIFT. 1. Do randomised masks match exact ones on SmolLM2-135M-Instruct's weights (density 5 %)? 2. On a byte-level Llama pretrained on Shakespeare
and tuned on GSM8K's text with 5 % of its linear weights: LIFT against largest |W|, random entries, LoRA of as many values and all weights; held-out
loss of both texts (learning, forgetting) after 120 updates of 8 x 64 bytes. Each arm's rate is the best of a ladder on seed 0 and other text.
With --perturb instead: 5 % of each of SmolLM2's linear weights, chosen by LIFT, by largest |W| or at random, get noise N(0, σ²); perplexity of Shakespeare.

    python3 bench/experiments/lift.py [--seeds 3] [--model SMOLLM2.gguf] [--no-model] [--perturb]
"""
import os
import random
import shutil
import sys
import time

from common import ROOT, mean_sd, smollm2, table, verdict
from tiny import Tiny

sys.path.insert(0, os.path.join(ROOT, "examples"))
import lt_sft_patch  # noqa: E402  (reads adapters)

FILTERS = {"R 64": ["filter=64"]}
t = Tiny(__doc__, more=lambda p: (p.add_argument("--model"), p.add_argument("--no-model", action="store_true"),
                                p.add_argument("--perturb", action="store_true")))


def masks(model, sets):
    """-> {module: its mask}, seconds of the run (one update on one row)"""
    out, began = t.runs.path("mask"), time.time()
    t.runs.lines("train", "-m", model, "-d", t.write("row", "Once upon a time there was a weight."), "--method", "lift", "--density", 0.05, "--steps", 1,
                 "--batch", 1, "--seq", 8, "--lr", 1e-6, "--keep", 0, "--set", "interval=0", *sets, "-o", out, "--overwrite")
    seconds = time.time() - began
    return {m: set(w[2]) for m, w in lt_sft_patch.read_adapter(out).items()}, seconds


def overlaps(model):
    rows = []
    for name, sets in FILTERS.items():
        base = [x for s in sets for x in ("--set", s)]
        exact, seconds = masks(model, [*base, "--set", "svd=exact"])
        total = sum(map(len, exact.values()))
        rows.append((name, "exact", "", "", f"{seconds:.0f}"))
        large, _ = masks(model, ["--set", "filter=100000"])
        both = sum(len(exact[m] & large[m]) for m in exact)
        rows.append((name, "largest |W|", f"{both / total:.4f}", "", ""))
        for power in (0, 1, 2, 4):
            r, seconds = masks(model, [*base, "--set", f"power={power}"])
            each = [len(exact[m] & r[m]) / len(exact[m]) for m in exact]
            both = sum(len(exact[m] & r[m]) for m in exact)
            rows.append((name, f"power {power}", f"{both / total:.4f}", f"{min(each):.4f}", f"{seconds:.0f}"))
    return rows


def perturb(model):
    """Perplexity of 40,000 characters with noise on the entries of each mask."""
    text = t.write("twenty", t.texts["shakespeare"][0][1_000_000:1_040_000])
    loss = lambda *a: t.runs.lines("eval", "-m", model, *a, "-d", text, "--dtype", "bf16")[-1]["value"]
    shapes, chosen = {}, {}
    for name, sets in {"LIFT R 32": ["filter=32"], "LIFT R 64": ["filter=64"], "largest |W|": ["filter=100000"]}.items():
        masks(model, [x for s in sets for x in ("--set", s)])
        read = lt_sft_patch.read_adapter(t.runs.path("mask"))
        shapes = {m: w[:2] for m, w in read.items()}
        chosen[name] = {m: w[2] for m, w in read.items()}
    for seed in range(1, t.a.seeds + 1):
        rng = random.Random(seed)
        chosen[f"random {seed}"] = {m: sorted(rng.sample(range(r * c), len(chosen["LIFT R 32"][m]))) for m, (r, c) in shapes.items()}
    rows, got = [], {}
    for name in ("LIFT R 32", "LIFT R 64", "largest |W|", "random"):
        for sigma in (0.01, 0.02, 0.05):
            for seed in range(1, t.a.seeds + 1):
                def make():
                    rng, at = random.Random(100 + seed), chosen.get(name) or chosen[f"random {seed}"]
                    out = t.runs.path("noise")
                    lt_sft_patch.write_adapter(out, {m: (*shapes[m], at[m], [rng.gauss(0, sigma) for _ in at[m]]) for m in shapes})
                    value = loss("-a", out)
                    shutil.rmtree(out)
                    return value
                got.setdefault((name, sigma), []).append(t.runs.once(f"noise {name} {sigma} {seed}", [model], make))
        rows.append((name, *("{:.2f} ± {:.2f}".format(*mean_sd(got[name, s])) for s in (0.01, 0.02, 0.05))))
        print(rows[-1], flush=True)
    print(f"base: {loss():.2f}")
    table(("entries", "σ 0.01", "σ 0.02", "σ 0.05"), rows)
    worst = {s: max(("LIFT R 32", "LIFT R 64", "largest |W|", "random"), key=lambda n: mean_sd(got[n, s])[0]) for s in (0.01, 0.02, 0.05)}
    verdict("noise on LIFT's entries hurts most", all(n.startswith("LIFT") for n in worst.values()), ", ".join(f"σ {s}: {n}" for s, n in worst.items()))


if t.a.perturb:
    perturb(smollm2(t.a.model))
    sys.exit(0)
if not t.a.no_model:
    model = smollm2(t.a.model)
    rows = t.runs.once("overlaps", [model, str(FILTERS)], lambda: overlaps(model))
    table(("filter", "mask", "overlap with exact", "least of a matrix", "seconds, all of the run"), rows)
    verdict("2 power iterations give 98 % of the exact mask", float(rows[4][2]) >= 0.98, rows[4][2])

ARMS = {"LIFT R 8, T 20": ("lift", ["filter=8", "interval=20"]), "LIFT R 8, fixed": ("lift", ["filter=8", "interval=0"]),
        "LIFT R 8, 4x4 blocks": ("lift", ["filter=8", "interval=20", "shape=blocks"]), "largest |W|, T 20": ("lift", ["filter=100000", "interval=20"]),
        "random": ("shira", ["mask=random"]), "LoRA r 2": ("lora", ["r=2", "alpha=4"]), "full": ("full", ["embeddings=false"])}
LADDER = [1e-3, 3e-3, 1e-2, 3e-2]
gsm = t.texts["gsm8k"]
tune, held = t.write("tune", "\n\n".join(gsm[:1500])), t.write("held", "\n\n".join(gsm[-60:])[:8192])
pilot, old = t.write("pilot", "\n\n".join(gsm[-160:-60])[:8192]), t.write("old", t.texts["shakespeare"][0][1_000_000:1_008_192])
before = t.runs.lines("eval", "-m", t.base, "--context", 64, "-d", old)[-1]["loss"]
got, rows = {}, []
for name, (method, sets) in ARMS.items():
    rate, rs = t.best(name, method, sets, LADDER, pilot, held, tune, "--density", 0.05, losses={"old": old})
    got[name] = mean_sd([r["loss"]["120"] for r in rs]), mean_sd([r["old"] - before for r in rs])
    rows.append((name, rs[0]["done"]["trainable"], rs[0]["done"].get("union", ""), f"{rate:g}", *(f"{m:.3f} ± {s:.3f}" for m, s in got[name])))
print()
table(("arm", "trained", "union", "rate", "held-out loss", "loss on Shakespeare, rise"), rows)
lift = got["LIFT R 8, T 20"]
verdict("LIFT learns more than largest |W|", lift[0][0] < got["largest |W|, T 20"][0][0], f"{lift[0][0]:.3f} against {got['largest |W|, T 20'][0][0]:.3f}")
verdict("LIFT learns more than random entries", lift[0][0] < got["random"][0][0], f"{lift[0][0]:.3f} against {got['random'][0][0]:.3f}")
verdict("LIFT forgets less than full fine-tuning", lift[1][0] < got["full"][1][0], f"{lift[1][0]:.3f} against {got['full'][1][0]:.3f}")
verdict("LIFT is below full fine-tuning on the target", lift[0][0] < got["full"][0][0], f"{lift[0][0]:.3f} against {got['full'][0][0]:.3f}")
