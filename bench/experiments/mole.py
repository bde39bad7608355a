"""Do experts lessen the conflict between domains? GSM8K's text, boolq's passages and mawps's problems: a LoRA for each alone, one LoRA on the
mixture, one with as many values as all experts, and MoLE; held-out loss of each domain after the same number of updates of 8 x 64 bytes on the mixture.

    python3 bench/experiments/mole.py [--seeds 3]
"""
from common import mean_sd, table, verdict
from tiny import SEQ, Tiny

t = Tiny(__doc__)
boolq, mawps = t.more()
domains = {"gsm8k": "\n\n".join(t.texts["gsm8k"]), "boolq": "\n\n".join(boolq), "mawps": "\n\n".join(mawps)}
SIZE, STEPS, RATE = 40_000, 240, 3e-3
held = {d: t.write(f"held-{d}", x[SIZE:SIZE + 6000]) for d, x in domains.items()}
alone = {d: t.write(f"tune-{d}", x[:SIZE]) for d, x in domains.items()}
mix = t.write("tune-mix", "".join(x[i:i + 512] for i in range(0, SIZE, 512) for x in (v[:SIZE] for v in domains.values())))
ARMS = {"LoRA r 8, mixture": ("lora", ["r=8", "alpha=16"]), "LoRA r 24, mixture": ("lora", ["r=24", "alpha=48"]),
        "MoLE 3 x r 8, st": ("llava-mole", ["r=8", "alpha=16"]), "MoLE 3 x r 8, none": ("llava-mole", ["r=8", "alpha=16", "gate=none"]),
        "MoLE 3 x r 8, none, joint": ("llava-mole", ["r=8", "alpha=16", "gate=none", "balance-scope=joint"]),
        "MoLE 3 x r 8, dense": ("llava-mole", ["r=8", "alpha=16", "gate=dense"])}


def argv(method, sets, data, steps, seed):
    a = ["train", "-m", t.base, "-d", data, "--method", method, "--lr", RATE, "--steps", steps, "--batch", 8, "--seq", SEQ, "--seed", seed]
    return a + [x for s in sets for x in ("--set", s)]


seeds, loss, rows = range(1, t.a.seeds + 1), {}, []
one = {d: mean_sd([t.call(f"alone-{d}-{s}", argv("lora", ["r=8", "alpha=16"], alone[d], STEPS // 3, s), {d: held[d]})[d] for s in seeds]) for d in domains}
rows.append(("LoRA r 8, each domain alone, a third of the updates", "–", *(f"{one[d][0]:.3f} ± {one[d][1]:.3f}" for d in domains), f"{sum(v[0] for v in one.values()) / 3:.3f}", "–"))
for name, (method, sets) in ARMS.items():
    rs = [t.call(f"{name}-{s}", argv(method, sets, mix, STEPS, s), held) for s in seeds]
    loss[name] = mean_sd([sum(r[d] for d in domains) / 3 for r in rs])
    entropy = [sum(x["entropy"] for x in r["done"]["routes"]) / len(r["done"]["routes"]) for r in rs if "routes" in r["done"]]
    each = [mean_sd([r[d] for r in rs]) for d in domains]
    rows.append((name, rs[0]["done"]["trainable"], *(f"{m:.3f} ± {e:.3f}" for m, e in each), f"{loss[name][0]:.3f} ± {loss[name][1]:.3f}",
                 f"{mean_sd(entropy)[0]:.2f}" if entropy else "–"))
print()
table(("arm", "trained", *domains, "mean", "entropy of routes"), rows)
apart, plain, mole = sum(v[0] for v in one.values()) / 3, loss["LoRA r 8, mixture"], loss["MoLE 3 x r 8, st"]
verdict("there is a conflict: one LoRA on the mixture is worse than each alone", plain[0] > apart, f"{plain[0]:.3f} against {apart:.3f}")
verdict("MoLE on the mixture is better than one LoRA of equal rank", mole[0] < plain[0] - plain[1], f"{mole[0]:.3f} against {plain[0]:.3f}")
verdict("and than one LoRA of as many values", mole[0] < loss["LoRA r 24, mixture"][0], f"{loss['LoRA r 24, mixture'][0]:.3f}")
