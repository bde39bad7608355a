"""Does keeping only the largest entries hurt a computed change? KLoRA and SNELL at several sparsities, and SNELLA's shared budget against equal
shares, beside LoRA, on GSM8K's text; held-out loss after 120 updates of 8 x 64 bytes. Each variant's rate is the best of a ladder on seed 0.

    python3 bench/experiments/snella.py [--seeds 3]
"""
from common import mean_sd, table, verdict
from tiny import Tiny

ARMS = {"LoRA r 8": ("lora", ["r=8", "alpha=8"]), "KLoRA r 8": ("snella", ["variant=klora"]), "MixK r 8": ("snella", ["variant=mixk"]),
        "SNELL r 8, s 0.5": ("snella", ["variant=snell", "initial=0.5"]), "SNELL r 8, s 0.8": ("snella", ["variant=snell", "initial=0.8"]),
        "SNELL r 8, s 0.9": ("snella", ["variant=snell", "initial=0.9"]), "SNELLA r 8, to 0.8": ("snella", ["target=0.8", "interval=12", "settle=3"]),
        "SNELLA r 8, to 0.9": ("snella", ["target=0.9", "interval=12", "settle=3"])}
LADDER = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
t = Tiny(__doc__)
gsm = t.texts["gsm8k"]
tune, held = t.write("tune", "\n\n".join(gsm[:1500])), t.write("held", "\n\n".join(gsm[-60:])[:8192])
pilot = t.write("pilot", "\n\n".join(gsm[-160:-60])[:8192])
loss, rows = {}, []
for name, (method, sets) in ARMS.items():
    rate, rs = t.best(name, method, sets, LADDER, pilot, held, tune)
    loss[name] = mean_sd([r["loss"]["120"] for r in rs])
    rows.append((name, rs[0]["done"]["trainable"], f"{rate:g}", f"{rs[0]['done'].get('sparsity', 0):.2f}", f"{loss[name][0]:.3f} ± {loss[name][1]:.3f}",
                 f"{mean_sd([r['done']['seconds'] for r in rs])[0]:.1f}"))
print()
table(("arm", "trained", "rate", "sparsity", "held-out loss", "seconds"), rows)
verdict("keeping a tenth of the entries costs KLoRA little (0.05)", loss["SNELL r 8, s 0.9"][0] - loss["KLoRA r 8"][0] < 0.05,
        f"{loss['SNELL r 8, s 0.9'][0]:.3f} against {loss['KLoRA r 8'][0]:.3f}")
verdict("sharing the budget is better than equal shares at 0.8", loss["SNELLA r 8, to 0.8"][0] < loss["SNELL r 8, s 0.8"][0],
        f"{loss['SNELLA r 8, to 0.8'][0]:.3f} against {loss['SNELL r 8, s 0.8'][0]:.3f}")
verdict("the computed change is level with LoRA of as many values (0.05)", loss["KLoRA r 8"][0] - loss["LoRA r 8"][0] < 0.05)
