#!/usr/bin/env python3
"""SpIEL in NumPy, f64: the trajectory that lacuna's own has to follow.

Source: "Scaling Sparse Fine-Tuning to Large Language Models", Ansell et al. 2024, arXiv 2401.16405. Written from the method's
description before the C existed, and sharing nothing with it. SPIEL.md beside this file defines the exchange.

  spiel_numpy.py DIR OUT.safetensors     reads DIR/spiel.json and DIR/inputs.safetensors

A layer's state is a set of K flat positions i = row·N + column and f64 values δ, with m, v, age (AG) or, for the layer, row and
column accumulators r [M], q [N] (MA). One update:

  gradient     y = x (W + δ)ᵀ, loss = Σ ½(y − target)² / rows of the update, dW = dyᵀ x, g = dW at the positions
  AG (AdamW)   m ← β1 m + (1 − β1) g;  v ← β2 v + (1 − β2) g²
               δ ← δ − lr · m/(1 − β1^age) / ((√v + ε)/√(1 − β2^age));  δ ← δ (1 − lr wd);  age ← age + 1
  MA (SM3)     u = min(r_row, q_col) + g²;  r_row ← max(r_row, u), q_col ← max(q_col, u);  δ ← δ − lr g/√(u + ε);  decay
  window       (AG) opens before the first update and when (c + 1) mod S = 0, c the finished updates. At its first backward pass,
               that of micro-batch 0, the K positions of largest |dW| become candidates; each update's gradient there adds to G,
               its square to Q, and s counts the updates
  reselection  when c mod S = A: see `reselect_ag` and `reselect_ma`
"""
import json
import math
import os
import sys

import numpy as np


def largest(score, n):
    """Positions of the n largest scores: ties go to the lower position. -> positions in that order"""
    return np.lexsort((np.arange(score.size), -score))[:n]


class Margin:
    """How near the nearest choice was: the relative distance over the boundary between what was taken and what was not. Where
    the two are exactly equal (MA: r_i q_j and r_j q_i often are) the rule for ties decides, and the distance is to the
    nearest score that differs. A program in f32 can be asked to choose alike where this is well above its rounding."""

    def __init__(self):
        self.smallest = math.inf

    def note(self, score, n):
        if not 0 < n < score.size:
            return
        s = np.sort(score)[::-1]
        scale = max(abs(s[n - 1]), abs(s[n]))
        gaps = np.abs(s - s[n])[s != s[n]] if s[n - 1] == s[n] else s[n - 1:n] - s[n]
        if scale and gaps.size:
            self.smallest = min(self.smallest, float(gaps.min()) / scale)


class Layer:
    def __init__(self, W, index, ma):
        self.W = W.astype(np.float64)
        self.M, self.N = W.shape
        self.index = np.array(index, dtype=np.int64)
        k = self.index.size
        assert k == np.unique(self.index).size and self.index.min() >= 0 and self.index.max() < W.size
        self.value = np.zeros(k)
        self.ma = ma
        if ma:
            self.r, self.q = np.zeros(self.M), np.zeros(self.N)
        else:
            self.m, self.v, self.age = np.zeros(k), np.zeros(k), np.ones(k, dtype=np.int64)
        self.window = None

    def weight(self):
        w = self.W.copy().reshape(-1)
        w[self.index] += self.value
        return w.reshape(self.W.shape)

    def sort(self):
        order = np.argsort(self.index)
        for name in ("index", "value") + (() if self.ma else ("m", "v", "age")):
            setattr(self, name, getattr(self, name)[order])


def gradients(layer, x, target, rows):
    """x [T, N], target [T, M] of one micro-batch -> loss, dW [M, N]; both over the update's number of rows."""
    dy = (x @ layer.weight().T - target) / rows
    return 0.5 * float((dy * dy).sum()) * rows, dy.T @ x


def collect(layer, dw, first, reference, margin):
    """A window's part in one micro-batch's backward pass."""
    w = layer.window
    flat = dw.reshape(-1)
    if w["at"] is None:
        margin.note(np.abs(flat), layer.index.size)
        w["at"] = largest(np.abs(flat), layer.index.size)
        w["G"], w["Q"], w["s"] = np.zeros(w["at"].size), np.zeros(w["at"].size), 0
    g = flat[w["at"]]
    if reference:  # the authors' code: micro-batches are what is summed and counted
        w["G"] += g
        w["Q"] += g * g
        w["s"] += 1
    else:
        w["update"] = g if first else w["update"] + g


def close_update(layer):
    """The end of an update inside a window: its gradient is complete."""
    w = layer.window
    w["G"] += w["update"]
    w["Q"] += w["update"] ** 2
    w["s"] += 1


def step_adamw(layer, g, lr, h):
    b1, b2, t = h["beta1"], h["beta2"], layer.age
    layer.m = b1 * layer.m + (1 - b1) * g
    layer.v = b2 * layer.v + (1 - b2) * g * g
    layer.value = layer.value - lr * (layer.m / (1 - b1 ** t)) / ((np.sqrt(layer.v) + h["eps"]) / np.sqrt(1 - b2 ** t))
    layer.value = layer.value * (1 - lr * h["weight_decay"])
    layer.age = layer.age + 1


def step_sm3(layer, g, lr, h):
    row, col = layer.index // layer.N, layer.index % layer.N
    u = np.minimum(layer.r[row], layer.q[col]) + g * g
    np.maximum.at(layer.r, row, u)
    np.maximum.at(layer.q, col, u)
    layer.value = layer.value - lr * g / np.sqrt(u + h["eps"])
    layer.value = layer.value * (1 - lr * h["weight_decay"])


