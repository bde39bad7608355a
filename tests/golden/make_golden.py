#!/usr/bin/env python3
"""Writes the golden models: small random networks with what Hugging Face transformers (f32, eager attention) computes of
them. README.md beside this file says what each file holds; it is enough for the C tests, which need no Python.

  make_golden.py [--only PREFIX]       writes beside itself; fixed seeds, the same files each time
"""
import argparse
import os
import shutil
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "bench", "parity"))
import reference as ref  # noqa: E402

T = 37  # odd, and beyond every original_max_position_embeddings below

ROPE = {
    "linear": dict(rope_type="linear", rope_theta=10000.0, factor=2.5),
    "dynamic": dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0),
    # wavelengths 6.3, 13.7, 29.7, 64.6 ...: one kept, two between, the others divided
    "llama3": dict(rope_type="llama3", rope_theta=500.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=32),
    # the ramp spans dimensions 0 to 7 of 8
    "yarn": dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, beta_fast=2.0, beta_slow=0.1,
                 original_max_position_embeddings=16),
    "yarn-mscale": dict(rope_type="yarn", rope_theta=50.0, factor=4.0, mscale=0.7, mscale_all_dim=0.3, truncate=False,
                        beta_fast=2.0, beta_slow=0.1, original_max_position_embeddings=16),
    "yarn-plain": dict(rope_type="yarn", rope_theta=10.0, factor=4.0, original_max_position_embeddings=16),
}

MODELS = {
    "llama-mha": ref.llama_config(num_attention_heads=3, num_key_value_heads=3, head_dim=8, rms_norm_eps=1e-2),
    "llama-gqa": ref.llama_config(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                                  tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=500.0)),
    "llama-bias": ref.llama_config(hidden_size=32, num_attention_heads=4, num_key_value_heads=1, head_dim=8,
                                   attention_bias=True, mlp_bias=True),
    "llama-headdim": ref.llama_config(hidden_size=24, num_attention_heads=4, num_key_value_heads=2, head_dim=12),
    "llama-linear": ref.llama_config(rope_parameters=ROPE["linear"]),
    "llama-dynamic": ref.llama_config(rope_parameters=ROPE["dynamic"], max_position_embeddings=16),
    "llama-llama3": ref.llama_config(rope_parameters=ROPE["llama3"], max_position_embeddings=128),
    "llama-yarn": ref.llama_config(rope_parameters=ROPE["yarn"]),
    "llama-yarn-mscale": ref.llama_config(rope_parameters=ROPE["yarn-mscale"]),
    "llama-yarn-plain": ref.llama_config(rope_parameters=ROPE["yarn-plain"]),
    "llama-oldspelling": ref.llama_config(rope_parameters=ROPE["linear"], hidden_size=16),
    "llama-bf16": ref.llama_config(hidden_size=16, intermediate_size=22),
    "llama-f16": ref.llama_config(hidden_size=16, intermediate_size=22),
    "llama-sharded": ref.llama_config(hidden_size=16, intermediate_size=22),
    "gpt2": ref.gpt2_config(),
    "gpt2-odd": ref.gpt2_config(n_embd=30, n_head=2, n_inner=37, scale_attn_by_inverse_layer_idx=True,
                                tie_word_embeddings=False, layer_norm_epsilon=1e-3),
    "gpt2-unscaled": ref.gpt2_config(scale_attn_weights=False),
}
STORED = {"llama-bf16": torch.bfloat16, "llama-f16": torch.float16}


HEADS = {  # classifiers, token classifiers, hidden tokens, bare encoders: (class, configuration)
    "bert-classify": (transformers.BertForSequenceClassification, ref.bert_config(num_labels=3)),
    "bert-tokens": (transformers.BertForTokenClassification,
                    ref.bert_config(num_labels=5, num_attention_heads=2, layer_norm_eps=1e-2, hidden_act="gelu_new")),
    "bert-masked": (transformers.BertForMaskedLM, ref.bert_config(hidden_act="relu")),
    "bert-untied": (transformers.BertForMaskedLM, ref.bert_config(tie_word_embeddings=False, num_hidden_layers=1)),
    "bert-bare": (transformers.BertModel, ref.bert_config(type_vocab_size=3)),
    "roberta-classify": (transformers.RobertaForSequenceClassification, ref.roberta_config(num_labels=2)),
    "roberta-tokens": (transformers.RobertaForTokenClassification, ref.roberta_config(num_labels=4, type_vocab_size=2)),
    "roberta-masked": (transformers.RobertaForMaskedLM, ref.roberta_config()),
    "llama-classify": (transformers.LlamaForSequenceClassification, ref.llama_config(num_labels=3)),
    "llama-tokens": (transformers.LlamaForTokenClassification, ref.llama_config(num_labels=3, hidden_size=16)),
    "gpt2-classify": (transformers.GPT2ForSequenceClassification, ref.gpt2_config(num_labels=4, n_embd=18, n_head=2)),
}


