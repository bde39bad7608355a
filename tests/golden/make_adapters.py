#!/usr/bin/env python3
"""Writes the golden adapters: directories that PEFT writes over the golden models, with what the adapted models compute; and
a LoRA training run of 50 steps by PEFT and torch's AdamW. README.md beside this file says what each file holds. Run
make_golden.py first; fixed seeds, the same files each time.
"""
import os
import shutil
import sys
import warnings

import torch
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "bench", "parity"))
import reference as ref  # noqa: E402
from peft import LoraConfig, PeftModel, ShiraConfig, get_peft_model  # noqa: E402
from peft.tuners.shira.layer import ShiraLayer  # noqa: E402

warnings.filterwarnings("ignore")
LLAMA_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

ADAPTERS = {
    "lora": ("llama-gqa", LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")),
    "rslora": ("llama-gqa", LoraConfig(
        r=4, lora_alpha=6, use_rslora=True, target_modules=LLAMA_LINEAR,
        # a key matches the end of the module's path, and the first that matches in the file's order counts (PEFT sorts
        # them): q_proj of layer 0 has rank 1, down_proj of layer 1 has rank 3
        rank_pattern={"down_proj": 3, "layers.0.self_attn.q_proj": 1, "layers.1.mlp.down_proj": 2, "q_proj": 2},
        alpha_pattern={"v_proj": 10, r"layers\.1\.mlp\.(gate|up)_proj": 3})),
    "shira": ("llama-gqa", ShiraConfig(r=2, target_modules=LLAMA_LINEAR, random_seed=7)),
    "gpt2-lora": ("gpt2", LoraConfig(r=3, lora_alpha=4, target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True)),
}


def scatter_masks(model, seed):
    """PEFT's random mask is the same for every layer of one shape: draw another for each, in unsorted order."""
    g = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, ShiraLayer):
            k = module.shira_weight["default"].numel()
            flat = torch.randperm(module.in_features * module.out_features, generator=g)[:k]
            rows, cols = flat // module.in_features, flat % module.in_features
            module.shira_indices["default"] = torch.stack([rows, cols]).to(torch.int)


def save_adapter(model, out, base):
    model.save_pretrained(out)
    path = os.path.join(out, "adapter_config.json")
    config = ref.read_json(path)
    config["base_model_name_or_path"] = base
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # a set in PEFT
    ref.write_json(path, config)
    os.remove(os.path.join(out, "README.md"))


def finish(out):
    for f in os.listdir(out):
        os.chmod(os.path.join(out, f), 0o644)
    print(f"{os.path.relpath(out, HERE)}: {sum(os.path.getsize(os.path.join(out, f)) for f in os.listdir(out)) // 1000} kB")


def make_adapter(name, base, config):
    out = os.path.join(HERE, "adapters", name)
    shutil.rmtree(out, ignore_errors=True)
    seed = ref.seed_of("adapter/" + name)
    torch.manual_seed(seed)
    model = get_peft_model(ref.load_model(os.path.join(HERE, base)), config)
    if name == "shira":
        scatter_masks(model, seed)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.requires_grad:
                p.copy_(0.3 * torch.empty(p.shape).normal_(generator=g))
    save_adapter(model, out, base)
    ids = load_file(os.path.join(HERE, base, "expected.safetensors"))["ids"]
    logits = ref.logits_of(PeftModel.from_pretrained(ref.load_model(os.path.join(HERE, base)), out).eval(), ids.tolist())
    without = ref.logits_of(ref.load_model(os.path.join(HERE, base)), ids.tolist())
    assert ref.relative(logits, without) > 0.05, f"{name}: the adapter changes nothing"
    save_file({"ids": ids, "logits": logits.contiguous()}, os.path.join(out, "expected.safetensors"),
              metadata={"format": "pt"})
    finish(out)


RUN = dict(base="llama-gqa", steps=50, batch=3, rows=8, lr=2e-2, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0,
           clip=1.0, schedule="linear", warmup_steps=3, r=4, alpha=8, targets="all-linear")


