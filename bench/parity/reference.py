"""What Hugging Face transformers makes of a small random model: the reference that lacuna is held to.

Shared by the golden files (tests/golden) and by the programs here that draw fresh configurations. Weights are drawn
large enough that attention is far from uniform: near-uniform attention hides errors in positions, heads and masks. The
measure is the mean over layers, heads and queries t >= 1 of entropy(attention of t) / log(t + 1); `random_model` scales q
and k until it is below a bound.
"""
import json
import logging
import os
import random
import warnings
import zlib

import numpy as np
import torch

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore")
import transformers  # noqa: E402
from transformers import AutoModelForCausalLM, BertConfig, GPT2Config, LlamaConfig, RobertaConfig, ViTConfig  # noqa: E402

transformers.utils.logging.disable_progress_bar()
logging.getLogger("transformers").setLevel(logging.ERROR)

MAX_ENTROPY = 0.65  # of uniform; the promise is 0.7
IGNORE = -100       # a label that is not a target


def seed_of(name):
    return zlib.crc32(name.encode())


def llama_config(**kw):
    """A Llama of two narrow layers; keywords as LlamaConfig has them."""
    base = dict(vocab_size=53, hidden_size=24, intermediate_size=34, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=1, head_dim=16, max_position_embeddings=64, rms_norm_eps=1e-5, hidden_act="silu",
                tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, rope_parameters=dict(
                    rope_type="default", rope_theta=10000.0))
    return LlamaConfig(**{**base, **kw})


def gpt2_config(**kw):
    base = dict(vocab_size=61, n_embd=24, n_head=3, n_layer=2, n_positions=64, layer_norm_epsilon=1e-5,
                activation_function="gelu_new", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
                bos_token_id=1, eos_token_id=2)
    return GPT2Config(**{**base, **kw})


