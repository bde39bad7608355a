"""A small ViT for grey pictures of 28×28 in a Hugging Face directory, with random weights as transformers draws them (normal,
deviation 0.02; biases 0, norms 1), and its preprocessor_config.json."""
import array
import random

from byte_model import write_directory


def write(out, labels, width=64, layers=4, heads=4, side=28, patch=4, seed=0):
    """Writes the directory `out`. -> number of parameters"""
    rng, tensors, ff = random.Random(seed), {}, 2 * width

    def normal(name, *shape):
        n = 1
        for s in shape:
            n *= s
        tensors[name] = (list(shape), array.array("f", (rng.gauss(0, 0.02) for _ in range(n))))

    def constant(name, n, value):
        tensors[name] = ([n], array.array("f", [value]) * n)

    def linear(name, m, n):
        normal(name + ".weight", m, n)
        constant(name + ".bias", m, 0.0)

    def norm(name):
        constant(name + ".weight", width, 1.0)
        constant(name + ".bias", width, 0.0)

    rows = (side // patch) ** 2 + 1
    normal("vit.embeddings.cls_token", 1, 1, width)
    normal("vit.embeddings.position_embeddings", 1, rows, width)
    normal("vit.embeddings.patch_embeddings.projection.weight", width, 1, patch, patch)
    constant("vit.embeddings.patch_embeddings.projection.bias", width, 0.0)
    for i in range(layers):
        at = f"vit.encoder.layer.{i}."
        norm(at + "layernorm_before")
        for w in ("query", "key", "value"):
            linear(at + "attention.attention." + w, width, width)
        linear(at + "attention.output.dense", width, width)
        norm(at + "layernorm_after")
        linear(at + "intermediate.dense", ff, width)
        linear(at + "output.dense", width, ff)
    norm("vit.layernorm")
    linear("classifier", labels, width)
    config = {"architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_size": width, "num_hidden_layers": layers,
              "num_attention_heads": heads, "intermediate_size": ff, "image_size": side, "patch_size": patch, "num_channels": 1,
              "qkv_bias": True, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.0,
              "attention_probs_dropout_prob": 0.0, "id2label": {str(i): f"LABEL_{i}" for i in range(labels)}, "dtype": "float32"}
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": side, "width": side}, "do_resize": True, "do_rescale": True,
                 "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.2860], "image_std": [0.3530], "resample": 2}
    return write_directory(out, tensors, {"config.json": config, "preprocessor_config.json": processor})
