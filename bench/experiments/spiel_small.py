"""Does moving the trained entries help? SpIEL (AG and MA) against fixed random entries, a fixed SNIP mask, LoRA and full fine-tuning,
at an equal number of trained values, on a byte-level Llama of 0.8 M weights; loss on held-out text and forgetting.

    python3 bench/experiments/spiel_small.py [--seeds 3] [--width 128]
"""
import sys

from common import mean_sd, table, verdict
from small import Small

LOW = 3e-3  # a rate at which 80 updates move fixed random entries little


def main():
    s = Small(__doc__)
    runs = s.compare(["random", "spiel-ag", "spiel-ma", "snip", "lora", "full"])
    loss, rows = {}, []
    for name, rs in runs.items():
        loss[name] = held = mean_sd([r["held"] for r in rs])
        forget = mean_sd([r["forget"] - s.before["forget"] for r in rs])
        moved = f"{100 * mean_sd([r['done']['share_moved'] for r in rs])[0]:.0f} %" if "share_moved" in rs[0]["done"] else "–"
        rows.append((name, rs[0]["done"]["trainable"], f"{rs[0]['rate']:g}", f"{held[0]:.4f} ± {held[1]:.4f}", f"{forget[0]:+.3f} ± {forget[1]:.3f}", moved,
                     rs[0]["done"]["state_bytes"], f"{mean_sd([r['done']['seconds'] for r in rs])[0]:.0f}"))
    print(f"\nbase: {s.before['held']:.4f} on GSM8K's text, {s.before['forget']:.4f} on Shakespeare (nats a byte)\n")
    table(("run", "trained", "rate", "held-out loss", "forgetting (rise on Shakespeare)", "moved", "state, bytes", "seconds"), rows)
    forgets = {n: mean_sd([r["forget"] for r in rs])[0] for n, rs in runs.items()}
    clear = max(loss["random"][1], loss["spiel-ag"][1])
    verdict("AG is clearly below fixed random entries", loss["random"][0] - loss["spiel-ag"][0] > 3 * clear,
            f"by {loss['random'][0] - loss['spiel-ag'][0]:.4f}, larger deviation {clear:.4f}")
    verdict("MA is between, or level with AG", loss["spiel-ma"][0] < loss["random"][0],
            f"MA − AG {loss['spiel-ma'][0] - loss['spiel-ag'][0]:+.4f}, MA − random {loss['spiel-ma'][0] - loss['random'][0]:+.4f}")
    verdict("full is below AG", loss["full"][0] < loss["spiel-ag"][0], f"{loss['full'][0]:.4f} against {loss['spiel-ag'][0]:.4f}")
    verdict("the sparse methods forget less than full", all(forgets[n] < forgets["full"] for n in ("random", "spiel-ag", "spiel-ma", "snip")))
    moved = mean_sd([r["done"]["share_moved"] for r in runs["spiel-ag"]])[0]
    verdict("more than 60 % of AG's final entries were not in the first set", moved > 0.6, f"{100 * moved:.0f} %")
    low = {n: mean_sd([s.tune(n, LOW, seed)["held"] for seed in range(1, s.a.seeds + 1)]) for n in ("random", "spiel-ag")}
    gap = low["random"][0] - low["spiel-ag"][0]
    verdict(f"AG is clearly below fixed random entries when both have the low rate {LOW:g}", gap > 3 * max(low["random"][1], low["spiel-ag"][1]),
            ", ".join(f"{n} {v[0]:.4f} ± {v[1]:.4f}" for n, v in low.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
