"""Stage 1's loss on one clip is what its formula says, and it drops what it should as often as it should."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from model.training import sft
from model.training.config import DistillConfig, SftConfig
from model.training.draws import Draws, noise
from tests.unit.model import tiny_training as tiny

CLIP = tiny.sample()


class Recorder(nn.Module):
    """Stands for the network: keeps what it was asked, and answers with its only weight at every place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(tiny.MODEL.latent_shape, dtype=torch.float64))
        self.asked: list[tuple[Tensor, float, Tensor, Tensor, Tensor, Tensor]] = []

    def forward(self, *asked: object) -> Tensor:
        self.asked.append(asked)  # type: ignore[arg-type]
        return self.weight * 1


def loss_of(net: nn.Module, stage: SftConfig, step: int = 0) -> sft.SftTerms:
    recipe = tiny.train_recipe(stage)
    return sft.loss(net, CLIP, recipe, Draws(recipe.seed, step, 0), step, tiny.null_text())  # type: ignore[arg-type]


@pytest.mark.parametrize("num_motion", [1, 2])
def test_the_loss_is_the_mean_squared_error_of_the_velocity_after_the_motion(num_motion: int) -> None:
    net = Recorder()
    terms = loss_of(net, SftConfig(motion_latents=(num_motion,)))
    e = noise(0, 0, CLIP.id, 0, CLIP.latents_CThw.shape, tiny.CPU, torch.float64)
    drawn = Draws(0, 0, CLIP.id).uniform("time")
    t = 5 * drawn / (1 + 4 * drawn)
    (x, time, y, *_), x0 = net.asked[0], CLIP.latents_CThw
    assert (terms.num_motion, terms.time, time) == (num_motion, t, t)
    assert torch.equal(x[:, :num_motion], x0[:, :num_motion])
    torch.testing.assert_close(x[:, num_motion:], ((1 - t) * x0 + t * e)[:, num_motion:])
    assert torch.equal(y[4:], CLIP.reference_CThw)
    assert y[:4, 0].eq(1).all()
    assert y[:4, 1:].eq(0).all()
    torch.testing.assert_close(terms.loss, (e - x0)[:, num_motion:].square().mean())


@pytest.mark.parametrize("num_motion", [1, 2])
def test_motion_positions_have_no_gradient_and_all_others_do(num_motion: int) -> None:
    net = Recorder()
    loss_of(net, SftConfig(motion_latents=(num_motion,))).loss.backward()
    assert net.weight.grad is not None
    assert net.weight.grad[:, :num_motion].eq(0).all()
    assert net.weight.grad[:, num_motion:].ne(0).all()


def test_all_parts_of_the_real_network_are_trained() -> None:
    net = tiny.velocity(0)
    loss_of(net, SftConfig()).loss.backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@pytest.mark.parametrize(("both", "text", "named"), [(0, 0, "nothing"), (0, 1, "text"), (1, 0, "text and sound")])
def test_what_is_dropped_takes_its_null_form(both: float, text: float, named: str) -> None:
    net = Recorder()
    terms = loss_of(net, SftConfig(drop_both=both, drop_text=text))
    _, _, _, text_LC, image_MC, windows_PFWLC = net.asked[0]
    assert terms.dropped == named
    assert torch.equal(text_LC, CLIP.text_LC if named == "nothing" else tiny.null_text())
    assert torch.equal(image_MC, CLIP.image_MC)
    heard = CLIP.speech_windows(0, tiny.MODEL.dit.audio.window)
    assert torch.equal(windows_PFWLC, torch.zeros_like(heard) if named == "text and sound" else heard)


def test_shares_of_drops_and_motion_latents_are_those_of_the_recipe() -> None:
    drawn = [loss_of(Recorder(), SftConfig(drop_both=0.1, drop_text=0.3), step) for step in range(1500)]
    dropped = Counter(terms.dropped for terms in drawn)
    assert dropped["text and sound"] / 1500 == pytest.approx(0.1, abs=0.03)
    assert dropped["text"] / 1500 == pytest.approx(0.3, abs=0.04)
    assert Counter(terms.num_motion for terms in drawn)[1] / 1500 == pytest.approx(0.5, abs=0.04)


def test_the_same_step_of_the_same_clip_has_the_same_loss_on_any_rank() -> None:
    recipe, net = tiny.train_recipe(SftConfig()), tiny.velocity(0)
    first, second = (sft.loss(net, CLIP, recipe, Draws(0, 3, micro), 3, tiny.null_text()) for micro in (0, 2))
    other = sft.loss(net, replace(CLIP, id="clip-b"), recipe, Draws(0, 3, 0), 3, tiny.null_text())
    assert first.loss.item() == second.loss.item() != other.loss.item()


def test_a_recipe_of_the_other_stage_is_refused() -> None:
    recipe = tiny.train_recipe(DistillConfig())
    with pytest.raises(TypeError, match="recipe test is of DistillConfig; expected SftConfig"):
        sft.loss(tiny.velocity(0), CLIP, recipe, Draws(0, 0, 0), 0, tiny.null_text())
