#!/usr/bin/env python3
"""Classifiers and PEFT: adapters with a head go both ways between lacuna and PEFT.

  heads.py --lacuna BIN --model DIR      DIR: an encoder's Hugging Face directory, e.g. all-MiniLM-L6-v2

Trains LoRA and SHiRA adapters with a new head on made-up rows here, loads each in PEFT over transformers' classifier and wants
the same mean loss to 1e-4 and the same predictions; then makes a LoRA with a head in PEFT, saves it, and wants the same loss here.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

GOOD, BAD, OTHER = "good great fine lovely nice warm".split(), "bad awful poor ugly cold sad".split(), "the of to film day it was very old".split()


def rows(n, seed):
    rng = random.Random(seed)
    out = []
    for _ in range(n):
        good = rng.random() < 0.5
        words = [rng.choice(OTHER) for _ in range(rng.randint(3, 12))]
        words.insert(rng.randrange(len(words)), rng.choice(GOOD if good else BAD))
        out.append({"text": " ".join(words), "label": "good" if good else "bad"})
    return out


def write_rows(path, list_):
    with open(path, "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in list_)


def score(model, tok, test, names):
    """-> mean loss, predicted names; one row at a time, so nothing is padded."""
    loss, predicted = 0.0, []
    with torch.no_grad():
        for r in test:
            logits = model(**tok(r["text"], return_tensors="pt")).logits[0].double()
            loss -= torch.log_softmax(logits, 0)[names.index(r["label"])].item()
            predicted.append(names[int(logits.argmax())])
    return loss / len(test), predicted


def lacuna(binary, *args):
    return subprocess.run([binary, *args], check=True, capture_output=True, text=True).stdout


def here(args, adapter, test, tmp):
    log = os.path.join(tmp, "log.jsonl")
    out = json.loads(lacuna(args.lacuna, "eval", "-m", args.model, "-a", adapter, "-d", test, "--metric", "accuracy", "--json",
                            "--log-samples", log, "--quiet"))
    with open(log) as f:
        return out["loss"], [json.loads(line)["predicted"] for line in f]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lacuna", required=True)
    p.add_argument("--model", required=True)
    args = p.parse_args()
    tok, bad, names = AutoTokenizer.from_pretrained(args.model), 0, ["bad", "good"]
    with tempfile.TemporaryDirectory() as tmp:
        train, test, held = os.path.join(tmp, "train.jsonl"), os.path.join(tmp, "test.jsonl"), rows(60, 2)
        write_rows(train, rows(120, 1))
        write_rows(test, held)
        for method in ("lora", "shira"):
            out = os.path.join(tmp, method)
            lacuna(args.lacuna, "train", "-m", args.model, "-d", train, "--task", "classification", "--method", method,
                   *(["--set", "r=2"] if method == "shira" else []), "--steps", "12", "--batch", "8", "--seq", "32",
                   "--lr", "1e-3", "--dtype", "f32", "-o", out, "--quiet")
            base = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2, dtype=torch.float32)
            theirs, ours = score(PeftModel.from_pretrained(base, out).eval(), tok, held, names), here(args, out, test, tmp)
            good = abs(theirs[0] - ours[0]) < 1e-4 and theirs[1] == ours[1]
            bad += not good
            print(f"{'ok  ' if good else 'FAIL'} {method}: loss here {ours[0]:.6f}, in PEFT {theirs[0]:.6f}")
        torch.manual_seed(3)
        base = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2, dtype=torch.float32)
        model = get_peft_model(base, LoraConfig(task_type=TaskType.SEQ_CLS, r=4, lora_alpha=8, init_lora_weights=False,
                                                target_modules=["query", "value", "output.dense"])).eval()
        made = os.path.join(tmp, "made")
        model.save_pretrained(made)
        names = ["LABEL_0", "LABEL_1"]
        numbered = [{"text": r["text"], "label": names[int(r["label"] == "good")]} for r in held]
        write_rows(test, numbered)
        theirs, ours = score(model, tok, numbered, names), here(args, made, test, tmp)
        good = abs(theirs[0] - ours[0]) < 1e-4 and theirs[1] == ours[1]
        bad += not good
        print(f"{'ok  ' if good else 'FAIL'} made by PEFT: loss here {ours[0]:.6f}, in PEFT {theirs[0]:.6f}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
