"""What the experiments of the low-rank methods share: a byte-level Llama of 0.14 M weights, pretrained on Shakespeare, texts of other
domains, and short runs whose held-out losses are read at several updates."""
import json
import shutil

import byte_model
from common import Runs, arguments, data, read_rows

SEQ = 64


class Tiny:
    def __init__(self, about, pretrain=400, more=None):
        """more(parser): further arguments of an experiment's own"""
        p = arguments(about)
        if more:
            more(p)
        self.a = p.parse_args()
        self.runs = Runs(self.a.lacuna, self.a.work)
        with open(data("tinyshakespeare", "input.txt"), encoding="utf-8") as f:
            shakespeare = f.read()
        gsm = [r["question"] + "\n" + r["answer"] for r in read_rows(data("gsm8k", "train.jsonl"))]
        self.base = self.runs.path("base")
        start = self.runs.path("start")
        self.parameters = byte_model.write(start, width=64, layers=2, heads=4)
        pre = self.write("pretrain", shakespeare[:800_000])
        self.runs.train("base", "-m", start, "-d", pre, "--method", "full", "--lr", "3e-3", "--steps", pretrain, "--batch", 16, "--seq", SEQ,
                        "--seed", 1, keep=True)
        self.texts = {"gsm8k": gsm, "shakespeare": [shakespeare]}

    def write(self, name, text):
        path = self.runs.path(name + ".txt")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def more(self):
        """-> passages of boolq and problems of mawps, as two more domains"""
        with open(data("boolq", "train.json"), encoding="utf-8") as f:
            boolq = strings(json.load(f))
        with open(data("mawps", "trainset.json"), encoding="utf-8") as f:
            mawps = strings(json.load(f))
        return boolq, mawps

    def run(self, name, method, sets, held, tune, rate, steps, seed, *flags, every=0, losses=None, then=None):
        """-> {update: held-out loss} and the summary; held: one file; losses: name: further file; then(directory): a dict that is added"""
        argv = ["train", "-m", self.base, "-d", tune, "--eval-data", held, "--method", method, "--lr", rate, "--steps", steps, "--batch", 8,
                "--seq", SEQ, "--seed", seed, "--schedule", "constant", "--warmup", 0, *flags]
        for s in sets:
            argv += ["--set", s]
        if every:
            argv += ["--eval-every", every]
        return self.call(f"{name}-{rate:g}-{seed}", argv, losses, then)

    def best(self, name, method, sets, ladder, pilot, held, tune, *flags, steps=120, losses=None):
        """-> the rate of least loss on the pilot's text with seed 0, and the runs at that rate, a seed each"""
        tried = {r: self.run(f"pilot {name}", method, sets, pilot, tune, r, steps, 0, *flags)["loss"][str(steps)] for r in ladder}
        rate = min(tried, key=tried.get)
        print(f"{name}: {', '.join(f'{r:g}: {v:.3f}' for r, v in tried.items())}", flush=True)
        return rate, [self.run(name, method, sets, held, tune, rate, steps, s, *flags, losses=losses) for s in range(1, self.a.seeds + 1)]

    def call(self, name, argv, losses=None, then=None):
        out = self.runs.path(name)
        argv = [*map(str, argv), "-o", out, "--overwrite"]

        def make():
            lines = self.runs.lines(*argv)
            r = {"loss": {str(e["step"]): e["loss"] for e in lines if e["event"] == "eval"},
                 "train": [e["loss"] for e in lines if e["event"] == "step"],
                 "done": [e for e in lines if e["event"] == "done"][-1]}
            for domain, file in (losses or {}).items():
                model = ["-m", out] if "full" in argv else ["-m", self.base, "-a", out]
                r[domain] = self.runs.lines("eval", *model, "--context", SEQ, "-d", file)[-1]["loss"]
            if then:
                r.update(then(out))
            shutil.rmtree(out, ignore_errors=True)
            return r

        return self.runs.once(name, argv + sorted(losses or []) + ([then.__name__] if then else []), make)


def strings(tree):
    """-> all texts of some length in a JSON tree"""
    if isinstance(tree, str):
        return [tree] if len(tree) > 30 else []
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [s for t in tree for s in strings(t)] if isinstance(tree, list) else []


if __name__ == "__main__":
    raise SystemExit("this is what allora.py, mole.py, snella.py and mosa.py share; start one of those")
