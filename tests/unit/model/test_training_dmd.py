"""The losses of stage 2 are what their formulas say, and each switch of Table 3 changes what it should alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model import flow
from model.training import dmd
from model.training.config import DistillConfig, SftConfig, TrainRecipe
from model.training.draws import Draws
from tests.unit.model import tiny_training as tiny

CLIP = tiny.sample(chunks=2)
ENCODERS = tiny.encoders()
SHAPE = tiny.MODEL.latent_shape
STEP = 4


class Answer(nn.Module):
    """Stands for a network: keeps what it was asked, and answers with the same numbers, its only weight."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(tiny.normal(*SHAPE, seed=seed))
        self.asked: list[tuple[Any, ...]] = []

    def forward(self, *asked: Any) -> Tensor:
        self.asked.append(asked)
        return self.weight * 1

    @property
    def gradient_CThw(self) -> Tensor:
        assert self.weight.grad is not None
        return self.weight.grad


@dataclass(frozen=True)
class Update:
    """A generator update with stand-ins, after its backward pass."""

    terms: dmd.DmdTerms
    generator: Answer
    fake: Answer
    real: Answer

    @property
    def point(self) -> tuple[Tensor, float]:
        """Where the scores were asked, and at which time."""
        return self.fake.asked[0][:2]

    @property
    def difference_CThw(self) -> Tensor:
        """Fake minus teacher in terms of data, with the teacher's guidance off."""
        return -self.point[1] * (self.fake.weight - self.real.weight).detach()


def update(step: int = STEP, **switches: Any) -> Update:
    recipe = tiny.distillation(**{"chunks": 2, "text_scale": 1.0, "audio_scale": 1.0} | switches)
    nets = Answer(11), Answer(12), Answer(13)
    draws = Draws(recipe.seed, step, 0)
    terms = dmd.generator_loss(*nets, ENCODERS, CLIP, recipe, draws, step, tiny.null_text())  # type: ignore[arg-type]
    terms.loss.backward()
    return Update(terms, *nets)


def motion_given() -> Tensor:
    """Return the motion that the second chunk is given, whatever the switches."""
    return update().generator.asked[-1][0][:, :2]


def noise_of(point_CThw: Tensor, time: float, x0_CThw: Tensor) -> Tensor:
    return (point_CThw - (1 - time) * x0_CThw) / time


def test_the_gradient_is_the_normalised_difference_of_the_scores_over_the_count() -> None:
    x0, fake, real = (tiny.normal(3, 2, 4, 5, seed=seed) for seed in (1, 2, 3))
    x0.requires_grad_()
    matching = dmd.matching_loss(x0, fake, real)
    matching.loss.backward()
    normaliser = torch.stack([(x0[b] - real[b]).abs().mean() for b in range(3)]).view(3, 1, 1, 1).detach()
    g = (fake - real) / normaliser
    torch.testing.assert_close(x0.grad, g / x0.numel())
    torch.testing.assert_close(matching.loss, g.square().mean() / 2)
    torch.testing.assert_close(matching.gradient_norm, g.square().mean().sqrt())
    torch.testing.assert_close(matching.normaliser, normaliser.mean())


def test_a_student_that_agrees_with_its_teacher_divides_by_no_zero() -> None:
    x0 = tiny.normal(1, 4, seed=1).requires_grad_()
    matching = dmd.matching_loss(x0, x0.detach(), x0.detach())
    matching.loss.backward()
    assert x0.grad is not None
    assert x0.grad.eq(0).all()


