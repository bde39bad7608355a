"""All methods side by side on SmolLM2-135M-Instruct: as many trained values as LoRA of rank 8 on every linear layer has, where a method can
be told, and equal tokens.

Training rows alternate between GSM8K's worked answers and ARC-Easy's right choices, with the loss on the answer. Of a run is measured:
the loss of answers of GSM8K's test split, the accuracy of ARC-Easy's test split by log-likelihood, and what was forgotten (perplexity of
Shakespeare, which no run sees). Rates are set by kind in the table below; with --pilot a method's is the best of a third, one and three times that, by half
as many updates on a seed and on rows of the train splits that the comparison does not use.

--speed times five updates of 4 x 512 tokens of Shakespeare of each method (the first is not counted), four methods between two measurements of shira, and gives the ratio to
their mean; nothing else should run. --around is put before each such group, to pin cores say.

    python3 bench/experiments/compare.py [--model SmolLM2.gguf] [--seeds 3] [--only shira,lora] [--speed [--around "taskset -c 0,1"]]
"""
import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys

from common import Runs, arguments, data, mean_sd, read_rows, smollm2, table, use, write_rows

R = 8
C, F, KV, L = 576, 1536, 192, 30  # SmolLM2-135M
SIDES = [(C, C), (KV, C), (KV, C), (C, C), (F, C), (F, C), (C, F)]  # q k v o gate up down
VALUES = L * R * sum(m + n for m, n in SIDES)  # LoRA's
ENTRIES = L * sum(m * n for m, n in SIDES)
DENSITY = VALUES / ENTRIES

SPARSE, LOW_RANK = 2e-3, 1e-3
METHODS = {  # name: method, rate, options; flags beside --density
    "full": ("full", 8e-5, []),
    "lora": ("lora", LOW_RANK, [f"r={R}", f"alpha={2 * R}"]),
    "shira": ("shira", SPARSE, ["mask=random"]),
    "shira-wm": ("shira", SPARSE, ["mask=wm"]),
    "spiel": ("spiel", SPARSE, ["select=ag", "period=10", "accumulate=3"]),
    "lt-sft": ("lt-sft", SPARSE / 4, []),  # its first half trains all targets
    "lift": ("lift", SPARSE, [f"r={R}", "filter=32", "interval=10", "power=4"]),
    "sara": ("sara", SPARSE, []),
    "s2ft": ("s2ft", SPARSE, ["o=0.123", "d=0.046"]),  # half of the values each
    "allora": ("allora", LOW_RANK, [f"r={R}"]),
    "dsee": ("dsee", LOW_RANK, ["r=42", "alpha=84", "outer=20"]),  # query and value only; a fifth of the base's entries goes
    "llava-mole": ("llava-mole", LOW_RANK, ["r=4", "alpha=8"]),
    "snella": ("snella", LOW_RANK, [f"r={R}"]),
    "mosa": ("mosa", LOW_RANK, ["width=70"]),
    "mezo": ("mezo", 2e-6, []),  # moves all entries, by forward passes
    "sparse-mezo": ("sparse-mezo", 2e-6, []),  # a quarter of them
    "rl-subnetworks": ("rl-subnetworks", SPARSE, []),  # what the full run of the same seed moved most, from the start again
}
RATES = (1 / 3, 1, 3)
FORWARD = ("mezo", "sparse-mezo")  # at their own rates: so few updates by forward passes tell none apart


def arc(split, n):
    """-> questions as (prompt, choices, index of the answer)"""
    with open(data("arc-easy", f"{split}.json"), encoding="utf-8") as f:
        rows = json.load(f)
    out = []
    for r in rows:
        m = re.search(r"question: (.*?)\n\nAnswer1: (.*?)\n\nAnswer format", r["instruction"], re.S)
        choices = re.split(r" ?Answer\d: ", m.group(2)) if m else []
        at = int(r["answer"].removeprefix("answer")) - 1 if r["answer"].startswith("answer") else -1
        if 0 <= at < len(choices):
            out.append((f"Question: {m.group(1).strip()}\nAnswer:", [c.strip() for c in choices], at))
    return out[:n] if n > 0 else out[n:]


def gsm8k(split, n):
    rows = read_rows(data("gsm8k", f"{split}.jsonl"))
    rows = [{"prompt": f"Question: {r['question']}\nAnswer:", "completion": " " + r["answer"]} for r in rows]
    return rows[:n] if n > 0 else rows[n:]


