"""Which entries to train: word problems of mawps on SmolLM2-135M-Instruct, for the sheets of S2FT, LIFT and SaRA. Whole heads and channels, entries that stand out
after rank reduction, the largest, the smallest and random ones, LoRA, all weights: about 2 % of the linear weights where a method can be told.

A row is "Question: ... Answer:" and the equation with its result, " 4 * 3 = 12" (a bare number does not move in so few updates);
rows whose question has at most WORDS words and whose equation is x = numbers and signs that come to the result. Loss on the answer. Of a run is measured, on the test split: the number after
the first "=" of a greedy answer of at most 20 tokens, exactly (per cent), and the loss of answers; and what was forgotten, the perplexity of Shakespeare. Rates by kind are a third of
those that compare.py chose for as many updates of as many rows, which are too high here: --scale 3 runs those. With --pilot the best of a third, one and three times the rate, on one arm
of the kind: loss of 24 validation rows after half as many updates, seed 0. All arms' first seeds are run first.

    python3 bench/experiments/mawps.py [--model SmolLM2.gguf] [--seeds 3] [--only "random;full"] [--pilot] [--scale X]
"""
import json
import re
import sys

from common import Runs, arguments, data, mean_sd, smollm2, table, use, verdict, write_rows

WORDS, DENSITY = 28, 0.02  # 2,123,220 entries; s2ft: half in heads, half in channels
SHARES = ["o=0.1056", "d=0.0411"]
KINDS = {"slices": ("s2ft, random", 2e-3), "entries": ("random", 2e-3), "low rank": ("LoRA r 7", 1e-3), "all": ("full", 8e-5)}  # kind: the arm of its ladder, rate
ARMS = {  # name: kind, method, options
    "s2ft, random": ("slices", "s2ft", SHARES),
    "s2ft, weight, large": ("slices", "s2ft", [*SHARES, "select=weight"]),
    "s2ft, weight, small": ("slices", "s2ft", [*SHARES, "select=weight", "end=small"]),
    "s2ft, activation, small": ("slices", "s2ft", [*SHARES, "select=activation", "end=small"]),
    "LIFT R 32": ("entries", "lift", ["filter=32", "power=4"]),  # and an interval of a third of the updates
    "largest |W|": ("entries", "shira", ["mask=wm"]),
    "random": ("entries", "shira", ["mask=random"]),
    "SaRA": ("entries", "sara", []),
    "smallest |W|": ("entries", "sara", ["rank-penalty=0", "progressive=-1"]),
    "LoRA r 7": ("low rank", "lora", ["r=7", "alpha=14"]),
    "full": ("all", "full", []),
}


def plain(number):
    return f"{round(number, 4):.4f}".rstrip("0").rstrip(".")


def outer(e):
    """-> whether the first bracket closes at the end"""
    depth = 0
    for i, c in enumerate(e):
        depth += (c == "(") - (c == ")")
        if depth == 0:
            return i == len(e) - 1
    return False


def problems(split):
    """-> the split's rows of the form that is trained on: prompt, completion, answer"""
    with open(data("mawps", f"{split}set.json"), encoding="utf-8") as f:
        rows = json.load(f)
    out = []
    for r in rows:
        question = " ".join(r["original_text"].split())
        m = re.fullmatch(r"[xX]=([-+*/().0-9]+)", r["equation"].replace(" ", ""))
        if not m or len(question.split()) > WORDS:
            continue
        e, result = m.group(1), float(r["ans"])
        if abs(eval(e) - result) > 1e-3 * max(1, abs(result)):  # digits, signs and brackets only
            continue
        while e[0] == "(" and outer(e):
            e = e[1:-1]
        e = re.sub(r"[0-9.]+", lambda n: plain(float(n.group())), e)
        e = re.sub(r"(?<=[0-9)])([-+*/])", r" \1 ", e)
        out.append({"prompt": f"Question: {question}\nAnswer:", "completion": f" {e} = {plain(result)}", "answer": plain(result)})
    return out


