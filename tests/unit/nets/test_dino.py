"""DINO ViT-B/16: released names, position embeddings, patches."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from talkbench.nets.dino import DinoViT
from tests.support import ROOT

KEYS = json.loads((ROOT / "tests/data/keys/dino_vitb16.json").read_text())


@pytest.fixture
def tiny() -> DinoViT:
    torch.manual_seed(0)
    net = DinoViT(width=32, depth=2, num_heads=4).eval().requires_grad_(False)
    for tensor in net.state_dict().values():
        tensor.copy_(torch.randn_like(tensor) * 0.3)
    return net


def cubic(distance: float, a: float = -0.75) -> float:
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resampled(values: np.ndarray, length: int) -> np.ndarray:
    """Bicubic along the first axis, sampled as DINO does: the target a tenth of a patch longer than it is."""
    old = len(values)
    found = []
    for number in range(length):
        at = (number + 0.5) * old / (length + 0.1) - 0.5
        base = int(np.floor(at))
        taps = [(min(max(k, 0), old - 1), cubic(at - k)) for k in range(base - 1, base + 3)]
        found.append(sum(weight * values[index] for index, weight in taps))
    return np.stack(found)


def test_names_and_shapes_are_those_of_the_released_file() -> None:
    with torch.device("meta"):
        net = DinoViT()
    assert {name: list(value.shape) for name, value in net.state_dict().items()} == KEYS
    assert len(KEYS) == 150


def test_position_embeddings_are_sampled_a_tenth_of_a_patch_off(tiny: DinoViT) -> None:
    grid = tiny.pos_embed[0, 1:].view(14, 14, -1).double().numpy()
    expected = resampled(resampled(grid, 14).transpose(1, 0, 2), 24).transpose(1, 0, 2)
    found = tiny.positions(14, 24, square=False)[0].view(14, 24, -1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_only_a_square_picture_gets_the_trained_positions_as_they_are(tiny: DinoViT) -> None:
    assert torch.equal(tiny.positions(14, 14, square=True), tiny.pos_embed[:, 1:])
    assert not torch.allclose(tiny.positions(14, 14, square=False), tiny.pos_embed[:, 1:], atol=1e-3)


def test_what_lies_beyond_the_last_whole_patch_is_not_seen(tiny: DinoViT) -> None:
    picture = torch.rand(1, 3, 64, 83)
    changed = picture.clone()
    changed[..., 80:] = 0
    assert torch.equal(tiny(picture), tiny(changed))


def test_a_picture_gets_the_same_feature_alone_and_among_others(tiny: DinoViT) -> None:
    pictures = torch.rand(3, 3, 64, 96)
    alone = torch.cat([tiny(picture) for picture in torch.split(pictures, 1)])
    assert alone.shape == (3, 32)
    torch.testing.assert_close(tiny(pictures), alone, atol=1e-5, rtol=1e-5)
