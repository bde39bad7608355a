"""A small byte-level Llama in a Hugging Face directory, with random weights: what the experiments at small size start from.

Three control tokens and the 256 bytes, no merges: every byte is a token. Linear weights and embeddings are normal with deviation 0.02
(those that write into the residual divided by the square root of twice the number of layers), norms 1; embeddings are tied.
"""
import array
import json
import math
import os
import random
import struct

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_letters():
    """-> the letter that stands for each byte in byte-level vocabularies: itself if it prints, else one from 256 on"""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters, spare = {}, 256
    for b in range(256):
        letters[b] = chr(b) if b in plain else chr(spare)
        spare += b not in plain
    return letters


def tokenizer():
    vocab = {t: i for i, t in enumerate(CONTROL)}
    for b, letter in byte_letters().items():
        vocab[letter] = len(CONTROL) + b
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for i, t in enumerate(CONTROL)]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": []}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": level, "post_processor": None, "decoder": level, "model": model}


def feed_forward(width):
    return 8 * width // 3 // 16 * 16


def write_directory(out, tensors, files):
    """Writes name -> (shape, array of floats) as model.safetensors, and JSON files beside it. -> number of parameters"""
    os.makedirs(out, exist_ok=True)
    head, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, values) in tensors.items():
        head[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * len(values)]}
        at += 4 * len(values)
    head = json.dumps(head).encode()
    head += b" " * (-len(head) % 8)
    with open(os.path.join(out, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head)
        for _, values in tensors.values():
            f.write(values.tobytes())
    for name, content in files.items():
        with open(os.path.join(out, name), "w", encoding="utf-8") as f:
            json.dump(content, f, indent=1)
    return at // 4


def write(out, width=128, layers=4, heads=4, seed=0, positions=256):
    """Writes the directory `out`. -> number of parameters"""
    ff = feed_forward(width)
    vocab = len(CONTROL) + 256
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab, "hidden_size": width,
              "intermediate_size": ff, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads,
              "head_dim": width // heads, "hidden_act": "silu", "max_position_embeddings": positions, "rms_norm_eps": 1e-5,
              "rope_theta": 10000.0, "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
              "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "float32"}
    rng = random.Random(seed)
    tensors = {}

    def normal(name, rows, cols, sd):
        tensors[name] = ([rows, cols], array.array("f", (rng.gauss(0, sd) for _ in range(rows * cols))))

    def ones(name):
        tensors[name] = ([width], array.array("f", [1.0]) * width)

    into = 0.02 / math.sqrt(2 * layers)
    normal("model.embed_tokens.weight", vocab, width, 0.02)
    for i in range(layers):
        at = f"model.layers.{i}."
        for w in "qkv":
            normal(f"{at}self_attn.{w}_proj.weight", width, width, 0.02)
        normal(f"{at}self_attn.o_proj.weight", width, width, into)
        normal(f"{at}mlp.gate_proj.weight", ff, width, 0.02)
        normal(f"{at}mlp.up_proj.weight", ff, width, 0.02)
        normal(f"{at}mlp.down_proj.weight", width, ff, into)
        ones(f"{at}input_layernorm.weight")
        ones(f"{at}post_attention_layernorm.weight")
    ones("model.norm.weight")

    files = {"config.json": config, "tokenizer.json": tokenizer(),
             "tokenizer_config.json": {"bos_token": CONTROL[0], "eos_token": CONTROL[0]}}
    return write_directory(out, tensors, files)
