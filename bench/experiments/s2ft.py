"""Which heads and channels should S2FT take, and does it forget less than LoRA and full fine-tuning? A byte-level Llama pretrained on
Shakespeare is tuned on GSM8K's text, 120 updates of 8 x 64 bytes, about as many trained values in each arm; held-out loss on GSM8K's text, and the
rise on held-out Shakespeare. Each arm's rate is the best of a ladder on seed 0 and other text. With --cost a step's time instead.

    python3 bench/experiments/s2ft.py [--seeds 3] [--cost SmolLM2.gguf]
"""
import sys

from common import Runs, mean_sd, table, verdict
from tiny import Tiny

SHARES = ["o=0.25", "d=0.1"]
ARMS = {"random": ("s2ft", SHARES), "weight, large": ("s2ft", [*SHARES, "select=weight"]), "weight, small": ("s2ft", [*SHARES, "select=weight", "end=small"]),
        "activation, small": ("s2ft", [*SHARES, "select=activation", "end=small"]), "gradient, large": ("s2ft", [*SHARES, "select=gradient"]),
        "LoRA r 2": ("lora", ["r=2", "alpha=4"]), "full": ("full", ["embeddings=false"])}
LADDER = {"full": [1e-3, 3e-3, 1e-2]}


def learn():
    t = Tiny(__doc__)
    gsm = t.texts["gsm8k"]
    tune, held = t.write("tune", "\n\n".join(gsm[:1500])), t.write("held", "\n\n".join(gsm[-60:])[:8192])
    pilot = t.write("pilot", "\n\n".join(gsm[-160:-60])[:8192])
    forget = t.write("forget", t.texts["shakespeare"][0][1_000_000:1_008_192])

    def run(name, rate, seed, on):
        method, sets = ARMS[name]
        return t.run(f"{name} {on}", method, sets, pilot if on == "pilot" else forget if on == "forget" else held, tune, rate, 120, seed)["loss"], method

    def losses(name, rate, seed, on):
        return run(name, rate, seed, on)[0]

    rows, held_by, forget_by = [], {}, {}
    for name, (method, sets) in ARMS.items():
        tried = {r: losses(name, r, 0, "pilot")["120"] for r in LADDER.get(name, [3e-3, 1e-2, 3e-2])}
        rate = min(tried, key=tried.get)
        a = [losses(name, rate, s, "held") for s in range(1, t.a.seeds + 1)]
        b = [losses(name, rate, s, "forget") for s in range(1, t.a.seeds + 1)]
        done = t.run(f"{name} held", method, sets, held, tune, rate, 120, 1)["done"]
        held_by[name], forget_by[name] = mean_sd([x["120"] for x in a]), mean_sd([x["120"] - x["0"] for x in b])
        rows.append((name, done["trainable"], f"{rate:g}", f"{held_by[name][0]:.3f} ± {held_by[name][1]:.3f}",
                     f"{forget_by[name][0]:+.3f} ± {forget_by[name][1]:.3f}"))
        print(f"{name}: {', '.join(f'{r:g}: {v:.3f}' for r, v in tried.items())}", flush=True)
    print()
    table(("arm", "trained", "rate", "held-out loss", "rise on Shakespeare"), rows)
    verdict("S2FT (random) forgets less than LoRA, and LoRA less than full", forget_by["random"][0] < forget_by["LoRA r 2"][0] < forget_by["full"][0])
    verdict("S2FT (random) learns as LoRA does (0.05)", abs(held_by["random"][0] - held_by["LoRA r 2"][0]) < 0.05,
            f"{held_by['random'][0]:.3f} against {held_by['LoRA r 2'][0]:.3f}")


def cost(model):
    """A step of 8 x 64 random tokens on SmolLM2: as many values in channels as in LoRA's factors."""
    runs = Runs("build/lacuna", "build/experiments/s2ft")
    rows = []
    for name, argv in {"s2ft d 0.03": ["--method", "s2ft", "--set", "o=0", "--set", "d=0.03"],
                       "LoRA r 13, down": ["--method", "lora", "--set", "r=13", "--targets", "down_proj"],
                       "LoRA r 3, all": ["--method", "lora", "--set", "r=3"], "shira, all": ["--method", "shira", "--density", "0.0075"]}.items():
        r = runs.lines("bench", "train", "-m", model, "--batch", 8, "--seq", 64, "--steps", 6, *argv)[-1]["rows"][0]
        rows.append((name, f"{1000 * r['seconds']:.0f}"))
    table(("arm", "ms a step"), rows)


if __name__ == "__main__":
    if "--cost" in sys.argv:
        cost(sys.argv[sys.argv.index("--cost") + 1])
    else:
        learn()
