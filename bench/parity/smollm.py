#!/usr/bin/env python3
"""SmolLM2 as a check on a real model: Hugging Face transformers against lacuna, from the same numbers.

  smollm.py dequantise GGUF OUT          write GGUF's weights as an HF directory, every tensor in f32
  smollm.py reference OUT TEXT -o JSON   what transformers computes of it in f32: perplexity, greedy tokens, logits
  smollm.py check JSON --lacuna BIN --model M [--model M2 ...]   run lacuna on the same and compare

The public model is not needed: the GGUF's own numbers, dequantised, are the model (so quantisation is no source of
difference), and the tokenizer is built from the GGUF's vocabulary and merges.

A GGUF of the Llama family stores the rows of q and k in an interleaved order: within each head, HF's row i of the first
half and row i of the second half stand side by side (2i, 2i+1). `unpermute` undoes that.
"""
import argparse
import json
import math
import os
import sys
import tempfile

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n",
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n",
]


def unpermute(w, heads):
    """GGUF rows (heads, D/2, 2, ...) back to HF's (heads, 2, D/2, ...)."""
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


LAYER_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def hf_name(name):
    top = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
           "output.weight": "lm_head.weight"}
    if name in top:
        return top[name]
    _, layer, what, suffix = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[what]}.{suffix}"


def read_gguf(path):
    """-> metadata dictionary, {HF name: f32 array}, names of tensors by GGUF type"""
    import gguf
    reader = gguf.GGUFReader(path)
    meta = {k: f.contents() for k, f in reader.fields.items()}
    if meta["general.architecture"] != "llama":
        sys.exit(f"{path}: architecture 'llama' expected, '{meta['general.architecture']}' found")
    tensors = {}
    for t in reader.tensors:
        w = gguf.dequantize(t.data, t.tensor_type).astype(np.float32).reshape(t.shape[::-1])
        name = hf_name(t.name)
        if ".q_proj." in name:
            w = unpermute(w, meta["llama.attention.head_count"])
        elif ".k_proj." in name:
            w = unpermute(w, meta["llama.attention.head_count_kv"])
        tensors[name] = np.ascontiguousarray(w)
    return meta, tensors


def f32_decimal(x):
    """The shortest decimal that names the same f32: metadata's 9.999999747e-06 is written 1e-05."""
    return float(str(np.float32(x)))


