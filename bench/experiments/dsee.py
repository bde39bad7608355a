"""Do DSEE's few entries help, does its update score prune better than magnitude, and does tuning again recover what pruning costs? A byte-level
Llama pretrained on Shakespeare is tuned on GSM8K's text, 160 updates of 8 x 64 bytes, half of them before pruning; held-out loss.

    python3 bench/experiments/dsee.py [--seeds 3]
"""
from common import mean_sd, table, verdict
from tiny import Tiny

NONE = ["update-ratio=0", "ratio=0"]
BASE = ["r=4", "alpha=8"]
ARMS = {"low rank alone": [*BASE, *NONE, "entries=0"], "16 entries, grebsmo": [*BASE, *NONE, "entries=16"],
        "16 entries, magnitude": [*BASE, *NONE, "entries=16", "support=magnitude"], "16 entries, random": [*BASE, *NONE, "entries=16", "support=random"],
        "256 entries, grebsmo": [*BASE, *NONE, "entries=256"]}
for share in (0.2, 0.4, 0.6):
    both = [f"update-ratio={share}", f"ratio={share}"]
    ARMS[f"{share:.0%} abs"] = [*BASE, *both]
    ARMS[f"{share:.0%} w"] = [*BASE, *both, "prune=w"]
    ARMS[f"{share:.0%} abs, not tuned again"] = [*BASE, *both, "retune-rate=0"]
for mode in ("abs", "w", "random"):
    ARMS[f"1 of 4 heads, {mode}"] = [*BASE, *NONE, "heads=1", f"prune={mode}"]
t = Tiny(__doc__)
gsm = t.texts["gsm8k"]
tune, held = t.write("tune", "\n\n".join(gsm[:1500])), t.write("held", "\n\n".join(gsm[-60:])[:8192])
pilot = t.write("pilot", "\n\n".join(gsm[-160:-60])[:8192])
tried = {r: t.run("pilot", "dsee", ARMS["low rank alone"], pilot, tune, r, 160, 0)["loss"]["160"] for r in (3e-3, 1e-2, 3e-2)}
rate = min(tried, key=tried.get)
print(f"rate for all, from low rank alone on seed 0: {rate:g} ({', '.join(f'{r:g}: {v:.3f}' for r, v in tried.items())})", flush=True)
loss, rows = {}, []
for name, sets in ARMS.items():
    rs = [t.run(name, "dsee", sets, held, tune, rate, 160, s) for s in range(1, t.a.seeds + 1)]
    loss[name] = mean_sd([r["loss"]["160"] for r in rs])
    d = rs[0]["done"]["dropped"]
    rows.append((name, rs[0]["done"]["trainable"], sum(x[0] for x in d.values()), f"{loss[name][0]:.3f} ± {loss[name][1]:.3f}"))
    print(name, f"{loss[name][0]:.3f}", flush=True)
print()
table(("arm", "trained", "dropped", "held-out loss"), rows)
noise = loss["low rank alone"][1]
verdict("16 entries are inside the seeds' noise", all(abs(loss[f"16 entries, {m}"][0] - loss["low rank alone"][0]) <= 2 * max(noise, 1e-3) for m in ("grebsmo", "magnitude", "random")))
verdict("at 20 % near the dense score (0.05)", loss["20% abs"][0] - loss["low rank alone"][0] < 0.05, f"{loss['20% abs'][0]:.3f} against {loss['low rank alone'][0]:.3f}")
for share in ("20%", "40%", "60%"):
    lost, left = loss[f"{share} abs, not tuned again"][0] - loss["low rank alone"][0], loss[f"{share} abs"][0] - loss["low rank alone"][0]
    verdict(f"tuning again recovers half of what pruning {share} costs", left < lost / 2, f"{lost:+.3f} becomes {left:+.3f}")
    verdict(f"abs prunes better than magnitude at {share}", loss[f"{share} abs"][0] < loss[f"{share} w"][0], f"{loss[f'{share} abs'][0]:.3f} against {loss[f'{share} w'][0]:.3f}")
