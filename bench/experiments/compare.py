"""All methods side by side on SmolLM2-135M-Instruct: as many trained values as LoRA of rank 8 on every linear layer has, where a method can
be told, and equal tokens.

Training rows alternate between GSM8K's worked answers and ARC-Easy's right choices, with the loss on the answer. Of a run is measured:
the loss of answers of GSM8K's test split, the accuracy of ARC-Easy's test split by log-likelihood, and what was forgotten (perplexity of
Shakespeare, which no run sees). Rates are set by kind in the table below; with --pilot a method's is the best of a third, one and three times that, by half
as many updates on a seed and on rows of the train splits that the comparison does not use. With --speed, tokens/s and peak memory come from `lacuna bench train` instead (nothing else should run).

    python3 bench/experiments/compare.py [--model SmolLM2.gguf] [--seeds 3] [--only shira,lora] [--speed]
"""
import json
import math
import os
import re
import sys

from common import Runs, arguments, data, mean_sd, read_rows, smollm2, table, write_rows

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
    "sparse-mezo": ("sparse-mezo", 2e-6, []),  # moves a quarter of all entries, by forward passes
}
RATES = (1 / 3, 1, 3)


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
        p.add_argument("--questions", type=int, default=120, help="of ARC-Easy's test split; a third as many answers of GSM8K's")
        p.add_argument("--pilot", action="store_true", help="choose each rate")
        p.add_argument("--speed", action="store_true", help="tokens/s and memory instead")
        self.a = a = p.parse_args()
        self.model, self.runs = smollm2(a.model), Runs(a.lacuna, a.work)
        path = self.runs.path
        arc_train, gsm_train = arc("train", 2000), gsm8k("train", 2000)
        self.train = write_rows(path("train.jsonl"), alternate(gsm_train, answered(arc_train)))
        self.pilot = write_rows(path("pilot.jsonl"), alternate(gsm8k("train", -12), answered(arc("train", -12))))
        self.held = write_rows(path("held.jsonl"), gsm8k("test", a.questions // 3))
        self.questions = write_rows(path("questions.jsonl"), [{"prompt": p, "choices": c, "answer": k} for p, c, k in arc("test", a.questions)])
        with open(data("tinyshakespeare", "input.txt"), encoding="utf-8") as f:
            text = f.read()
        with open(path("other.txt"), "w", encoding="utf-8") as f:
            f.write(text[1_000_000:1_012_000])
        methods = {m["name"]: m for m in self.runs.lines("methods")[0]["methods"]}
        self.rates = {n: rate for n, (m, rate, _) in METHODS.items() if m in methods}
        self.names = a.only.split(",") if a.only else list(self.rates)

    def argv(self, name):
        method, _, options = METHODS[name]
        return ["-m", self.model, "--method", method, "--density", f"{DENSITY:.6f}", *(x for o in options for x in ("--set", o))]

    def run(self, name, seed, rate, evaluate, tag, steps, then=None):
        return self.runs.train(f"{name}-{tag}", *self.argv(name), "-d", self.train, "--eval-data", evaluate, "--lr", f"{rate:.3g}", "--steps", steps,
                               "--batch", self.a.batch, "--seq", self.a.seq, "--dtype", "bf16", "--seed", seed, then=then)

    def measure(self, out):
        """-> accuracy and perplexity of a run's result (of the base: None)"""
        adapter = out and any(os.path.exists(os.path.join(out, f)) for f in ("adapter_config.json", "lacuna_adapter.json"))
        use = ["-m", self.model, "-a", out] if adapter else ["-m", out or self.model]
        acc = self.runs.lines("eval", *use, "-d", self.questions, "--metric", "accuracy", "--dtype", "bf16")[-1]
        ppl = self.runs.lines("eval", *use, "-d", self.runs.path("other.txt"), "--dtype", "bf16")[-1]
        return {"accuracy": acc["value"], "other": ppl["value"]}

    def best_rate(self, name):
        found = {}
        for f in RATES:
            rate = self.rates[name] * f
            r = self.run(name, 0, rate, self.pilot, f"pilot-{rate:.3g}", self.a.steps // 2)
            found[rate] = r["after"] if math.isfinite(r["after"]) else math.inf
        return min(found, key=found.get)

    def learn(self):
        base = self.runs.once("base", [str(self.a.questions)], lambda: self.measure(None))
        rows = []
        for name in self.names:
            rate = self.best_rate(name) if self.a.pilot else self.rates[name]
            got = [self.run(name, s, rate, self.held, f"{s}-{rate:.3g}", self.a.steps, then=self.measure) for s in range(1, self.a.seeds + 1)]
            before = got[0]["before"]
            cell = lambda v, d: "{:.{d}f} ± {:.{d}f}".format(*mean_sd(v), d=d)
            rows.append((name, got[0]["done"]["trainable"], f"{rate:.2g}", cell([g["after"] for g in got], 3),
                         cell([100 * g["accuracy"] for g in got], 1), cell([g["other"] for g in got], 2)))
        rows.insert(0, ("base", 0, "–", f"{before:.3f}", f"{100 * base['accuracy']:.1f}", f"{base['other']:.2f}"))
        table(("method", "trained values", "rate", "GSM8K loss", "ARC-Easy, %", "Shakespeare, perplexity"), rows)

    def speed(self):
        rows = []
        for name in self.names:
            make = lambda: self.runs.lines("bench", "train", *self.argv(name), "--seq", 512, "--batch", 4, "--steps", 3)[-1]
            r = self.runs.once(f"speed-{name}", self.argv(name), make)["rows"][0]
            rows.append((name, f"{r['tokens_per_s']:.0f}", f"{r['peak_rss_mib'] / 1024:.2f}"))
        table(("method", "tokens/s", "peak memory, GiB"), rows)


def main():
    c = Compare()
    c.speed() if c.a.speed else c.learn()
    return 0


if __name__ == "__main__":
    sys.exit(main())