@pytest.mark.parametrize(
    ("text_scale", "audio_scale", "expected", "passes"),
    [(5.0, 4.0, 2 + 5 * (7 - 3) + 4 * (3 - 2), 3), (3.0, 1.0, 2 + 3 * (7 - 3) + (3 - 2), 3), (1.0, 4.0, 5 + 4 * 2, 2)],
)
def test_guidance_is_infinitetalks(text_scale: float, audio_scale: float, expected: float, passes: int) -> None:
    answers = {(True, True): 7.0, (False, True): 3.0, (False, False): 2.0, (True, False): 5.0}
    asked = []

    def ask(text: bool, sound: bool) -> Tensor:
        asked.append((text, sound))
        return torch.tensor(answers[text, sound])

    assert float(dmd.guided(ask, text_scale, audio_scale)) == expected
    assert len(asked) == len(set(asked)) == passes


def test_the_teacher_is_asked_with_null_text_and_silence_and_always_with_the_picture() -> None:
    real = update(text_scale=5.0, audio_scale=4.0).real
    told = [(torch.equal(asked[3], CLIP.text_LC), bool(asked[5].any())) for asked in real.asked]
    assert told == [(True, True), (False, True), (False, False)]
    assert torch.equal(real.asked[1][3], tiny.null_text())
    assert all(torch.equal(asked[4], CLIP.image_MC) for asked in real.asked)
    assert all(torch.equal(asked[0], real.asked[0][0]) for asked in real.asked)


def test_scores_are_asked_at_one_noisy_point_of_what_was_made() -> None:
    done = update()
    point_CThw, time = done.point
    assert torch.equal(point_CThw, done.real.asked[0][0])
    assert done.real.asked[0][1] == time == done.terms.time
    sigma = flow.noise_levels(tiny.MODEL.sampler)[done.terms.exit_step - 1]
    state_CThw = done.generator.asked[-1][0]
    x0_CThw = torch.cat((state_CThw[:, :2], (state_CThw - sigma * done.generator.weight)[:, 2:]), 1)
    noise_CThw = noise_of(point_CThw, time, x0_CThw.detach())
    assert abs(float(noise_CThw.mean())) < 0.2
    assert float(noise_CThw.std()) == pytest.approx(1, abs=0.15)
    torch.testing.assert_close(done.terms.normaliser, normaliser(done, x0_CThw.detach(), 2))


def normaliser(done: Update, x0_CThw: Tensor, first: int) -> Tensor:
    point_CThw, time = done.point
    real_CThw = point_CThw - time * done.real.weight.detach()
    return (x0_CThw - real_CThw)[:, first:].abs().mean()


def test_the_generator_alone_learns_and_moves_along_the_difference_of_the_scores() -> None:
    done = update()
    sigma = flow.noise_levels(tiny.MODEL.sampler)[done.terms.exit_step - 1]
    counted_CThw = done.difference_CThw[:, 2:] / done.terms.normaliser
    torch.testing.assert_close(done.generator.gradient_CThw[:, 2:], -sigma * counted_CThw / counted_CThw.numel())
    assert done.fake.weight.grad is None
    assert done.real.weight.grad is None
    torch.testing.assert_close(done.terms.gradient_norm, counted_CThw.square().mean().sqrt())


def test_motion_without_noise_is_clean_for_the_scores_and_nothing_else_changes() -> None:
    noised, clean = update(motion_noise=True), update(motion_noise=False)
    assert torch.equal(clean.point[0][:, :2], motion_given())
    assert not torch.equal(noised.point[0][:, :2], motion_given())
    assert torch.equal(clean.point[0][:, 2:], noised.point[0][:, 2:])
    assert torch.equal(clean.terms.loss, noised.terms.loss)  # the stand-ins answer alike, whatever they are asked


@pytest.mark.parametrize("motion_noise", [True, False])
def test_ground_truth_motion_takes_the_place_of_the_carried_in_front_of_the_scores_only(motion_noise: bool) -> None:
    carried = update(motion_noise=motion_noise)
    true = update(motion_noise=motion_noise, motion_source="ground truth")
    weight = 1 - true.point[1] if motion_noise else 1.0
    moved_CThw = weight * (CLIP.motion_KCThw[1] - motion_given())
    torch.testing.assert_close(true.point[0][:, :2] - carried.point[0][:, :2], moved_CThw)
    assert torch.equal(true.point[0][:, 2:], carried.point[0][:, 2:])
    assert torch.equal(true.generator.asked[-1][0], carried.generator.asked[-1][0])


