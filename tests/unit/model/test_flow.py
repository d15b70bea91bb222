"""The sampler: its noise levels, the order of its draws, what it keeps."""

from __future__ import annotations

import pytest
import torch

from model.config import SamplerConfig
from model.flow import draw_noise, noise_levels, sample


@pytest.mark.parametrize(
    ("num_steps", "times"),
    [
        (4, [1000, 937.5, 833.3333, 625, 0]),
        (2, [1000, 833.3333, 0]),
        (10, [1000, 975.64, 946.01, 909.21, 862.28, 800.36, 714.90, 589.32, 386.74, 4.98, 0]),
    ],
)
def test_times_are_those_of_the_released_sampler(num_steps: int, times: list[float]) -> None:
    levels = noise_levels(SamplerConfig(num_steps=num_steps))
    assert [1000 * level for level in levels] == pytest.approx(times, abs=5e-3)


def test_a_sampler_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="num_steps is 0"):
        noise_levels(SamplerConfig(num_steps=0))


def test_noise_is_drawn_in_the_released_order_with_one_draw_more_than_is_used() -> None:
    generator = torch.Generator().manual_seed(7)
    start, *later = draw_noise((2, 3), 4, torch.bfloat16, generator)
    again = torch.Generator().manual_seed(7)
    assert torch.equal(start, torch.randn(2, 3, dtype=torch.bfloat16, generator=again))
    assert len(later) == 4
    assert all(torch.equal(each, torch.randn(2, 3, generator=again)) for each in later)


def test_the_true_velocity_leads_to_the_data_and_motion_stays_clean_at_every_step() -> None:
    data, motion = torch.full((2, 5, 1, 1), 0.25), torch.full((2, 2, 1, 1), -3.0)
    seen = []
    levels = noise_levels(SamplerConfig())

    def velocity(state: torch.Tensor, step: int) -> torch.Tensor:
        seen.append(state[:, :2].clone())
        return (state - data) / levels[step]

    noises = draw_noise(data.shape, 4, torch.float32, torch.Generator().manual_seed(1))
    result = sample(velocity, noises, motion, levels)
    assert torch.allclose(result[:, 2:], data[:, 2:], atol=1e-6)
    assert torch.equal(result[:, :2], motion)
    assert all(torch.equal(each, motion) for each in seen)


def test_every_step_starts_from_fresh_noise() -> None:
    levels = noise_levels(SamplerConfig())
    noises = draw_noise((1, 3, 1, 1), 4, torch.float32, torch.Generator().manual_seed(1))
    states = []

    def velocity(state: torch.Tensor, step: int) -> torch.Tensor:
        states.append(state.clone())
        return state / levels[step]  # the data is zero

    sample(velocity, noises, torch.zeros(1, 1, 1, 1), levels)
    for step in (1, 2, 3):
        assert torch.allclose(states[step][:, 1:], levels[step] * noises[step][:, 1:], atol=1e-6)
