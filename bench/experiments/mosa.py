"""Does training in pieces regularise when rows are few? Adapters of one size on 16, 64 and 256 rows of 64 bytes of GSM8K's text, 120 updates of 8 rows;
held-out loss. Each arm's rate is the best of a ladder for each number of rows, on seed 0 and other text: the merged adapter counts a piece's change 1/E, so its
best rate is not the plain adapter's. (At one rate, 3e-3, MoSA lies far above the plain adapter: looked at first.)

    python3 bench/experiments/mosa.py [--seeds 3]
"""
from common import mean_sd, table, verdict
from tiny import Tiny

SIZE, LADDER = "width=32", [1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
ARMS = {"adapter": ["pieces=1", "kl=0"], "adapter, dropout 0.5": ["pieces=1", "kl=0", "dropout=0.5"], "adapter, two draws and KL": ["pieces=1", "kl=1"],
        "MoSA without KL": ["pieces=4", "kl=0"], "MoSA": ["pieces=4", "kl=1"]}
t = Tiny(__doc__)
text = "\n\n".join(t.texts["gsm8k"])
held, loss = t.write("held", "\n\n".join(t.texts["gsm8k"][-60:])[:8192]), {}
pilot = t.write("pilot", "\n\n".join(t.texts["gsm8k"][-160:-60])[:8192])
rows, seconds = [], {}
for name, sets in ARMS.items():
    cells = []
    for n in (16, 64, 256):
        tune = t.write(f"tune-{n}", text[:n * 64])
        rate, rs = t.best(f"{name} {n}", "mosa", [SIZE, "scale=1", *sets], LADDER, pilot, held, tune)
        loss[name, n] = mean_sd([r["loss"]["120"] for r in rs])
        seconds[name] = mean_sd([r["done"]["seconds"] for r in rs])[0]
        cells.append(f"{loss[name, n][0]:.3f} ± {loss[name, n][1]:.3f} ({rate:g})")
    rows.append((name, rs[0]["done"]["trainable"], *cells, f"{seconds[name]:.1f}"))
print()
table(("arm", "trained", "16 rows (rate)", "64 rows", "256 rows", "seconds"), rows)
for n in (16, 64, 256):
    verdict(f"{n} rows: MoSA is below the plain adapter", loss["MoSA", n][0] < loss["adapter", n][0] - max(loss["MoSA", n][1], loss["adapter", n][1]),
            f"{loss['MoSA', n][0]:.3f} against {loss['adapter', n][0]:.3f}")
gain = {n: loss["adapter", n][0] - loss["MoSA", n][0] for n in (16, 256)}
verdict("the gain shrinks with data", gain[16] > gain[256], f"{gain[16]:+.3f} at 16 rows, {gain[256]:+.3f} at 256")
share = (loss["adapter", 16][0] - loss["adapter, two draws and KL", 16][0]) / gain[16] if gain[16] > 0 else 0
verdict("two draws and KL alone have a good part of the gain (a third or more, 16 rows)", share > 1 / 3, f"{share:.2f}")