def test_the_first_chunks_ground_truth_is_the_code_of_one_frame() -> None:
    true = update(chunks=1, motion_source="ground truth", motion_noise=False)
    assert torch.equal(true.point[0][:, :1], CLIP.motion_KCThw[0][:, :1])


def test_motion_counts_in_the_loss_only_where_the_recipe_says_so() -> None:
    apart, counted = update(motion_loss=False), update(motion_loss=True)
    assert apart.generator.gradient_CThw[:, :2].eq(0).all()
    assert counted.generator.gradient_CThw[:, :2].ne(0).all()
    assert torch.equal(apart.point[0], counted.point[0])
    ratio_CThw = counted.generator.gradient_CThw / counted.difference_CThw
    torch.testing.assert_close(ratio_CThw, ratio_CThw.mean().expand_as(ratio_CThw))


def test_motion_alignment_pulls_predicted_motion_to_the_teachers_and_nothing_else() -> None:
    plain, aligned = update(), update(motion_alignment=2.0)
    sigma = flow.noise_levels(tiny.MODEL.sampler)[plain.terms.exit_step - 1]
    state_CThw, (point_CThw, time) = plain.generator.asked[-1][0], plain.point
    predicted_CThw = (state_CThw - sigma * plain.generator.weight)[:, :2].detach()
    off_CThw = predicted_CThw - (point_CThw - time * plain.real.weight.detach())[:, :2]
    torch.testing.assert_close(aligned.terms.motion_alignment, off_CThw.square().mean())
    extra_CThw = aligned.generator.gradient_CThw - plain.generator.gradient_CThw
    torch.testing.assert_close(extra_CThw[:, :2], 2.0 * -sigma * 2 * off_CThw / off_CThw.numel())
    assert extra_CThw[:, 2:].eq(0).all()


def test_background_consistency_quiets_still_positions_after_the_motion() -> None:
    plain, quiet = update(), update(background_consistency=3.0)
    still_hw = dmd.still_positions(CLIP.latents_CThw)
    assert still_hw.sum() * 2 == still_hw.numel()
    extra_CThw = quiet.generator.gradient_CThw - plain.generator.gradient_CThw
    assert extra_CThw[:, 2:, still_hw].ne(0).all()
    assert extra_CThw[..., ~still_hw].eq(0).all()
    assert extra_CThw[:, :2].eq(0).all()
    torch.testing.assert_close(quiet.terms.loss - plain.terms.loss, 3.0 * quiet.terms.background_consistency)


def test_still_positions_are_those_that_change_least() -> None:
    latents_CThw = tiny.normal(16, 5, 2, 2, seed=3)
    latents_CThw[:, 1:, :, 0] = 0.5
    assert dmd.still_positions(latents_CThw).tolist() == [[True, False], [True, False]]


def fake_update(step: int = STEP, **switches: Any) -> tuple[dmd.FakeTerms, Answer, Answer]:
    recipe = tiny.distillation(**{"chunks": 2} | switches)
    generator, fake = Answer(11), Answer(12)
    draws = Draws(recipe.seed, step, 0)
    terms = dmd.fake_loss(generator, fake, ENCODERS, CLIP, recipe, draws, step)  # type: ignore[arg-type]
    terms.loss.backward()
    return terms, generator, fake


