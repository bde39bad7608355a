#!/usr/bin/env python3
"""Does a ViT see what transformers sees? The loss and accuracy of a model's directory on an IDX file's first pictures, by lacuna and by
transformers with the directory's own image processor (Pillow's resizing). Prints both; exit 1 when the losses are more than 1e-5 apart.

    python bench/parity/pictures.py MODEL IMAGES.gz [--limit 200] [--lacuna build/lacuna]
"""
import argparse
import gzip
import json
import os
import subprocess
import sys

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, ViTImageProcessorPil

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def idx(path):
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as f:
        data = f.read()
    n = data[3]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * n).reshape([int.from_bytes(data[4 + 4 * i:8 + 4 * i], "big") for i in range(n)])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("images")
    p.add_argument("--limit", type=int, default=200)
    p.add_argument("--lacuna", default=os.path.join(ROOT, "build", "lacuna"))
    a = p.parse_args()
    pictures, labels = idx(a.images)[:a.limit], idx(a.images.replace("images-idx3", "labels-idx1"))[:a.limit]
    model = AutoModelForImageClassification.from_pretrained(a.model).eval()
    processor = ViTImageProcessorPil.from_pretrained(a.model)
    grey = model.config.num_channels == 1
    size, mean, std = (processor.size["width"], processor.size["height"]), np.array(processor.image_mean), np.array(processor.image_std)
    x = np.stack([np.asarray(Image.fromarray(im).convert("L" if grey else "RGB").resize(size, Image.Resampling(processor.resample)), np.float64)
                  for im in pictures])
    x = x[..., None] if grey else x
    x = torch.tensor(((x * processor.rescale_factor - mean) / std).transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.no_grad():
        out = model(pixel_values=x, labels=torch.tensor(labels.astype(np.int64)))
    theirs = {"loss": float(out.loss), "accuracy": float((out.logits.argmax(-1).numpy() == labels).mean())}
    r = subprocess.run([a.lacuna, "eval", "-m", a.model, "-d", a.images, "--metric", "accuracy", "--limit", str(a.limit), "--json", "--quiet"],
                       capture_output=True, text=True, check=True)
    ours = json.loads(r.stdout)
    print(f"transformers: loss {theirs['loss']:.7f}, accuracy {theirs['accuracy']:.4f}; lacuna: loss {ours['loss']:.7f}, "
          f"accuracy {ours['value']:.4f}")
    return 0 if abs(ours["loss"] - theirs["loss"]) <= 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
