"""Q-Align's shape, the shortcuts it takes, and the shards it accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from talkbench.nets import qalign
from talkbench.nets.qalign import QAlign, Sizes
from talkbench.nets.qalign_language import Int8Linear, Places
from tests import tiny_qalign
from tests.support import ROOT

SMALL = tiny_qalign.config(image_px=56)
SIZES = Sizes.from_config(SMALL)
BEFORE, AFTER, ANSWERS = (1, 50, 60, 13), (70, 80, 90), (309, 306, 305, 307, 303)


def tensors() -> Iterator[tuple[str, Tensor]]:
    yield from tiny_qalign.weights(SIZES, seed=1).items()


def made(dtype: torch.dtype = torch.float32, int8: bool = False) -> QAlign:
    net = qalign.empty(SIZES, dtype, "cpu", int8)
    net.fill(tensors())
    return net.eval()


def pixels(num: int) -> Tensor:
    return torch.randn(num, 3, 56, 56, generator=torch.Generator().manual_seed(5))


@torch.inference_mode()
def asked(net: QAlign, pixels_BCHW: Tensor, before: tuple[int, ...] = BEFORE) -> Tensor:
    return net.ask(net.look(pixels_BCHW), before, AFTER, ANSWERS)


def test_names_and_shapes_are_those_of_the_released_files() -> None:
    keys = json.loads((ROOT / "tests/data/keys/qalign_one_align.json").read_text())
    with torch.device("meta"):
        net = QAlign()
    assert len(keys) == 862
    assert {name: list(value.shape) for name, value in net.state_dict().items()} == keys


def test_the_released_configuration_gives_the_default_sizes() -> None:
    vision = {"image_size": 448, "patch_size": 14, "hidden_size": 1024, "num_hidden_layers": 24,
              "num_attention_heads": 16, "intermediate_size": 4096, "layer_norm_eps": 1e-6}  # fmt: skip
    abstractor = {"hidden_size": 1024, "num_learnable_queries": 64, "num_hidden_layers": 6, "num_attention_heads": 16,
                  "intermediate_size": 2816, "layer_norm_eps": 1e-6}  # fmt: skip
    config = {"vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
              "num_key_value_heads": 32, "intermediate_size": 11008, "rms_norm_eps": 1e-5,
              "visual_config": {"visual_model": vision, "visual_abstractor": abstractor}}  # fmt: skip
    assert Sizes.from_config(config) == Sizes()


@pytest.mark.parametrize("change", [{"num_key_value_heads": 1}, {"rope_scaling": {"type": "linear", "factor": 2.0}}])
def test_a_configuration_of_another_architecture_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Sizes.from_config(SMALL | change)


def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    net, some = made(), pixels(3)
    one_by_one = torch.cat([asked(net, some[i : i + 1]) for i in range(3)])
    assert (asked(net, some) - one_by_one).abs().max() < 1e-5


@pytest.mark.parametrize("part", ["k_proj", "v_proj", "input_layernorm", "post_attention_layernorm"])
def test_words_and_image_take_different_branches(part: str) -> None:
    net, some = made(), pixels(1)
    right = asked(net, some)
    for layer in net.model.layers:
        owner = layer.self_attn if part.endswith("proj") else layer
        branches = getattr(owner, part).multiway
        branches[0], branches[1] = branches[1], branches[0]
    assert (asked(net, some) - right).abs().max() > 0.01


def test_the_words_before_the_picture_count() -> None:
    net, some = made(), pixels(1)
    assert (asked(net, some) - asked(net, some, before=BEFORE[1:])).abs().max() > 0.01


@torch.inference_mode()
def test_the_picture_reaches_the_answer() -> None:
    logits = asked(made(), pixels(2))
    assert (logits[0] - logits[1]).abs().max() > 0.01


def test_half_precision_stays_close_because_angles_keep_their_precision() -> None:
    some = pixels(2)
    assert (asked(made(torch.float16), some) - asked(made(), some)).abs().max() < 0.03
    half, full = (Places.of(40, 65, 75, 128, 1e4, torch.zeros(1, dtype=d)) for d in (torch.float16, torch.float32))
    assert torch.equal(half.cos_Ld, full.cos_Ld.half())


def test_eight_bits_keep_each_weight_within_half_a_step_and_the_logits_close() -> None:
    weight = torch.randn(7, 30)
    layer = Int8Linear(30, 7)
    layer.fill(weight)
    error = (layer.weight * layer.scale - weight).abs()
    assert (error <= weight.abs().amax(1, keepdim=True) / 127 / 2 + 1e-6).all()
    net, some = made(int8=True), pixels(2)
    assert {part.weight.dtype for part in net.modules() if isinstance(part, Int8Linear)} == {torch.int8}
    difference = (asked(net, some) - asked(made(), some)).abs().max()
    assert 0 < difference < 0.3


def test_a_matrix_of_zeros_survives_eight_bits() -> None:
    layer = Int8Linear(4, 2)
    layer.fill(torch.zeros(2, 4))
    assert torch.equal(layer(torch.ones(1, 4)), torch.zeros(1, 2))


@pytest.mark.parametrize("int8", [False, True])
def test_missing_unknown_and_misshapen_tensors_are_named(int8: bool) -> None:
    given = dict(tensors())
    name = "model.layers.1.mlp.up_proj.weight"
    cases = [
        ({k: v for k, v in given.items() if k != name}, f"1 tensors are missing, {name}"),
        (given | {"model.other.weight": torch.zeros(1)}, "unknown tensor model.other.weight"),
        (given | {name: torch.zeros(2, 3)}, rf"tensor {name} is \(2, 3\), expected \(88, 48\)"),
    ]
    for wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            qalign.empty(SIZES, torch.float32, "cpu", int8).fill(wrong.items())


def test_stored_rotary_frequencies_of_old_exports_are_passed_over() -> None:
    given = {**dict(tensors()), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}
    net = qalign.empty(SIZES, torch.float32, "cpu").eval()
    net.fill(given.items())
    assert torch.equal(asked(net, pixels(1)), asked(made(), pixels(1)))
