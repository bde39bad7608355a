#!/usr/bin/env python3
"""lacuna's SpIEL against the NumPy program, on inputs drawn now. SPIEL.md beside this file defines the exchange.

  run_spiel.py --program PROG [--seed N] [--count N]    draw, run both, compare; PROG DIR OUT.safetensors runs lacuna's
  run_spiel.py --fixture DIR                            write the fixed problems of tests/golden/spiel
  run_spiel.py --self-check                             the NumPy program against dense AdamW and finite differences
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import spiel_numpy  # noqa: E402

MARGIN = 1e-4   # problems in which a choice is nearer than this are drawn again
LIMIT = 1e-3    # of values and state, relative, at every step
KINDS = (("ag", False), ("ma", False), ("ag", True))


def draw(rng, variant, reference, small=False):
    """-> (spiel.json's object, arrays): layers that have to learn another map than theirs"""
    g = np.random.default_rng(rng.getrandbits(63))
    layers, steps = rng.choice([1, 2]) if not small else 2, 50
    micro, T = rng.randrange(1, 4) if not small else 2, rng.randrange(4, 9) if not small else 3
    S = rng.randrange(7, 13)
    peak = 10 ** rng.uniform(-2.5, -1.5) * (3 if variant == "ma" else 1)
    h = dict(variant=variant, reference=reference, layers=layers, steps=steps, planned=steps + rng.randrange(0, 20), S=S,
             A=rng.randrange(2, min(6, S)), p0=round(rng.uniform(0.2, 0.5), 3), policy=rng.choice(["linear", "cosine"]),
             beta1=round(rng.uniform(0.8, 0.95), 3), beta2=round(rng.uniform(0.95, 0.999), 4), eps=10 ** rng.uniform(-8, -5),
             weight_decay=rng.choice([0.0, round(rng.uniform(0.01, 0.3), 3)]))
    h["lr"] = [peak * min(1.0, (c + 1) / 4) * (1 - c / (2 * steps)) for c in range(steps)]
    inputs = {}
    for l in range(layers):
        M, N = (rng.randrange(9, 13), rng.randrange(9, 13)) if small else (rng.randrange(12, 60), rng.randrange(12, 60))
        K = max(6, int(M * N * rng.uniform(0.04, 0.2)))
        W = g.standard_normal((M, N)) / N ** 0.5
        far = W + g.standard_normal((M, N)) * (g.random((M, N)) < 0.3)
        x = g.standard_normal((steps, micro, T, N))
        inputs[f"W.{l}"] = W
        inputs[f"index.{l}"] = np.sort(g.choice(M * N, K, replace=False)).astype(np.int64)
        inputs[f"x.{l}"] = x
        inputs[f"target.{l}"] = x @ far.T + 0.1 * g.standard_normal((steps, micro, T, M))
    return h, {k: v if v.dtype == np.int64 else v.astype(np.float32) for k, v in inputs.items()}


def draw_decided(rng, variant, reference, small=False):
    """Draws until every choice in the trajectory is wider than MARGIN."""
    for _ in range(100):
        h, inputs = draw(rng, variant, reference, small)
        trace, margin, swaps = spiel_numpy.run(h, inputs)
        if margin > MARGIN and swaps > 20:
            return h, inputs, trace, margin, swaps
    sys.exit("no problem with clear choices in 100 draws")


def write_problem(path, h, inputs):
    from safetensors.numpy import save_file
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, "spiel.json"), "w") as f:
        json.dump(h, f, indent=2, sort_keys=True)
        f.write("\n")
    save_file(inputs, os.path.join(path, "inputs.safetensors"))


def compare(got, want):
    """-> list of sentences, empty when the trajectory was followed"""
    out = []
    for name, a in want.items():
        if name not in got:
            out.append(f"{name}: missing")
            continue
        b = got[name]
        if b.shape != a.shape:
            out.append(f"{name}: shape {a.shape} expected, {b.shape} found")
        elif a.dtype.kind == "i":
            steps = np.nonzero((a != b).reshape(a.shape[0], -1).any(1))[0]
            if steps.size:
                out.append(f"{name}: differs first after update {steps[0] + 1}")
        else:
            for c in range(a.shape[0]):
                norm = np.linalg.norm(a[c])
                d = np.linalg.norm(a[c].astype(np.float64) - b[c]) / (norm or 1.0)
                if not d <= LIMIT:
                    out.append(f"{name}: {d:.1e} apart after update {c + 1} (limit {LIMIT:g})")
                    break
    return out


