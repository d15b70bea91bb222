"""AMT-S: released names, correlations, warps, sizes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from talkbench.nets import amt_correlation
from talkbench.nets.amt import AmtS, warped
from talkbench.nets.amt_correlation import LEVELS, WINDOW, Correlation
from tests.support import ROOT

KEYS = json.loads((ROOT / "tests/data/keys/amt_s.json").read_text())


@pytest.fixture(scope="module")
def net() -> AmtS:
    torch.manual_seed(0)
    return AmtS().eval().requires_grad_(False)


def smooth(*shape: int, seed: int = 0) -> Tensor:
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, 9, 1, 4)


def test_names_and_shapes_are_those_of_the_released_file(net: AmtS) -> None:
    assert {name: list(value.shape) for name, value in net.state_dict().items()} == KEYS
    assert len(KEYS) == 213


def test_correlations_are_those_of_the_positions_around(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (torch.randn(1, 6, 16, 24, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    found = Correlation(first, second).lookup(torch.zeros(1, 4, 16, 24)).view(2, LEVELS, WINDOW, WINDOW, 16, 24)
    for way, (asking, asked) in enumerate([(first, second), (second, first)]):
        for y, x, a, b in [(5, 9, 3, 3), (5, 9, 6, 2), (15, 23, 0, 1), (0, 0, 0, 3)]:
            to_x, to_y = x + a - 3, y + b - 3
            inside = 0 <= to_x < 24 and 0 <= to_y < 16
            expected = asking[0, :, y, x] @ asked[0, :, to_y, to_x] / 6**0.5 if inside else torch.tensor(0.0)
            torch.testing.assert_close(found[way, 0, a, b, y, x], expected, atol=1e-5, rtol=1e-4)
        pooled = torch.nn.functional.avg_pool2d(asked, 2)
        expected = asking[0, :, 4, 8] @ pooled[0, :, 2, 5] / 6**0.5
        torch.testing.assert_close(found[way, 1, 4, 3, 4, 8], expected, atol=1e-5, rtol=1e-4)


def test_each_direction_looks_twice_as_far_as_the_flow_of_its_own_target() -> None:
    first, second = (torch.randn(1, 6, 16, 24, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    flows = torch.zeros(1, 4, 16, 24)
    flows[:, 2] = 1  # one pixel to the right from the middle to the second picture
    moved = Correlation(first, second).lookup(flows).view(2, LEVELS, WINDOW, WINDOW, 16, 24)
    still = Correlation(first, second).lookup(torch.zeros_like(flows)).view_as(moved)
    torch.testing.assert_close(moved[0, 0, 3, 3], still[0, 0, 5, 3], atol=1e-5, rtol=1e-4)
    assert torch.equal(moved[1], still[1])


def test_volumes_that_are_not_kept_give_the_same_correlations(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (torch.randn(2, 6, 16, 24, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    flows = torch.randn(2, 4, 16, 24)
    kept = Correlation(first, second).lookup(flows)
    monkeypatch.setattr(amt_correlation, "MAX_VOLUME_BYTES", 0)
    monkeypatch.setattr(amt_correlation, "ROWS_BYTES", 4 * 16 * 24 * 2 * 50)
    torch.testing.assert_close(Correlation(first, second).lookup(flows), kept, atol=1e-5, rtol=1e-5)


def test_a_warp_takes_pixels_from_where_the_flow_points_and_repeats_the_edge() -> None:
    picture = torch.arange(12.0).view(1, 1, 3, 4)
    flow = torch.zeros(1, 2, 3, 4)
    flow[:, 0] = 2
    torch.testing.assert_close(warped(picture, flow), picture[..., [2, 3, 3, 3]])


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_it_makes_a_picture_of_the_size_it_is_given(net: AmtS, scale: float) -> None:
    side = round(128 / scale)
    made = net(smooth(1, 3, side, side + 32), smooth(1, 3, side, side + 32, seed=1), scale)
    assert made.shape == (1, 3, side, side + 32)
    assert made.min() >= 0
    assert made.max() <= 1


def test_pairs_in_a_batch_are_predicted_as_if_alone(net: AmtS) -> None:
    first, second = smooth(2, 3, 128, 144), smooth(2, 3, 128, 144, seed=1)
    alone = torch.cat([net(first[k : k + 1], second[k : k + 1]) for k in range(2)])
    torch.testing.assert_close(net(first, second), alone, atol=1e-4, rtol=0)


def test_brightness_of_the_pair_is_taken_out_and_put_back(net: AmtS) -> None:
    first, second = 0.2 + 0.2 * smooth(1, 3, 128, 128), 0.2 + 0.2 * smooth(1, 3, 128, 128, seed=1)
    correct: Callable[[Tensor], Tensor] = lambda made: torch.zeros_like(made[:, :3])  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(net.comb_block, "forward", correct)
        dark, bright = net(first, second), net(first + 0.3, second + 0.3)
    unclamped = (dark > 0) & (bright < 1)
    torch.testing.assert_close((bright - dark)[unclamped], torch.full_like(dark, 0.3)[unclamped], atol=1e-4, rtol=0)
