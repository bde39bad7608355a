"""Which mask should SHiRA take? Random, by magnitude, gradient, SNIP and struct, and LoRA of equal count, on a byte-level Llama of 0.8 M
weights pretrained on Shakespeare and fine-tuned on GSM8K's text. It shares its runs with spiel_small.py.

    python3 bench/experiments/shira_masks.py [--seeds 3] [--width 128]
"""
import sys

from common import mean_sd, table, verdict
from small import Small

MASKS = ["random", "wm", "grad", "snip", "struct"]


def main():
    s = Small(__doc__)
    runs = s.compare(MASKS + ["lora"])
    held = {n: mean_sd([r["held"] for r in rs]) for n, rs in runs.items()}
    forget = {n: mean_sd([r["forget"] - s.before["forget"] for r in rs]) for n, rs in runs.items()}
    print(f"\nbase: {s.before['held']:.4f} on GSM8K's text, {s.before['forget']:.4f} on Shakespeare (nats a byte)\n")
    table(("run", "trained", "rate", "held-out loss", "forgetting (rise on Shakespeare)", "seconds"),
          [(n, runs[n][0]["done"]["trainable"], f"{runs[n][0]['rate']:g}", f"{held[n][0]:.4f} ± {held[n][1]:.4f}", f"{forget[n][0]:+.3f} ± {forget[n][1]:.3f}",
            f"{mean_sd([r['done']['seconds'] for r in runs[n]])[0]:.0f}") for n in sorted(runs, key=lambda n: held[n][0])])
    order = sorted(MASKS, key=lambda n: held[n][0])
    verdict("the best mask is grad or snip", order[0] in ("grad", "snip"), " < ".join(order))
    verdict("struct is worst", order[-1] == "struct", f"worst is {order[-1]}")
    gap = held["random"][0] - min(held["grad"][0], held["snip"][0])
    verdict("random is behind the gradient masks by more than 3 deviations", gap > 3 * max(held["random"][1], held[order[0]][1]), f"by {gap:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
