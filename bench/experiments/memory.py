"""What does training need in memory? SpIEL-AG on SmolLM2-135M-Instruct at 1 %, beside SHiRA, LoRA and the base alone.

The figures are those of the program's own allocator, by category: state that survives an update, candidates, gradients, and the plan of
activations. The bounds for AG are 20 bytes an active entry, 12 a candidate (as many as entries), 4 more each for the gradients. Peak RSS
is the kernel's figure for the process; the model's file is mapped and counts as far as it was read.

    python3 bench/experiments/memory.py [--model SmolLM2.gguf]
"""
import json
import os
import subprocess
import sys
import tempfile

from common import arguments, data, read_rows, smollm2, table, verdict, write_rows


def measured(program, *argv):
    """-> the call's last JSON object, peak RSS in MiB"""
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen([program, *map(str, argv), "--json", "--quiet"], stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(f"{program} {' '.join(map(str, argv))}: exit {child.returncode}")
        out.seek(0)
        return json.loads(out.read().splitlines()[-1]), usage.ru_maxrss / 1024


def main():
    p = arguments(__doc__)
    p.add_argument("--model", help="the GGUF; else scripts/deps.sh finds or fetches it")
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--seq", type=int, default=64)
    a = p.parse_args()
    rows = [{"text": r["answer"]} for r in read_rows(data("gsm8k", "train.jsonl"))[:64]]
    model = smollm2(a.model)
    os.makedirs(a.work, exist_ok=True)
    train, few = (write_rows(os.path.join(a.work, n), r) for n, r in (("train.jsonl", rows), ("few.jsonl", rows[:2])))
    _, base = measured(a.lacuna, "eval", "-m", model, "-d", few, "--dtype", "bf16")
    lines, spiel = [("base, forward only", *"–––––", f"{base:.0f}")], None
    for name, method, sets in (("spiel, ag", "spiel", ["period=4", "accumulate=2"]), ("shira, random", "shira", []), ("lora, r = 8", "lora", [])):
        done, peak = measured(a.lacuna, "train", "-m", model, "-d", train, "--method", method, *(x for s in sets for x in ("--set", s)),
                              "--steps", 6, "--batch", a.batch, "--seq", a.seq, "--seed", 1, "-o", os.path.join(a.work, method), "--overwrite")
        spiel = spiel or done
        mib = 1 << 20
        parts = [f"{done[k] / mib:.1f}" for k in ("state_bytes", "candidate_bytes", "gradient_bytes", "plan_bytes")]
        lines.append((name, done["trainable"], *parts, f"{peak:.0f}"))
        print(f"  {name}: {done['state_bytes']} bytes of state, {done['state_bytes'] / done['trainable']:.2f} a trained value", flush=True)
    print()
    table(("run", "trained values", "state, MiB", "candidates", "gradients", "plan", "peak RSS, MiB"), lines)
    n, ok = spiel["trainable"], True
    for what, key, each in (("20 bytes of state an entry", "state_bytes", 20), ("12 bytes a candidate", "candidate_bytes", 12),
                            ("4 bytes of gradient an entry and a candidate", "gradient_bytes", 8)):
        ok &= verdict(f"AG: at most {what}", spiel[key] <= each * n, f"{spiel[key]} of {each * n}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