SEEING = {  # the same for networks that see
    "vit-classify": (transformers.ViTForImageClassification, ref.vit_config(num_labels=3)),
    "vit-grey": (transformers.ViTForImageClassification,
                 ref.vit_config(num_labels=4, num_channels=1, qkv_bias=False, layer_norm_eps=1e-2, hidden_act="gelu_new", image_size=15, patch_size=5)),
    "vit-bare": (transformers.ViTModel, ref.vit_config(num_attention_heads=2)),
}


def features():
    """Edits of config.json and what they must do to the logits: see README.md."""
    out = []

    def differs(model, what, may_refuse=False, remove=(), drop=(), **set_):
        out.append(dict(model=model, what=what, expect="differs", set=set_, remove=list(remove), drop=list(drop),
                        may_refuse=may_refuse))

    def same(model, what, remove=(), **set_):
        out.append(dict(model=model, what=what, expect="same", set=set_, remove=list(remove), drop=[], may_refuse=False))

    def rope(**kw):
        return dict(rope_type="default", rope_theta=10000.0, **kw)

    differs("llama-mha", "rms_norm_eps", rms_norm_eps=1e-6)
    differs("llama-mha", "tied instead of untied output", drop=["lm_head.weight"], tie_word_embeddings=True)
    same("llama-mha", "config says tied, the file holds two different tensors: not tied", tie_word_embeddings=True)
    differs("llama-gqa", "untied without an output tensor", may_refuse=True, tie_word_embeddings=False)
    differs("llama-gqa", "grouping: 4 heads on 2 read as 2 heads on 1", num_attention_heads=2, num_key_value_heads=1,
            head_dim=16)
    differs("llama-gqa", "rope_theta", rope_parameters=rope())
    same("llama-gqa", "rope_theta at the top, as transformers 4 wrote it", remove=["rope_parameters"], rope_theta=500.0)
    same("llama-gqa", "head_dim absent: hidden_size / heads", remove=["head_dim"])
    same("llama-mha", "num_key_value_heads absent: as many as heads", remove=["num_key_value_heads"])
    differs("llama-bias", "attention_bias", may_refuse=True, attention_bias=False)
    differs("llama-bias", "mlp_bias", may_refuse=True, mlp_bias=False)
    differs("llama-headdim", "head width: 4 heads of 12 read as 2 of 24", num_attention_heads=2, num_key_value_heads=1,
            head_dim=24)
    differs("llama-headdim", "head_dim absent where it is not hidden_size / heads", may_refuse=True, remove=["head_dim"])
    differs("llama-linear", "linear scaling", rope_parameters=rope())
    same("llama-linear", "linear scaling, old spelling", remove=["rope_parameters", "dtype"], rope_theta=10000.0,
         rope_scaling=dict(type="linear", factor=2.5), torch_dtype="float32")
    same("llama-linear", "theta absent: 10000", rope_parameters=dict(rope_type="linear", factor=2.5))
    differs("llama-dynamic", "dynamic scaling", rope_parameters=rope())
    differs("llama-dynamic", "dynamic is not linear", rope_parameters=dict(ROPE["dynamic"], rope_type="linear"))
    differs("llama-dynamic", "dynamic scaling starts beyond max_position_embeddings", max_position_embeddings=64)
    differs("llama-llama3", "llama3 scaling", rope_parameters=dict(rope_type="default", rope_theta=500.0))
    differs("llama-llama3", "llama3 is not linear",
            rope_parameters=dict(rope_type="linear", rope_theta=500.0, factor=4.0))
    for key, value in (("low_freq_factor", 2.0), ("high_freq_factor", 3.0), ("original_max_position_embeddings", 24)):
        differs("llama-llama3", f"llama3: {key}", rope_parameters={**ROPE["llama3"], key: value})
    same("llama-llama3", "llama3 as Llama 3.1's file spells it", remove=["rope_parameters"], rope_theta=500.0,
         rope_scaling={k: v for k, v in ROPE["llama3"].items() if k != "rope_theta"})
    differs("llama-yarn", "yarn scaling", rope_parameters=rope())
    differs("llama-yarn", "yarn: attention factor", rope_parameters=dict(ROPE["yarn"], attention_factor=1.0))
    same("llama-yarn", "yarn: the attention factor that the factor implies",
         rope_parameters=dict(ROPE["yarn"], attention_factor=1.1386294361119891))
    differs("llama-yarn", "yarn: beta_slow", rope_parameters=dict(ROPE["yarn"], beta_slow=1.0))
    differs("llama-yarn-mscale", "yarn: truncate", rope_parameters=dict(ROPE["yarn-mscale"], truncate=True))
    differs("llama-yarn-mscale", "yarn: mscale", rope_parameters=dict(ROPE["yarn-mscale"], mscale=1.0))
    differs("llama-yarn-plain", "yarn with default betas",
            rope_parameters=dict(rope_type="default", rope_theta=10.0))
    differs("llama-oldspelling", "rope_scaling is read", rope_scaling=None)
    # gelu_new against gelu is 1e-4 of the logits and no more: too near the bound to be asserted
    differs("gpt2", "activation_function", may_refuse=True, activation_function="relu")
    differs("gpt2", "number of heads", n_head=4)
    same("gpt2", "n_inner absent: 4 n_embd", remove=["n_inner"])
    same("gpt2", "tie_word_embeddings absent: tied", remove=["tie_word_embeddings"])
    differs("gpt2-odd", "scale_attn_by_inverse_layer_idx", may_refuse=True, scale_attn_by_inverse_layer_idx=False)
    differs("gpt2-odd", "layer_norm_epsilon", layer_norm_epsilon=1e-5)
    differs("gpt2-odd", "tied instead of untied output", drop=["lm_head.weight"], tie_word_embeddings=True)
    differs("bert-classify", "hidden_act", hidden_act="relu")
    differs("bert-classify", "number of heads", num_attention_heads=2)
    same("bert-classify", "layer_norm_eps, hidden_act absent: 1e-12, gelu", remove=["layer_norm_eps", "hidden_act"])
    differs("bert-tokens", "layer_norm_eps", layer_norm_eps=1e-12)
    differs("bert-masked", "hidden_act", hidden_act="gelu")
    differs("roberta-classify", "positions count from pad + 1", may_refuse=True, pad_token_id=0)
    same("roberta-classify", "pad_token_id absent: 1", remove=["pad_token_id"])
    differs("roberta-classify", "number of heads", num_attention_heads=2)
    differs("vit-classify", "number of heads", num_attention_heads=2)
    differs("vit-classify", "hidden_act", hidden_act="relu")
    same("vit-classify", "layer_norm_eps absent: 1e-12", remove=["layer_norm_eps"])
    differs("vit-grey", "layer_norm_eps", layer_norm_eps=1e-12)
    differs("gpt2-unscaled", "scale_attn_weights", may_refuse=True, scale_attn_weights=True)
    return out


