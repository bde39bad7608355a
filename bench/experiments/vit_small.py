"""Pictures: a small ViT learns Fashion-MNIST, then each method tunes it on negatives of such pictures.

The base is trained whole on pictures as they are. Tuned on 1,000 negatives (255 − pixel), which it does not know, by several methods at
a few percent of its weights; measured are the accuracy on 1,000 negatives of the test split (learned) and on the same pictures as they are
(kept). Each rate is the best of three on 500 further negatives of the train split, seed 0.

    python3 bench/experiments/vit_small.py [--images /usr/share/datasets/fashion-mnist] [--seeds 3]
"""
import gzip
import os
import shutil
import sys

import vit_model
from common import Runs, arguments, mean_sd, table, use

METHODS = {  # name: method, options, the rate in the middle
    "full": ("full", [], 1e-3),
    "head alone": ("full", ["part=head"], 3e-2),
    "lora": ("lora", ["r=2", "alpha=4"], 1e-2),
    "shira": ("shira", ["mask=random"], 1e-2),
    "shira-wm": ("shira", ["mask=wm"], 1e-2),
    "spiel": ("spiel", ["period=10", "accumulate=3"], 3e-3),
    "lift": ("lift", ["filter=8", "interval=20"], 1e-2),
    "sara": ("sara", [], 1e-2),
    "lt-sft": ("lt-sft", [], 1e-2),
    "s2ft": ("s2ft", ["o=0.1", "d=0.1"], 1e-2),
    "snella": ("snella", ["r=4"], 1e-2),
    "mosa": ("mosa", ["width=8", "pieces=2"], 1e-2),
}
LADDER = (1 / 3, 1, 3)


def idx(path):
    with gzip.open(path, "rb") as f:
        data = f.read()
    n = data[3]
    return [int.from_bytes(data[4 + 4 * i:8 + 4 * i], "big") for i in range(n)], data[4 + 4 * n:]


def subset(runs, source, name, first, n, negative):
    """Writes pictures [first, first+n) and their labels -> the pictures' path"""
    (_, h, w), pixels = idx(source)
    _, labels = idx(source.replace("images-idx3", "labels-idx1"))
    part = pixels[first * h * w:(first + n) * h * w]
    if negative:
        part = bytes(255 - p for p in part)
    path = runs.path(f"{name}-images-idx3-ubyte")
    for file, head, data in ((path, [n, h, w], part), (path.replace("images-idx3", "labels-idx1"), [n], labels[first:first + n])):
        with open(file, "wb") as f:
            f.write(bytes([0, 0, 8, len(head)]) + b"".join(v.to_bytes(4, "big") for v in head) + data)
    return path


def main():
    p = arguments(__doc__)
    p.add_argument("--images", default="/usr/share/datasets/fashion-mnist", help="of Debian's dataset-fashion-mnist")
    p.add_argument("--pretrain", type=int, default=1500, help="updates of 64 pictures [1500]")
    p.add_argument("--steps", type=int, default=200, help="updates of 32 pictures [200]")
    p.add_argument("--only", help="names of the table, by commas")
    a = p.parse_args()
    train, test = (os.path.join(a.images, f"{s}-images-idx3-ubyte.gz") for s in ("train", "t10k"))
    if not os.path.exists(train):
        print(f"skipped: {train} is not here (Debian's package dataset-fashion-mnist)")
        return 0
    runs = Runs(a.lacuna, a.work)
    tune_on = subset(runs, train, "tune", 59_000, 1000, True)
    held = {"negatives": subset(runs, test, "negatives", 0, 1000, True), "pictures": subset(runs, test, "pictures", 0, 1000, False)}
    pilot = subset(runs, train, "pilot", 58_000, 500, True)
    start, base = runs.path("start"), runs.path("base")
    vit_model.write(start, 10)
    common = ["--task", "classification", "--dtype", "bf16"]
    runs.train("base", "-m", start, "-d", train, "--method", "full", "--steps", a.pretrain, "--batch", 64, "--lr", 1e-3, "--seed", 1, *common,
               "--set", "outtype=f32", keep=True)

    def accuracy(out, files=None):
        return {k: runs.lines("eval", *use(base, out), "-d", f, "--metric", "accuracy")[-1]["value"] for k, f in (files or held).items()}

    def tune(name, rate, seed, then):
        method, options, _ = METHODS[name]
        return runs.train(f"{name.replace(' ', '-')}-{rate:.3g}-{seed}", "-m", base, "-d", tune_on, "--method", method, "--density", 0.05,
                          *(x for o in options for x in ("--set", o)), "--steps", a.steps, "--batch", 32, "--lr", f"{rate:.3g}", "--seed", seed, "--keep", 0, *common, then=then)

    before = runs.once("before", [base, str(a.pretrain)], lambda: accuracy(None))
    rows = [("base", 0, "–", *(f"{100 * before[k]:.1f}" for k in held))]
    for name in (a.only.split(",") if a.only else METHODS):
        tried = {METHODS[name][2] * f: tune(name, METHODS[name][2] * f, 0, lambda out: accuracy(out, {"pilot": pilot}))["pilot"] for f in LADDER}
        rate = max(tried, key=tried.get)
        got = [tune(name, rate, seed, accuracy) for seed in range(1, a.seeds + 1)]
        cells = ["{:.1f} ± {:.1f}".format(*mean_sd([100 * g[k] for g in got])) for k in held]
        rows.append((name, f"{got[0]['done']['trainable']:,}", f"{rate:.2g}", *cells))
        print(rows[-1], flush=True)
    table(("method", "trained values", "rate", "negatives, %", "pictures as they are, %"), rows)
    shutil.rmtree(start, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
