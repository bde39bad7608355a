"""Pictures: a small ViT learns Fashion-MNIST, then each method tunes it on negatives of such pictures.

The base is trained whole on pictures as they are. Tuned on 1,000 negatives (255 − pixel), which it does not know, by several methods at
a few percent of its weights; measured are the accuracy on held-out negatives (learned) and on held-out pictures as they are (kept).

    python3 bench/experiments/vit_small.py [--images /usr/share/datasets/fashion-mnist] [--seeds 3]
"""
import gzip
import os
import shutil
import sys

import vit_model
from common import Runs, arguments, mean_sd, table

METHODS = {  # name: method, options, rate
    "full": ("full", [], 1e-3),
    "head alone": ("full", ["part=head"], 1e-2),
    "lora": ("lora", ["r=2", "alpha=4"], 1e-2),
    "shira": ("shira", ["mask=random"], 1e-2),
    "spiel": ("spiel", ["period=10", "accumulate=3"], 1e-2),
    "snella": ("snella", ["r=4"], 1e-2),
    "mosa": ("mosa", ["width=8", "pieces=2"], 1e-2),
}


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
    p.add_argument("--pretrain", type=int, default=400, help="updates of 64 pictures [400]")
    p.add_argument("--steps", type=int, default=60, help="updates of 32 pictures [60]")
    a = p.parse_args()
    train, test = (os.path.join(a.images, f"{s}-images-idx3-ubyte.gz") for s in ("train", "t10k"))
    if not os.path.exists(train):
        print(f"skipped: {train} is not here (Debian's package dataset-fashion-mnist)")
        return 0
    runs = Runs(a.lacuna, a.work)
    tune = subset(runs, train, "tune", 59_000, 1000, True)
    held = {"negatives": subset(runs, test, "negatives", 0, 1000, True), "pictures": subset(runs, test, "pictures", 0, 1000, False)}
    start, base = runs.path("start"), runs.path("base")
    vit_model.write(start, 10)
    common = ["--task", "classification", "--dtype", "bf16"]
    runs.train("base", "-m", start, "-d", train, "--method", "full", "--steps", a.pretrain, "--batch", 64, "--lr", 1e-3, "--seed", 1, *common,
               "--set", "outtype=f32", keep=True)

    def accuracy(out):
        adapter = out and not os.path.exists(os.path.join(out, "model.safetensors"))
        use = ["-m", base, "-a", out] if adapter else ["-m", out or base]
        return {k: runs.lines("eval", *use, "-d", f, "--metric", "accuracy")[-1]["value"] for k, f in held.items()}

    before = runs.once("before", [base, str(a.pretrain)], lambda: accuracy(None))
    rows = [("base", 0, *(f"{100 * before[k]:.1f}" for k in held))]
    for name, (method, options, rate) in METHODS.items():
        got = []
        for seed in range(1, a.seeds + 1):
            got.append(runs.train(f"{name.replace(' ', '-')}-{seed}", "-m", base, "-d", tune, "--method", method, "--density", 0.05,
                                  *(x for o in options for x in ("--set", o)), "--steps", a.steps, "--batch", 32, "--lr", rate, "--seed", seed,
                                  *common, then=accuracy))
        cells = ["{:.1f} ± {:.1f}".format(*mean_sd([100 * g[k] for g in got])) for k in held]
        rows.append((name, got[0]["done"]["trainable"], *cells))
    table(("method", "trained values", "negatives, %", "pictures as they are, %"), rows)
    shutil.rmtree(start, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
