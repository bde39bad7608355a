"""How much memory does `lacuna diff` need? Two models of a 7 B Llama's widths (4096 and 11008) in bf16, as sparse files of zeros.

The files are larger than the bound, so a program that kept what it read would exceed it. Peak RSS is the kernel's figure for the process; the
files are mapped and count as far as they are in memory.

    python3 bench/experiments/diff_memory.py [--layers 4]
"""
import json
import os
import struct
import sys

import byte_model
from common import arguments, verdict
from memory import measured

C, F, H, V = 4096, 11008, 32, 32000


def write(out, layers):
    """Writes a model directory whose tensors are holes. -> bytes"""
    os.makedirs(out, exist_ok=True)
    shapes = {"model.embed_tokens.weight": [V, C], "lm_head.weight": [V, C], "model.norm.weight": [C]}
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {f"{at}self_attn.{w}_proj.weight": [C, C] for w in "qkvo"}
        shapes |= {f"{at}mlp.{w}_proj.weight": [F, C] for w in ("gate", "up")} | {f"{at}mlp.down_proj.weight": [C, F]}
        shapes |= {f"{at}{w}_layernorm.weight": [C] for w in ("input", "post_attention")}
    head, at = {}, 0
    for name, shape in shapes.items():
        n = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        head[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n]}
        at += n
    head = json.dumps(head).encode()
    head += b" " * (-len(head) % 8)
    with open(os.path.join(out, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head)
        f.truncate(8 + len(head) + at)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": V, "hidden_size": C, "intermediate_size": F,
              "num_hidden_layers": layers, "num_attention_heads": H, "num_key_value_heads": H, "head_dim": C // H, "hidden_act": "silu",
              "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
    with open(os.path.join(out, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    with open(os.path.join(out, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(byte_model.tokenizer(), f)
    return at


def main():
    p = arguments(__doc__)
    p.add_argument("--layers", type=int, default=4, help="of 7 B's 32 [4]")
    a = p.parse_args()
    os.makedirs(a.work, exist_ok=True)
    paths = [os.path.join(a.work, n) for n in "ab"]
    size = [write(path, a.layers) for path in paths][0]
    d, rss = measured(a.lacuna, "diff", *paths)
    for path in paths:
        os.remove(os.path.join(path, "model.safetensors"))
    print(f"{d['parameters']} entries, two files of {size / 2**30:.2f} GiB, peak RSS {rss:.0f} MiB")
    return 0 if verdict("two models of a 7 B's widths are compared within 1 GiB", rss <= 1024 and d["changed"] == 0) else 1


if __name__ == "__main__":
    sys.exit(main())