def answered(questions):
    return [{"prompt": p, "completion": " " + c[a]} for p, c, a in questions]


def alternate(a, b):
    return [r for pair in zip(a, b) for r in pair]


class Compare:
    def __init__(self):
        p = arguments(__doc__)
        p.add_argument("--model", help="the GGUF; else scripts/deps.sh finds or fetches it")
        p.add_argument("--only", help="names of the table, by commas")
        p.add_argument("--steps", type=int, default=20)
        p.add_argument("--batch", type=int, default=4)
        p.add_argument("--seq", type=int, default=128)
        p.add_argument("--questions", type=int, default=240, help="of ARC-Easy's test split [240]")
        p.add_argument("--answers", type=int, default=40, help="of GSM8K's test split [40]")
        p.add_argument("--pilot", action="store_true", help="choose each rate")
        p.add_argument("--speed", action="store_true", help="time the methods instead")
        p.add_argument("--rounds", type=int, default=2, help="with --speed: measurements of each [2]")
        p.add_argument("--around", default="", help="with --speed: a command to run each group of timings in")
        self.a = a = p.parse_args()
        self.model, self.runs = smollm2(a.model), Runs(a.lacuna, a.work)
        path = self.runs.path
        arc_train, gsm_train = arc("train", 2000), gsm8k("train", 2000)
        self.train = write_rows(path("train.jsonl"), alternate(gsm_train, answered(arc_train)))
        self.pilot = write_rows(path("pilot.jsonl"), alternate(gsm8k("train", -12), answered(arc("train", -12))))
        self.held = write_rows(path("held.jsonl"), gsm8k("test", a.answers))
        self.questions = write_rows(path("questions.jsonl"), [{"prompt": p, "choices": c, "answer": k} for p, c, k in arc("test", a.questions)])
        with open(data("tinyshakespeare", "input.txt"), encoding="utf-8") as f:
            text = f.read()
        with open(path("other.txt"), "w", encoding="utf-8") as f:
            f.write(text[1_000_000:1_012_000])
        self.text = path("text.txt")
        with open(self.text, "w", encoding="utf-8") as f:
            f.write(text[:200_000])
        methods = {m["name"]: m for m in self.runs.lines("methods")[0]["methods"]}
        self.rates = {n: rate for n, (m, rate, _) in METHODS.items() if m in methods}
        self.names = a.only.split(",") if a.only else list(self.rates)

    def argv(self, name):
        method, _, options = METHODS[name]
        return ["-m", self.model, "--method", method, "--density", f"{DENSITY:.6f}", *(x for o in options for x in ("--set", o))]

    def run(self, name, seed, rate, evaluate, tag, steps, then=None):
        more, keep = [], name == "full" and "rl-subnetworks" in self.names
        if keep:
            more = ["--set", "outtype=f32"]
        if name == "rl-subnetworks":
            more = ["--set", f"from={self.full(seed or 1)}", "--set", f"tolerance={self.tolerance():.6g}"]
        return self.runs.train(f"{name}-{tag}", *self.argv(name), *more, "-d", self.train, "--eval-data", evaluate, "--lr", f"{rate:.3g}", "--steps", steps,
                               "--batch", self.a.batch, "--seq", self.a.seq, "--dtype", "bf16", "--seed", seed, then=then, keep=keep)

    def full(self, seed):
        """-> the directory of full fine-tuning's run of this seed"""
        rate = self.rates["full"]
        tag = f"{seed}-{rate:.3g}"
        self.run("full", seed, rate, self.held, tag, self.a.steps, then=self.measure)
        return self.runs.path(f"full-{tag}")

    def tolerance(self):
        """-> what VALUES of the linear weights' entries moved by more than in full fine-tuning's first run"""
        def search():
            low, high, run = 0.0, 1e-2, self.full(1)
            for _ in range(14):
                at = (low + high) / 2
                d = self.runs.lines("diff", self.model, run, "--tolerance", f"{at:.6g}", "--dtype", "f32")[-1]
                moved = sum(t["changed"] for t in d["tensors"] if t["name"].endswith("_proj.weight"))
                low, high = (at, high) if moved > VALUES else (low, at)
            return high
        return self.runs.once("tolerance", [str(self.a.steps)], search)

    def measure(self, out):
        """-> accuracy and perplexity of a run's result (of the base: None)"""
        flags = use(self.model, out)
        if out and os.path.exists(os.path.join(out, "lacuna_adapter.log")):  # a log is replayed once, not for every tile
            merged = os.path.join(out, "merged")
            self.runs.lines("merge", *flags, "-o", merged, "--outtype", "f32")
            flags = use(merged)
        acc = self.runs.lines("eval", *flags, "-d", self.questions, "--metric", "accuracy", "--dtype", "bf16")[-1]
        ppl = self.runs.lines("eval", *flags, "-d", self.runs.path("other.txt"), "--dtype", "bf16")[-1]
        return {"accuracy": acc["value"], "other": ppl["value"]}

    def best_rate(self, name):
        if name in FORWARD:
            return self.rates[name]
        found = {}
        for f in RATES:
            rate = self.rates[name] * f
            r = self.run(name, 0, rate, self.pilot, f"pilot-{rate:.3g}", self.a.steps // 2)
            found[rate] = r["after"] if math.isfinite(r["after"]) else math.inf
        return min(found, key=found.get)

    def learn(self):
        base = self.runs.once("base", [str(self.a.questions)], lambda: self.measure(None))
        rows = []
        cell = lambda v, d: "{:.{d}f} ± {:.{d}f}".format(*mean_sd(v), d=d)
        for name in self.names:
            rate = self.rates[name] = self.best_rate(name) if self.a.pilot else self.rates[name]
            got = [self.run(name, s, rate, self.held, f"{s}-{rate:.3g}", self.a.steps, then=self.measure) for s in range(1, self.a.seeds + 1)]
            before = got[0]["before"]
            rows.append((name, f"{got[0]['done']['trainable']:,}", f"{rate:.2g}", cell([g["after"] for g in got], 3), cell([100 * g["accuracy"] for g in got], 1),
                         cell([g["other"] for g in got], 2), f"{max(g['done']['peak_rss_mib'] for g in got):,.0f}"))
        rows.insert(0, ("base", 0, "–", f"{before:.3f}", f"{100 * base['accuracy']:.1f}", f"{base['other']:.2f}", "–"))
        table(("method", "trained values", "rate", "GSM8K loss", "ARC-Easy, %", "Shakespeare, perplexity", "peak, MiB"), rows)

    @staticmethod
    def times(rounds):
        """-> cells of [(method's, shira's before and after)]: the median rate, the ratios to shira's mean, the most memory"""
        ratio = [m["rate"] / statistics.fmean(x["rate"] for x in s) for m, s in rounds]
        return f"{statistics.median(m['rate'] for m, _ in rounds):,.0f}", ", ".join(f"{r:.2f}" for r in ratio), f"{max(m['peak'] for m, _ in rounds):,.0f}"

    def timed(self, names):
        """-> one measurement of each method, between two of shira's, in one group"""
        argv = ["-d", self.text, "--steps", "5", "--batch", "4", "--seq", "512", "--dtype", "bf16", "--keep", "0", "-o", self.runs.path("timed"), "--overwrite", "--json", "--quiet"]
        one = lambda n: shlex.join([self.runs.program, "train", *self.argv(n), *argv])
        line = "; ".join(map(one, ["shira", *names, "shira"]))
        r = subprocess.run([*shlex.split(self.a.around), "sh", "-c", "set -e; " + line], capture_output=True, text=True)
        if r.returncode:
            sys.exit(f"{line}: exit {r.returncode}: {r.stderr.strip()}")
        got, steps = [], []
        for e in map(json.loads, r.stdout.splitlines()):
            if e["event"] == "step" and e["step"] > 1:  # the first update makes buffers
                steps.append(e)
            if e["event"] == "done":
                got.append({"rate": len(steps) / sum(1 / s["tokens_per_s"] for s in steps), "peak": e["peak_rss_mib"]})
                steps = []
        return {n: (m, [got[0], got[-1]]) for n, m in zip(names, got[1:])}

    def speed(self):
        rows = {n: [] for n in self.names if n != "rl-subnetworks"}  # as shira's: a fixed mask
        for k in range(self.a.rounds):
            for i in range(0, len(rows), 4):
                names = list(rows)[i:i + 4]
                got = self.runs.once(f"speed-{k}-{','.join(names)}", [DENSITY], lambda: self.timed(names))
                for n in names:
                    rows[n].append(got[n])
                    print(f"  {n}: {' '.join(self.times(rows[n]))}", flush=True)
        table(("method", "tokens/s", "of shira's", "peak, MiB"), [(n, *self.times(r)) for n, r in rows.items()])


def main():
    c = Compare()
    c.speed() if c.a.speed else c.learn()
    return 0


if __name__ == "__main__":
    sys.exit(main())