def bert_config(**kw):
    """A BERT of two narrow layers; keywords as BertConfig has them."""
    base = dict(vocab_size=53, hidden_size=24, intermediate_size=34, num_hidden_layers=2, num_attention_heads=3,
                max_position_embeddings=64, type_vocab_size=2, layer_norm_eps=1e-12, hidden_act="gelu", pad_token_id=0,
                hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return BertConfig(**{**base, **kw})


def roberta_config(**kw):
    base = dict(vocab_size=53, hidden_size=24, intermediate_size=34, num_hidden_layers=2, num_attention_heads=3,
                max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5, hidden_act="gelu", pad_token_id=1,
                bos_token_id=0, eos_token_id=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return RobertaConfig(**{**base, **kw})


def vit_config(**kw):
    """A ViT of two narrow layers; keywords as ViTConfig has them."""
    base = dict(hidden_size=24, intermediate_size=34, num_hidden_layers=2, num_attention_heads=3, image_size=12, patch_size=4, num_channels=3,
                layer_norm_eps=1e-12, hidden_act="gelu", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return ViTConfig(**{**base, **kw})


def patch_rows(pictures, P):
    """(S, side, side) -> (1 + patches, S·P²): zeros, then patches left to right and down, columns channel, y, x"""
    S, side, _ = pictures.shape
    n = side // P
    cut = pictures.reshape(S, n, P, n, P).permute(1, 3, 0, 2, 4).reshape(n * n, S * P * P)
    return torch.cat([torch.zeros(1, S * P * P), cut])


VIT_FILE_NAMES = (("vit.layers.", "vit.encoder.layer."), ("attention.q_proj", "attention.attention.query"),
                  ("attention.k_proj", "attention.attention.key"), ("attention.v_proj", "attention.attention.value"),
                  ("attention.o_proj", "attention.output.dense"), ("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense"))


def vit_file_name(name):
    """transformers 5's name of a parameter in memory -> that in its files"""
    if not name.startswith(("vit.", "classifier.")):
        name = "vit." + name
    for old, new in VIT_FILE_NAMES:
        name = name.replace(old, new)
    return name


def vit_outputs(model, picture, label):
    """-> {"logits" (1, K), "loss", "grad.NAME"} under the files' names; without a head {"hidden" (T, C)}"""
    x = picture[None].to(next(model.parameters()).dtype)
    if label is None:
        with torch.no_grad():
            return {"hidden": model(pixel_values=x).last_hidden_state[0]}
    model.zero_grad(set_to_none=True)
    out = model(pixel_values=x, labels=torch.tensor([label]))
    out.loss.backward()
    return {"logits": out.logits.detach(), "loss": out.loss.detach().reshape(1),
            **{"grad." + vit_file_name(n): p.grad.detach().clone() for n, p in model.named_parameters()}}


def draw_weights(model, generator, qk_gain):
    """Normal weights of unit gain by fan-in, q and k times qk_gain; biases and norms away from 0 and 1."""
    conv1d = model.config.model_type == "gpt2"
    C = model.config.hidden_size
    with torch.no_grad():
        for name, p in model.named_parameters():
            n = torch.empty(p.shape, dtype=torch.float32).normal_(generator=generator)
            embedding = any(s in name for s in ("embed_tokens", "wte", "wpe", "lm_head.weight", "_embeddings", "cls_token"))
            embedding = embedding and "projection" not in name
            if embedding:
                n *= 0.5
            elif p.ndim == 1:
                n = 0.3 * n + (0.0 if name.endswith("bias") else 1.0)
            else:
                n /= (p.shape[0] if conv1d else p[0].numel()) ** 0.5
                if any(s in name for s in ("q_proj", "k_proj", "self.query", "self.key")):
                    n *= qk_gain
                if "c_attn" in name:
                    n[:, :2 * C] *= qk_gain  # Conv1D: columns are outputs, q and k first
            p.copy_(n)


def attention_entropy(model, ids):
    """Mean entropy of attention as a share of uniform's, queries t >= 1."""
    both = model.config.model_type in ("bert", "roberta", "vit")  # every query sees all keys
    what = dict(pixel_values=ids[None]) if model.config.model_type == "vit" else dict(input_ids=torch.tensor([ids]))
    with torch.no_grad():
        maps = model(output_attentions=True, **what).attentions
    total = []
    for a in maps:  # (1, H, T, T)
        a = a[0].double()
        entropy = -(a * a.clamp_min(1e-300).log()).sum(-1)[:, 1:]
        seen = torch.arange(2, a.shape[-1] + 1, dtype=torch.float64)
        total.append(entropy / torch.log(torch.full_like(seen, a.shape[-1]) if both else seen))
    return float(torch.stack(total).mean())


def random_ids(config, T, seed):
    rng = random.Random(seed)
    return [rng.randrange(config.vocab_size) for _ in range(T)]


def random_model(config, seed, ids, cls=None):
    """-> a model in f32 and eager attention whose mean attention entropy on ids is below MAX_ENTROPY of uniform's."""
    config._attn_implementation = "eager"
    if cls is None:
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    else:
        model = cls(config).eval()
    gain = 1.4
    while True:
        draw_weights(model, torch.Generator().manual_seed(seed), gain)
        entropy = attention_entropy(model, ids)
        if entropy < MAX_ENTROPY:
            return model, entropy
        gain *= 1.1
        if gain > 10:
            raise RuntimeError(f"attention stays near uniform: entropy {entropy:.3f} of uniform at gain {gain:.1f}")


def load_model(path, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager").eval()


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


def loss_and_gradients(model, ids, labels):
    """-> {"logits" (T, V), "loss" (1), "grad.NAME" for every parameter}. labels[t] stands beside ids[t]; position t
    predicts labels[t + 1], IGNORE is no target, the loss is the mean over targets."""
    model.zero_grad(set_to_none=True)
    out = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]))
    out.loss.backward()
    result = {"logits": out.logits[0].detach(), "loss": out.loss.detach().reshape(1)}
    for name, p in model.named_parameters():
        result["grad." + name] = p.grad.detach().clone()
    return result


def head_outputs(model, ids, types, labels):
    """Of a model with another head than a causal one -> {"logits" (rows, K), "loss" (1), "grad.NAME"}; of one without a head
    {"hidden" (T, C)}. labels stand beside the rows that they are of (one row: classification)."""
    kw = dict(input_ids=torch.tensor([ids]))
    if model.config.model_type in ("bert", "roberta"):
        kw["token_type_ids"] = torch.tensor([types])
    if labels is None:
        with torch.no_grad():
            return {"hidden": model(**kw).last_hidden_state[0]}
    model.zero_grad(set_to_none=True)
    out = model(labels=torch.tensor([labels] if len(labels) > 1 else labels), **kw)
    out.loss.backward()
    result = {"logits": out.logits.detach().reshape(-1, out.logits.shape[-1]), "loss": out.loss.detach().reshape(1)}
    for name, p in model.named_parameters():
        result["grad." + name] = p.grad.detach().clone() if p.grad is not None else torch.zeros_like(p)
    return result


def relative(a, b):
    """‖a − b‖ / ‖b‖ in double."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    norm = np.linalg.norm(b)
    return float(np.linalg.norm(a - b) / norm) if norm else float(np.linalg.norm(a))


def edited_config(config, set_=None, remove=()):
    """A copy of a config.json's dictionary with top-level keys set and removed."""
    out = {k: v for k, v in config.items() if k not in remove}
    out.update(set_ or {})
    return out


def old_spelling(config):
    """config.json as transformers 4 wrote it."""
    rope = dict(config["rope_parameters"])
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type")
    scaling = None if kind == "default" else {"type": kind, **rope}
    return edited_config(config, dict(rope_theta=theta, rope_scaling=scaling, torch_dtype=config["dtype"]),
                             remove=("rope_parameters", "dtype"))


def read_json(path):
    with open(path) as f:
        return json.load(f)


def write_json(path, value):
    with open(path, "w") as f:
        json.dump(value, f, indent=2, sort_keys=True)
        f.write("\n")
