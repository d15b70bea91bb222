"""A roll-out does what the stream does, and only one pass of it is learnt from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from model import color, flow
from model.data import sample as samples
from model.pipeline import Model
from model.stream import Stream
from model.training.conditions import Velocity
from model.training.config import TrainRecipe
from model.training.draws import noise
from model.training.rollout import Rolled, roll
from talkbench.errors import TalkbenchError
from tests.unit.model import tiny_training as tiny

CLIP = tiny.sample()
ENCODERS = tiny.encoders()
RECIPE = tiny.distillation()


def drawn(number: int) -> Tensor:
    return noise(0, 0, CLIP.id, number, tiny.MODEL.latent_shape, tiny.CPU, torch.float64)


def rolled(
    generator: Velocity, k: int, exit_step: int, *, grad: bool = True, recipe: TrainRecipe = RECIPE, clip: Any = CLIP
) -> Rolled:
    return roll(generator, ENCODERS, clip, recipe, k, exit_step, drawn, grad)


def gradients(net: Velocity) -> dict[str, Tensor]:
    found = {name: weight.grad.clone() for name, weight in net.named_parameters() if weight.grad is not None}
    net.zero_grad()
    return found


def passes_of(
    net: Velocity, k: int, exit_step: int, *, grad: bool = True
) -> tuple[Rolled, list[tuple[bool, tuple[Any, ...]]]]:
    """Roll out; return also, of each forward pass, whether it was in the graph and what it was given."""
    seen: list[tuple[bool, tuple[Any, ...]]] = []
    hook = net.register_forward_pre_hook(lambda _, given: seen.append((torch.is_grad_enabled(), given)))
    result = rolled(net, k, exit_step, grad=grad)
    hook.remove()
    return result, seen


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_gradient_is_that_of_the_exit_steps_pass_alone(k: int) -> None:
    net, weight = tiny.velocity(1), tiny.normal(*tiny.MODEL.latent_shape, seed=8)
    sigmas = flow.noise_levels(tiny.MODEL.sampler)
    for exit_step in range(1, 5):
        result, passes = passes_of(net, k, exit_step)
        assert [in_graph for in_graph, _ in passes] == [False] * (4 * (k - 1) + exit_step - 1) + [True]
        (result.x0_CThw * weight).sum().backward()
        learnt = gradients(net)

        given = passes[-1][1]
        x_CThw, time = given[:2]
        assert time == sigmas[exit_step - 1]
        assert not x_CThw.requires_grad
        alone_CThw = x_CThw - time * net(*given)
        alone_CThw = torch.cat((result.motion_CThw, alone_CThw[:, result.num_motion :]), dim=1)
        (alone_CThw * weight).sum().backward()
        expected = gradients(net)
        assert learnt.keys() == expected.keys()
        assert all(torch.equal(learnt[name], expected[name]) for name in expected)
        assert any(gradient.any() for gradient in expected.values())


def saved_for_backward(k: int, exit_step: int) -> list[tuple[int, ...]]:
    """Return the shapes of all tensors that a roll-out keeps for its backward pass."""
    net, shapes = tiny.velocity(1), []

    def keep(tensor: Tensor) -> Tensor:
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        rolled(net, k, exit_step)
    return shapes


def test_a_roll_out_of_five_chunks_keeps_no_more_than_one_of_one_chunk() -> None:
    assert saved_for_backward(5, 4) == saved_for_backward(1, 4) == saved_for_backward(1, 1) != []


def test_without_a_gradient_nothing_is_kept() -> None:
    net = tiny.velocity(1)
    result, passes = passes_of(net, 2, 3, grad=False)
    assert not any(in_graph for in_graph, _ in passes)
    assert not result.x0_CThw.requires_grad


def test_the_first_chunk_starts_from_the_picture_and_later_ones_from_two_latents() -> None:
    net = tiny.velocity(1)
    first, second = rolled(net, 1, 2, grad=False), rolled(net, 2, 2, grad=False)
    assert torch.equal(first.motion_CThw, CLIP.reference_CThw[:, :1])
    assert (first.chunk, first.num_motion, second.chunk, second.num_motion) == (0, 1, 1, 2)
    assert torch.equal(second.x0_CThw[:, :2], second.motion_CThw)
    assert torch.equal(second.x0_CThw[:, 2:], second.predicted_CThw[:, 2:])


@pytest.mark.parametrize("correct_color", [True, False])
def test_motion_passes_through_corrected_pixels(correct_color: bool) -> None:
    net = tiny.velocity(1)
    clean_CThw = rolled(net, 1, 4, grad=False).x0_CThw
    second = rolled(net, 2, 1, grad=False, recipe=tiny.distillation(correct_color=correct_color))
    video_CFHW = torch.cat(list(ENCODERS.decode(clean_CThw)), dim=1)
    picture_CHW = next(ENCODERS.decode(CLIP.reference_CThw))[:, 0]
    colors = color.statistics(picture_CHW, torch.float64)
    tail_CFHW = color.correct(video_CFHW, colors, float(correct_color), torch.float64)[:, -5:]
    torch.testing.assert_close(second.motion_CThw, ENCODERS.encode(tail_CFHW), rtol=1e-9, atol=1e-9)


def test_every_chunk_hears_its_own_sound() -> None:
    net = tiny.velocity(1)
    heard = [given[-1] for _, given in passes_of(net, 3, 4, grad=False)[1]]
    assert all(torch.equal(each, CLIP.speech_windows(number // 4, 5)) for number, each in enumerate(heard))


def test_sound_that_ends_too_early_is_refused_by_name() -> None:
    with pytest.raises(TalkbenchError, match="sample clip-b has sound for 2 chunks, and chunk 3 is asked for"):
        rolled(tiny.velocity(1), 3, 1, clip=tiny.sample("clip-b", chunks=2))


def test_a_roll_out_makes_the_latents_that_the_stream_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same network, picture, sound and noise; colours are left alone, since a sample has them from its code only."""
    recipe = replace(tiny.MODEL, stream=replace(tiny.MODEL.stream, color_strength=0.0))
    net = tiny.velocity(1, trained=False)
    model = Model(recipe, tiny.CPU, "random 1", dit=net.dit, **tiny.parts())
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    sound_N = (0.1 * np.random.default_rng(1).standard_normal(3 * recipe.stream.samples_per_chunk)).astype(np.float32)
    made: list[Tensor] = []

    def decode(latent_CThw: Tensor) -> Iterator[Tensor]:
        made.append(latent_CThw)
        return Model.decode(model, latent_CThw)

    monkeypatch.setattr(model, "decode", decode)
    stream = Stream(model, picture, seed=5)
    assert sum(piece.num_frames for piece in stream.play([sound_N])) == 3 * recipe.stream.new_frames

    # The stream's first five frames are not shown, and its sound starts after them.
    lead = recipe.stream.motion_frames * recipe.stream.samples_per_frame
    clip = samples.encode(
        model,
        "clip",
        video_CFHW=torch.zeros(3, samples.num_frames(recipe, 3), 16, 16),
        reference_CHW=model.prepare(picture),
        sound_N=np.concatenate((np.zeros(lead, np.float32), sound_N)),
        first_sample=0,
        prompt=recipe.stream.prompt,
    )
    generator = torch.Generator().manual_seed(5)
    noises = [each for _ in range(3) for each in flow.draw_noise(recipe.latent_shape, 4, torch.float64, generator)]
    for k, latents_CThw in enumerate(tuple(made), 1):
        result = roll(net, model, clip, replace(RECIPE, model=recipe), k, 4, noises.__getitem__, False)
        torch.testing.assert_close(result.x0_CThw, latents_CThw, rtol=1e-6, atol=1e-6)
