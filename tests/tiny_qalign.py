"""A Q-Align of a few thousand numbers in the format of the official `q-future/one-align` folder.

Everything in it is a function of the seed: weights, shards, and a real sentencepiece vocabulary trained on the spot
with the options of LLaMA's. Weights are float16, like the released ones, and large enough that a wrong branch, order or
mask moves the logits by far more than rounding does.
"""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file

from talkbench.nets.qalign import QAlign, Sizes

LEVELS = ("excellent", "good", "fair", "poor", "bad")
SENTENCES = [
    *[f"USER: How would you rate the {task} of this {kind}?"
      for task in ("quality", "aesthetics", "aesthetic") for kind in ("image", "video")],
    *[f"ASSISTANT: The {task} of the {kind} is {level}."
      for task in ("quality", "aesthetics", "aesthetic") for kind in ("image", "video") for level in LEVELS],
    *[f"This {kind} is {level} and that one is {other}."
      for kind in ("image", "video", "picture") for level in LEVELS for other in LEVELS],
]  # fmt: skip


def vocabulary() -> bytes:
    """Return a sentencepiece model of the kind LLaMA-2 has: byte pairs, byte fallback, a mark before every word."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, model_type="bpe", vocab_size=420, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True, split_digits=True,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, hard_vocab_limit=False, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def config(*, image_px: int = 448, num_words: int = 420) -> dict[str, Any]:
    """Return an official `config.json` with small sizes; width, heads and layers all differ from each other."""
    return {
        "architectures": ["MPLUGOwl2LlamaForCausalLM"],
        "model_type": "mplug_owl2",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 48,
        "intermediate_size": 88,
        "max_position_embeddings": 4096,
        "num_attention_heads": 3,
        "num_hidden_layers": 3,
        "num_key_value_heads": 3,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": num_words,
        "visual_config": {
            "visual_model": {
                "attention_dropout": 0.0,
                "hidden_act": "quick_gelu",
                "hidden_size": 32,
                "image_size": image_px,
                "intermediate_size": 56,
                "layer_norm_eps": 1e-06,
                "model_type": "mplug_owl_vision_model",
                "num_attention_heads": 4,
                "num_channels": 3,
                "num_hidden_layers": 2,
                "patch_size": 14,
                "use_flash_attn": False,
            },
            "visual_abstractor": {
                "attention_probs_dropout_prob": 0.0,
                "encoder_hidden_size": 32,
                "grid_size": image_px // 14,
                "hidden_size": 32,
                "intermediate_size": 40,
                "layer_norm_eps": 1e-06,
                "model_type": "mplug_owl_visual_abstract",
                "num_attention_heads": 4,
                "num_hidden_layers": 2,
                "num_learnable_queries": 64,
            },
        },
    }


def weights(sizes: Sizes, seed: int) -> dict[str, torch.Tensor]:
    """Return every tensor under its official name, float16."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in QAlign(sizes).state_dict().items()}
    drawn = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("bias"):
            noise *= 0.1
        elif "norm" in name or "ffn_ln" in name:
            noise = 1 + 0.2 * noise
        elif "lm_head" in name:
            noise *= 0.3
        elif len(shape) > 1 and "embed" not in name.rsplit(".", 1)[-1]:
            noise /= math.sqrt(math.prod(shape[1:]))
        drawn[name] = noise.half()
    return drawn


def write(folder: Path, *, seed: int = 0, image_px: int = 448, settings: dict[str, Any] | None = None) -> Path:
    """Write the folder: configuration, vocabulary, two shards and their index.

    Args:
        folder: Made if need be.
        seed: Of the weights.
        image_px: Side of the picture the network sees; 448 as released, smaller for speed.
        settings: A whole `config.json` instead of the small one; its `vocab_size` is set to that of the vocabulary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = vocabulary()
    (folder / "tokenizer.model").write_bytes(model)
    num_words = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    chosen = (settings or config(image_px=image_px)) | {"vocab_size": num_words}
    tensors = weights(Sizes.from_config(chosen), seed)
    names = sorted(tensors)
    index = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(part, file))
    side = chosen["visual_config"]["visual_model"]["image_size"]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    texts = {
        "config.json": chosen,
        "model.safetensors.index.json": {"metadata": {"total_size": size}, "weight_map": index},
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2},
        "special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        "tokenizer_config.json": {
            "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": False,
            "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 2048,
        },
        "preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor", "crop_size": side, "size": side, "do_center_crop": True,
            "do_normalize": True, "do_resize": True, "resample": 3, "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
        },
    }  # fmt: skip
    for name, content in texts.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    return folder
