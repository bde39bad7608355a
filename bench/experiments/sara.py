"""SaRA. 1. Are the smallest weights idle? The smallest, random and largest share of each linear weight of a byte-level Llama set to zero; loss. 2. Tuned on GSM8K's
text, 5 % of the weights: smallest, random, largest, LoRA of as many values, all; held-out loss of both texts (learning, forgetting) after 120 updates of 8 x 64
bytes. 3. Penalty and narrowing on 200 rows of text: held-out loss, and the share of the first mask that is still below the threshold.

    python3 bench/experiments/sara.py [--seeds 3]
"""
import array
import json
import os
import random
import struct
import sys

from common import ROOT, mean_sd, table, verdict
from tiny import Tiny

sys.path.insert(0, os.path.join(ROOT, "examples"))
import lt_sft_patch  # noqa: E402  (writes adapters)

t = Tiny(__doc__)
gsm, play = t.texts["gsm8k"], t.texts["shakespeare"][0]
tune, held = t.write("tune", "\n\n".join(gsm[:1500])), t.write("held", "\n\n".join(gsm[-60:])[:8192])
pilot, old = t.write("pilot", "\n\n".join(gsm[-160:-60])[:8192]), t.write("old", play[1_000_000:1_008_192])
few = t.write("few", "\n\n".join(gsm)[:200 * 64])
before = t.runs.lines("eval", "-m", t.base, "--context", 64, "-d", old)[-1]["loss"]


def linear_weights():
    """-> {module: (rows, columns, values)} of the base's linear layers"""
    with open(os.path.join(t.base, "model.safetensors"), "rb") as f:
        head = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        blob = f.read()
    out = {}
    for name, h in head.items():
        if name.endswith("_proj.weight"):
            a, b = h["data_offsets"]
            raw = blob[a:b]
            if h["dtype"] == "BF16":
                raw = b"".join(b"\0\0" + raw[i:i + 2] for i in range(0, len(raw), 2))
            out[name[:-len(".weight")]] = (*h["shape"], array.array("f", raw))
    return out


def zeroed(kind, share):
    """-> loss on the pretraining text with that share of each weight at zero"""
    patch = {}
    for m, (rows, columns, v) in linear_weights().items():
        order = list(range(rows * columns))
        if kind == "random":
            random.Random(m).shuffle(order)
        else:
            order.sort(key=lambda i: abs(v[i]) if kind == "smallest" else -abs(v[i]))
        at = sorted(order[:int(share * rows * columns)])
        patch[m] = (rows, columns, at, [-v[i] for i in at])
    out = t.runs.path("zeroed")
    lt_sft_patch.write_adapter(out, patch)
    return t.runs.lines("eval", "-m", t.base, "-a", out, "--context", 64, "-d", old)[-1]["loss"]


SHARES = (0.01, 0.05, 0.1, 0.2, 0.4)
zero = {k: [t.runs.once(f"zero {k} {s}", ["2"], lambda k=k, s=s: zeroed(k, s)) for s in SHARES] for k in ("smallest", "random", "largest")}
table(("set to zero", *(f"{100 * s:g} %" for s in SHARES)), [(k, *(f"{v:.3f}" for v in vs)) for k, vs in zero.items()])
print(f"base: {before:.3f}")
verdict("the smallest tenth is idle (0.01)", zero["smallest"][2] - before < 0.01, f"{zero['smallest'][2] - before:+.4f}, a random tenth {zero['random'][2] - before:+.4f}")

LADDER = [1e-3, 3e-3, 1e-2, 3e-2]
ARMS = {"SaRA": ("sara", ["side=32"]), "SaRA, neither penalty nor narrowing": ("sara", ["rank-penalty=0", "progressive=-1"]), "random": ("shira", ["mask=random"]),
        "largest": ("shira", ["mask=wm"]), "LoRA r 2": ("lora", ["r=2", "alpha=4"]), "full": ("full", ["embeddings=false"])}
got, rows = {}, []
for name, (method, sets) in ARMS.items():
    tried = {r: t.run(f"pilot {name}", method, sets, pilot, tune, r, 120, 0, "--density", 0.05)["loss"]["120"] for r in LADDER}
    rate = min(tried, key=tried.get)
    rs = [t.run(name, method, sets, held, tune, rate, 120, s, "--density", 0.05, losses={"old": old}) for s in range(1, t.a.seeds + 1)]
    got[name] = mean_sd([r["loss"]["120"] for r in rs]), mean_sd([r["old"] - before for r in rs])
    rows.append((name, max(m for m in (rs[0]["done"].get("mask"), rs[0]["done"]["trainable"]) if isinstance(m, int)), f"{rate:g}", *(f"{m:.3f} ± {s:.3f}" for m, s in got[name])))
print()
table(("arm", "trained", "rate", "held-out loss", "loss on Shakespeare, rise"), rows)
order = [got[n][1][0] for n in ("SaRA", "random", "largest", "full")]
verdict("forgetting: smallest < random < largest < all", order == sorted(order), ", ".join(f"{x:.3f}" for x in order))
verdict("the smallest learn as much as random entries", got["SaRA"][0][0] < got["random"][0][0] + 0.01, f"{got['SaRA'][0][0]:.3f} against {got['random'][0][0]:.3f}")

rows, gap = [], {}
for penalty in ("0", "0.0005", "0.005"):
    for progressive in ("-1", "0"):
        sets = ["side=32", f"rank-penalty={penalty}", f"progressive={progressive}"]
        rs = [t.run(f"few {penalty} {progressive}", "sara", sets, held, few, 1e-2, 200, s, "--density", 0.2) for s in range(1, t.a.seeds + 1)]
        train = [sum(r["train"][-20:]) / 20 for r in rs]
        gap[penalty, progressive] = mean_sd([r["loss"]["200"] - a for r, a in zip(rs, train)])
        below = mean_sd([100 * r["done"]["below"] for r in rs])
        rows.append((penalty, "half" if progressive == "0" else "never", *(f"{m:.3f} ± {s:.3f}" for m, s in (mean_sd([r["loss"]["200"] for r in rs]), gap[penalty, progressive])),
                     f"{below[0]:.1f} %"))
print()
table(("penalty", "narrowing", "held-out loss", "held-out minus training", "still below"), rows)
verdict("the penalty lowers the gap", gap["0.005", "0"][0] < gap["0", "0"][0], f"{gap['0.005', '0'][0]:.3f} against {gap['0', '0'][0]:.3f}")
verdict("narrowing leaves fewer entries below the threshold", float(rows[1][4].split()[0]) < float(rows[0][4].split()[0]), f"{rows[1][4]} against {rows[0][4]}")
