"""A four-step student of eight Gaussians comes nearer to its teacher through the losses that train the real one.

The toy is blind to the normaliser and to how often the fake score is updated; it sees sign, scale and noise levels.
Legend: C channels (2, the plane), T points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from model import flow
from model.config import SamplerConfig
from model.flow import shifted
from model.training import dmd
from model.training.path import between, data_at, flow_loss
from model.training.rollout import Field, truncated

RADIUS, WIDTH, POINTS = 2.0, 0.15, 256
SIGMAS = flow.noise_levels(SamplerConfig())
ANGLES = torch.arange(8) * (math.tau / 8)
MODES_8C = RADIUS * torch.stack((ANGLES.cos(), ANGLES.sin()), 1)
NO_MOTION = torch.zeros(2, 0)


class Net(nn.Module):
    """A small network that answers as the real one does: state and time to velocity."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        sizes = (2 + 8, width, width, width)
        hidden = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 2))

    def forward(self, x_CT: Tensor, time: float | Tensor) -> Tensor:
        angles_F = torch.tensor([1.0, 2.0, 4.0, 8.0]) * math.pi / 2
        angles_TF = torch.as_tensor(time).expand(x_CT.shape[1])[:, None] * angles_F
        return self.layers(torch.cat((x_CT.T, angles_TF.sin(), angles_TF.cos()), 1)).T


def data(points: int, generator: torch.Generator) -> Tensor:
    modes = torch.randint(8, (points,), generator=generator)
    return (MODES_8C[modes] + WIDTH * torch.randn(points, 2, generator=generator)).T


def teacher(x_CT: Tensor, time: Tensor) -> Tensor:
    """Return the exact velocity: of the posterior mean of a mixture of Gaussians."""
    variance = ((1 - time) * WIDTH) ** 2 + time**2
    off_8CT = x_CT - (1 - time) * MODES_8C[..., None]
    weight_8T = (-off_8CT.square().sum(1) / (2 * variance)).softmax(0)
    mean_8CT = MODES_8C[..., None] + (1 - time) * WIDTH**2 / variance * off_8CT
    return (x_CT - (weight_8T[:, None] * mean_8CT).sum(0)) / time


def noises(points: int, generator: torch.Generator) -> list[Tensor]:
    return [torch.randn(2, points, generator=generator) for _ in SIGMAS]


def sliced_distance(one_CT: Tensor, other_CT: Tensor) -> float:
    """Return the sliced Wasserstein distance of two sets of as many points."""
    angles = torch.arange(64) * (math.pi / 64)
    directions = torch.stack((angles.cos(), angles.sin()), 1)
    return float(((directions @ one_CT).sort(1)[0] - (directions @ other_CT).sort(1)[0]).abs().mean())


@dataclass(frozen=True)
class Quality:
    """How near a student is to the truth: in distribution, and to the nearest mode."""

    distance: float
    to_mode: float


@torch.no_grad()
def quality(student: Field) -> Quality:
    generator = torch.Generator().manual_seed(1234)
    made_CT = truncated(student, noises(4000, generator), NO_MOTION, SIGMAS, 4, grad=False)
    to_mode = (made_CT.T[:, None] - MODES_8C).norm(dim=2).amin(1).mean()
    return Quality(sliced_distance(made_CT, data(4000, generator)), float(to_mode))


def rates(optimizer: torch.optim.Optimizer, steps: int) -> Iterator[int]:
    """Count steps while the rate falls to zero."""
    start = optimizer.param_groups[0]["lr"]
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = start * (1 - step / steps)
        yield step


def stage_1(seed: int, steps: int) -> Net:
    torch.manual_seed(seed)
    net, generator = Net(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3, foreach=True)
    for _ in rates(optimizer, steps):
        x0_CT, noise_CT = data(POINTS, generator), torch.randn(2, POINTS, generator=generator)
        time_T = shifted(torch.rand(POINTS, generator=generator), 5.0)
        optimizer.zero_grad()
        flow_loss(net(between(x0_CT, noise_CT, time_T), time_T), x0_CT, noise_CT).backward()
        optimizer.step()
    return net


def stage_2(first: Net, seed: int, steps: int, sign: float = 1.0) -> Net:
    """Distil; the student is updated in every second step: the toy gets as far in less time than with every fifth."""
    generator = torch.Generator().manual_seed(seed + 100)
    student, fake = Net(), Net()
    student.load_state_dict(first.state_dict())
    fake.load_state_dict(first.state_dict())
    of_student = torch.optim.AdamW(student.parameters(), 2e-3, betas=(0.0, 0.999), weight_decay=0.01, foreach=True)
    of_fake = torch.optim.AdamW(fake.parameters(), 3e-3, betas=(0.0, 0.999), weight_decay=0.01, foreach=True)
    for step, _ in zip(rates(of_student, steps), rates(of_fake, steps), strict=True):
        for role in ("student", "fake") if step % 2 == 0 else ("fake",):
            exit_step = int(torch.randint(1, 5, (), generator=generator))
            drawn = noises(POINTS, generator)
            x0_CT = truncated(student, drawn, NO_MOTION, SIGMAS, exit_step, grad=role == "student")
            time_T = shifted(torch.rand(POINTS, generator=generator), 5.0).clamp(0.02, 0.98)
            noise_CT = torch.randn(2, POINTS, generator=generator)
            x_CT = between(x0_CT.detach(), noise_CT, time_T)
            if role == "fake":
                of_fake.zero_grad()
                flow_loss(fake(x_CT, time_T), x0_CT, noise_CT).backward()
                of_fake.step()
                continue
            with torch.no_grad():
                fake_CT, real_CT = (
                    data_at(x_CT, fake(x_CT, time_T), time_T),
                    data_at(x_CT, teacher(x_CT, time_T), time_T),
                )
            loss = dmd.matching_loss(x0_CT.T, fake_CT.T, real_CT.T).loss
            of_student.zero_grad()
            (sign * loss).backward()
            of_student.step()
    return student


@pytest.mark.slow
def test_distillation_brings_a_four_step_student_to_less_than_half_its_distance_from_the_truth() -> None:
    first = stage_1(0, 1500)
    before, after = quality(first), quality(stage_2(first, 0, 4000))
    assert after.distance < before.distance / 2, (before, after)
    assert after.to_mode < before.to_mode / 2, (before, after)


@pytest.mark.parametrize("seed", [0, 1])
def test_distillation_helps_and_the_same_against_its_gradient_drives_the_student_away(seed: int) -> None:
    first = stage_1(seed, 300)
    before = quality(first)
    after, against = (quality(stage_2(first, seed, 200, sign)) for sign in (1.0, -1.0))
    assert after.distance < 0.9 * before.distance, (before, after)
    assert against.distance > 1.2 * before.distance, (before, against)
