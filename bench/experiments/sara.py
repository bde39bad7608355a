"""SaRA. 1. Are the smallest weights idle? The smallest, random and largest share of each linear weight of a byte-level Llama set to zero; loss. 2. Tuned on GSM8K's
text, 5 % of the weights: smallest, random, largest, LoRA of as many values, all; held-out loss of both texts (learning, forgetting) after 120 updates of 8 x 64
bytes. 3. Penalty and narrowing on 200 rows of text: held-out loss, the effective rank of the trained weights W⊙M (exp of the entropy of the normalised singular values,
mean of the matrices), and the share of the first mask that is still below the threshold.
With --zero instead: 1. on SmolLM2's decoded weights, perplexity of 12,000 characters of Shakespeare in bf16.

    python3 bench/experiments/sara.py [--seeds 3] [--parts 1,2,3] [--zero [--model SMOLLM2.gguf]]
"""
import array
import json
import math
import os
import random
import shutil
import struct
import sys
from operator import mul

from common import ROOT, mean_sd, smollm2, table, verdict
from tiny import Tiny

sys.path.insert(0, os.path.join(ROOT, "examples"))
import lt_sft_patch  # noqa: E402  (reads and writes adapters)

SHARES = (0.01, 0.05, 0.1, 0.2, 0.4)
LADDER = [1e-3, 3e-3, 1e-2, 3e-2]
t = Tiny(__doc__, more=lambda p: (p.add_argument("--parts", default="1,2,3", help="[1,2,3]"), p.add_argument("--zero", action="store_true"), p.add_argument("--model")))
gsm, play = t.texts["gsm8k"], t.texts["shakespeare"][0]
tune, held = t.write("tune", "\n\n".join(gsm[:1500])), t.write("held", "\n\n".join(gsm[-60:])[:8192])
pilot, old = t.write("pilot", "\n\n".join(gsm[-160:-60])[:8192]), t.write("old", play[1_000_000:1_008_192])
few = t.write("few", "\n\n".join(gsm)[:200 * 64])
before = t.runs.lines("eval", "-m", t.base, "--context", 64, "-d", old)[-1]["loss"]


def read_weights(directory):
    """-> the bytes of its safetensors, and {module: (rows, columns, begin, end, dtype)} of the linear layers"""
    with open(os.path.join(directory, "model.safetensors"), "rb") as f:
        blob = bytearray(f.read())
    n = struct.unpack("<Q", blob[:8])[0]
    head = json.loads(blob[8:8 + n])
    return blob, {name[:-len(".weight")]: (*h["shape"], *(8 + n + x for x in h["data_offsets"]), h["dtype"]) for name, h in head.items() if name.endswith("_proj.weight")}


def linear_weights():
    """-> {module: (rows, columns, values)} of the base's linear layers"""
    blob, at = read_weights(t.base)
    out = {}
    for m, (rows, columns, a, b, dtype) in at.items():
        raw = bytes(blob[a:b])
        if dtype == "BF16":
            raw = b"".join(b"\0\0" + raw[i:i + 2] for i in range(0, len(raw), 2))
        out[m] = rows, columns, array.array("f", raw)
    return out


def first(kind, seed, v, share):
    """-> which entries of v go first: that share of them, ties to the lower position"""
    order = list(range(len(v)))
    if kind == "random":
        random.Random(seed).shuffle(order)
    else:
        size = list(map(abs, v))
        order.sort(key=size.__getitem__, reverse=kind == "largest")  # equal ones stay in their order
    return order[:int(share * len(v))]


def zeroed(kind, share):
    """-> loss on the pretraining text with that share of each weight at zero"""
    patch = {}
    for m, (rows, columns, v) in linear_weights().items():
        at = sorted(first(kind, m, v, share))
        patch[m] = (rows, columns, at, [-v[i] for i in at])
    out = t.runs.path("zeroed")
    lt_sft_patch.write_adapter(out, patch)
    return t.runs.lines("eval", "-m", t.base, "-a", out, "--context", 64, "-d", old)[-1]["loss"]