def make_model(name, config):
    """Directory NAME: the model as save_pretrained writes it, and expected.safetensors."""
    out = os.path.join(HERE, name)
    shutil.rmtree(out, ignore_errors=True)
    ids = ref.random_ids(config, T, ref.seed_of(name + "/ids"))
    labels = [ref.IGNORE] * 5 + ids[5:]
    labels[11] = ref.IGNORE                      # a hole, and two targets that are not the next id
    labels[20] = (ids[20] + 1) % config.vocab_size
    labels[T - 1] = (ids[T - 1] + 7) % config.vocab_size
    model, entropy = ref.random_model(config, ref.seed_of(name), ids)
    if name in STORED:
        model.to(STORED[name]).save_pretrained(out)
    else:
        model.save_pretrained(out, max_shard_size="8KB" if name == "llama-sharded" else "1GB")
    if name == "llama-oldspelling":
        path = os.path.join(out, "config.json")
        ref.write_json(path, ref.old_spelling(ref.read_json(path)))
    for f in os.listdir(out):
        os.chmod(os.path.join(out, f), 0o644)
    model = ref.load_model(out)                  # what the files hold, not what was in memory
    assert ref.attention_entropy(model, ids) < 0.7
    expected = ref.loss_and_gradients(model, ids, labels)
    exact = ref.loss_and_gradients(ref.load_model(out, torch.float64), ids, labels)
    noise = max(ref.relative(expected[k], exact[k]) for k in expected)
    assert noise < 1e-5, f"{name}: f32 itself is {noise:.1e} away from f64: no reference for 1e-4"
    save_file({"ids": torch.tensor(ids, dtype=torch.int32), "labels": torch.tensor(labels, dtype=torch.int32),
               **{k: v.contiguous() for k, v in expected.items()}},
              os.path.join(out, "expected.safetensors"), metadata={"format": "pt"})
    os.chmod(os.path.join(out, "expected.safetensors"), 0o644)
    size = sum(os.path.getsize(os.path.join(out, f)) for f in os.listdir(out))
    print(f"{name:20s} entropy {entropy:.2f} of uniform, loss {float(expected['loss'][0]):.4f}, f32 noise {noise:.1e}, "
          f"{size // 1000} kB")


