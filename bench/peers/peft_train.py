#!/usr/bin/env python3
"""Trains with PyTorch and PEFT as a user would, for speed and memory beside lacuna's `bench train`. One JSON object on stdout.

  peft_train.py -m MODEL --method lora|shira|full [--dtype bf16|f32] [--seq T] [--batch B] [--steps N] [--rank R] [--threads N]

Random token ids (nothing depends on them), or rows of --ids in their order, all T − 1 of a row scored, AdamW, clip 1.0, SDPA attention.
The first steps are warm-up and are not timed. bf16: weights in bf16 and PEFT's adapters in f32, its default; full: weights and AdamW's
state in that dtype. --adapter starts from a PEFT directory; --events prints a JSON line a step, for train_compare.py.
"""
import argparse
import json
import os
import resource
import sys
import time


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--method", choices=["lora", "shira", "full"], required=True)
    p.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    p.add_argument("--seq", type=int, default=512)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--micro-batch", type=int, help="rows at once (the batch)")
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--warmup", type=int, default=1, help="steps before the clock starts")
    p.add_argument("--rank", type=int, help="lora 8, shira 4")
    p.add_argument("--checkpointing", action="store_true", help="recompute activations in backward")
    p.add_argument("--lr", type=float, default=1e-4)
    p.add_argument("--adapter", help="a PEFT directory to start from")
    p.add_argument("--ids", help="JSON: rows of T token ids, used in their order, over and over")
    p.add_argument("--events", action="store_true")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = p.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[args.dtype]
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, attn_implementation="sdpa")
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rank = args.rank or {"lora": 8, "shira": 4, "full": 0}[args.method]
    if args.adapter:
        from peft import PeftModel
        model = PeftModel.from_pretrained(model, args.adapter, is_trainable=True)
    elif args.method != "full":
        from peft import LoraConfig, ShiraConfig, get_peft_model
        linear = "all-linear"
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linear) if args.method == "lora" else \
            ShiraConfig(r=rank, target_modules=linear, random_seed=1)
        model = get_peft_model(model, config)
    if args.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if args.method != "full":
            model.enable_input_require_grads()
    model.train()
    trained = [q for q in model.parameters() if q.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, weight_decay=0.0)
    micro = args.micro_batch or args.batch
    if args.batch % micro:
        p.error(f"--batch {args.batch} is no multiple of --micro-batch {micro}")
    rows = torch.tensor(json.load(open(args.ids))) if args.ids else None
    seconds, losses = [], []
    for step in range(args.warmup + args.steps):
        if rows is None:
            ids = torch.randint(0, model.config.vocab_size, (args.batch, args.seq))
        else:
            ids = rows[[(step * args.batch + i) % len(rows) for i in range(args.batch)]]
        start, total = time.perf_counter(), 0.0
        for i in range(0, args.batch, micro):
            loss = model(input_ids=ids[i:i + micro], labels=ids[i:i + micro]).loss * (micro / args.batch)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
        if step >= args.warmup:
            seconds.append(time.perf_counter() - start)
        if args.events:
            print(json.dumps(dict(event="step", step=step + 1, loss=total)), flush=True)
        else:
            print(f"step {step + 1}: loss {total:.4f}", file=sys.stderr)
    tokens = args.batch * args.seq
    best = sorted(seconds)[len(seconds) // 2]
    json.dump(dict(
        program="pytorch+peft", torch=torch.__version__, method=args.method, rank=rank, dtype=args.dtype, seq=args.seq,
        batch=args.batch, micro_batch=micro, steps=args.steps, threads=args.threads, checkpointing=args.checkpointing,
        trainable=sum(q.numel() for q in trained), seconds_per_step=best, tokens_per_s=tokens / best,
        loaded_rss_mib=loaded / 1024, peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        loss=losses[-1]), sys.stdout)
    print()


if __name__ == "__main__":
    main()
