"""rl_pairs.py's question on SmolLM2-135M-Instruct, as a bf16 directory: 20 updates of DPO with 4 pairs, own against foreign, from one start.

Prompts are "Question: …\\nAnswer:" with GSM8K's questions of at most 120 characters. Answers are sampled once and cut at the first line break; those
of at most 40 tokens count. Own pairs: one that ends in a number, one that does not. Foreign: GSM8K's last step and result, those of another question.

    python3 bench/experiments/rl_pairs_smollm.py [--model SmolLM2.gguf] [--updates 20] [--pairs 64]
"""
import json
import os
import random
import re
import sys

from common import Runs, arguments, data, read_rows, smollm2, table, verdict, write_rows

RATES = (1e-5, 5e-7)
NUMBER = re.compile(r"[0-9]\.?$")


def problems():
    """-> (question, last step and result of the answer)"""
    out = []
    for r in read_rows(data("gsm8k", "train.jsonl")):
        answer = " " + "\n".join(re.sub(r"<<[^>]*>>", "", r["answer"]).split("\n")[-2:])
        if len(r["question"]) <= 120 and len(answer) <= 120:
            out.append((f"Question: {r['question']}\nAnswer:", answer))
    return out


def sample(runs, model, asked, pairs, tries=6):
    """-> (prompt, reference, one that ends in a number, one that does not), until there are enough; and what was sampled"""
    out, count = [], {"sampled": 0, "ended": 0, "number": 0}
    for i, (q, reference) in enumerate(asked):
        good = bad = None
        for k in range(tries):
            r = runs.lines("generate", "-m", model, "-p", q, "-n", 40, "--temp", 1, "--top-k", 0, "--top-p", 1, "--min-p", 0, "--stop", "\n", "--seed", 100 * i + k)[-1]
            text = r["text"].rstrip("\n")
            ended, number = r["finish_reason"] == "stop" and bool(text.strip()) and "�" not in text, bool(NUMBER.search(text))
            count = {"sampled": count["sampled"] + 1, "ended": count["ended"] + ended, "number": count["number"] + (ended and number)}
            if ended and number:
                good = good or text
            elif ended:
                bad = bad or text
            if good and bad:
                out.append((q, reference, good, bad))
                break
        if len(out) == pairs:
            break
    return {"pairs": out, "count": count}


def last(out):
    """-> loss and accuracy of the last 5 updates' pairs"""
    with open(os.path.join(out, "log.jsonl"), encoding="utf-8") as f:
        steps = [e for e in map(json.loads, f) if e["event"] == "step"][-5:]
    return {k: sum(e[k] for e in steps) / len(steps) for k in ("loss", "accuracy")}


def main():
    p = arguments(__doc__, seeds=1)
    p.add_argument("--model")
    p.add_argument("--updates", type=int, default=20, help="of 4 pairs [20]")
    p.add_argument("--pairs", type=int, default=64, help="own pairs to sample [64]")
    a = p.parse_args()
    runs, base = Runs(a.lacuna, a.work), os.path.join(a.work, "start")
    if not os.path.exists(base):
        runs.lines("convert", "-m", smollm2(a.model), "-o", base, "--outtype", "bf16")
    got = runs.once("samples", [base, str(a.pairs)], lambda: sample(runs, base, problems(), a.pairs))
    print(f"{got['count']} → {len(got['pairs'])} pairs", flush=True)
    rng, rows = random.Random(3), {"own": [], "foreign": []}
    for q, reference, good, bad in got["pairs"]:
        rows["own"].append({"prompt": q, "chosen": good, "rejected": bad})
        rows["foreign"].append({"prompt": q, "chosen": reference, "rejected": rng.choice([x[1] for x in got["pairs"] if x[0] != q])})
    files = {k: write_rows(runs.path(f"{k}.jsonl"), r) for k, r in rows.items()}
    lines, found = [], {}
    for k, r in rows.items():
        chosen = write_rows(runs.path(f"nll-{k}.jsonl"), [{"prompt": x["prompt"], "completion": x["chosen"]} for x in r])
        nll = runs.once(f"nll {k}", [chosen, str(len(r))], lambda: runs.lines("eval", "-m", base, "-d", chosen)[-1]["loss"])
        print(f"{k}: {nll:.3f} nats a token of what is chosen", flush=True)
    for rate in RATES:
        for k in rows:
            out = runs.path(f"{k}-{rate:g}")
            r = runs.train(f"{k}-{rate:g}", "-m", base, "-d", files[k], "--objective", "dpo", "--method", "full", "--set", "outtype=f32", "--lr", rate,
                           "--schedule", "constant", "--warmup", 0, "--batch", 4, "--micro-batch", 8, "--seq", 96, "--dtype", "f32", "--seed", 1, "--steps", a.updates,
                           "--keep", 0, keep=True, then=last)
            d = {t: runs.once(f"diff {k} {rate:g} {t}", [base, out, t], lambda: runs.lines(
                "diff", base, out, "--dtype", t, "--tolerance", "1e-5", "--rank", 4, "--null-lr", rate, "--null-steps", a.updates)[-1]) for t in ("f32", "bf16")}
            found[rate, k] = d
            share = lambda which: [f"{d[t][which][x]:.2%}" for t in ("f32", "bf16") for x in ("0", "1e-05")]
            if k == "own":
                lines.append((f"{rate:g}", "*null model*", *share("null_model"), "", "", ""))
            lines.append((f"{rate:g}", k, *share("sparsity"), f"{d['f32']['rank_share']:.1%}", f"{r['loss']:.3f}", f"{r['accuracy']:.0%}"))
    table(("rate", "pairs", "f32, at 0", "f32, at 1e-5", "bf16, at 0", "bf16, at 1e-5", "rank (4 matrices)", "loss of the last 5 updates", "pairs in order"), lines)
    for rate in RATES:
        own, foreign = (found[rate, k]["bf16"]["sparsity"]["1e-05"] for k in ("own", "foreign"))
        verdict(f"own pairs leave more weights unchanged than foreign ones at {rate:g} (bf16, 1e-5; one seed)", own > foreign, f"{own:.2%}, {foreign:.2%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