def build_tokenizer(meta):
    """Byte-level BPE from the GGUF's vocabulary and merges, with SmolLM2's pre-tokenizer."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    if meta["tokenizer.ggml.pre"] != "smollm":
        sys.exit(f"pre-tokenizer 'smollm' expected, '{meta['tokenizer.ggml.pre']}' found")
    tokens = meta["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ")) for m in meta["tokenizer.ggml.merges"]]
    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, meta["tokenizer.ggml.token_type"]) if kind == 3]
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    special = {k: tokens[meta[f"tokenizer.ggml.{g}_token_id"]] for k, g in
               (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding"))}
    out = PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=meta["llama.context_length"], **special)
    out.chat_template = meta["tokenizer.chat_template"]
    return out


def dequantise(args):
    import torch
    from safetensors.torch import save_file
    from transformers import GenerationConfig, LlamaConfig
    meta, tensors = read_gguf(args.gguf)
    heads = meta["llama.attention.head_count"]
    config = LlamaConfig(
        vocab_size=len(meta["tokenizer.ggml.tokens"]), hidden_size=meta["llama.embedding_length"],
        intermediate_size=meta["llama.feed_forward_length"], num_hidden_layers=meta["llama.block_count"],
        num_attention_heads=heads, num_key_value_heads=meta["llama.attention.head_count_kv"],
        head_dim=meta["llama.rope.dimension_count"], max_position_embeddings=meta["llama.context_length"],
        rms_norm_eps=f32_decimal(meta["llama.attention.layer_norm_rms_epsilon"]),
        rope_parameters={"rope_type": "default", "rope_theta": f32_decimal(meta["llama.rope.freq_base"])},
        tie_word_embeddings="lm_head.weight" not in tensors, dtype="float32",
        bos_token_id=meta["tokenizer.ggml.bos_token_id"], eos_token_id=meta["tokenizer.ggml.eos_token_id"],
        pad_token_id=meta["tokenizer.ggml.padding_token_id"], architectures=["LlamaForCausalLM"])
    os.makedirs(args.out, exist_ok=True)
    config.save_pretrained(args.out)
    GenerationConfig.from_model_config(config).save_pretrained(args.out)
    build_tokenizer(meta).save_pretrained(args.out)
    save_file({k: torch.from_numpy(v) for k, v in tensors.items()}, os.path.join(args.out, "model.safetensors"),
              metadata={"format": "pt"})
    print(f"{args.out}: {len(tensors)} tensors, {sum(v.size for v in tensors.values())} parameters")


def load(path):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    import torch
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    return model, AutoTokenizer.from_pretrained(path)


def window_nll(model, ids):
    """Negative log-likelihoods of tokens 1.. of one window: the first token of a window is not scored."""
    import torch
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double()
    return -torch.log_softmax(logits, -1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]


def greedy(model, ids, n):
    """n tokens by arg max over the whole sequence, and at each step the gap between the two best logits."""
    import torch
    out, gaps = [], []
    past, step = None, torch.tensor([ids])
    with torch.no_grad():
        for _ in range(n):
            r = model(input_ids=step, past_key_values=past, use_cache=True)
            past = r.past_key_values
            best = torch.topk(r.logits[0, -1], 2)
            out.append(int(best.indices[0]))
            gaps.append(float(best.values[0] - best.values[1]))
            step = best.indices[:1].view(1, 1)
    return out, gaps


def reference(args):
    model, tok = load(args.model)
    with open(args.text, encoding="utf-8") as f:
        text = f.read()
    ids = tok(text, add_special_tokens=False)["input_ids"]
    if not ids:
        sys.exit(f"{args.text}: no tokens")
    if len(ids) < args.context * args.windows:
        sys.exit(f"{args.text}: {args.windows} windows of {args.context} need {args.context * args.windows} tokens, "
                 f"{len(ids)} found")
    ids = ids[:args.context * args.windows]
    sums = []
    for w in range(args.windows):
        sums.append(float(window_nll(model, ids[w * args.context:(w + 1) * args.context]).sum()))
        print(f"window {w + 1}/{args.windows}: perplexity {math.exp(sums[-1] / (args.context - 1)):.4f}", file=sys.stderr)
    n = args.windows * (args.context - 1)
    probe = ids[:args.probe]
    import torch
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([probe])).logits[0].numpy()
    rows = sorted({0, 1, len(probe) // 2, len(probe) - 1})
    out = {
        "model": os.path.abspath(args.model), "text": os.path.abspath(args.text), "context": args.context,
        "windows": args.windows, "n": n, "perplexity": math.exp(sum(sums) / n), "window_nll": sums, "ids": ids,
        # the bytes that hold exactly these ids, when the text's tail is cut there
        "text_prefix": tok.decode(ids, clean_up_tokenization_spaces=False),
        "greedy": [], "probe": {"ids": probe, "rows": rows, "logits": [logits[r].tolist() for r in rows],
                                "norm": float(np.linalg.norm(logits))},
    }
    out["text_prefix_retokenises"] = tok(out["text_prefix"], add_special_tokens=False)["input_ids"] == ids
    for p in PROMPTS:
        prompt_ids = tok(p, add_special_tokens=False)["input_ids"]
        tokens, gaps = greedy(model, prompt_ids, 64)
        out["greedy"].append({"prompt": p, "prompt_ids": prompt_ids, "tokens": tokens, "gaps": gaps,
                              "text": tok.decode(tokens)})
    with open(args.out, "w") as f:
        json.dump(out, f)
    print(f"perplexity {out['perplexity']:.6f} over {n} tokens of {args.text}")


def check(args):
    """lacuna against the reference: probe logits 1e-4 relative, perplexity 0.05 % (0.5 % through the KV cache)."""
    import harness
    with open(args.reference) as f:
        ref = json.load(f)
    lacuna, score = harness.Lacuna(args.lacuna), harness.Score()
    with tempfile.TemporaryDirectory() as tmp:
        text = os.path.join(tmp, "text.txt")
        with open(text, "w", encoding="utf-8", newline="") as f:
            f.write(ref["text_prefix"])
        for model in args.model:
            score.attempt(model, check_one, score, lacuna, model, ref, text, os.path.join(tmp, "l.safetensors"), args)
    sys.exit(score.done())


def check_one(score, lacuna, model, ref, text, scratch, args):
    got, _ = lacuna.logits(model, ref["probe"]["ids"], scratch)
    want = np.array(ref["probe"]["logits"])
    score.limit(f"{model}: logits", np.linalg.norm(got[ref["probe"]["rows"]] - want) / np.linalg.norm(want), 1e-4)
    for g in ref["greedy"]:
        # along their tokens: at each of the 64 steps our arg max is theirs, or the two candidates are within 1e-2
        logits, _ = lacuna.logits(model, g["prompt_ids"] + g["tokens"][:-1], scratch)
        gap = max(float(row.max() - row[t]) for row, t in zip(logits[len(g["prompt_ids"]) - 1:], g["tokens"]))
        score.limit(f"{model}: 64 greedy tokens after {g['prompt'][:24]!r}, largest gap", gap, 1e-2)
    for more, limit in (([], 5e-4), (["--incremental"], 5e-3)) if args.incremental else (([], 5e-4),):
        windows = min(args.windows, ref["windows"])
        n = windows * (ref["context"] - 1)
        want = math.exp(sum(ref["window_nll"][:windows]) / n)
        r = lacuna.json("eval", "-m", model, "-d", text, "--metric", "perplexity", "--context", ref["context"], "--dtype", "f32",
                        "--limit", windows, *more)
        score.true(f"{model}: scored tokens", r["n"] == n, f"{n} expected, {r['n']} found")
        score.limit(f"{model}: perplexity {r['value']:.5f} for {want:.5f} {' '.join(more)}", abs(r["value"] / want - 1), limit)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(required=True)
    d = sub.add_parser("dequantise")
    d.add_argument("gguf")
    d.add_argument("out")
    d.set_defaults(run=dequantise)
    r = sub.add_parser("reference")
    r.add_argument("model")
    r.add_argument("text")
    r.add_argument("-o", "--out", required=True)
    r.add_argument("--windows", type=int, default=40)
    r.add_argument("--context", type=int, default=512)
    r.add_argument("--probe", type=int, default=128, help="tokens whose logits are recorded")
    r.set_defaults(run=reference)
    c = sub.add_parser("check")
    c.add_argument("reference")
    c.add_argument("--lacuna", required=True)
    c.add_argument("--model", action="append", required=True)
    c.add_argument("--windows", type=int, default=40, help="score the first N")
    c.add_argument("--incremental", action="store_true", help="also token by token through the KV cache")
    c.set_defaults(run=check)
    args = p.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