def check_program(args):
    from safetensors.numpy import load_file
    rng, bad = random.Random(args.seed), 0
    for i in range(args.count):
        variant, reference = KINDS[i % len(KINDS)]
        h, inputs, want, margin, swaps = draw_decided(rng, variant, reference)
        with tempfile.TemporaryDirectory() as tmp:
            write_problem(tmp, h, inputs)
            out = os.path.join(tmp, "out.safetensors")
            r = subprocess.run([args.program, tmp, out], capture_output=True, text=True)
            problems = [f"exit {r.returncode}: {r.stderr.strip()}"] if r.returncode else compare(load_file(out), want)
            if problems and args.keep:
                write_problem(args.keep, h, inputs)
        shapes = ", ".join("%d×%d K %d" % (*inputs[f"W.{l}"].shape, inputs[f"index.{l}"].size) for l in range(h["layers"]))
        print(f"{'FAIL' if problems else 'ok  '} {variant}{' reference' if reference else ''}: {shapes}, S {h['S']} A {h['A']}, "
              f"{swaps} swaps, margin {margin:.0e}" + "".join("\n     " + p for p in problems))
        bad += bool(problems)
    print(f"{args.count - bad} of {args.count} trajectories followed (seed {args.seed})")
    return 1 if bad else 0


def write_fixture(path):
    from safetensors.numpy import save_file
    rng = random.Random(2401_16405)
    for variant, reference in KINDS:
        name = variant + ("-reference" if reference else "")
        h, inputs, trace, margin, swaps = draw_decided(rng, variant, reference, small=True)
        write_problem(os.path.join(path, name), h, inputs)
        save_file(trace, os.path.join(path, name, "expected.safetensors"))
        print(f"{name}: {swaps} swaps, margin {margin:.0e}, loss {trace['loss'][0]:.3f} to {trace['loss'][-1]:.3f}")


def self_check():
    """All positions and no reselection is dense AdamW (with this place of ε); gradients against finite differences."""
    rng = random.Random(5)
    h, inputs = draw(rng, "ag", False, small=True)
    h.update(layers=1, S=10 ** 6, A=10 ** 5)
    W = inputs["W.0"].astype(np.float64)
    inputs["index.0"] = np.arange(W.size)
    trace, _, _ = spiel_numpy.run(h, inputs)
    x, target = inputs["x.0"].astype(np.float64), inputs["target.0"].astype(np.float64)
    delta, m, v = np.zeros_like(W), np.zeros_like(W), np.zeros_like(W)
    rows = x.shape[1] * x.shape[2]

    def loss(w, c):
        return 0.5 * ((x[c] @ w.T - target[c]) ** 2).sum() / rows

    for c in range(h["steps"]):
        g = np.einsum("btm,btn->mn", x[c] @ (W + delta).T - target[c], x[c]) / rows
        if c == 7:
            for i, j in ((0, 0), (3, 5), (W.shape[0] - 1, W.shape[1] - 1)):
                e = np.zeros_like(W)
                e[i, j] = 1e-5
                fd = (loss(W + delta + e, c) - loss(W + delta - e, c)) / 2e-5
                assert abs(fd - g[i, j]) < 1e-6 * max(1, abs(fd)), (fd, g[i, j])
        m, v = h["beta1"] * m + (1 - h["beta1"]) * g, h["beta2"] * v + (1 - h["beta2"]) * g ** 2
        hat = m / (1 - h["beta1"] ** (c + 1))
        delta -= h["lr"][c] * hat * np.sqrt(1 - h["beta2"] ** (c + 1)) / (np.sqrt(v) + h["eps"])
        delta -= h["lr"][c] * h["weight_decay"] * delta
        assert np.allclose(trace["value.0"][c], delta.reshape(-1), rtol=1e-5, atol=1e-7), f"update {c + 1}"
    print("all positions, no reselection: dense AdamW; gradients agree with finite differences")
    return 0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program")
    p.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    p.add_argument("--count", type=int, default=9)
    p.add_argument("--keep", help="a directory for the last problem that failed")
    p.add_argument("--fixture")
    p.add_argument("--self-check", action="store_true")
    args = p.parse_args()
    if args.fixture:
        write_fixture(args.fixture)
    elif args.self_check:
        sys.exit(self_check())
    elif args.program:
        sys.exit(check_program(args))
    else:
        p.error("--program, --fixture or --self-check")


if __name__ == "__main__":
    main()
