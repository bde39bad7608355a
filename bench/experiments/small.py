"""The small-scale comparison that spiel_small.py and shira_masks.py read off: one byte-level model, pretrained on Shakespeare, then
fine-tuned on GSM8K's text by several methods at an equal number of trained values.

Runs are shared: both experiments use the same folder and repeat nothing. Each method's rate is chosen on a seed that the comparison does
not use (0), by the loss on a part of the text that it does not use either.
"""
import os
import sys

import byte_model
from common import Runs, arguments, data, read_rows

SEQ = 64
RANK = 2  # LoRA's; the sparse methods train as many values: 1.2 % at width 256, 2.4 % at 128
LADDER = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0]
SPIEL = ["period=20", "accumulate=5"]
RUNS = {  # name: the rate that the search begins at, method, options
    "random": (3e-2, "shira", ["mask=random"]),
    "spiel-ag": (1e-2, "spiel", ["select=ag", *SPIEL]),
    "spiel-ma": (1e-1, "spiel", ["select=ma", *SPIEL]),
    "snip": (1e-2, "shira", ["mask=snip"]),
    "grad": (1e-2, "shira", ["mask=grad"]),
    "wm": (1e-2, "shira", ["mask=wm"]),
    "struct": (1e-2, "shira", ["mask=struct"]),
    "lora": (1e-2, "lora", [f"r={RANK}", f"alpha={2 * RANK}"]),
    "full": (3e-3, "full", ["embeddings=false"]),
}


class Small:
    def __init__(self, about):
        p = arguments(about)
        p.add_argument("--width", type=int, default=128)
        p.add_argument("--pretrain", type=int, default=300, help="updates of 16 x 64 bytes [300]")
        p.add_argument("--steps", type=int, default=80, help="updates of 16 x 64 bytes [80]")
        p.set_defaults(work=os.path.join(os.path.dirname(p.get_default("work")), "small"))
        self.a = p.parse_args()
        shakespeare = data("tinyshakespeare", "input.txt")
        rows = read_rows(data("gsm8k", "train.jsonl"))
        self.runs = Runs(self.a.lacuna, self.a.work)
        with open(shakespeare, encoding="utf-8") as f:
            text = f.read()
        self.files = {"pretrain": self.text("pretrain", text[:800_000]), "forget": self.text("forget", text[1_000_000:1_008_192]),
                      "tune": self.text("tune", self.join(rows[:2000])), "pilot": self.text("pilot", self.join(rows[-200:-100], 8192)),
                      "held": self.text("held", self.join(rows[-100:], 8192))}
        w, ff = self.a.width, byte_model.feed_forward(self.a.width)
        self.density = RANK * (4 * 2 * w + 3 * (w + ff)) / (4 * w * w + 3 * w * ff)  # as many values as LoRA of RANK
        self.base = self.pretrained()
        self.before = self.runs.once("before", [self.base, str(self.a.pretrain)], lambda: self.losses("-m", self.base))
        print(f"base: GSM8K {self.before['held']:.4f}, Shakespeare {self.before['forget']:.4f} nats a byte", flush=True)

    @staticmethod
    def join(rows, limit=None):
        return "\n\n".join(r["question"] + "\n" + r["answer"] for r in rows)[:limit]

    def text(self, name, text):
        path = self.runs.path(name + ".txt")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def pretrained(self):
        start, out = self.runs.path("start"), self.runs.path(f"base-{self.a.width}")
        print(f"{byte_model.write(start, width=self.a.width)} parameters", flush=True)
        self.runs.train(f"base-{self.a.width}", "-m", start, "-d", self.files["pretrain"], "--method", "full", "--lr", "2e-3",
                        "--steps", self.a.pretrain, "--batch", 16, "--seq", SEQ, "--seed", 1, keep=True)
        return out

    def losses(self, *model):
        """-> nats a byte on held-out GSM8K text, and on held-out Shakespeare (forgetting)"""
        argv = ["eval", *model, "--context", SEQ, "-d"]
        return {d: self.runs.lines(*argv, self.files[d])[-1]["loss"] for d in ("held", "forget")}

    def tune(self, name, rate, seed, pilot=False):
        _, method, options = RUNS[name]
        sets = [x for o in options for x in ("--set", o)]

        def then(out):
            return self.losses("-m", out) if method == "full" else self.losses("-m", self.base, "-a", out)

        return self.runs.train(f"{name}-{rate:g}-{seed}", "-m", self.base, "-d", self.files["tune"], "--eval-data",
                               self.files["pilot"], "--method", method, *sets, "--lr", rate, "--steps", self.a.steps, "--batch", 16,
                               "--seq", SEQ, "--seed", seed, "--density", self.density, then=None if pilot else then)

    def rate(self, name):
        """-> the rate of least loss on the pilot's seed and text, by walking the ladder up, else down, while that helps"""
        at = LADDER.index(RUNS[name][0])
        loss = {}

        def tried(i):
            if i not in loss:
                loss[i] = self.tune(name, LADDER[i], 0, pilot=True)["after"]
            return loss[i]

        start = at
        for step in (1, -1):
            while 0 <= at + step < len(LADDER) and tried(at + step) < tried(at):
                at += step
            if at != start:
                break
        print(f"rate of {name}: {LADDER[at]:g} of {', '.join(f'{LADDER[i]:g}: {v:.4f}' for i, v in sorted(loss.items()))}", flush=True)
        return LADDER[at]

    def compare(self, names):
        """-> name: the runs of all seeds"""
        runs = {}
        for n in names:
            rate = self.rate(n)
            runs[n] = [dict(self.tune(n, rate, s), rate=rate) for s in range(1, self.a.seeds + 1)]
        return runs


if __name__ == "__main__":
    sys.exit("this is what spiel_small.py and shira_masks.py share; start one of those")
