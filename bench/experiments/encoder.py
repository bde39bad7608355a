"""An encoder on two real tasks: all-MiniLM-L6-v2 with a new classification head.

boolq: yes/no questions without their passage, 2,000 training rows, 1,000 of the test split. mawps: which of + − × ÷ solves a word problem with one operation; all such rows
of the train and test splits. `--epochs` passes, 16 rows an update, at most 64 tokens; accuracy on the test split. Rates: the best of three on the validation rows
(mawps' validation split; boolq's train rows 2,000–2,500), seed 0. With --dsee the arms of DSEE's sheet on mawps instead: entries beside the low rank, pruning at two shares by
two scores, with and without tuning again, heads.

    python3 bench/experiments/encoder.py [--model all-MiniLM-L6-v2] [--seeds 3] [--dsee] [--only "full;shira"]
"""
import json
import os
import re
import subprocess
import sys

from common import ROOT, Runs, arguments, data, mean_sd, table, use, verdict, write_rows

METHODS = {  # name: method, the rate in the middle, flags
    "full": ("full", 1e-4, []),
    "head alone": ("full", 3e-3, ["part=head"]),
    "lora r 8": ("lora", 3e-3, ["r=8", "alpha=16"]),
    "shira": ("shira", 3e-3, ["mask=random"]),
    "lift": ("lift", 3e-3, ["filter=32", "interval=50"]),
    "sara": ("sara", 3e-3, []),
    "s2ft": ("s2ft", 3e-3, ["o=0.1", "d=0.1"]),
    "lt-sft": ("lt-sft", 1e-3, []),
    "spiel": ("spiel", 3e-3, []),
    "dsee": ("dsee", 3e-3, []),
    "snella": ("snella", 3e-3, ["r=8"]),
    "mosa": ("mosa", 3e-3, ["width=48"]),
}
NONE, LOW = ["update-ratio=0", "ratio=0"], ["r=8", "alpha=16"]
DSEE = {"low rank alone": [*LOW, *NONE, "entries=0"]}
for how in ("grebsmo", "magnitude", "random"):
    DSEE[f"16 entries, {how}"] = [*LOW, *NONE, "entries=16", f"support={how}", "outer=20"]
for share in (0.2, 0.6):
    for end in (["prune=abs"], ["prune=w"], ["prune=abs", "retune-rate=0"]):
        name = f"{share:.0%} {end[0][6:]}{', not tuned again' if end[1:] else ''}"
        DSEE[name] = [*LOW, f"update-ratio={share}", f"ratio={share}", "entries=16", "outer=20", *end]
for how in ("abs", "random"):
    DSEE[f"3 of 12 heads, {how}"] = [*LOW, *NONE, "heads=3", f"prune={how}", "entries=16", "outer=20"]
LADDER = (1 / 3, 1, 3)
SIGNS = {"+": "add", "-": "take", "*": "times", "/": "divide"}


def boolq(split):
    with open(data("boolq", f"{split}.json"), encoding="utf-8") as f:
        rows = json.load(f)
    cut = lambda s: re.search(r"question: (.*?)\n", s).group(1)
    return [{"text": cut(r["instruction"]), "label": r["answer"]} for r in rows]


def mawps(split):
    with open(data("mawps", f"{split}set.json"), encoding="utf-8") as f:
        rows = json.load(f)
    out = []
    for r in rows:
        signs = re.sub(r"[^-+*/]", "", r["equation"])
        if len(signs) == 1:
            out.append({"text": " ".join(r["original_text"].split()), "label": SIGNS[signs]})
    return out


def minilm(given):
    if given:
        return given
    r = subprocess.run(["bash", "-c", f'. scripts/deps.sh; lacuna_minilm "{os.path.join(ROOT, ".cache", "minilm")}"'], cwd=ROOT, capture_output=True, text=True)
    if r.returncode or not r.stdout.strip():
        sys.exit(f"all-MiniLM-L6-v2 was not found and could not be fetched: {r.stderr.strip()}")
    return r.stdout.strip().splitlines()[-1]


