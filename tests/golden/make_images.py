#!/usr/bin/env python3
"""Writes the golden pictures: small PNG and JPEG files of each kind with the RGB bytes that Pillow reads from them, and resized ones.
Fixed seed, the same files each time (with one version of Pillow). README.md beside this file says what each file holds."""
import os

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "images")
W, H = 23, 17


def picture(rng, channels):
    """Smooth waves with some noise: neighbours are alike, as in photographs."""
    y, x = np.mgrid[0:H, 0:W]
    waves = [127 + 100 * np.sin(x / (3 + c) + y / (5 - c) + c) for c in range(channels)]
    return np.clip(np.stack(waves, -1) + rng.normal(0, 8, (H, W, channels)), 0, 255).astype(np.uint8)


def main():
    os.makedirs(OUT, exist_ok=True)
    rng = np.random.default_rng(1)
    rgb, grey = Image.fromarray(picture(rng, 3)), Image.fromarray(picture(rng, 1)[..., 0])
    kinds = {
        "rgb.png": (rgb, {}), "rgba.png": (Image.fromarray(picture(rng, 4)), {}), "grey.png": (grey, {}),
        "grey-alpha.png": (Image.merge("LA", (grey, grey.transpose(Image.Transpose.ROTATE_180))), {}),
        "bits.png": (grey.convert("1"), {}), "palette.png": (rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=13), {}),
        "clear-palette.png": (rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=5), {"transparency": 2}),
        "444.jpg": (rgb, {"quality": 90, "subsampling": 0}), "420.jpg": (rgb, {"quality": 75, "subsampling": 2}),
        "progressive.jpg": (rgb, {"quality": 80, "progressive": True}), "grey.jpg": (grey, {"quality": 85}),
    }
    expected = {}
    for name, (im, how) in kinds.items():
        path = os.path.join(OUT, name)
        im.save(path, **how)
        expected[name] = np.asarray(Image.open(path).convert("RGB"))
    rgb.convert("CMYK").save(os.path.join(OUT, "cmyk.jpg"))
    for f in ("NEAREST", "LANCZOS", "BILINEAR", "BICUBIC", "BOX"):
        for w, h in ((23, 17), (9, 5), (40, 31), (23, 8), (1, 1), (7, 60)):
            expected[f"{f.lower()}-{w}x{h}"] = np.asarray(rgb.resize((w, h), Image.Resampling[f]))
    expected["luma"] = np.asarray(rgb.convert("L"))
    save_file(expected, os.path.join(OUT, "pillow.safetensors"))


if __name__ == "__main__":
    main()