def share(c, first, h):
    """The fraction p of the active entries that a reselection after c updates offers for replacement."""
    if h["policy"] == "linear":
        return 1.0 if first else h["p0"] * (1 - c / h["planned"])
    return h["p0"] * (1 + math.cos(math.pi * c / h["planned"])) / 2


def outgoing(layer, n, margin):
    """The n active entries of smallest |δ|, in ascending order, ties to the lower position."""
    size = np.abs(layer.value)
    margin.note(-size, n)
    return np.lexsort((layer.index, size))[:n]


def reselect_ag(layer, p, h, micro_batches, margin):
    w, n = layer.window, math.floor(layer.index.size * p)
    out = outgoing(layer, n, margin)                               # O, as places in the layer's arrays
    leaving = set(layer.index[out].tolist())
    staying = set(layer.index.tolist()) - leaving
    keep = np.array([i not in staying for i in w["at"].tolist()], dtype=bool)
    at, G, Q = w["at"][keep], w["G"][keep], w["Q"][keep]
    n = min(n, at.size)
    margin.note(np.abs(G), n)
    best = np.lexsort((at, -np.abs(G)))[:n]                        # I, as places among the candidates
    both = leaving & set(at[best].tolist())                        # these stay with all that they are
    out = [o for o in out.tolist() if int(layer.index[o]) not in both]
    best = [b for b in best.tolist() if int(at[b]) not in both]
    margin.note(-np.abs(layer.value[out]), len(best))
    out = out[:len(best)]                                          # ascending in |δ|: the smallest go
    if h["reference"]:
        a = age = w["s"] / micro_batches
    else:
        a = w["s"]
        age = a + 1                                                # a fresh entry's first update uses age 1: this one's, a + 1
    assert len(out) == len(best)
    for o, b in zip(out, best):
        layer.index[o], layer.value[o] = at[b], 0.0
        layer.m[o] = G[b] / w["s"] * (1 - h["beta1"] ** a)
        layer.v[o] = Q[b] / w["s"] * (1 - h["beta2"] ** a)
        layer.age[o] = age
    layer.window = None
    layer.sort()
    return len(out)


def reselect_ma(layer, p, margin):
    n = math.floor(layer.index.size * p)
    score = np.outer(layer.r, layer.q).reshape(-1)
    inactive = np.setdiff1d(np.arange(score.size), layer.index)    # ascending: ties go to the lower position
    n = min(n, inactive.size)
    out = outgoing(layer, n, margin)
    margin.note(score[inactive], n)
    layer.index[out] = inactive[largest(score[inactive], n)]
    layer.value[out] = 0.0
    layer.sort()
    return n


def run(h, inputs):
    """-> {name: array} of the trajectory, smallest margin of all choices, number of swaps"""
    ma, reference = h["variant"] == "ma", h["reference"]
    assert 0 < h["A"] < h["S"]
    layers = [Layer(inputs[f"W.{l}"], inputs[f"index.{l}"], ma) for l in range(h["layers"])]
    x = [inputs[f"x.{l}"].astype(np.float64) for l in range(h["layers"])]
    target = [inputs[f"target.{l}"].astype(np.float64) for l in range(h["layers"])]
    trace = {"loss": []}
    margin, swaps, first = Margin(), 0, True
    for layer in layers:
        layer.sort()
    for c in range(h["steps"]):                                    # c updates are finished
        if not ma and (c == 0 or (c + 1) % h["S"] == 0):
            for layer in layers:
                layer.window = {"at": None}
        loss = 0.0
        for l, layer in enumerate(layers):
            micro, rows = x[l].shape[1], x[l].shape[1] * x[l].shape[2]
            g = np.zeros(layer.index.size)
            for b in range(micro):
                part, dw = gradients(layer, x[l][c, b], target[l][c, b], rows)
                loss += part
                g += dw.reshape(-1)[layer.index]
                if layer.window is not None:
                    collect(layer, dw, b == 0, reference, margin)
            if layer.window is not None and not reference:
                close_update(layer)
            (step_sm3 if ma else step_adamw)(layer, g, h["lr"][c], h)
        done = c + 1
        if done % h["S"] == h["A"]:
            p = share(done, first, h)
            for l, layer in enumerate(layers):
                swaps += reselect_ma(layer, p, margin) if ma else reselect_ag(layer, p, h, x[l].shape[1], margin)
            first = False
        trace["loss"].append(loss)
        for l, layer in enumerate(layers):
            for name in ("index", "value") + (("r", "q") if ma else ("m", "v", "age")):
                trace.setdefault(f"{name}.{l}", []).append(np.array(getattr(layer, name)))
    types = {"index": np.int64, "age": np.int32}
    return {k: np.stack(v).astype(types.get(k.split(".")[0], np.float32)) for k, v in trace.items()}, margin.smallest, swaps


def main():
    from safetensors.numpy import load_file, save_file
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(os.path.join(sys.argv[1], "spiel.json")) as f:
        h = json.load(f)
    trace, margin, swaps = run(h, load_file(os.path.join(sys.argv[1], "inputs.safetensors")))
    save_file(trace, sys.argv[2])
    print(f"loss {trace['loss'][0]:.5f} to {trace['loss'][-1]:.5f}, {swaps} swaps, smallest margin of a choice {margin:.1e}")


if __name__ == "__main__":
    main()
