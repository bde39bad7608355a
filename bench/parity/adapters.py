"""The checks of run.py that have to do with adapters: PEFT in both directions, training, merged GGUFs in llama.cpp."""
import json
import os
import tempfile

import numpy as np
import reference as ref
import tiny
import torch

LIMIT = 1e-3
LETTERS = "abcdefghijklmnopqrstuvwxyz    .,"
LLAMA_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GPT2_LINEAR = ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]


def base_model(rng, out, family="llama", **fixed):
    """A random model with a tokenizer, f32 -> (config, ids)"""
    draw = tiny.draw_gpt2 if family == "gpt2" else tiny.draw_llama
    while True:
        config = draw(rng, vocab_size=tiny.VOCAB, **fixed)
        ids = [rng.randrange(3, tiny.VOCAB) for _ in range(rng.randrange(20, 50))]
        try:
            model, _ = ref.random_model(config, rng.getrandbits(31), ids)
            break
        except RuntimeError:
            continue
    tiny.save(rng, model, out, plain=True)
    tiny.tokenizer().save_pretrained(out)
    return config, ids


def peft_logits(base, adapter, ids):
    from peft import PeftModel
    return ref.logits_of(PeftModel.from_pretrained(ref.load_model(base), adapter).eval(), ids)


def text(rng, lo, hi):
    return "".join(rng.choice(LETTERS) for _ in range(rng.randrange(lo, hi))).strip() or "a"


def write_rows(rng, path, n, lo=8, hi=30):
    """JSONL of prompt and completion -> the rows"""
    rows = [{"prompt": text(rng, 3, 10) + "\n", "completion": text(rng, lo, hi)} for _ in range(n)]
    with open(path, "w") as f:
        for row in rows:
            f.write(json.dumps(row) + "\n")
    return rows


