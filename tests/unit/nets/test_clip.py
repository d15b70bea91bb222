"""CLIP ViT-B/32: released names, fp16 matrices."""

from __future__ import annotations

import json

import torch
from torch import nn

from talkbench.nets.clip import ClipVision, Mlp, half_rounded
from tests.support import ROOT

KEYS = json.loads((ROOT / "tests/data/keys/clip_vitb32_full.json").read_text())


def test_names_and_shapes_are_those_of_the_image_part_of_the_released_file() -> None:
    with torch.device("meta"):
        net = ClipVision()
    visual = {name: shape for name, shape in KEYS.items() if name.startswith("visual.")}
    assert {name: list(value.shape) for name, value in net.state_dict().items()} == visual
    assert len(visual) == 152


def test_matrices_are_rounded_to_fp16_and_norms_and_embeddings_are_not() -> None:
    torch.manual_seed(0)
    names = [name for name in KEYS if name.startswith("visual.") and "resblocks.1" not in name]
    rounded = half_rounded({name: torch.rand(4) for name in [*names, "ln_final.weight", "text_projection"]})
    assert set(rounded) == set(names)
    kept = {name for name, value in rounded.items() if not torch.equal(value, value.half().float())}
    norms = {name for name in names if ".ln_" in name or name.endswith(("class_embedding", "positional_embedding"))}
    assert kept == norms
    assert all(value.dtype == torch.float32 for value in rounded.values())


def test_norms_use_the_usual_epsilon() -> None:
    net = ClipVision(width=8, depth=1, num_heads=2, patch_px=8, side_px=16, num_features=4)
    assert {module.eps for module in net.modules() if isinstance(module, nn.LayerNorm)} == {1e-5}


def test_the_activation_is_quick_gelu() -> None:
    mlp = Mlp(1)
    for name, value in mlp.named_parameters():
        nn.init.constant_(value, float(name.endswith("weight")))
    nn.init.constant_(mlp.c_proj.weight, 0.25)
    x = torch.tensor([[[1.5]]])
    torch.testing.assert_close(mlp(x), x * torch.sigmoid(1.702 * x))


def test_one_feature_per_picture() -> None:
    torch.manual_seed(0)
    net = ClipVision(width=8, depth=1, num_heads=2, patch_px=8, side_px=16, num_features=4).eval()
    for value in net.state_dict().values():
        value.copy_(torch.randn_like(value))
    pictures = torch.rand(3, 3, 16, 16)
    with torch.inference_mode():
        alone = torch.cat([net(picture) for picture in torch.split(pictures, 1)])
        assert alone.shape == (3, 4)
        torch.testing.assert_close(net(pictures), alone, atol=1e-5, rtol=1e-5)
