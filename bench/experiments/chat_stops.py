"""Does a chat model learn to stop? SmolLM2-135M-Instruct is tuned on 200 short message lists; then it answers prompts that it has not
seen, greedily, and the share that ends by itself (finish_reason "stop") within --max-tokens is counted, before and after.

Questions are built here from facts and arithmetic; the answers are one short sentence. No question is in both sets.

    python3 bench/experiments/chat_stops.py [--model SmolLM2.gguf] [--prompts 64]
"""
import random
import sys

from common import Runs, arguments, smollm2, table, verdict, write_rows

CAPITALS = {"France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon", "Austria": "Vienna",
            "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen", "Poland": "Warsaw",
            "Greece": "Athens", "Ireland": "Dublin", "Hungary": "Budapest", "Belgium": "Brussels", "Japan": "Tokyo", "China": "Beijing",
            "India": "New Delhi", "Egypt": "Cairo", "Kenya": "Nairobi", "Peru": "Lima", "Chile": "Santiago", "Cuba": "Havana",
            "Canada": "Ottawa", "Australia": "Canberra", "Mongolia": "Ulaanbaatar", "Thailand": "Bangkok", "Iceland": "Reykjavik"}
SYMBOLS = {"hydrogen": "H", "helium": "He", "carbon": "C", "nitrogen": "N", "oxygen": "O", "sodium": "Na", "iron": "Fe", "gold": "Au",
           "silver": "Ag", "copper": "Cu", "lead": "Pb", "tin": "Sn", "zinc": "Zn", "calcium": "Ca", "potassium": "K", "neon": "Ne"}
OPPOSITES = {"hot": "cold", "big": "small", "fast": "slow", "light": "dark", "early": "late", "full": "empty", "high": "low",
             "hard": "soft", "new": "old", "wet": "dry", "loud": "quiet", "rich": "poor", "strong": "weak", "open": "closed"}
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]


def questions():
    """-> (question, answer), each question once"""
    out = [(f"What is the capital of {c}?", f"The capital of {c} is {t}.") for c, t in CAPITALS.items()]
    out += [(f"What is the chemical symbol of {e}?", f"The symbol of {e} is {s}.") for e, s in SYMBOLS.items()]
    out += [(f"What is the opposite of {w}?", f"The opposite of {w} is {o}.") for w, o in OPPOSITES.items()]
    out += [(f"Which month comes after {a}?", f"{b} comes after {a}.") for a, b in zip(MONTHS, MONTHS[1:] + MONTHS[:1])]
    rng = random.Random(7)
    pairs = rng.sample([(a, b) for a in range(2, 60) for b in range(2, 40)], 200)
    for i, (a, b) in enumerate(pairs):
        out.append([(f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."), (f"What is {a} times {b}?", f"{a} times {b} is {a * b}."),
                    (f"Is {a} larger than {b}?", f"{'Yes' if a > b else 'No'}.")][i % 3])
    rng.shuffle(out)
    return out


def stops(runs, name, model, prompts, limit):
    """-> share that ended by itself, mean tokens, the first three answers"""
    answers = []
    for i, (q, _) in enumerate(prompts):
        argv = ["generate", *model, "--chat", "-p", q, "--temp", "0", "-n", str(limit)]
        answers.append(runs.once(f"{name}-{i}", argv, lambda: runs.lines(*argv)[-1]))  # noqa: B023
    own = sum(r["finish_reason"] == "stop" for r in answers)
    for (q, _), r in zip(prompts[:3], answers):
        print(f"  {name}: {q} → {r['text'][:100]!r}", flush=True)
    return own / len(answers), own, len(answers)


def main():
    p = arguments(__doc__)
    p.add_argument("--model", help="the GGUF; else scripts/deps.sh finds or fetches it")
    p.add_argument("--prompts", type=int, default=64, help="held-out prompts after training [64]")
    p.add_argument("--before", type=int, default=16, help="of these, asked before training too [16]")
    p.add_argument("--max-tokens", type=int, default=48)
    a = p.parse_args()
    model, runs = smollm2(a.model), Runs(a.lacuna, a.work)
    qa = questions()
    train, held = qa[:200], qa[200:200 + a.prompts]
    assert len(held) == a.prompts and not {q for q, _ in train} & {q for q, _ in held}
    rows = write_rows(runs.path("train.jsonl"),
                      [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": s}]} for q, s in train])
    runs.train("tuned", "-m", model, "-d", rows, "--method", "shira", "--epochs", 1, "--batch", 8, "--seq", 96, "--seed", 1, keep=True)
    after, own, n = stops(runs, "after", ["-m", model, "-a", runs.path("tuned")], held, a.max_tokens)
    before, was, m = stops(runs, "before", ["-m", model], held[:a.before], a.max_tokens)
    print()
    table(("", "prompts", "ended by itself", "share"), [("before", m, was, f"{100 * before:.0f} %"), ("after", n, own, f"{100 * after:.1f} %")])
    return 0 if verdict("the tuned model stops by itself on at least 95 % of the prompts", after >= 0.95) else 1


if __name__ == "__main__":
    sys.exit(main())