def idle():
    zero = {k: [t.runs.once(f"zero {k} {s}", ["2"], lambda k=k, s=s: zeroed(k, s)) for s in SHARES] for k in ("smallest", "random", "largest")}
    table(("set to zero", *(f"{100 * s:g} %" for s in SHARES)), [(k, *(f"{v:.3f}" for v in vs)) for k, vs in zero.items()])
    print(f"base: {before:.3f}")
    verdict("the smallest tenth is idle (0.01)", zero["smallest"][2] - before < 0.01, f"{zero['smallest'][2] - before:+.4f}, a random tenth {zero['random'][2] - before:+.4f}")


def idle_smollm2():
    text, base, out = t.write("twelve", play[1_000_000:1_012_000]), t.runs.path("f32"), t.runs.path("zeroed-f32")
    model = smollm2(t.a.model)
    loss = lambda m: t.runs.lines("eval", "-m", m, "-d", text, "--dtype", "bf16")[-1]["value"]
    if not os.path.exists(base):
        t.runs.lines("convert", "-m", model, "-o", base, "--outtype", "f32")
    value = {"base": t.runs.once("zero SmolLM2", [model], lambda: loss(base)), "gguf": t.runs.once("zero SmolLM2, GGUF", [model], lambda: loss(model))}
    print(f"base: {value['base']:.2f} (as GGUF {value['gguf']:.2f})", flush=True)
    for kind in ("smallest", "random", "largest"):
        blob, order = None, {}
        for s in SHARES:
            def make():
                nonlocal blob
                if not blob:  # the shares grow: one copy of the weights, and one order each, do for all
                    blob, at = read_weights(base)
                    view = memoryview(blob)
                    for m, (_, _, a, b, _) in at.items():
                        w = view[a:b].cast("f")
                        order[m] = w, array.array("I", first(kind, m, w, SHARES[-1]))
                    shutil.copytree(base, out, dirs_exist_ok=True)
                for w, which in order.values():
                    for i in which[:int(s * len(w))]:
                        w[i] = 0.0
                with open(os.path.join(out, "model.safetensors"), "wb") as f:
                    f.write(blob)
                return loss(out)
            value[kind, s] = t.runs.once(f"zero SmolLM2 {kind} {s}", [model], make)
            print(f"  {kind} {s}: {value[kind, s]:.2f}", flush=True)
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(base)
    table(("set to zero", *(f"{100 * s:g} %" for s in SHARES)), [(k, *(f"{value[k, s]:,.2f}" for s in SHARES)) for k in ("smallest", "random", "largest")])
    verdict("the smallest tenth is idle (1 % of perplexity)", value["smallest", 0.1] < 1.01 * value["base"])
    verdict("random entries are not (a tenth, 1 %)", value["random", 0.1] > 1.01 * value["base"])


def learn():
    ARMS = {"SaRA": ("sara", ["side=32"]), "SaRA, neither penalty nor narrowing": ("sara", ["rank-penalty=0", "progressive=-1"]), "random": ("shira", ["mask=random"]),
            "largest": ("shira", ["mask=wm"]), "LoRA r 2": ("lora", ["r=2", "alpha=4"]), "full": ("full", ["embeddings=false"])}
    got, rows = {}, []
    for name, (method, sets) in ARMS.items():
        rate, rs = t.best(name, method, sets, LADDER, pilot, held, tune, "--density", 0.05, losses={"old": old})
        got[name] = mean_sd([r["loss"]["120"] for r in rs]), mean_sd([r["old"] - before for r in rs])
        rows.append((name, max(m for m in (rs[0]["done"].get("mask"), rs[0]["done"]["trainable"]) if isinstance(m, int)), f"{rate:g}", *(f"{m:.3f} ± {s:.3f}" for m, s in got[name])))
    print()
    table(("arm", "trained", "rate", "held-out loss", "loss on Shakespeare, rise"), rows)
    order = [got[n][1][0] for n in ("SaRA", "random", "largest", "full")]
    verdict("forgetting: smallest < random < largest < all", order == sorted(order), ", ".join(f"{x:.3f}" for x in order))
    verdict("the smallest learn as much as random entries", got["SaRA"][0][0] < got["random"][0][0] + 0.01, f"{got['SaRA'][0][0]:.3f} against {got['random'][0][0]:.3f}")


