"""What a training recipe is said to need: the table of the description, what a block really keeps, and good advice."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.dit import DiT, Embedded, Positions
from model.recipes import recipe as tiny_recipe
from model.training.memory import KEPT, KEPT_HIDDEN, KEPT_WIDE, Estimate, estimate
from model.training.recipes import train_recipe
from talkbench.errors import PrerequisiteError

GB = 1e9
DISTILL = train_recipe("distill_14b")
"""One latent per decoder call, as training decodes."""
DISTILL = replace(DISTILL, model=replace(DISTILL.model, compute=replace(DISTILL.model.compute, decode_groups=(1,) * 9)))


def networks(found: Estimate) -> float:
    """Return GB of what the description's table adds up."""
    return (found.states + found.inputs + found.gathered + found.block) / GB


@pytest.mark.parametrize(("num_gpus", "states", "total"), [(32, 20, 30), (16, 40, 50), (8, 80, 90)])
def test_the_14b_model_needs_what_the_table_of_the_description_says(num_gpus: int, states: float, total: float) -> None:
    found = estimate(DISTILL, num_gpus, 96)
    assert found.states / GB == pytest.approx(states, rel=0.01)
    assert found.inputs / GB == pytest.approx(4.3, rel=0.01)
    assert found.gathered / GB == pytest.approx(2.8, rel=0.02)
    # The table has 2.8 GB for a block that is computed again; counted in ours it is 4.8 GB.
    assert networks(found) == pytest.approx(total + 2.0, rel=0.01)


def test_stage_1_needs_a_third_of_the_states_and_no_autoencoder() -> None:
    found = estimate(train_recipe("sft_14b"), 8, 80)
    assert found.states / GB == pytest.approx(38, rel=0.01)
    assert found.autoencoder == found.decoding == 0
    assert found.verdict == "fits"


@pytest.mark.parametrize(
    ("num_gpus", "gigabytes", "verdict"),
    [
        (32, 96, "fits"),
        (8, 141, "fits"),
        (8, 96, "tight"),
        (8, 80, "does not fit; needs `--set offload=true`, with 642 GB of host memory in all or 16 GPUs of this size"),
        (1, 24, "does not fit; needs `--set offload=true`, with 642 GB of host memory in all or 64 GPUs of this size"),
        (1, 8, "does not fit; needs a smaller model or larger GPUs"),
    ],
)
def test_the_verdict_says_what_would_fit(num_gpus: int, gigabytes: float, verdict: str) -> None:
    assert estimate(DISTILL, num_gpus, gigabytes).verdict.startswith(verdict)


def test_offloading_moves_the_states_to_the_host() -> None:
    there, here = estimate(replace(DISTILL, offload=True), 8, 80), estimate(DISTILL, 8, 80)
    assert (there.states, there.fits) == (0, True)
    assert there.needed == here.needed - here.states
    assert there.host_bytes == pytest.approx(8 * here.states, abs=8)


def test_recomputing_and_averages_are_counted() -> None:
    kept = estimate(replace(DISTILL, checkpoint_activations=False), 32, 96)
    assert kept.block == 40 * estimate(DISTILL, 32, 96).block
    assert "`checkpoint_activations`" in kept.verdict
    averaged = estimate(replace(DISTILL, ema_decay=0.99), 32, 96)
    assert (averaged.states - estimate(DISTILL, 32, 96).states) / GB == pytest.approx(4 * 18.88 / 32, rel=0.01)


def test_a_run_that_does_not_fit_is_refused_with_its_parts_and_the_advice() -> None:
    with pytest.raises(PrerequisiteError, match="weights, gradients, moments +80") as caught:
        estimate(DISTILL, 8, 80).refuse_if_too_big()
    assert "distill_14b on 8 GPU(s) of 80 GB" in str(caught.value)
    assert "offload=true" in str(caught.value)
    estimate(DISTILL, 32, 96).refuse_if_too_big()


def test_what_is_offloaded_has_to_fit_the_machine_that_its_processes_are_on() -> None:
    found = estimate(replace(DISTILL, offload=True), 16, 80)
    half = found.host_bytes // 2
    found.refuse_if_host_too_small(half, 8, cuda=True)
    with pytest.raises(PrerequisiteError, match=r"about 321 GB of this machine's memory for 8 process.*offload"):
        found.refuse_if_host_too_small(half - 1, 8, cuda=True)
    estimate(DISTILL, 16, 80).refuse_if_host_too_small(0, 8, cuda=True)


def test_no_gpus_are_refused() -> None:
    with pytest.raises(ValueError, match="0 GPUs"):
        estimate(DISTILL, 0, 80)


def test_a_block_keeps_for_its_backward_pass_what_is_counted() -> None:
    recipe, bf16, tokens = tiny_recipe("tiny"), torch.bfloat16, 90
    config = replace(recipe.dit, num_layers=1, dim=48, num_heads=3, ffn_dim=112)
    block = next(DiT(config).to(bf16).each_block())
    x_BND = torch.zeros(1, tokens, config.dim, dtype=bf16, requires_grad=True)
    embedded = Embedded(
        torch.zeros(config.dim),
        torch.zeros(6, config.dim),
        torch.zeros(1, config.text_len, config.dim, dtype=bf16),
        torch.zeros(1, 17, config.dim, dtype=bf16),
        torch.zeros(3, config.audio.tokens, config.audio.dim, dtype=bf16),
    )
    angles_Nd = torch.zeros(tokens, config.head_dim // 2)
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def attend(q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor) -> Tensor:
        return Kept.apply(q_BNAd, k_BMAd, v_BMAd)

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block(x_BND, embedded, Positions(angles_Nd, angles_Nd, None), tokens, attend, None)
    kinds = {(config.dim, torch.float32): 0, (config.dim, bf16): 0, (config.ffn_dim, bf16): 0}
    for tensor in saved.values():
        key = (tensor.untyped_storage().nbytes() // (tokens * tensor.element_size()), tensor.dtype)
        if key in kinds:
            kinds[key] += 1
    assert list(kinds.values()) == [KEPT_WIDE, KEPT, KEPT_HIDDEN]


class Kept(torch.autograd.Function):
    """An attention that keeps what a fused kernel keeps: queries, keys, values and its output."""

    @staticmethod
    def forward(ctx, q_BNAd, k_BMAd, v_BMAd):  # type: ignore[no-untyped-def]
        out_BNAd = torch.empty_like(q_BNAd)
        ctx.save_for_backward(q_BNAd, k_BMAd, v_BMAd, out_BNAd)
        return out_BNAd

    @staticmethod
    def backward(ctx, *_):  # type: ignore[no-untyped-def]
        raise NotImplementedError
