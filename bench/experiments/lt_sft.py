"""LT-SFT: do sparse patches add up better than dense ones? A "language" is a fixed permutation of the letters (bytes stay bytes): the byte-level Llama
is pretrained on Shakespeare, a part of it ciphered. Task: GSM8K's text, learnt in plain; language: ciphered Shakespeare. Test: GSM8K's text, ciphered, under
base + task + language, for which there was no training. Each patch has 200 updates of 8 x 64 bytes (LT-SFT: 100 in each phase); held-out loss, nats a byte.

    python3 bench/experiments/lt_sft.py [--seeds 3]
"""
import random
import string

from common import mean_sd, table, verdict
from tiny import SEQ, Tiny

t = Tiny(__doc__, more=lambda p: p.add_argument("--steps", type=int, default=200))
letters = list(string.ascii_lowercase)
random.Random(1).shuffle(letters)
CODE = str.maketrans(string.ascii_letters, "".join(letters) + "".join(letters).upper())
play, gsm = t.texts["shakespeare"][0], t.texts["gsm8k"]
pre = t.write("mixed", play[:700_000] + play[700_000:780_000].translate(CODE))
t.runs.train("mixed-base", "-m", t.base, "-d", pre, "--method", "full", "--lr", "2e-3", "--steps", 200, "--batch", 16, "--seq", SEQ, "--seed", 2, keep=True)
t.base = t.runs.path("mixed-base")
task, language = t.write("task", "\n\n".join(gsm[:1500])), t.write("language", play[100_000:600_000].translate(CODE))
pilots = {"task": t.write("pilot-task", "\n\n".join(gsm[-160:-60])[:8192]), "language": t.write("pilot-lang", play[1_000_000:1_008_192].translate(CODE))}
test = t.write("test", "\n\n".join(gsm[-60:])[:8192].translate(CODE))
plain = t.write("plain", "\n\n".join(gsm[-60:])[:8192])

ARMS = {"LT-SFT 4 %": ("lt-sft", [], 0.04), "LT-SFT 16 %": ("lt-sft", [], 0.16), "LT-SFT 16 %, first phase LoRA": ("lt-sft", ["phase=lora"], 0.16),
        "LT-SFT 16 %, per layer": ("lt-sft", ["scope=layer"], 0.16), "random 16 %": ("lt-sft", ["select=random"], 0.16),
        "dense (all entries)": ("shira", ["mask=wm"], 1.0), "LoRA r 8": ("lora", ["r=8", "alpha=16"], 0.01)}
LADDER = [1e-3, 3e-3, 1e-2]


def argv(method, sets, density, data, held, rate, seed):
    a = ["train", "-m", t.base, "-d", data, "--eval-data", held, "--method", method, "--lr", rate, "--steps", t.a.steps, "--batch", 8, "--seq", SEQ, "--seed",
         seed, "--schedule", "linear", "--warmup", 0, "--density", density]
    return a + [x for s in sets for x in ("--set", s)]


def loss(text, *adapters):
    return t.runs.lines("eval", "-m", t.base, *(x for a in adapters for x in ("-a", a)), "--context", SEQ, "-d", text)[-1]["loss"]


def rate_of(name, what, data):
    method, sets, density = ARMS[name]
    tried = {r: t.call(f"pilot {name} {what}-{r:g}", argv(method, sets, density, data, pilots[what], r, 0))["loss"][str(t.a.steps)] for r in LADDER}
    return min(tried, key=tried.get)


def pair(name, seed, rates):
    """-> losses of the test under what the arm makes with this seed"""
    method, sets, density = ARMS[name]
    made = {}
    for what, data in (("task", task), ("language", language)):
        made[what] = t.runs.path(f"{what}-patch")
        t.runs.lines(*map(str, argv(method, sets, density, data, pilots[what], rates[what], seed)), "-o", made[what], "--overwrite", "--keep", 0)
    return {"task": loss(test, made["task"]), "language": loss(test, made["language"]), "both": loss(test, made["task"], made["language"]),
            "plain": loss(plain, made["task"])}


rows, both = [], {}
print(f"base: {loss(test):.3f} on the test, {loss(plain):.3f} on the same in plain", flush=True)
for name in ARMS:
    rates = {"task": rate_of(name, "task", task), "language": rate_of(name, "language", language)}
    rs = [t.runs.once(f"{name} {s}", [str(ARMS[name]), str(rates), str(t.a.steps)], lambda s=s: pair(name, s, rates)) for s in range(1, t.a.seeds + 1)]
    cells = {k: mean_sd([r[k] for r in rs]) for k in rs[0]}
    both[name] = cells["both"]
    rows.append((name, f"{rates['task']:g}, {rates['language']:g}", *(f"{cells[k][0]:.3f} ± {cells[k][1]:.3f}" for k in ("plain", "task", "language", "both"))))
    print(rows[-1], flush=True)
print()
table(("arm", "rates", "plain, task patch", "ciphered, task patch", "language patch", "both"), rows)
best = min(("LT-SFT 4 %", "LT-SFT 16 %"), key=lambda n: both[n][0])
verdict("the sparse sum is better than the dense sum", both[best][0] < both["dense (all entries)"][0], f"{best}: {both[best][0]:.3f} against {both['dense (all entries)'][0]:.3f}")
verdict("entries that moved most are better than random ones", both["LT-SFT 16 %"][0] < both["random 16 %"][0], f"{both['LT-SFT 16 %'][0]:.3f} against {both['random 16 %'][0]:.3f}")
verdict("the sum is better than either patch alone", all(float(r[5].split()[0]) < min(float(r[3].split()[0]), float(r[4].split()[0])) for r in rows[:2]))
