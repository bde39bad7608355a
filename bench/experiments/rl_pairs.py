"""Does preference training on a model's own answers change fewer weights than on foreign ones? And are the weights that it changed the run?

A byte-level Llama of 0.8 M weights (4 layers, D = 128) learns from scratch to write the last step of GSM8K's worked answers after the last
sentence of the question; its weights are then rounded to bf16. A rule gives an answer 1: it ends in "#### number" and has at most 64 bytes. Start's answers are
sampled once, and pairs are made: own (one sampled answer that earns 1, one that does not), foreign (GSM8K's own answer, that of another
question), far (a line of Shakespeare, another one). Own pairs have a rule in common and the others none; so there are own ones put in order by a coin, and
GSM8K's answers put in order by the rule. Runs, all weights, AdamW at a constant rate without warm-up: DPO on each kind, SFT on GSM8K's
answers, SFT on the sampled ones that earned 1. Results are f32 and compared with the start in f32 and as bf16, beside the null model. Then the
weights that DPO on own pairs changed (as bf16) are trained again from the start, and as many random ones.

    python3 bench/experiments/rl_pairs.py [--seeds 3] [--steps 150]
"""
import array
import json
import os
import random
import re
import shutil
import struct
import sys

import byte_model
from common import Runs, arguments, data, mean_sd, read_rows, table, verdict, write_rows

SHORT, LONG = 64, 112  # bytes of an answer that earns 1; of the longest
FORMAT = re.compile(r"#### -?[0-9][0-9.,]*$")
RATES = (5e-7, 1e-5, 1e-4)
ARMS = {"own": "dpo", "coin": "dpo", "foreign": "dpo", "ruled": "dpo", "far": "dpo", "references": "sft", "own good": "sft"}
CELLS = [(a, r) for r in RATES for a in ARMS if r < 1e-4 or a not in ("coin", "ruled")]
NAMES = {"own": "DPO own", "coin": "DPO own, by a coin", "foreign": "DPO foreign", "ruled": "DPO foreign, by the rule", "far": "DPO far",
         "references": "SFT references", "own good": "SFT own good (RFT)"}


def problems():
    """-> (last sentence of the question, last step and result of the answer), where both are short"""
    out = []
    for r in read_rows(data("gsm8k", "train.jsonl")):
        ask = re.split(r"(?<=[.!?]) ", r["question"])[-1] + "\n"
        answer = "\n".join(re.sub(r"<<[^>]*>>", "", r["answer"]).split("\n")[-2:])
        if len(ask.encode()) <= 81 and len(answer.encode()) <= LONG:
            out.append((ask, answer))
    return out


def earns(text):
    return len(text.encode()) <= SHORT and bool(FORMAT.search(text))


