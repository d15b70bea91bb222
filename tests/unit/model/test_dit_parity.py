"""Our transformer gives the numbers of the plain formulas, and would not with a plausible mistake in it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from model.attention import choose_kernel
from model.config import DiTConfig
from model.dit import DiT
from tests.plain import dit, states
from tests.unit.model.parity import PlainKernel, dit_inputs, mutant, network, relative, run

TINY = states.TINY_DIT
CASES: list[tuple[dict[str, int], tuple[int, int, int], dict[str, Any]]] = [
    ({}, (3, 3, 5), {}),
    ({"num_heads": 1}, (2, 3, 3), {}),
    ({"num_heads": 8, "num_layers": 1}, (9, 4, 3), {"time": 1000.0}),
    ({"dim": 128, "num_heads": 1, "num_layers": 1}, (3, 7, 5), {"time": 0.0}),
    ({"dim": 40, "num_heads": 2}, (1, 2, 2), {"time": 833.3333}),
    ({"freq_dim": 256, "text_len": 40, "audio_tokens": 3}, (9, 1, 1), {"text": 40}),
    ({"num_layers": 3}, (5, 1, 6), {"text": 1}),
]  # fmt: skip
LAST_LINEAR = {"self": "self_attn.o", "context": "cross_attn.o", "audio": "audio_cross_attn.proj", "feed": "ffn.2"}


def case(
    changes: dict[str, int], grid: tuple[int, int, int], options: dict[str, Any], seed: int = 0
) -> tuple[dict[str, int], dict[str, Tensor], dict[str, Any]]:
    sizes = TINY | changes
    return sizes, states.random_state(states.dit_shapes(sizes), seed), dit_inputs(sizes, grid, seed=seed, **options)


def test_the_default_network_has_the_released_names_and_shapes() -> None:
    with torch.device("meta"):
        ours = {name: tuple(tensor.shape) for name, tensor in DiT(DiTConfig()).state_dict().items()}
    assert ours == states.dit_shapes(states.OFFICIAL_DIT)
    assert len(ours) == 1633
    assert sum(math.prod(shape) for shape in ours.values()) == 18_882_046_784


@pytest.mark.parametrize(("changes", "grid", "options"), CASES)
def test_float32_agrees_with_the_formulas(
    changes: dict[str, int], grid: tuple[int, int, int], options: dict[str, Any]
) -> None:
    sizes, state, inputs = case(changes, grid, options)
    expected = dit.forward(state, sizes, dtype=torch.float32, **inputs)
    ours = run(network(sizes, state), **inputs)
    assert ours.dtype is torch.float32
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_float64_agrees_with_the_formulas_to_the_last_digits() -> None:
    sizes, state, inputs = case({}, (3, 3, 5), {})
    net = network(sizes, state, torch.float64)
    net.use(choose_kernel(device=torch.device("cpu"), dtype=torch.float64, head_dim=12))
    inputs = {name: value.double() if isinstance(value, Tensor) else value for name, value in inputs.items()}
    expected = dit.forward(state, sizes, dtype=torch.float64, **inputs)
    torch.testing.assert_close(run(net, **inputs), expected, atol=1e-12, rtol=0)


def with_small_activations(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scale every norm's input down to about its eps, so that the eps shows."""
    small = ["patch_embedding", "img_emb.proj.3", "audio_proj.proj3"]
    for number in range(TINY["num_layers"]):
        small += [f"blocks.{number}.self_attn.{name}" for name in "qk"]
        small += [f"blocks.{number}.cross_attn.{name}" for name in ("q", "k", "k_img")]
        small += [f"blocks.{number}.{name}" for name in LAST_LINEAR.values()]
    factors = {f"{name}.{kind}": 3e-3 for name in small for kind in ("weight", "bias")}
    return {name: tensor * factors.get(name, 1.0) for name, tensor in state.items()}


