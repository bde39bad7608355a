"""LIFT's toy: a network of two layers (512 inputs, 128 ReLUs, one output) is trained on 5,000 samples of y = x_1 + … + x_32 + 0.1·(sin x_33 + … +
sin x_64), then tuned on 100 of y = 0.2·x_1·x_2·x_3 + 0.1·sin(x_67·x_68). Of each matrix 5 % are tuned: LIFT's entries (largest |W'|, W' of rank R),
the largest |W|, those of the largest gradient of the 100 samples, random ones; or all, biases included. Adam on the whole set at once, stopped early by the loss
of 1,000 validation samples; reported is that loss, and the loss of 10,000 test samples at the same update. Each arm's rate is the best of a ladder on seeds of
their own.

Outside lacuna's families of models, so it is written in NumPy and does not call the program. `bench/peers/setup.sh` makes an environment that has it.

    .venv/bin/python bench/experiments/lift_toy.py [--seeds 10]
"""
import argparse
import sys

import numpy as np

from common import mean_sd, table, verdict

D, H, DENSITY = 512, 128, 0.05
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
PILOT = (101, 102, 103)
UPDATES, PATIENCE = 600, 60
ARMS = {"LIFT R 5": 5, "LIFT R 1": 1, "LIFT R 32": 32, "largest |W|": "magnitude", "gradient": "gradient", "random": "random", "full": None}


def old(x):
    return x[:, :32].sum(1) + 0.1 * np.sin(x[:, 32:64]).sum(1)


def new(x):
    return 0.2 * x[:, 0] * x[:, 1] * x[:, 2] + 0.1 * np.sin(x[:, 66] * x[:, 67])


def draw(rng, target, n):
    x = rng.standard_normal((n, D), dtype=np.float32)
    return x, target(x).astype(np.float32)


def loss(net, x, y):
    w, b, v, c = net
    return float(np.mean((np.maximum(x @ w.T + b, 0) @ v + c - y) ** 2))


def gradients(net, x, y):
    """of the mean squared error: dW (H,D), db (H), dv (H), dc (1)"""
    w, b, v, _ = net
    h = np.maximum(x @ w.T + b, 0)
    e = (2 / len(y)) * (h @ v + net[3] - y)
    back = np.outer(e, v) * (h > 0)
    return [back.T @ x, back.sum(0), e @ h, e.sum(keepdims=True)]


def train(net, masks, rate, batches, valid, every, patience):
    """Adam over the batches (pairs of x and y) where the masks are 1. -> the weights of the lowest validation loss, that loss, its update"""
    net = [p.copy() for p in net]
    m, s = [np.zeros_like(p) for p in net], [np.zeros_like(p) for p in net]
    best, kept, at = loss(net, *valid), [p.copy() for p in net], 0
    for t, (x, y) in enumerate(batches, 1):
        for p, g, mask, a, b in zip(net, gradients(net, x, y), masks, m, s):
            g = g * mask
            a += 0.1 * (g - a)
            b += 0.001 * (g * g - b)
            p -= rate / (1 - 0.9 ** t) * a / (np.sqrt(b / (1 - 0.999 ** t)) + 1e-8)
        if t % every == 0:
            now = loss(net, *valid)
            if now < best:
                best, kept, at = now, [p.copy() for p in net], t
            elif t - at >= patience:
                break
    return kept, best, at


def pretrained(seed):
    """-> a network that knows the old target, and its loss on fresh samples"""
    rng = np.random.default_rng(seed)
    net = [rng.uniform(-D ** -0.5, D ** -0.5, (H, D)), rng.uniform(-D ** -0.5, D ** -0.5, H), rng.uniform(-H ** -0.5, H ** -0.5, H), np.zeros(1)]
    net = [p.astype(np.float32) for p in net]
    x, y = draw(rng, old, 5000)
    valid = draw(rng, old, 1000)
    picks = (rng.choice(5000, 100, replace=False) for _ in range(4000))
    ones = [np.ones_like(p) for p in net]
    net, _, _ = train(net, ones, 1e-3, ((x[i], y[i]) for i in picks), valid, 50, 500)
    return net, loss(net, *draw(rng, old, 10000))