def make_head(name, cls, config):
    """The same for a model with another head than a causal one; of a bare encoder, its hidden states."""
    out = os.path.join(HERE, name)
    shutil.rmtree(out, ignore_errors=True)
    ids = [i for i in ref.random_ids(config, 4 * T, ref.seed_of(name + "/ids")) if i > 1][:T]  # no padding
    types = [t // 14 % getattr(config, "type_vocab_size", 1) for t in range(T)]
    rng = ref.random_ids(config, T, ref.seed_of(name + "/labels"))
    if "Sequence" in cls.__name__:
        labels = [rng[0] % config.num_labels]
    elif "Token" in cls.__name__:
        labels = [r % config.num_labels if r % 4 else ref.IGNORE for r in rng]
    else:
        labels = [r if t % 5 == 1 else ref.IGNORE for t, r in enumerate(rng)] if "Masked" in cls.__name__ else None
    model, entropy = ref.random_model(config, ref.seed_of(name), ids, cls)
    model.save_pretrained(out)
    for f in os.listdir(out):
        os.chmod(os.path.join(out, f), 0o644)
    model = cls.from_pretrained(out, attn_implementation="eager").eval()
    expected = ref.head_outputs(model, ids, types, labels)
    exact = ref.head_outputs(cls.from_pretrained(out, attn_implementation="eager", dtype=torch.float64).eval(), ids, types,
                             labels)
    for k in expected:  # softmax does not see a bias of the keys: its gradient is rounding, and zero is written
        if k.endswith("self.key.bias"):
            assert float(exact[k].norm()) < 1e-12 and float(expected[k].norm()) < 1e-6
            expected[k], exact[k] = torch.zeros_like(expected[k]), torch.zeros_like(exact[k])
    noise = max(ref.relative(expected[k], exact[k]) for k in expected)
    assert noise < 1e-5, f"{name}: f32 itself is {noise:.1e} away from f64: no reference for 1e-4"
    as_int = {"ids": ids, "types": types, "labels": [] if labels is None else labels}
    save_file({**{k: torch.tensor(v, dtype=torch.int32) for k, v in as_int.items() if v},
               **{k: v.contiguous() for k, v in expected.items()}}, os.path.join(out, "expected.safetensors"),
              metadata={"format": "pt"})
    os.chmod(os.path.join(out, "expected.safetensors"), 0o644)
    print(f"{name:20s} entropy {entropy:.2f} of uniform, f32 noise {noise:.1e}")


def picture_of(name, config):
    g = torch.Generator().manual_seed(ref.seed_of(name + "/picture"))
    return torch.randn(config.num_channels, config.image_size, config.image_size, generator=g)


def make_seeing(name, cls, config):
    """The same for a network that sees: one picture's patches, the label of its class token."""
    out = os.path.join(HERE, name)
    shutil.rmtree(out, ignore_errors=True)
    picture = picture_of(name, config)
    label = ref.seed_of(name) % config.num_labels if "Classification" in cls.__name__ else None
    model, entropy = ref.random_model(config, ref.seed_of(name), picture, cls)
    model.save_pretrained(out)
    model = cls.from_pretrained(out, attn_implementation="eager").eval()
    expected = ref.vit_outputs(model, picture, label)
    exact = ref.vit_outputs(cls.from_pretrained(out, attn_implementation="eager", dtype=torch.float64).eval(), picture, label)
    for k in expected:  # as for the encoders: softmax does not see a bias of the keys
        if k.endswith("attention.key.bias"):
            assert float(exact[k].norm()) < 1e-6 and float(expected[k].norm()) < 1e-6
            expected[k], exact[k] = torch.zeros_like(expected[k]), torch.zeros_like(exact[k])
    noise = max(ref.relative(expected[k], exact[k]) for k in expected)
    assert noise < 1e-5, f"{name}: f32 itself is {noise:.1e} away from f64: no reference for 1e-4"
    stored = set(load_file(os.path.join(out, "model.safetensors")))
    assert label is None or {k[5:] for k in expected if k.startswith("grad.")} == stored, "names of gradients are not those of the file"
    rows = ref.patch_rows(picture, config.patch_size)
    save_file({"ids": torch.tensor([0] + [1] * (len(rows) - 1), dtype=torch.int32), "pixels": rows.contiguous(),
               "labels": torch.tensor([0 if label is None else label], dtype=torch.int32), **{k: v.contiguous() for k, v in expected.items()}},
              os.path.join(out, "expected.safetensors"), metadata={"format": "pt"})
    for f in os.listdir(out):
        os.chmod(os.path.join(out, f), 0o644)
    print(f"{name:20s} entropy {entropy:.2f} of uniform, f32 noise {noise:.1e}")


def check_feature(feature):
    """Measures a feature in transformers itself, and records the difference."""
    base = os.path.join(HERE, feature["model"])
    expected = load_file(os.path.join(base, "expected.safetensors"))
    with tempfile.TemporaryDirectory() as tmp:
        for f in os.listdir(base):
            shutil.copy(os.path.join(base, f), tmp)
        path = os.path.join(tmp, "config.json")
        ref.write_json(path, ref.edited_config(ref.read_json(path), feature["set"], feature["remove"]))
        if feature["drop"]:
            path = os.path.join(tmp, "model.safetensors")
            kept = {k: v for k, v in load_file(path).items() if k not in feature["drop"]}
            save_file(kept, path, metadata={"format": "pt"})
        try:
            if feature["model"] in SEEING:
                cls, config = SEEING[feature["model"]]
                model = cls.from_pretrained(tmp, attn_implementation="eager").eval()
                got = ref.vit_outputs(model, picture_of(feature["model"], config), expected["labels"].tolist()[0])["logits"][0]
            elif feature["model"] in HEADS:
                model = HEADS[feature["model"]][0].from_pretrained(tmp, attn_implementation="eager").eval()
                got = ref.head_outputs(model, *(expected[k].tolist() for k in ("ids", "types", "labels")))["logits"]
            else:
                got = ref.logits_of(ref.load_model(tmp), expected["ids"].tolist())
        except (RuntimeError, ValueError) as e:  # shapes that do not fit
            assert feature["may_refuse"], f"{feature['model']}: {feature['what']}: {e}"
            feature["transformers"] = "refuses"
            return
    d = ref.relative(got, expected["logits"])
    ok = d > 2e-4 if feature["expect"] == "differs" else d <= 1e-6
    assert ok, f"{feature['model']}: {feature['what']}: expected '{feature['expect']}', difference {d:.1e}"
    feature["transformers"] = float(f"{d:.2g}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", default="")
    args = p.parse_args()
    for name, config in MODELS.items():
        if name.startswith(args.only):
            make_model(name, config)
    for name, (cls, config) in HEADS.items():
        if name.startswith(args.only):
            make_head(name, cls, config)
    for name, (cls, config) in SEEING.items():
        if name.startswith(args.only):
            make_seeing(name, cls, config)
    listed = features()
    for feature in listed:
        check_feature(feature)
    ref.write_json(os.path.join(HERE, "features.json"), listed)
    print(f"{len(listed)} features")


if __name__ == "__main__":
    main()