def test_float32_agrees_where_norms_see_next_to_nothing() -> None:
    sizes, state, inputs = case({}, (3, 3, 5), {})
    state, inputs["image_1LD"] = with_small_activations(state), inputs["image_1LD"] * 3e-3
    expected = dit.forward(state, sizes, dtype=torch.float32, **inputs)
    torch.testing.assert_close(run(network(sizes, state), **inputs), expected, atol=1e-5, rtol=0)
    for right, wrong in (("BLOCK_EPS = 1e-6", "BLOCK_EPS = 1e-5"), ("PROJECTION_EPS = 1e-5", "PROJECTION_EPS = 1e-6")):
        mistaken = mutant(dit, right, wrong).forward(state, sizes, dtype=torch.float32, **inputs)
        assert float((mistaken - expected).abs().max()) > 1e-3


MISTAKES = {
    "text padded after its MLP": (
        'return linear(weights, "text_embedding.2", hidden, dtype)',
        'return linear(weights, "text_embedding.2", hidden, dtype) * (padded != 0).any(1, keepdim=True)',
    ),
    "text padding left out": ('sizes["text_len"], text_LD.shape[1], dtype', "len(text_LD), text_LD.shape[1], dtype"),
    "RMS per head": (
        "torch.sqrt((z_wide**2).mean(-1, keepdim=True) + BLOCK_EPS)",
        "torch.sqrt((z_wide**2).reshape(len(z), 4, -1).mean(-1).repeat_interleave(12, -1) + BLOCK_EPS)",
    ),
    "audio values before keys": (
        "k, v = heads(kv[:, :width], num_heads), heads(kv[:, width:], num_heads)",
        "v, k = heads(kv[:, :width], num_heads), heads(kv[:, width:], num_heads)",
    ),
    "audio of another frame": ("enumerate(audio_TKC)", "enumerate(audio_TKC.roll(1, 0))"),
    "audio entries in another order": ("second[2], third[2], last[2]", "third[2], second[2], last[2]"),
    "audio added with a gate": (
        "audio_TKC, num_heads, positions)\n\n",
        "audio_TKC, num_heads, positions) * gate_a\n\n",
    ),
    "audio through the norm of the context": (
        'affine_norm(weights, f"{name}.norm_x"',
        'affine_norm(weights, f"{name}.norm3"',
    ),
    "text and image averaged": ("total = total + mixed", "total = total + mixed / 2"),
    "e6 in the head": ("return head(weights, x_ND, e_D, grid)", "return head(weights, x_ND, e6_6D[:2], grid)"),
    "scale before shift": ("shift_a, scale_a, gate_a, shift_f", "scale_a, shift_a, gate_a, shift_f"),
    "exact GELU in the feed-forward": (
        'gelu_tanh(linear(weights, f"{name}.ffn.0"',
        'gelu_exact(linear(weights, f"{name}.ffn.0"',
    ),
    "approximate GELU of the image": ("gelu_exact(linear(weights", "gelu_tanh(linear(weights"),
    "sines before cosines": ("(math.cos, math.sin)", "(math.sin, math.cos)"),
    "frequencies of the whole head": (
        "position * 10000.0 ** (-2 * i / width)",
        "position * 10000.0 ** (-2 * i / head_dim)",
    ),
    "rotation the other way": ("a * cos - b * sin", "a * cos + b * sin"),
    "rotated values": (
        'v = linear(weights, f"{name}.v", u_ND, dtype)',
        'v = rope(heads(linear(weights, f"{name}.v", u_ND, dtype), num_heads), grid)',
    ),
    "reference before noise": ("[x_CThw, y_CThw.to(x_CThw.dtype)]", "[y_CThw.to(x_CThw.dtype), x_CThw]"),
    "channels before places in a patch": ("values[start : start + channels]", "values[2 * p + q :: 4]"),
    "rows for columns in a patch": ("start = (2 * p + q) * channels", "start = (2 * q + p) * channels"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_plausible_mistake_would_be_noticed(mistake: str) -> None:
    sizes, state, inputs = case({}, (3, 3, 5), {})
    mistaken = mutant(dit, *MISTAKES[mistake]).forward(state, sizes, dtype=torch.float32, **inputs)
    assert float((run(network(sizes, state), **inputs) - mistaken).abs().max()) > 1e-4


def only(state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return a state in which just one part of the block adds to the tokens; "none" and "all" are allowed."""
    silent = [name for key, name in LAST_LINEAR.items() if part not in {key, "all"}]
    return {
        name: torch.zeros_like(tensor) if any(f".{end}." in name for end in silent) else tensor
        for name, tensor in state.items()
    }


def bfloat16_distance(plain: Any, part: str) -> float:
    """Return how far our bfloat16 is from the plain one in the median of five networks of one block."""
    distances = []
    for seed in range(5):
        sizes, state, inputs = case({"num_layers": 1}, (3, 3, 5), {}, seed)
        net = network(sizes, only(state, part), torch.bfloat16)
        net.use(PlainKernel())
        expected = plain.forward(only(state, part), sizes, dtype=torch.bfloat16, **inputs)
        distances.append(relative(run(net, **inputs), expected))
    return sorted(distances)[2]


@pytest.mark.parametrize("part", ["none", *LAST_LINEAR])
def test_bfloat16_rounds_where_the_released_code_rounds(part: str) -> None:
    # A sum just between two bfloat16 numbers may go either way, and one such number is 1e-3 here: hence the median.
    assert bfloat16_distance(dit, part) < 1e-4


ROUNDINGS = {
    "layer norm not rounded": (
        "none",
        "normed = layer_norm(x_ND, BLOCK_EPS).to(x_ND.dtype)",
        "normed = layer_norm(x_ND, BLOCK_EPS)",
    ),
    "RMS rounded after its weight": (
        "self",
        "keepdim=True) + BLOCK_EPS)).to(z.dtype) * weight.to(z.dtype)",
        "keepdim=True) + BLOCK_EPS) * weight).to(z.dtype)",
    ),
    "queries not rounded after rotation": (
        "self",
        "(tensor.to(dtype).to(wide(dtype)) for",
        "(tensor.to(wide(dtype)) for",
    ),
    "context added in float32": (
        "context",
        "mixed = attention(q, heads(k, num_heads), heads(v, num_heads), dtype)",
        "mixed = attention(q, heads(k, num_heads), heads(v, num_heads), torch.float32)",
    ),
    "audio norm not rounded": ("audio", "tokens_TKC, PROJECTION_EPS)", "tokens_TKC.float(), PROJECTION_EPS)"),
    "gate in bfloat16": ("feed", "fed.to(gate_f.dtype) * gate_f", "fed * gate_f.to(dtype)"),
    "time in bfloat16": ("none", "full = wide(dtype)", "full = dtype"),
    "head in bfloat16": ("none", "scale_D, shift_D), e_D.dtype)", "scale_D, shift_D), x_ND.dtype)"),
}


@pytest.mark.parametrize("mistake", ROUNDINGS)
def test_a_misplaced_rounding_would_be_noticed(mistake: str) -> None:
    part, right, wrong = ROUNDINGS[mistake]
    assert bfloat16_distance(mutant(dit, right, wrong), part) > 5e-4


def test_whole_bfloat16_networks_stay_close() -> None:
    sizes, state, inputs = case({}, (9, 3, 5), {})
    net = network(sizes, state, torch.bfloat16)
    net.use(choose_kernel(device=torch.device("cpu"), dtype=torch.bfloat16, head_dim=12))
    ours = run(net, **inputs)
    assert ours.dtype is torch.float32
    exact = dit.forward(state, sizes, dtype=torch.float32, **inputs)
    rounded = dit.forward(state, sizes, dtype=torch.bfloat16, **inputs)
    assert relative(ours, rounded) < 1.2e-2
    assert relative(ours, exact) < 1.2 * relative(rounded, exact)
