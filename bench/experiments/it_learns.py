"""Do the methods learn? Held-out loss of SmolLM2-135M-Instruct before and after a short training, over several seeds.

Worked answers of GSM8K's train split, first rows to train on, last rows held out. A method passes when its mean fall is at least
5 % of the loss before and at least 5 times the standard deviation of the seeds' falls. Full fine-tuning is run once, to compare.

    python3 bench/experiments/it_learns.py [--model SmolLM2.gguf] [--seeds 3] [--only shira-random,lora]
"""
import sys

from common import Runs, arguments, data, mean_sd, read_rows, smollm2, table, verdict, write_rows

METHODS = {  # name: method, options, learning rate (0: the method's own)
    "shira-random": ("shira", ["mask=random"], 0),
    "shira-snip": ("shira", ["mask=snip", "examples=8"], 0),
    "spiel-ag": ("spiel", ["select=ag", "period=10", "accumulate=3"], 0),
    "spiel-ma": ("spiel", ["select=ma", "period=10", "accumulate=3"], 0),
    "lora": ("lora", ["r=8"], 0),
    "full": ("full", [], 0),
}


def main():
    p = arguments(__doc__)
    p.add_argument("--model", help="the GGUF; else scripts/deps.sh finds or fetches it")
    p.add_argument("--only", help="names of the table, by commas")
    p.add_argument("--rate", type=float, default=0, help="one learning rate for all; 0: each method's own")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--seq", type=int, default=64)
    a = p.parse_args()
    rows = [{"text": r["answer"]} for r in read_rows(data("gsm8k", "train.jsonl"))]
    model = smollm2(a.model)
    runs = Runs(a.lacuna, a.work)
    train = write_rows(runs.path("train.jsonl"), rows[:1000])
    held = write_rows(runs.path("held.jsonl"), rows[-24:])
    names = a.only.split(",") if a.only else list(METHODS)
    out, ok = [], True
    for name in names:
        method, options, rate = METHODS[name]
        rate = a.rate or rate
        results = []
        for seed in range(1, (1 if name == "full" else a.seeds) + 1):
            sets = [x for o in options for x in ("--set", o)]
            results.append(runs.train(f"{name}-{seed}" + (f"-{a.rate:g}" if a.rate else ""), "-m", model, "-d", train,
                                      "--eval-data", held, "--method", method, *sets, "--lr", rate, "--steps", a.steps,
                                      "--batch", a.batch, "--seq", a.seq, "--seed", seed))
        before = results[0]["before"]
        fall, sd = mean_sd([r["before"] - r["after"] for r in results])
        done = results[0]["done"]
        out.append((name, done["trainable"], len(results), f"{before:.4f}", f"{before - fall:.4f}", f"{100 * fall / before:.1f} %",
                    f"{sd:.4f}" if len(results) > 1 else "–", f"{fall / sd:.0f}" if sd else "–", f"{done['seconds']:.0f}"))
        if len(results) > 1:
            ok &= verdict(name, fall >= 0.05 * before and fall >= 5 * sd,
                          f"fall {fall:.4f} = {100 * fall / before:.1f} % = {fall / sd if sd else float('inf'):.0f} deviations")
    print()
    table(("run", "trained", "seeds", "before", "after", "fall", "sd of falls", "fall / sd", "seconds"), out)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