def training_rows(vocab, n, T, seed):
    """n rows of T ids, right-padded with 0 to unequal lengths; labels as HF has them: the first ids are a prompt."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocab, (n, T), generator=g)
    length = torch.randint(T // 2, T + 1, (n,), generator=g)
    labels = ids.clone()
    for i in range(n):
        ids[i, length[i]:] = 0
        labels[i, length[i]:] = ref.IGNORE
        labels[i, :2 + i % 3] = ref.IGNORE
    return ids, labels, length


def train(out, dtype):
    """-> losses, gradient norms, rates, {name: final A or B}"""
    from transformers import get_linear_schedule_with_warmup
    model = ref.load_model(os.path.join(HERE, RUN["base"]), dtype)
    model = PeftModel.from_pretrained(model, out, is_trainable=True).to(dtype)
    ids, labels, length = training_rows(model.config.vocab_size, RUN["rows"], 23, ref.seed_of("lora-run"))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RUN["lr"], betas=(RUN["beta1"], RUN["beta2"]), eps=RUN["eps"],
                                  weight_decay=RUN["weight_decay"])
    schedule = get_linear_schedule_with_warmup(optimizer, RUN["warmup_steps"], RUN["steps"])
    losses, norms, rates = [], [], []
    for step in range(RUN["steps"]):
        rows = [(step * RUN["batch"] + i) % RUN["rows"] for i in range(RUN["batch"])]
        mask = torch.arange(ids.shape[1])[None] < length[rows][:, None]
        loss = model(input_ids=ids[rows], labels=labels[rows], attention_mask=mask).loss
        loss.backward()
        rates.append(schedule.get_last_lr()[0])
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, RUN["clip"])))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    final = {"final." + k.replace(".default", ""): v.detach().clone().contiguous()
             for k, v in model.named_parameters() if v.requires_grad}
    data = {"ids": ids.to(torch.int32), "labels": labels.to(torch.int32), "length": length.to(torch.int32)}
    return losses, norms, rates, final, data


def make_training_run():
    """50 updates by PEFT from a given adapter. An update takes rows (batch·s … batch·s + batch − 1) mod rows; its loss is the
    sum over all its target tokens divided by their number."""
    out = os.path.join(HERE, "adapters", "lora-run")
    shutil.rmtree(out, ignore_errors=True)
    torch.manual_seed(ref.seed_of("lora-run"))
    config = LoraConfig(r=RUN["r"], lora_alpha=RUN["alpha"], target_modules=RUN["targets"])
    save_adapter(get_peft_model(ref.load_model(os.path.join(HERE, RUN["base"])), config), out, RUN["base"])
    losses, norms, rates, final, data = train(out, torch.float32)
    exact_losses, _, _, exact, _ = train(out, torch.float64)
    loss_noise = max(abs(a - b) for a, b in zip(losses, exact_losses))
    noise = max(ref.relative(final[k], exact[k]) for k in final)
    assert loss_noise < 1e-4 and noise < 1e-3, f"f32 itself drifts: losses {loss_noise:.1e}, factors {noise:.1e}"
    assert losses[-1] <= 0.9 * losses[0] and sum(losses[-8:]) <= 0.9 * sum(losses[:8]), f"{losses[0]:.3f} to {losses[-1]:.3f}"
    assert any(n > RUN["clip"] for n in norms) and any(n < RUN["clip"] for n in norms), "clipping is not exercised both ways"
    save_file({**data, "loss": torch.tensor(losses), "grad_norm": torch.tensor(norms), "lr": torch.tensor(rates), **final},
              os.path.join(out, "expected.safetensors"), metadata={"format": "pt"})
    ref.write_json(os.path.join(out, "run.json"), RUN)
    print(f"loss {losses[0]:.4f} to {losses[-1]:.4f}, gradient norms {min(norms):.2f} to {max(norms):.2f}, "
          f"f32 noise {loss_noise:.1e} in losses, {noise:.1e} in factors")
    finish(out)


def main():
    for name, (base, config) in ADAPTERS.items():
        make_adapter(name, base, config)
    make_training_run()


if __name__ == "__main__":
    main()
