"""Does ALLoRA beat a tuned LoRA in short training? Held-out loss after 20, 50 and 100 updates of 8 x 64 bytes of GSM8K's text, under SGD
(momentum 0.9) and AdamW; and the training loss's fall at the first updates.

    python3 bench/experiments/allora.py [--seeds 3]
"""
from common import mean_sd, table, verdict
from tiny import Tiny

ARMS = {"LoRA": ("lora", ["r=8", "alpha=8"], 1), "LoRA, rate x 2": ("lora", ["r=8", "alpha=8"], 2), "LoRA, rate x 4": ("lora", ["r=8", "alpha=8"], 4),
        "LoRA, rate x 8": ("lora", ["r=8", "alpha=8"], 8), "LoRA, s = 2, dropout 0.05": ("lora", ["r=8", "alpha=16", "dropout=0.05"], 1),
        "LoRA+, B x 16": ("lora", ["r=8", "alpha=8", "b-rate=16"], 1), "ALLoRA, eta 2": ("allora", ["r=8", "eta=2"], 1),
        "ALLoRA, eta 8": ("allora", ["r=8", "eta=8"], 1), "ALLoRA, eta 2, place lr": ("allora", ["r=8", "eta=2", "place=lr"], 1),
        "ALLoRA, eta 8, place lr": ("allora", ["r=8", "eta=8", "place=lr"], 1),
        "ALLoRA, eta 8, output": ("allora", ["r=8", "eta=8", "depends=output"], 1)}
RATE = {"sgd": 0.02, "adamw": 1e-3}
t = Tiny(__doc__)
tune, held = t.write("tune", "\n\n".join(t.texts["gsm8k"][:1500])), t.write("held", "\n\n".join(t.texts["gsm8k"][-60:])[:8192])
got = {}
for opt, rate in RATE.items():
    rows = []
    for name, (method, sets, times) in ARMS.items():
        rs = [t.run(f"{opt} {name}", method, sets, held, tune, rate * times, 100, s, "--optimizer", opt, "--momentum", 0.9 if opt == "sgd" else 0,
                    every=10) for s in range(1, t.a.seeds + 1)]
        got[opt, name] = {k: mean_sd([r["loss"][k] for r in rs]) for k in ("0", "20", "50", "100")}
        rows.append((name, f"{rate * times:g}", *(f"{got[opt, name][k][0]:.3f} ± {got[opt, name][k][1]:.3f}" for k in ("20", "50", "100"))))
    print(f"\n{opt}, from {got[opt, 'LoRA']['0'][0]:.3f} nats a byte; {t.parameters} weights\n")
    table(("arm", "rate", "20 updates", "50", "100"), rows)


def at(opt, name, k="50"):
    return got[opt, name][k][0]


best = {o: min(at(o, n) for n in ARMS if n.startswith("LoRA,") or n == "LoRA") for o in RATE}
verdict("SGD: ALLoRA (eta 8) is clearly ahead of LoRA at equal rate", at("sgd", "LoRA") - at("sgd", "ALLoRA, eta 8") > 3 * got["sgd", "LoRA"]["50"][1],
        f"{at('sgd', 'ALLoRA, eta 8'):.3f} against {at('sgd', 'LoRA'):.3f}")
verdict("SGD: and near LoRA at its best rate (0.05)", abs(at("sgd", "ALLoRA, eta 8") - best["sgd"]) < 0.05, f"best LoRA {best['sgd']:.3f}")
verdict("AdamW, place grad: no visible difference (0.05)", abs(at("adamw", "ALLoRA, eta 8") - at("adamw", "LoRA")) < 0.05,
        f"{at('adamw', 'ALLoRA, eta 8'):.3f} against {at('adamw', 'LoRA'):.3f}")
verdict("AdamW, place lr: between LoRA and LoRA at 8 times the rate", at("adamw", "LoRA, rate x 8") - 0.02 <= at("adamw", "ALLoRA, eta 8, place lr") <=
        at("adamw", "LoRA") + 0.02, f"{at('adamw', 'ALLoRA, eta 8, place lr'):.3f}")