@pytest.mark.parametrize(("motion_loss", "first"), [(False, 2), (True, 0)])
def test_the_fake_score_learns_the_velocity_of_what_the_generator_makes(motion_loss: bool, first: int) -> None:
    terms, generator, fake = fake_update(motion_loss=motion_loss)
    sigma = flow.noise_levels(tiny.MODEL.sampler)[terms.exit_step - 1]
    state_CThw, (point_CThw, time) = generator.asked[-1][0], fake.asked[0][:2]
    x0_CThw = torch.cat((state_CThw[:, :2], (state_CThw - sigma * generator.weight)[:, 2:]), 1).detach()
    error_CThw = fake.weight - (noise_of(point_CThw, time, x0_CThw) - x0_CThw)
    torch.testing.assert_close(terms.loss, error_CThw[:, first:].square().mean())
    assert fake.gradient_CThw[:, first:].ne(0).all()
    assert fake.gradient_CThw[:, :first].eq(0).all()
    assert generator.weight.grad is None


def test_a_clean_motion_is_shown_to_the_fake_score_as_in_the_generators_update() -> None:
    _, generator, fake = fake_update(motion_noise=False)
    assert torch.equal(fake.asked[0][0][:, :2], generator.asked[-1][0][:, :2])


def test_generator_and_fake_score_draw_apart() -> None:
    times = {(update(step, chunks=1).terms.time, fake_update(step, chunks=1)[0].time) for step in range(3)}
    assert len({time for pair in times for time in pair}) == 6


def test_times_are_shifted_and_kept_within_their_range() -> None:
    drawn = [fake_update(step, chunks=1, times=(0.3, 0.9))[0].time for step in range(60)]
    assert min(drawn) >= 0.3
    assert max(drawn) == 0.9
    assert sum(drawn) / len(drawn) > 0.6


def test_random_chunks_and_exit_steps_reach_their_ends() -> None:
    drawn = [fake_update(step, chunks="random", max_chunks=2)[0] for step in range(24)]
    assert {terms.k for terms in drawn} == {1, 2}
    assert {terms.exit_step for terms in drawn} == {1, 2, 3, 4}


def test_an_update_is_the_same_whichever_micro_step_or_rank_it_falls_into() -> None:
    recipe = tiny.distillation(chunks=1)
    terms = [
        dmd.fake_loss(tiny.velocity(1), tiny.velocity(2), ENCODERS, CLIP, recipe, Draws(0, 7, micro), 7)
        for micro in (0, same_exit_step(recipe))
    ]
    assert terms[0].loss.item() == terms[1].loss.item()


def same_exit_step(recipe: TrainRecipe) -> int:
    """Return another micro-step that draws the same exit step."""
    exits = [Draws(0, 7, micro).integer("fake exit step", 1, recipe.model.sampler.num_steps) for micro in range(40)]
    return exits.index(exits[0], 1)


def test_a_step_with_the_real_networks_trains_every_part_of_the_generator() -> None:
    recipe = tiny.distillation(chunks=1)
    generator, fake, real = tiny.velocity(1), tiny.velocity(2), tiny.velocity(3, trained=False)
    terms = dmd.generator_loss(generator, fake, real, ENCODERS, CLIP, recipe, Draws(0, 0, 0), 0, tiny.null_text())
    terms.loss.backward()
    assert [name for name, weight in generator.named_parameters() if weight.grad is None or not weight.grad.any()] == []
    assert all(weight.grad is None for weight in (*fake.parameters(), *real.parameters()))


def test_a_recipe_of_the_other_stage_is_refused() -> None:
    recipe = replace(tiny.train_recipe(SftConfig()))
    with pytest.raises(TypeError, match="recipe test is of SftConfig; expected DistillConfig"):
        dmd.fake_loss(tiny.velocity(1), tiny.velocity(2), ENCODERS, CLIP, recipe, Draws(0, 0, 0), 0)


def test_defaults_are_the_reports_best_row_of_table_3() -> None:
    stage = DistillConfig()
    assert (stage.motion_source, stage.motion_noise, stage.motion_loss) == ("predicted", True, False)
    assert (stage.chunks, stage.max_chunks, stage.generator_every) == ("random", 5, 5)
