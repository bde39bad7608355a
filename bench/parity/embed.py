#!/usr/bin/env python3
"""Sentence embeddings: `lacuna embed` against the model's own reference code.

  embed.py --lacuna BIN --model DIR

DIR: all-MiniLM-L6-v2 or another sentence-transformers directory with mean pooling, as `lacuna_minilm` of scripts/deps.sh
unpacks it. The reference is the code of the model's README: transformers' AutoModel in f32, the mean of the hidden states
under the attention mask, normalised, one text at a time, cut to max_seq_length. Prints the largest distance between two unit
vectors and the least cosine; fails above a distance of 1e-5 in f32 and 5e-2 in bf16, and when tokens differ.
"""
import argparse
import json
import os
import subprocess
import sys

import torch
from transformers import AutoModel, AutoTokenizer

TEXTS = ["This is an example sentence", "Each sentence is converted", "A man is eating food.", "  spaces around  ",
         "The new movie is awesome, isn't it?", "Ça a été un déjeuner très agréable — 25 €!", "日本語のテキストと中文文本",
         "Привет, мир", "🙂 emoji and ascii", "naïve café résumé coöperate", "x", "UPPER lower MiXeD", "C++ & <html> $100,000.00",
         "word " * 400, "antidisestablishmentarianism " * 3, "tabs\tand\u00a0no-break\u3000spaces", "[CLS] literal [SEP] tokens",
         "0123456789 3.14159", "a" * 150, "How do I reset my password?"]


def reference(model_dir, texts):
    with open(os.path.join(model_dir, "sentence_bert_config.json")) as f:
        longest = json.load(f)["max_seq_length"]
    tok = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModel.from_pretrained(model_dir, dtype=torch.float32).eval()
    vectors, ids = [], []
    with torch.no_grad():
        for text in texts:
            enc = tok(text.strip(), padding=False, truncation=True, max_length=longest, return_tensors="pt")
            h = model(**enc)[0]
            mask = enc["attention_mask"].unsqueeze(-1).expand(h.size()).float()
            mean = (h * mask).sum(1) / torch.clamp(mask.sum(1), min=1e-9)
            vectors.append(torch.nn.functional.normalize(mean, p=2, dim=1)[0].double())
            ids.append(tok(text, add_special_tokens=False)["input_ids"])
    return torch.stack(vectors), ids


def lacuna(binary, *args, text):
    out = subprocess.run([binary, *args], input=text, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lacuna", required=True)
    p.add_argument("--model", required=True)
    args = p.parse_args()
    want, want_ids = reference(args.model, TEXTS)
    lines = "".join(json.dumps(t) + "\n" for t in TEXTS)
    ids = [r["ids"] for r in lacuna(args.lacuna, "tokenize", "-m", args.model, "--lines", "--json", text=lines)]
    bad = [t for t, a, b in zip(TEXTS, ids, want_ids) if a != b]
    for dtype, limit in (("f32", 1e-5), ("bf16", 5e-2)):
        rows = lacuna(args.lacuna, "embed", "-m", args.model, "-f", "-", "--json", "--dtype", dtype, "--quiet",
                      text="".join(t + "\n" for t in TEXTS))
        got = torch.tensor([r["embedding"] for r in rows], dtype=torch.float64)
        far, near = float((got - want).norm(dim=1).max()), float((got * want).sum(1).min())
        print(f"{dtype}: {len(TEXTS)} texts, largest distance {far:.2e}, least cosine {near:.8f}")
        if not far <= limit:
            bad.append(f"{dtype}: {far:.2e} > {limit}")
    for b in bad:
        print("FAILED", b[:80])
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
