#!/usr/bin/env python3
"""Draws `lacuna bench train --sweep AXIS --json`: a step's time and the peak of memory against each axis, as one SVG.

    bench/peers/sweep_plot.py OUT.svg SWEEP.json [SWEEP.json ...]
"""
import json, math, sys

W, H, PAD = 250, 150, 44
LABEL = {"seq": "tokens a row", "density": "density", "batch": "rows an update", "layers": "layers"}


def panel(x0, y0, title, xs, ys, log):
    """Points and line of one quantity; the vertical axis begins at 0."""
    fx = (lambda v: math.log(v)) if log else (lambda v: v)
    lo, hi, top = fx(xs[0]), fx(xs[-1]), max(ys) * 1.1
    at = [(x0 + PAD + (fx(x) - lo) / ((hi - lo) or 1) * W, y0 + H - y / top * H) for x, y in zip(xs, ys)]
    out = [f'<text x="{x0 + PAD}" y="{y0 - 8}" font-weight="bold">{title}</text>',
           f'<path d="M{x0 + PAD} {y0}V{y0 + H}H{x0 + PAD + W}" fill="none" stroke="#888"/>',
           f'<polyline fill="none" stroke="#2a6fb0" stroke-width="2" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in at)}"/>']
    for (px, py), x, y in zip(at, xs, ys):
        out += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="#2a6fb0"/>',
                f'<text x="{px:.1f}" y="{py - 7:.1f}" text-anchor="middle">{y:.3g}</text>',
                f'<text x="{px:.1f}" y="{y0 + H + 14}" text-anchor="middle">{x:g}</text>']
    return out


def main():
    out, *files = sys.argv[1:] or sys.exit(__doc__)
    by_axis = {}
    for name in files:
        with open(name) as f:
            for r in json.load(f)["rows"]:
                by_axis.setdefault(r["axis"], []).append(r)
    width, height = PAD + len(by_axis) * (W + PAD + 24), 2 * (H + 60) + 20
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="10">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    for i, (axis, rows) in enumerate(by_axis.items()):
        rows.sort(key=lambda r: r["at"])
        xs = [r["at"] for r in rows]
        x0 = i * (W + PAD + 24)
        svg += panel(x0, 30, f"seconds an update by {LABEL[axis]}", xs, [r["seconds"] for r in rows], axis != "layers")
        svg += panel(x0, 30 + H + 60, f"peak memory, MiB, by {LABEL[axis]}", xs, [r["peak_rss_mib"] for r in rows], axis != "layers")
    with open(out, "w") as f:
        f.write("\n".join(svg + ["</svg>\n"]))


if __name__ == "__main__":
    main()
