#!/usr/bin/env python3
"""lacuna against transformers, PEFT and llama.cpp on configurations drawn now.

  run.py --lacuna BIN [--seed N] [--count N] [--only models,adapters,...] [--smollm GGUF HFDIR]

  models    logits, loss and every gradient of random Llamas and GPT-2s: relative distance at most 1e-4
  adapters  PEFT's LoRA and SHiRA directories give the same logits here, lacuna's the same in PEFT: at most 1e-3
  learn     50 updates of LoRA from one adapter file here and in PEFT: losses within 1e-3, factors within 1e-2 relative
  merged    a merged F32 GGUF in llama.cpp: the same first 64 greedy tokens, or the two best logits are within 1e-2
  smollm    adapters trained on SmolLM2's GGUF and on its dequantised HF form, q and k included, load in PEFT over the latter;
            needs --smollm (bench/parity/smollm.py dequantise makes HFDIR)

Nothing is fixed: a seed is drawn and printed, and --seed repeats it. Needs an environment of bench/peers/setup.sh.
"""
import argparse
import os
import random
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402

LIMIT = 1e-4


def check_model(score, lacuna, rng, tmp):
    """One random configuration: logits, loss, every gradient."""
    import torch
    from safetensors.numpy import load_file
    import reference as ref
    import tiny
    config = tiny.draw_gpt2(rng) if rng.random() < 0.3 else tiny.draw_llama(rng)
    T = rng.randrange(5, 60)
    seed = rng.getrandbits(31)
    ids = ref.random_ids(config, T, seed)
    labels = [i if rng.random() < 0.8 else ref.IGNORE for i in ids]
    labels[-1] = ids[-1]
    what = f"{tiny.describe(config)} T{T}"
    try:
        model, entropy = ref.random_model(config, seed, ids)
    except RuntimeError as e:  # too small to be anything but uniform
        print(f"     skipped {what}: {e}")
        return
    stored = tiny.save(rng, model, tmp)
    expected = ref.loss_and_gradients(ref.load_model(tmp), ids, labels)
    exact = ref.loss_and_gradients(ref.load_model(tmp, torch.float64), ids, labels)
    noise = max(ref.relative(expected[k], exact[k]) for k in expected)
    grads = os.path.join(tmp, "grads.safetensors")
    logits, r = lacuna.logits(tmp, ids, os.path.join(tmp, "logits.safetensors"), "--labels=" + harness.comma(labels),
                              "--grads", grads)
    got = load_file(grads)
    worst, name = 0.0, "logits"
    missing = []
    figures = {"logits": ref.relative(logits, expected["logits"]),
               "loss": abs(r["loss"] / float(expected["loss"][0]) - 1)}
    for key, want in expected.items():
        if key.startswith("grad."):
            if key[5:] not in got:
                missing.append(key[5:])
            elif got[key[5:]].shape != tuple(want.shape):
                missing.append(f"{key[5:]} as {got[key[5:]].shape}")
            else:
                figures[key] = ref.relative(got[key[5:]], want)
    for key, d in figures.items():
        if not d <= worst:
            worst, name = d, key
    if missing:
        score.true(f"{what} {stored}: every gradient", False, ", ".join(missing))
    score.limit(f"{what} {stored}: {len(figures)} tensors, f32 noise {noise:.0e}, entropy {entropy:.2f}; worst {name}", worst, LIMIT)


def models(score, lacuna, rng, args):
    for _ in range(args.count):
        with tempfile.TemporaryDirectory() as tmp:
            score.attempt("model", check_model, score, lacuna, rng, tmp)


def main():
    import adapters
    groups = {"models": models, "adapters": adapters.adapters, "learn": adapters.learn, "merged": adapters.merged,
              "smollm": adapters.smollm}
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lacuna", required=True)
    p.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    p.add_argument("--count", type=int, default=8, help="configurations a group (learn: half as many)")
    p.add_argument("--only", default="", help="groups, comma-separated: " + ", ".join(groups))
    p.add_argument("--smollm", nargs=2, metavar=("GGUF", "HFDIR"))
    args = p.parse_args()
    chosen = args.only.split(",") if args.only else [g for g in groups if g != "smollm" or args.smollm]
    unknown = [g for g in chosen if g not in groups]
    if unknown:
        p.error(f"no group '{unknown[0]}'")
    if "smollm" in chosen and not args.smollm:
        p.error("group 'smollm' needs --smollm GGUF HFDIR")
    score = harness.Score()
    for g in chosen:
        print(f"-- {g} (seed {args.seed})")
        groups[g](score, harness.Lacuna(args.lacuna), random.Random(f"{args.seed}/{g}"), args)
    sys.exit(score.done())


if __name__ == "__main__":
    main()
