"""Small random models with a tokenizer, so that commands which read text can be checked on configurations drawn now.

The vocabulary is SmolLM2's in little: three control tokens and the 256 bytes, no merges; its pre-tokenizer (digits alone, then
byte level) is one that llama.cpp knows by name. Every byte is a token, so how a text is cut has one answer.
"""
import os

import reference as ref

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCAB = len(CONTROL) + 256


def tokenizer():
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {t: i for i, t in enumerate(CONTROL + alphabet)}
    tok = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    return PreTrainedTokenizerFast(tokenizer_object=tok, bos_token=CONTROL[1], eos_token=CONTROL[2], unk_token=CONTROL[0],
                                   pad_token=CONTROL[2])


def draw_rope(rng, family_max):
    """-> rope_parameters, max_position_embeddings"""
    theta = 10 ** rng.uniform(1.5, 5.5)
    kind = rng.choice(["default", "linear", "dynamic", "llama3", "yarn", "yarn"])
    rope = dict(rope_type=kind, rope_theta=theta)
    if kind != "default":
        rope["factor"] = round(rng.uniform(1.5, 8.0), 3)
    if kind == "dynamic":
        return rope, rng.randrange(8, 24)
    if kind == "llama3":
        low = round(rng.uniform(0.5, 2.0), 3)
        rope.update(low_freq_factor=low, high_freq_factor=round(low + rng.uniform(0.5, 4.0), 3),
                    original_max_position_embeddings=rng.randrange(12, 30))
    if kind == "yarn":
        rope["original_max_position_embeddings"] = rng.randrange(8, 24)
        if rng.random() < 0.5:
            rope.update(beta_fast=round(rng.uniform(2, 40), 2), beta_slow=round(rng.uniform(0.05, 1.5), 3))
        if rng.random() < 0.3:
            rope["truncate"] = False
        more = rng.choice(["", "attention_factor", "mscale"])
        if more == "attention_factor":
            rope["attention_factor"] = round(rng.uniform(0.7, 1.5), 3)
        elif more == "mscale":
            rope.update(mscale=round(rng.uniform(0.3, 1.2), 3), mscale_all_dim=round(rng.uniform(0.3, 1.2), 3))
    return rope, family_max


def draw_llama(rng, **fixed):
    groups = rng.choice([1, 2, 3])
    heads = groups * rng.choice([1, 2, 3])
    rope, positions = draw_rope(rng, 128)
    kw = dict(vocab_size=rng.randrange(40, 150), hidden_size=heads * 2 * rng.randrange(4, 9), intermediate_size=rng.randrange(17, 90),
              num_hidden_layers=rng.randrange(1, 4), num_attention_heads=heads, num_key_value_heads=groups,
              head_dim=2 * rng.randrange(3, 13), max_position_embeddings=positions, rms_norm_eps=10 ** rng.uniform(-6, -3),
              tie_word_embeddings=rng.random() < 0.5, attention_bias=rng.random() < 0.3, mlp_bias=rng.random() < 0.3,
              rope_parameters=rope)
    return ref.llama_config(**{**kw, **fixed})


def draw_gpt2(rng, **fixed):
    heads = rng.choice([1, 2, 3, 4])
    kw = dict(vocab_size=rng.randrange(40, 150), n_embd=heads * rng.randrange(5, 17), n_head=heads, n_layer=rng.randrange(1, 4),
              n_positions=128, n_inner=rng.choice([None, rng.randrange(17, 90)]), layer_norm_epsilon=10 ** rng.uniform(-6, -3),
              scale_attn_by_inverse_layer_idx=rng.random() < 0.3, scale_attn_weights=rng.random() < 0.8,
              tie_word_embeddings=rng.random() < 0.7)
    return ref.gpt2_config(**{**kw, **fixed})


def describe(config):
    c = config.to_dict()
    if c["model_type"] == "gpt2":
        parts = [f"gpt2 C{c['n_embd']} L{c['n_layer']} H{c['n_head']} inner {c['n_inner']} V{c['vocab_size']}"]
        parts += [k for k in ("scale_attn_by_inverse_layer_idx",) if c[k]] + ([] if c["scale_attn_weights"] else ["unscaled"])
    else:
        parts = [f"llama C{c['hidden_size']} L{c['num_hidden_layers']} H{c['num_attention_heads']}/{c['num_key_value_heads']} "
                 f"D{c['head_dim']} F{c['intermediate_size']} V{c['vocab_size']} {c['rope_parameters']['rope_type']}"]
        parts += [k for k in ("attention_bias", "mlp_bias") if c[k]]
    return " ".join(parts + (["tied"] if c["tie_word_embeddings"] else ["untied"]))


def save(rng, model, out, plain=False):
    """Writes an HF directory in a storage drawn by rng (f32 in one file when plain) -> what was chosen, in words."""
    import torch
    dtype = torch.float32 if plain else rng.choice([torch.float32, torch.bfloat16, torch.float16])
    sharded = not plain and rng.random() < 0.3
    model.to(dtype).save_pretrained(out, max_shard_size="20KB" if sharded else "1GB")
    old = not plain and model.config.model_type == "llama" and rng.random() < 0.5
    if old:
        path = os.path.join(out, "config.json")
        ref.write_json(path, ref.old_spelling(ref.read_json(path)))
    return str(dtype).split(".")[1] + (" sharded" if sharded else "") + (" old spelling" if old else "")