def singular_values(rows):
    """-> of a matrix given as rows, at most as many as columns: pairs of rows are turned until all are orthogonal (Jacobi, one-sided)"""
    for _ in range(40):
        turned = False
        for i in range(len(rows)):
            for j in range(i):
                x, y = rows[i], rows[j]
                p, a, b = sum(map(mul, x, y)), sum(map(mul, x, x)), sum(map(mul, y, y))
                if p * p <= 1e-12 * a * b:
                    continue
                turned, z = True, (b - a) / (2 * p)
                tangent = math.copysign(1, z) / (abs(z) + math.sqrt(1 + z * z))
                c = 1 / math.sqrt(1 + tangent * tangent)
                s = c * tangent
                rows[i], rows[j] = [c * u - s * v for u, v in zip(x, y)], [s * u + c * v for u, v in zip(x, y)]
        if not turned:
            break
    return [math.sqrt(sum(map(mul, r, r))) for r in rows]


def effective_rank(rows):
    s = singular_values([list(r) for r in (zip(*rows) if len(rows) > len(rows[0]) else rows)])
    return math.exp(-sum(x / sum(s) * math.log(x / sum(s)) for x in s if x > 0))


def ranks(out):
    """-> mean effective rank of W⊙M over the matrices, before and after"""
    adapter, both = lt_sft_patch.read_adapter(out), []
    for m, (rows, columns, v) in linear_weights().items():
        _, _, at, change = adapter[m]
        for add in (0, 1):
            w = [[0.0] * columns for _ in range(rows)]
            for i, d in zip(at, change):
                w[i // columns][i % columns] = v[i] + add * d
            both.append(effective_rank(w))
    return {"rank before": sum(both[::2]) / len(both[::2]), "rank": sum(both[1::2]) / len(both[1::2])}


def narrow():
    rows, gap, rank = [], {}, {}
    for penalty in ("0", "0.0005", "0.005"):
        for progressive in ("-1", "0"):
            sets = ["side=32", f"rank-penalty={penalty}", f"progressive={progressive}"]
            rs = [t.run(f"few {penalty} {progressive}", "sara", sets, held, few, 1e-2, 200, s, "--density", 0.2, then=ranks) for s in range(1, t.a.seeds + 1)]
            train = [sum(r["train"][-20:]) / 20 for r in rs]
            gap[penalty, progressive] = mean_sd([r["loss"]["200"] - a for r, a in zip(rs, train)])
            rank[penalty, progressive] = mean_sd([r["rank"] for r in rs])
            below = mean_sd([100 * r["done"]["below"] for r in rs])
            rows.append((penalty, "half" if progressive == "0" else "never", *(f"{m:.3f} ± {s:.3f}" for m, s in (mean_sd([r["loss"]["200"] for r in rs]), gap[penalty, progressive])),
                         "{:.2f} ± {:.2f}".format(*rank[penalty, progressive]), f"{below[0]:.1f} %"))
            print(rows[-1], flush=True)
    print()
    table(("penalty", "narrowing", "held-out loss", "held-out minus training", "effective rank of W⊙M", "still below"), rows)
    print(f"effective rank before training: {rs[0]['rank before']:.2f}")
    verdict("the penalty lowers the gap", gap["0.005", "0"][0] < gap["0", "0"][0], f"{gap['0.005', '0'][0]:.3f} against {gap['0', '0'][0]:.3f}")
    for p in ("-1", "0"):
        r = [rank[x, p][0] for x in ("0", "0.0005", "0.005")]
        verdict(f"the penalty lowers the effective rank (progressive={p})", r[0] > r[1] > r[2], ", ".join(f"{x:.2f}" for x in r))
    verdict("narrowing leaves fewer entries below the threshold", float(rows[1][5].split()[0]) < float(rows[0][5].split()[0]), f"{rows[1][5]} against {rows[0][5]}")


if t.a.zero:
    idle_smollm2()
else:
    for part in t.a.parts.split(","):
        {"1": idle, "2": learn, "3": narrow}[part]()