class Encoder:
    def __init__(self):
        p = arguments(__doc__)
        p.add_argument("--model", help="its directory; else scripts/deps.sh finds or fetches it")
        p.add_argument("--epochs", type=int, default=3)
        p.add_argument("--only", help="names of the table, by semicolons")
        p.add_argument("--tasks", default="mawps,boolq", help="[mawps,boolq]")
        p.add_argument("--dsee", action="store_true")
        self.a = p.parse_args()
        self.model, self.runs = minilm(self.a.model), Runs(self.a.lacuna, self.a.work)
        b = boolq("train")
        parts = {"boolq": (b[:2000], b[2000:2500], boolq("test")[:1000]), "mawps": tuple(mawps(s) for s in ("train", "valid", "test"))}
        self.files, self.most = {}, {}
        for task, rows in parts.items():
            self.files[task] = [write_rows(self.runs.path(f"{task}-{s}.jsonl"), r) for s, r in zip(("train", "valid", "test"), rows)]
            labels = [r["label"] for r in rows[2]]
            self.most[task] = (max(labels.count(x) for x in labels) / len(labels), len(labels))
            print(f"{task}: {', '.join(str(len(r)) for r in rows)} rows; the most frequent label is {self.most[task][0]:.1%} of the test split", flush=True)

    def accuracy(self, file, method):
        def measure(out):
            return {"accuracy": self.runs.lines("eval", *use(self.model, out), "-d", file, "--metric", "accuracy")[-1]["value"]}
        return measure

    def run(self, name, method, sets, task, rate, seed, which):
        train, file = self.files[task][0], self.files[task][which]
        return self.runs.train(f"{task}-{name}-{rate:.3g}-{seed}-{which}".replace(" ", "-"), "-m", self.model, "-d", train, "--task", "classification", "--method", method,
                               "--density", 0.02, *(x for s in sets for x in ("--set", s)), "--lr", f"{rate:.3g}", "--epochs", self.a.epochs, "--batch", 16, "--seq", 64,
                               "--dtype", "bf16", "--seed", seed, "--keep", 0, then=self.accuracy(file, method))

    def rate(self, name, method, sets, task, middle):
        tried = {middle * f: self.run(name, method, sets, task, middle * f, 0, 1)["accuracy"] for f in LADDER}
        return max(tried, key=tried.get)

    def methods(self):
        for task in self.a.tasks.split(","):
            rows = []
            for name in (self.a.only.split(";") if self.a.only else METHODS):
                method, middle, sets = METHODS[name]
                rate = self.rate(name, method, sets, task, middle)
                got = [self.run(name, method, sets, task, rate, s, 2) for s in range(1, self.a.seeds + 1)]
                m, sd = mean_sd([100 * g["accuracy"] for g in got])
                rows.append((name, f"{got[0]['done']['trainable']:,}", f"{rate:.2g}", f"{m:.1f} ± {sd:.1f}"))
                print(rows[-1], flush=True)
            table(("method", "trained values", "rate", f"{task}, % of {self.most[task][1]}"), rows)

    def dsee(self):
        task, score, rows = "mawps", {}, []
        rate = self.rate("low rank alone", "dsee", DSEE["low rank alone"], task, 3e-3)
        print(f"rate for all, from low rank alone on the validation split: {rate:.2g}")
        for name in (self.a.only.split(";") if self.a.only else DSEE):
            got = [self.run(name, "dsee", DSEE[name], task, rate, s, 2) for s in range(1, self.a.seeds + 1)]
            score[name] = mean_sd([100 * g["accuracy"] for g in got])
            dropped = sum(x[0] for x in got[0]["done"]["dropped"].values())
            rows.append((name, f"{got[0]['done']['trainable']:,}", f"{dropped:,}", "{:.1f} ± {:.1f}".format(*score[name])))
            print(rows[-1], flush=True)
        table(("arm", "trained values", "dropped", f"{task}, % of {self.most[task][1]}"), rows)
        if self.a.only:
            return
        base, noise = score["low rank alone"]
        verdict("16 entries are inside the seeds' noise", all(abs(score[f"16 entries, {h}"][0] - base) <= 2 * max(noise, 1) for h in ("grebsmo", "magnitude", "random")))
        verdict("at 20 % within 2 points of the dense model", base - score["20% abs"][0] < 2, f"{score['20% abs'][0]:.1f} against {base:.1f}")
        for share in ("20%", "60%"):
            lost, left = base - score[f"{share} abs, not tuned again"][0], base - score[f"{share} abs"][0]
            verdict(f"tuning again recovers half of what pruning {share} costs", left < lost / 2, f"-{lost:.1f} becomes -{left:.1f} points")
            verdict(f"abs prunes better than magnitude at {share}", score[f"{share} abs"][0] > score[f"{share} w"][0], f"{score[f'{share} abs'][0]:.1f} against {score[f'{share} w'][0]:.1f}")


def main():
    e = Encoder()
    e.dsee() if e.a.dsee else e.methods()
    return 0


if __name__ == "__main__":
    sys.exit(main())