def weights(path):
    """-> {name: (shape, array of f32)} of a model directory's file, f32 or bf16"""
    with open(os.path.join(path, "model.safetensors"), "rb") as f:
        raw = f.read()
    size = struct.unpack("<Q", raw[:8])[0]
    out = {}
    for name, t in json.loads(raw[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + x for x in t["data_offsets"])
        if t["dtype"] == "F32":
            values = array.array("f", raw[begin:end])
        else:
            values = array.array("f", array.array("I", (u << 16 for u in array.array("H", raw[begin:end]))).tobytes())
        out[name] = (t["shape"], values)
    return out


def bf16(values):
    """-> the bits of each value rounded to the nearest bf16, ties to even"""
    return [u + 0x7FFF + (u >> 16 & 1) >> 16 for u in array.array("I", values.tobytes())]


class Study:
    def __init__(self, a):
        self.runs, self.a = Runs(a.lacuna, a.work), a
        runs = self.runs
        every = problems()
        old, new = every[:2700], every[2700:]
        self.ask, self.held = new[:300], new[300:400]
        pre = [{"text": q + x} for q, x in old] + [{"text": r["question"]} for r in read_rows(data("gsm8k", "train.jsonl"))[:4400]]
        random.Random(1).shuffle(pre)
        self.parameters = byte_model.write(runs.path("start"), width=128, layers=4, heads=4, positions=256)
        runs.train("base", "-m", runs.path("start"), "-d", write_rows(runs.path("pretrain.jsonl"), pre), "--method", "full", "--set", "outtype=bf16",
                   "--eval-data", write_rows(runs.path("held.jsonl"), [{"text": q + x} for q, x in self.held]), "--lr", "2e-3", "--warmup", 50,
                   "--schedule", "cosine", "--batch", 32, "--seq", 200, "--dtype", "f32", "--seed", 42, "--steps", a.pretrain, keep=True)
        self.base = runs.path("base")
        self.files = self.make_pairs()

    def answer(self, model, prompt, seed):
        """-> one answer sampled from the model as it is (temperature 1, nothing cut off), None where it does not end"""
        r = self.runs.lines("generate", "-m", model, "-p", prompt, "-n", LONG + 1, "--temp", 1, "--top-k", 0, "--top-p", 1, "--min-p", 0,
                            "--dtype", "f32", "--seed", seed)[-1]
        return r["text"] if r["finish_reason"] == "stop" and "�" not in r["text"] else None

    def reward(self, model):
        """-> share of held-out prompts whose sampled answer earns 1"""
        return sum(earns(self.answer(model, q, 9000 + i) or "") for i, (q, _) in enumerate(self.held)) / len(self.held)

    def make_pairs(self):
        """-> {arm and split: file}; prompts are those where the samples hold both kinds of answer"""
        runs, a = self.runs, self.a
        asked = self.ask + self.held
        key = [self.base, json.dumps(runs.kept["base"]["result"]["done"]["loss"]), str(a.samples)]
        sampled = runs.once("samples", key, lambda: [[self.answer(self.base, q, 10 * i + k) for k in range(a.samples)] for i, (q, _) in enumerate(asked)])
        n = sum(map(len, sampled))
        print(f"{n} answers sampled, {sum(x is not None for s in sampled for x in s) / n:.1%} ended, {sum(earns(x or '') for s in sampled for x in s) / n:.1%} earn 1",
              flush=True)
        with open(data("tinyshakespeare", "input.txt"), encoding="utf-8") as f:
            lines = [x.strip() for x in f if 30 < len(x) < 64]
        rng, coin, rows = random.Random(3), random.Random(4), {}
        short, long = ([x for _, x in self.ask if earns(x) == e] for e in (True, False))
        for i, ((q, reference), s) in enumerate(zip(asked, sampled)):
            good, bad = [x for x in s if x and earns(x)], [x for x in s if x and not earns(x)]
            if not good or not bad:
                continue
            split = "train" if i < len(self.ask) else "held"
            other = rng.choice([x for p, x in self.ask if p != q])
            pairs = {"own": (good[0], bad[0]), "foreign": (reference, other), "far": rng.sample(lines, 2)}
            pairs["coin"] = coin.sample(pairs["own"], 2)
            pairs["ruled"] = (reference, coin.choice(long)) if earns(reference) else (coin.choice(short), reference)
            for arm, (w, l) in pairs.items():
                rows.setdefault((arm, split), []).append({"prompt": q, "chosen": w, "rejected": l})
            rows.setdefault(("references", split), []).append({"prompt": q, "completion": reference})
            rows.setdefault(("own good", split), []).append({"prompt": q, "completion": good[0]})
        self.pairs = len(rows["own", "train"]), len(rows["own", "held"])
        chosen = {arm: [{"prompt": r["prompt"], "completion": r["chosen"]} for r in rows[arm, "train"]] for arm in ("own", "foreign", "far")}
        self.nll = {arm: runs.lines("eval", "-m", self.base, "-d", write_rows(runs.path(f"nll-{arm}.jsonl"), x))[-1]["loss"] for arm, x in chosen.items()}
        print(f"{self.pairs[0]} pairs, {self.pairs[1]} held out; nats a byte of what is chosen: {', '.join(f'{k} {v:.3f}' for k, v in self.nll.items())}", flush=True)
        return {k: write_rows(runs.path("-".join(k).replace(" ", "-") + ".jsonl"), r) for k, r in rows.items()}

    def name(self, arm, rate, seed):
        return f"{arm.replace(' ', '-')}-{rate:g}-{seed}"

    def tune(self, arm, rate, seed, name=None, method=("full",)):
        """-> the run's result with reward and preference; its directory is kept"""
        batch = ["--objective", "dpo", "--batch", 4, "--micro-batch", 8] if ARMS[arm] == "dpo" else ["--batch", 8, "--micro-batch", 8]
        return self.runs.train(name or self.name(arm, rate, seed), "-m", self.base, "-d", self.files[arm, "train"], "--eval-data", self.files[arm, "held"],
                               "--method", *method, "--set", "outtype=f32", *batch, "--lr", rate, "--schedule", "constant", "--warmup", 0, "--seq", 200,
                               "--dtype", "f32", "--seed", seed, "--steps", self.a.steps, "--keep", 0, keep=True,
                               then=lambda out: {"reward": self.reward(out), **preference(out)})

    def differ(self, name, *argv):
        key = [str(x) for x in argv]
        return self.runs.once(name, key, lambda: {k: v for k, v in self.runs.lines("diff", *argv)[-1].items() if k not in ("tensors", "layers", "kinds")})

    def planted(self, name, run, shuffled):
        """Writes a model that differs from the start where `run` does as bf16; shuffled: at as many random places of each tensor. -> its path, the share"""
        start, after, rng = weights(self.base), weights(run), random.Random(7)
        out, changed, total = {}, 0, 0
        for t, (shape, values) in start.items():
            mask = [x != y for x, y in zip(bf16(values), bf16(after[t][1]))]
            if shuffled:
                rng.shuffle(mask)
            out[t] = (shape, array.array("f", (v + 1 if m else v for v, m in zip(values, mask))))
            changed, total = changed + sum(mask), total + len(mask)
        byte_model.write_directory(self.runs.path(name), out, {})
        for f in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(os.path.join(self.base, f), self.runs.path(name))
        return self.runs.path(name), changed / total


def preference(out):
    """-> accuracy of held-out pairs before and after, from the log"""
    with open(os.path.join(out, "log.jsonl"), encoding="utf-8") as f:
        seen = [e["accuracy"] for e in map(json.loads, f) if e["event"] == "eval" and "accuracy" in e]
    return {"accuracy": [seen[0], seen[-1]]} if seen else {}


def percent(values):
    mean, sd = mean_sd([100 * v for v in values])
    return f"{mean:.1f} ± {sd:.1f}"


def walks(s, rate):
    """The null model on the start's own weights. -> shares unchanged as bf16 at 0 and 1e-5, overlap of two such walks, its chance"""
    rng, n, near, first, second, both = random.Random(5), 0, 0, 0, 0, 0
    for _, values in weights(s.base).values():
        start, steps = bf16(values), s.a.steps ** 0.5
        one, two = (bf16(array.array("f", (v + rate * 2 * round(rng.gauss(0, steps) / 2) for v in values))) for _ in range(2))
        moved = array.array("f", array.array("I", (u << 16 for u in one)).tobytes())
        a, b = [x != y for x, y in zip(one, start)], [x != y for x, y in zip(two, start)]
        n, first, second, both = n + len(a), first + sum(a), second + sum(b), both + sum(x and y for x, y in zip(a, b))
        near += sum(abs(x - v) <= 1e-5 for x, v in zip(moved, values))
    return 1 - first / n, near / n, both / first, second / n


def measure(s):
    """Prints the table of arms. -> {(arm, rate): its figures}"""
    seeds, steps, found = range(1, s.a.seeds + 1), s.a.steps, {}
    norm = sum(v * v for _, t in weights(s.base).values() for v in t) ** 0.5
    for arm, rate in CELLS:
        runs = [s.tune(arm, rate, k) for k in seeds]
        f = {"runs": runs, "reward": [r["reward"] for r in runs]}
        for dtype in ("f32", "bf16"):
            d = [s.differ(f"diff-{dtype}-{s.name(arm, rate, k)}", s.base, s.runs.path(s.name(arm, rate, k)), s.runs.path(s.name(arm, rate, k % len(seeds) + 1)),
                          "--dtype", dtype, "--tolerance", "1e-5" if dtype == "f32" else 0, "--rank", -1, "--null-lr", rate, "--null-steps", steps)
                 for k in seeds]
            f[dtype] = d
            f[dtype, 0], f[dtype, 5] = [x["sparsity"]["0"] for x in d], [x["sparsity"]["1e-05"] for x in d]
        f["walk"] = [d["relative_norm"] * norm / d["parameters"] ** 0.5 / rate for d in f["f32"]]
        found[arm, rate] = f
    return found


def report(s, found):
    steps = s.a.steps
    null = {(d, r): found["own", r][d][0]["null_model"] for d in ("f32", "bf16") for r in RATES}
    print("\nUnchanged weights, % (null model: steps of ± the rate at random), size and rank of the change")
    rows = []
    for rate in RATES:
        n32, n16, w = null["f32", rate], null["bf16", rate], s.walk[rate]
        rows.append((f"{rate:g}", "*null model*", f"{n32['0']:.1%}", f"{n32['1e-05']:.1%}", f"{n16['0']:.1%}", f"{n16['1e-05']:.1%}", f"{steps ** 0.5:.1f}", ""))
        rows.append((f"{rate:g}", "*the same, on the start's weights*", "", "", f"{w[0]:.1%}", f"{w[1]:.1%}", f"{steps ** 0.5:.1f}", f"overlap {w[2]:.1%} ({w[3]:.1%})"))
        for arm in [a for a, r in CELLS if r == rate]:
            f = found[arm, rate]
            rows.append((f"{rate:g}", NAMES[arm], *(percent(f[d, t]) for d in ("f32", "bf16") for t in (0, 5)), "{:.1f} ± {:.1f}".format(*mean_sd(f["walk"])),
                         f"{percent([d['rank_share'] for d in f['f32']])} / {percent([d['rank_share'] for d in f['bf16']])}"))
    table(("rate", "run", "f32, at 0", "f32, at 1e-5", "bf16, at 0", "bf16, at 1e-5", "RMS change ÷ rate", "rank, % of full: f32 / bf16"), rows)

    print("Overlap of two seeds (chance), and what was learned on held-out rows")
    rows = []
    for arm, rate in CELLS:
        f, r = found[arm, rate], found[arm, rate]["runs"]
        cells = []
        for dtype in ("bf16", "f32"):
            o = [d["overlap"] for d in f[dtype] if d["overlap"]]
            cells.append(f"{mean_sd([x['of_first'] for x in o])[0]:.1%} ({mean_sd([x['chance_of_first'] for x in o])[0]:.1%})" if o else "none changed")
        right = percent([x["accuracy"][1] for x in r]) if "accuracy" in r[0] else ""
        rows.append((f"{rate:g}", NAMES[arm], *cells, f"{r[0]['before']:.3f} → {mean_sd([x['after'] for x in r])[0]:.3f} ± {mean_sd([x['after'] for x in r])[1]:.3f}",
                     right, f"{percent(f['reward'])}"))
    print(f"(reward of the start: {s.start_reward:.1%})")
    table(("rate", "run", "overlap in bf16, at 0", "in f32, at 1e-5", "loss", "pairs in order (start: none is ahead), %", "reward, %"), rows)


def subnetworks(s):
    """Trains again what DPO on own pairs changed as bf16, and as many random weights. -> whether it is the full run's result within 1e-5"""
    rows, equal = [], []
    for rate, k in [(1e-5, k) for k in range(1, s.a.seeds + 1)] + [(5e-7, 1), (1e-4, 1)]:
        run = s.runs.path(s.name("own", rate, k))

        def near(name, path):
            """-> shares equal to the full run: in f32 and in bf16, within 1e-5 and 1e-4"""
            return [1 - s.differ(f"near-{d}-{t}-{name}", run, path, "--dtype", d, "--tolerance", t)["share"] for d in ("f32", "bf16") for t in ("1e-5", "1e-4")]

        full = s.tune("own", rate, k)
        rows.append((f"{rate:g}", k, "nothing (the start)", "0", *(f"{x:.2%}" for x in near(s.name("start", rate, k), s.base)),
                     f"{full['before']:.3f}", f"{s.start_reward:.1%}"))
        for what in ("changed", "random"):
            mask, share = s.planted("mask", run, what == "random")
            r = s.tune("own", rate, k, s.name(f"sub-{what}", rate, k), ("rl-subnetworks", "--set", f"from={mask}", "--set", "storage=dense"))
            e = near(s.name(what, rate, k), s.runs.path(s.name(f"sub-{what}", rate, k)))
            equal += [(rate, what, *e, r["reward"] - full["reward"])]
            rows.append((f"{rate:g}", k, what, f"{share:.1%}", *(f"{x:.2%}" for x in e), f"{r['after']:.3f}", f"{r['reward']:.1%}"))
        rows.append((f"{rate:g}", k, "all (the full run)", "100 %", "", "", "", "", f"{full['after']:.3f}", f"{full['reward']:.1%}"))
    print("Trained again from the start, with the seed of the full run")
    table(("rate", "seed", "trained", "share", "equal to the full run in f32, within 1e-5", "1e-4", "in bf16, within 1e-5", "1e-4", "DPO loss, held out", "reward"), rows)
    return equal


def main():
    p = arguments(__doc__)
    p.add_argument("--pretrain", type=int, default=500, help="updates of 32 rows [500]")
    p.add_argument("--steps", type=int, default=150, help="updates of 4 pairs or 8 answers [150]")
    p.add_argument("--samples", type=int, default=4, help="answers sampled a prompt [4]")
    s = Study(p.parse_args())
    print(f"{s.parameters} parameters", flush=True)
    s.start_reward = s.runs.once("start reward", [s.base], lambda: s.reward(s.base))
    s.walk = {r: s.runs.once(f"walks {r:g}", [s.base, str(s.a.steps)], lambda: walks(s, r)) for r in RATES}
    found = measure(s)
    report(s, found)
    equal = subnetworks(s)

    mean = {k: {x: mean_sd(f[x]) for x in (("bf16", 0), ("bf16", 5), ("f32", 0))} for k, f in found.items()}
    for t in (0, 5):
        at = {r: [mean[a, r]["bf16", t][0] for a in ARMS if (a, r) in mean] for r in RATES}
        within = max(max(x) - min(x) for x in at.values())
        across = min(mean[a, RATES[0]]["bf16", t][0] - mean[a, RATES[1]]["bf16", t][0] for a in ARMS)
        verdict(f"the rate dominates (bf16, tolerance {'1e-5' if t else 0})", across > within,
                f"5e-7 and 1e-5 part {across:.1%} at least, data and objective {within:.1%} at most")
    for one, other in (("own", "foreign"), ("own", "far"), ("own", "ruled"), ("coin", "foreign"), ("coin", "own")):
        for r in [r for r in RATES if (one, r) in found and (other, r) in found]:
            m, sd = mean_sd([x - y for x, y in zip(found[one, r]["bf16", 5], found[other, r]["bf16", 5])])
            verdict(f"{NAMES[one]} is sparser than {NAMES[other]} at {r:g} (bf16, 1e-5)", m > 2 * sd, f"{100 * m:+.2f} ± {100 * sd:.2f} points")
    most = max(m["f32", 0][0] for m in mean.values())
    verdict("in f32 nothing is sparse (at most 1 % unchanged at 0)", most <= 0.01, f"at most {most:.2%}")
    for than, limit in (("chance", lambda o, r: o["chance_of_first"]), ("two random walks", lambda o, r: s.walk[r][2])):
        short = [(a, r) for (a, r), f in found.items() for d in f["bf16"] if not d["overlap"] or d["overlap"]["of_first"] <= limit(d["overlap"], r)]
        verdict(f"two seeds overlap above {than} in bf16, every run and rate", not short, f"not: {short}" if short else "")
    for r in sorted({e[0] for e in equal}):
        for dtype, at in (("f32", 2), ("bf16", 4)):
            e = {what: min(x[at] for x in equal if x[:2] == (r, what)) for what in ("changed", "random")}
            verdict(f"trained again, the changed weights give the full run within 1e-5 on over 90 % in {dtype} ({r:g})", e["changed"] > 0.9,
                    f"{e['changed']:.1%} at least, as many random ones {e['random']:.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