def randomise(model, rng, scale):
    """Nonzero values in all trainable tensors of a PEFT model, and SHiRA positions that differ by layer and are unsorted."""
    from peft.tuners.shira.layer import ShiraLayer
    g = torch.Generator().manual_seed(rng.getrandbits(31))
    for module in model.modules():
        if isinstance(module, ShiraLayer):
            flat = torch.randperm(module.in_features * module.out_features, generator=g)[:module.shira_weight["default"].numel()]
            module.shira_indices["default"] = torch.stack([flat // module.in_features, flat % module.in_features]).to(torch.int)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(scale * torch.empty(p.shape).normal_(generator=g))


def draw_lora(rng, family):
    from peft import LoraConfig
    linear = GPT2_LINEAR if family == "gpt2" else LLAMA_LINEAR
    targets = rng.choice(["all-linear", rng.sample(linear, rng.randrange(1, len(linear) + 1))])
    patterns = {}
    if rng.random() < 0.5 and targets != "all-linear":
        # in the order in which PEFT writes them, which is the order in which it will match them when it reads
        ranks = {rng.choice(targets): rng.randrange(1, 5), "h.0.mlp.c_proj": 2, "layers.0.self_attn.q_proj": 1}
        patterns = dict(rank_pattern=dict(sorted(ranks.items())), alpha_pattern={rng.choice(targets): rng.randrange(1, 9)})
    return LoraConfig(r=rng.randrange(1, 6), lora_alpha=rng.randrange(1, 12), use_rslora=rng.random() < 0.4,
                      target_modules=targets, fan_in_fan_out=family == "gpt2", **patterns)


def draw_shira(rng):
    from peft import ShiraConfig
    return ShiraConfig(r=rng.randrange(1, 3), target_modules=rng.sample(LLAMA_LINEAR, rng.randrange(1, 8)))


def from_peft(score, lacuna, rng, tmp):
    """PEFT writes, lacuna reads."""
    from peft import get_peft_model
    family = rng.choice(["llama", "llama", "gpt2"])
    kind = "lora" if family == "gpt2" else rng.choice(["lora", "shira"])
    base, out = os.path.join(tmp, "base"), os.path.join(tmp, "adapter")
    config, ids = base_model(rng, base, family)
    model = get_peft_model(ref.load_model(base), draw_lora(rng, family) if kind == "lora" else draw_shira(rng))
    randomise(model, rng, 0.2)
    model.save_pretrained(out)
    want = peft_logits(base, out, ids)
    moved = ref.relative(want, ref.logits_of(ref.load_model(base), ids))
    got, _ = lacuna.logits(base, ids, os.path.join(tmp, "l.safetensors"), "-a", out)
    score.limit(f"PEFT's {kind} read here, {tiny.describe(config)}, moves logits by {moved:.2f}", ref.relative(got, want), LIMIT)


def to_peft(score, lacuna, rng, tmp):
    """lacuna trains and writes, PEFT reads."""
    family = rng.choice(["llama", "llama", "gpt2"])
    kind = "lora" if family == "gpt2" else rng.choice(["lora", "shira"])
    base, out, data = (os.path.join(tmp, x) for x in ("base", "adapter", "data.jsonl"))
    config, ids = base_model(rng, base, family)
    write_rows(rng, data, 8)
    lacuna.lines("train", "-m", base, "-d", data, "--method", kind, "--steps", 6, "--batch", 4, "--lr", 0.05, "--dtype", "f32",
                 *(["--density", round(rng.uniform(0.02, 0.1), 3)] if kind == "shira" else
                   ["--set", f"r={rng.randrange(1, 6)}", "--set", f"rslora={rng.choice(['true', 'false'])}"]), "-o", out)
    want = peft_logits(base, out, ids)
    moved = ref.relative(want, ref.logits_of(ref.load_model(base), ids))
    got, _ = lacuna.logits(base, ids, os.path.join(tmp, "l.safetensors"), "-a", out)
    what = f"{kind} trained here, {tiny.describe(config)}"
    score.true(f"{what}: moves logits by {moved:.2e}", moved > 1e-3)
    score.limit(f"{what}: in PEFT", ref.relative(got, want), LIMIT)


def adapters(score, lacuna, rng, args):
    for _ in range(args.count):
        for check in (from_peft, to_peft):
            with tempfile.TemporaryDirectory() as tmp:
                score.attempt(check.__name__, check, score, lacuna, rng, tmp)


def encode_rows(tok, rows):
    """prompt + completion + end token; labels beside ids, the completion and its end are targets."""
    out = []
    for row in rows:
        prompt = tok(row["prompt"], add_special_tokens=False)["input_ids"]
        rest = tok(row["completion"], add_special_tokens=False)["input_ids"] + [tok.eos_token_id]
        out.append((prompt + rest, [ref.IGNORE] * len(prompt) + rest))
    return out


def train_in_peft(base, adapter, rows, h):
    """-> losses, {name in the adapter's file: final factor}. Rows in their order, `batch` an update, over and over."""
    from peft import PeftModel
    from transformers import get_linear_schedule_with_warmup
    model = PeftModel.from_pretrained(ref.load_model(base), adapter, is_trainable=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=h["lr"], betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, h["warmup"], h["steps"])
    losses = []
    for step in range(h["steps"]):
        batch = [rows[(step * h["batch"] + i) % len(rows)] for i in range(h["batch"])]
        width = max(len(ids) for ids, _ in batch)
        pad = [(ids + [0] * (width - len(ids)), labels + [ref.IGNORE] * (width - len(ids)), [1] * len(ids) + [0] * (width - len(ids)))
               for ids, labels in batch]
        ids, labels, mask = (torch.tensor(x) for x in zip(*pad))
        loss = model(input_ids=ids, labels=labels, attention_mask=mask).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses, {k.replace(".default", ""): p.detach().numpy() for k, p in model.named_parameters() if p.requires_grad}


def learn_from(score, lacuna, rng, tmp, base, what, h, rows_n=8):
    """50 updates here and in PEFT from one start. The start is written by a run of one update at a rate of 1e-30, which moves
    nothing in f32: the run that follows has the same seed, hence the same start, and PEFT loads the file."""
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer
    start, out, data = (os.path.join(tmp, x) for x in ("start", "out", "data.jsonl"))
    rows = write_rows(rng, data, rows_n)
    common = ["train", "-m", base, "-d", data, "--method", "lora", "--set", f"r={h['r']}", "--set", f"alpha={h['alpha']}",
              "--seed", h["seed"], "--no-shuffle", "--batch", h["batch"], "--schedule", "linear", "--clip", 1.0, "--dtype", "f32",
              "--optimizer", "adamw"]
    lacuna.lines(*common, "--steps", 1, "--lr", 1e-30, "-o", start)
    events = lacuna.lines(*common, "--steps", h["steps"], "--lr", h["lr"], "--warmup", h["warmup"], "-o", out)
    got = [e["loss"] for e in events if e.get("event") == "step"]
    want, final = train_in_peft(base, start, encode_rows(AutoTokenizer.from_pretrained(base), rows), h)
    if not score.true(f"{what}: {h['steps']} updates", len(got) == len(want), f"{len(got)} step events"):
        return
    score.limit(f"{what}: worst loss of {h['steps']} (first {want[0]:.3f}, last {want[-1]:.3f})",
                max(abs(a - b) for a, b in zip(got, want)), 1e-3)
    score.true(f"{what}: the loss falls by 10 %", got[-1] <= 0.9 * got[0], f"{got[0]:.3f} to {got[-1]:.3f}")
    mine = load_file(os.path.join(out, "adapter_model.safetensors"))
    score.true(f"{what}: the same tensors", set(mine) == set(final), f"{len(mine)} and {len(final)}")
    score.limit(f"{what}: worst factor", max(ref.relative(mine[k], final[k]) for k in final if k in mine), 1e-2)


def learn(score, lacuna, rng, args):
    for _ in range(max(1, args.count // 2)):
        with tempfile.TemporaryDirectory() as tmp:
            base = os.path.join(tmp, "base")
            family = rng.choice(["llama", "llama", "gpt2"])
            # dynamic rope in transformers depends on the longest batch so far: nothing to follow in training
            config, _ = base_model(rng, base, family)
            while family == "llama" and config.rope_parameters["rope_type"] == "dynamic":
                config, _ = base_model(rng, base, family)
            h = dict(r=rng.randrange(2, 6), alpha=rng.randrange(4, 12), steps=50, batch=rng.choice([2, 4]), warmup=rng.randrange(2, 8),
                     lr=rng.choice([2e-3, 5e-3, 1e-2]), seed=rng.getrandbits(31))
            score.attempt("learn", learn_from, score, lacuna, rng, tmp, base, f"LoRA, {tiny.describe(config)}", h)


def llama_cpp_greedy(path, ids, n):
    """-> n tokens by arg max with llama.cpp, keys and values cached in f32"""
    import llama_cpp
    model = llama_cpp.Llama(path, n_ctx=len(ids) + n + 8, n_batch=len(ids) + n, n_threads=2, verbose=False, flash_attn=False,
                            logits_all=True, type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)
    model.eval(ids)
    out = []
    for _ in range(n):
        out.append(int(np.argmax(model.scores[model.n_tokens - 1])))
        model.eval(out[-1:])
    model.close()
    return out


def greedy_gap(lacuna, model, ids, tokens, out, *more):
    """Our logits along llama.cpp's tokens: the largest distance of its choice from our best."""
    logits, _ = lacuna.logits(model, ids + tokens[:-1], out, *more)
    rows = logits[len(ids) - 1:]
    return max(float(row.max() - row[t]) for row, t in zip(rows, tokens))


def merge_one(score, lacuna, rng, tmp):
    from peft import get_peft_model
    base, adapter, gguf = (os.path.join(tmp, x) for x in ("base", "adapter", "merged.gguf"))
    rope = rng.choice([dict(rope_type="default", rope_theta=10 ** rng.uniform(2, 5)),
                       dict(rope_type="linear", rope_theta=10000.0, factor=rng.choice([2.0, 4.0])),
                       dict(rope_type="llama3", rope_theta=500.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                            original_max_position_embeddings=32),
                       dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)])
    # dynamic has no place in a GGUF; widths are those that llama.cpp's kernels take
    config, ids = base_model(rng, base, rope_parameters=rope, max_position_embeddings=256,
                             head_dim=rng.choice([8, 16, 32]), hidden_size=rng.choice([32, 64]), num_attention_heads=4,
                             num_key_value_heads=rng.choice([1, 2, 4]), intermediate_size=rng.choice([32, 96]))
    kind = rng.choice(["lora", "shira"])
    model = get_peft_model(ref.load_model(base), draw_lora(rng, "llama") if kind == "lora" else draw_shira(rng))
    randomise(model, rng, 0.2)
    model.save_pretrained(adapter)
    lacuna.json("merge", "-m", base, "-a", adapter, "-o", gguf, "--outtype", "f32")
    tokens = llama_cpp_greedy(gguf, ids, 64)
    what = f"{kind} merged to GGUF, {tiny.describe(config)}"
    scratch = os.path.join(tmp, "l.safetensors")
    score.limit(f"{what}: 64 greedy tokens of llama.cpp, base + adapter here", greedy_gap(lacuna, base, ids, tokens, scratch, "-a", adapter),
                1e-2)
    score.limit(f"{what}: the GGUF read back", greedy_gap(lacuna, gguf, ids, tokens, scratch), 1e-2)


def merged(score, lacuna, rng, args):
    for _ in range(args.count):
        with tempfile.TemporaryDirectory() as tmp:
            score.attempt("merged", merge_one, score, lacuna, rng, tmp)


def smollm_one(score, lacuna, rng, tmp, kind, base, hf):
    """Trained over `base` (the GGUF or the HF form), compared over the dequantised HF form in PEFT; merged, in llama.cpp."""
    out, data = os.path.join(tmp, "adapter"), os.path.join(tmp, "data.jsonl")
    write_rows(rng, data, 8, 40, 120)
    lacuna.lines("train", "-m", base, "-d", data, "--method", kind, "--steps", 4, "--batch", 2, "--lr", 2e-3, "--dtype", "f32",
                 *(["--density", 0.01] if kind == "shira" else []), "-o", out)
    ids = [rng.randrange(17, 49152) for _ in range(48)]
    want = peft_logits(hf, out, ids)
    moved = ref.relative(want, ref.logits_of(ref.load_model(hf), ids))
    scratch = os.path.join(tmp, "l.safetensors")
    what = f"SmolLM2 {'GGUF' if base.endswith('.gguf') else 'HF'}, {kind} trained here"
    score.true(f"{what}: moves logits by {moved:.2e}", moved > 1e-3)
    for model in dict.fromkeys((base, hf)):
        got, _ = lacuna.logits(model, ids, scratch, "-a", out)
        score.limit(f"{what}, read over {'GGUF' if model.endswith('.gguf') else 'HF'}: in PEFT", ref.relative(got, want), LIMIT)
    gguf = os.path.join(tmp, "merged.gguf")
    lacuna.json("merge", "-m", base, "-a", out, "-o", gguf, "--outtype", "f32")
    tokens = llama_cpp_greedy(gguf, ids[:12], 64)
    score.limit(f"{what}, merged: 64 greedy tokens of llama.cpp", greedy_gap(lacuna, base, ids[:12], tokens, scratch, "-a", out), 1e-2)


def smollm(score, lacuna, rng, args):
    gguf, hf = args.smollm
    for kind in ("lora", "shira"):
        for base in (gguf, hf):
            with tempfile.TemporaryDirectory() as tmp:
                score.attempt("smollm", smollm_one, score, lacuna, rng, tmp, kind, base, hf)
    with tempfile.TemporaryDirectory() as tmp:
        h = dict(r=4, alpha=8, steps=50, batch=2, warmup=3, lr=1e-3, seed=rng.getrandbits(31))
        score.attempt("smollm", learn_from, score, lacuna, rng, tmp, hf, "LoRA on SmolLM2", h)