def top(score):
    """-> 1 at the largest 5 % of the scores, ties to the lower position"""
    mask = np.zeros(score.size, np.float32)
    mask[np.argsort(-score.ravel(), kind="stable")[:round(DENSITY * score.size)]] = 1
    return mask.reshape(score.shape)


def choose(arm, net, data, rng):
    """-> masks of W, b, v, c"""
    how = ARMS[arm]
    if how is None:
        return [np.ones_like(p) for p in net]
    w, v = net[0], net[2]
    if how == "magnitude":
        scores = w, v
    elif how == "gradient":
        g = gradients(net, *data)
        scores = g[0], g[2]
    elif how == "random":
        scores = rng.random(w.shape), rng.random(v.shape)
    else:
        left, size, right = np.linalg.svd(w.astype(np.float64), full_matrices=False)
        scores = (left[:, :how] * size[:how]) @ right[:how], v  # v has one row: its own best approximation of any rank
    return [top(np.abs(scores[0])), np.zeros_like(net[1]), top(np.abs(scores[1])), np.zeros_like(net[3])]


def tune(arm, seed, rate, net):
    """-> validation loss at the stop, test loss there, its update, masks, loss of the start"""
    rng = np.random.default_rng(1000 + seed)
    data, valid, test = draw(rng, new, 100), draw(rng, new, 1000), draw(rng, new, 10000)
    masks = choose(arm, net, data, rng)
    kept, best, at = train(net, masks, rate, (data for _ in range(UPDATES)), valid, 1, PATIENCE)
    return best, loss(kept, *test), at, masks[0], loss(net, *valid), float(np.var(valid[1]))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seeds", type=int, default=10, help="networks and sets of samples [10]")
    a = p.parse_args()
    nets = {s: pretrained(s) for s in (*PILOT, *range(1, a.seeds + 1))}
    print(f"old target: mean loss {mean_sd([nets[s][1] for s in range(1, a.seeds + 1)])[0]:.3f} on fresh samples", flush=True)
    rows, found, chosen = [], {}, {}
    for arm in ARMS:
        tried = {r: mean_sd([tune(arm, s, r, nets[s][0])[0] for s in PILOT])[0] for r in RATES}
        rate = min(tried, key=tried.get)
        r = [tune(arm, s, rate, nets[s][0]) for s in range(1, a.seeds + 1)]
        found[arm], chosen[arm] = [x[0] for x in r], [x[3] for x in r]
        columns = np.mean([x[3][:, :32].sum() / x[3].sum() for x in r])
        rows.append((arm, f"{rate:g}", *("{:.3f} ± {:.3f}".format(*mean_sd([x[i] for x in r])) for i in (0, 1)), f"{mean_sd([x[2] for x in r])[0]:.0f}", f"{columns:.0%}"))
        print(f"{arm}: {', '.join(f'{k:g}: {v:.3f}' for k, v in tried.items())}", flush=True)
    print(f"\nstart: {mean_sd([x[4] for x in r])[0]:.2f}; variance of the new target: {mean_sd([x[5] for x in r])[0]:.4f}")
    table(("tuned", "rate", "validation loss", "test loss", "updates", "of W's entries, those of x_1…x_32"), rows)
    same = np.mean([(x * y).sum() / x.sum() for x, y in zip(chosen["LIFT R 5"], chosen["largest |W|"])])
    print(f"of LIFT's entries (R 5), {same:.0%} are among the largest |W|")
    for arm in list(ARMS)[1:]:
        gap = [y - x for x, y in zip(found["LIFT R 5"], found[arm])]
        m, sd = mean_sd(gap)
        verdict(f"LIFT R 5 below {arm}", m > 0 and sum(g > 0 for g in gap) >= 0.9 * len(gap), f"{m:.3f} ± {sd:.3f}, lower with {sum(g > 0 for g in gap)} of {len(gap)} seeds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