class Mawps:
    def __init__(self):
        p = arguments(__doc__)
        p.add_argument("--model", help="the GGUF; else scripts/deps.sh finds or fetches it")
        p.add_argument("--only", help="arms of the table, by semicolons")
        p.add_argument("--steps", type=int, default=20, help="updates of 4 rows [20]")
        p.add_argument("--questions", type=int, default=60, help="of the test split [60]")
        p.add_argument("--answers", type=int, default=24, help="of the test split [24]")
        p.add_argument("--characters", type=int, default=6000, help="of Shakespeare [6000]")
        p.add_argument("--scale", type=float, default=1, help="all rates times this [1]")
        p.add_argument("--pilot", action="store_true", help="choose the rates")
        self.a = p.parse_args()
        self.model, self.runs = smollm2(self.a.model), Runs(self.a.lacuna, self.a.work)
        self.names = self.a.only.split(";") if self.a.only else list(ARMS)
        train, valid, test = (problems(s) for s in ("train", "valid", "test"))
        rows = lambda name, of, keep: write_rows(self.runs.path(name + ".jsonl"), [{k: r[k] for k in keep} for r in of])
        answered, asked = ("prompt", "completion"), ("prompt", "answer")
        self.train, self.pilot, self.held = rows("train", train, answered), rows("pilot", valid[:24], answered), rows("held", test[:self.a.answers], answered)
        self.questions = rows("questions", test[:self.a.questions], asked)
        self.text = self.runs.path("other.txt")
        with open(data("tinyshakespeare", "input.txt"), encoding="utf-8") as f, open(self.text, "w", encoding="utf-8") as g:
            g.write(f.read()[1_000_000:1_000_000 + self.a.characters])
        print(f"{len(train)} training rows, {len(test)} of the test split", flush=True)

    def measure(self, out):
        """-> of a run's result (of the base: None)"""
        one = lambda *a: self.runs.lines("eval", *use(self.model, out), *a, "--dtype", "f32")[-1]
        exact = one("-d", self.questions, "--metric", "exact-match", "--max-tokens", 20, "--extract", r"= *(-?[0-9][0-9,]*[.]?[0-9]*)")
        return {"exact": 100 * exact["value"], "answers": one("-d", self.held)["loss"], "other": one("-d", self.text)["value"]}

    def run(self, name, rate, seed, steps, *flags, then=None):
        _, method, sets = ARMS[name]
        sets = [*sets, f"interval={steps // 3 + (steps % 3 > 0)}"] if method == "lift" else sets
        tag = re.sub(r"[^a-zA-Z0-9]+", "-", f"{name} {seed} {steps}")
        return self.runs.train(f"{tag}-{rate:g}", "-m", self.model, "-d", self.train, "--method", method, "--density", DENSITY, *(x for s in sets for x in ("--set", s)),
                               "--lr", f"{rate:g}", "--steps", steps, "--batch", 4, "--seq", 80, "--dtype", "f32", "--seed", seed, "--keep", 0, *flags, then=then)

    def rate(self, kind):
        arm, rate = KINDS[kind][0], KINDS[kind][1] * self.a.scale
        if not self.a.pilot:
            return rate
        tried = {r: self.run(arm, r, 0, self.a.steps // 2, "--eval-data", self.pilot)["after"] for r in (rate / 3, rate, 3 * rate)}
        print(f"{kind}, {arm}: {', '.join(f'{r:g}: {v:.3f}' for r, v in tried.items())}", flush=True)
        return min(tried, key=tried.get)

    def all(self):
        base = self.runs.once("base", [str(self.a.questions), str(self.a.answers), str(self.a.characters)], lambda: self.measure(None))
        rates = {k: self.rate(k) for k in dict.fromkeys(ARMS[n][0] for n in self.names)}
        got = {n: [] for n in self.names}
        for seed in range(1, self.a.seeds + 1):
            for n in self.names:
                r = self.run(n, rates[ARMS[n][0]], seed, self.a.steps, then=self.measure)
                got[n].append(r)
                print(f"    {r['exact']:.1f} %, {r['answers']:.3f}, {r['other']:.2f}", flush=True)
        cell = lambda n, k, d: "{:.{d}f} ± {:.{d}f}".format(*mean_sd([r[k] for r in got[n]]), d=d)
        count = lambda r: max(x for x in (r["done"].get("mask"), r["done"]["trainable"]) if isinstance(x, int))
        rows = [("base", 0, "–", f"{base['exact']:.1f}", f"{base['answers']:.3f}", f"{base['other']:.2f}")]
        rows += [(n, f"{count(got[n][0]):,}", f"{rates[ARMS[n][0]]:g}", cell(n, "exact", 1), cell(n, "answers", 3), cell(n, "other", 2)) for n in self.names]
        table(("arm", "trained values", "rate", "exact match, %", "loss of answers", "Shakespeare, perplexity"), rows)
        return {n: {k: mean_sd([r[k] for r in got[n]]) for k in ("exact", "answers", "other")} for n in self.names}


def ordered(got, key, names):
    values = [got[n][key][0] for n in names]
    return values == sorted(values), ", ".join(f"{n} {v:.2f}" for n, v in zip(names, values))


def main():
    m = Mawps()
    got = m.all()
    if len(got) < len(ARMS):
        return 0
    verdict("S2FT: forgetting goes s2ft < LoRA < full", *ordered(got, "other", ["s2ft, random", "LoRA r 7", "full"]))
    verdict("S2FT: it learns as LoRA does (3 points)", got["s2ft, random"]["exact"][0] > got["LoRA r 7"]["exact"][0] - 3)
    verdict("LIFT: entries forget less than full", all(got[n]["other"][0] < got["full"]["other"][0] for n in ("LIFT R 32", "largest |W|", "random")))
    verdict("LIFT: it is right on more than the other masks", all(got["LIFT R 32"]["exact"][0] > got[n]["exact"][0] for n in ("largest |W|", "random", "smallest |W|")))
    for smallest in ("SaRA", "smallest |W|"):
        verdict("SaRA: forgetting goes smallest < random < largest < full", *ordered(got, "other", [smallest, "random", "largest |W|", "full"]))
        verdict("SaRA: the smallest learn somewhat slower than random entries", got[smallest]["answers"][0] > got["random"]["answers"][0], smallest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
