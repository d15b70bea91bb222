"""Frames on their way to a network: resized, cropped, padded."""

from __future__ import annotations

import pytest
import torch

from talkbench.nets.resize import Preprocess, centre_crop, pad_to_multiple, short_side_to, truncated_to_levels

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(416, 720, (224, 387)), (720, 416, (387, 224)), (512, 512, (224, 224)), (414, 718, (224, 388))],
)
def test_the_short_side_becomes_224_and_the_long_one_is_rounded_down(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    assert short_side_to(224, height, width) == expected


def test_an_odd_rest_of_the_crop_goes_where_round_half_to_even_puts_it() -> None:
    columns = torch.arange(388.0).expand(1, 1, 224, 388)
    assert centre_crop(columns, 224)[0, 0, 0, 0] == 82
    assert centre_crop(columns[..., :387], 224)[0, 0, 0, 0] == 82  # 81.5
    assert centre_crop(columns[..., :385], 224)[0, 0, 0, 0] == 80  # 80.5


def test_a_bicubic_resize_keeps_overshoot_and_fractions() -> None:
    frames = torch.zeros(1, 16, 32, 3, dtype=torch.uint8)
    frames[:, :, 16:] = 255
    made = Preprocess("bicubic", crop=False, **PLAIN)(frames)
    assert made.shape == (1, 3, 224, 448)
    assert made.max() > 1.01
    assert made.min() < -0.01


def test_colours_are_normalised_channel_by_channel() -> None:
    frames = torch.full((2, 8, 8, 3), 51, dtype=torch.uint8)
    made = Preprocess("bilinear", crop=True, mean=(0.0, 0.2, 0.4), std=(1.0, 0.5, 0.1))(frames)
    torch.testing.assert_close(made[1, :, 5, 5], torch.tensor([0.2, 0.0, -2.0]), atol=1e-6, rtol=0)


def test_padding_repeats_edges_and_puts_the_smaller_half_first() -> None:
    picture = torch.rand(1, 3, 13, 30)
    padded, (rows, columns) = pad_to_multiple(picture, 16)
    assert padded.shape == (1, 3, 16, 32)
    assert (rows.start, columns.start) == (1, 1)
    assert torch.equal(padded[..., rows, columns], picture)
    assert torch.equal(padded[..., 0, 1:31], picture[..., 0, :])
    assert pad_to_multiple(padded, 16)[0] is padded


def test_levels_are_cut_off_and_not_rounded() -> None:
    assert truncated_to_levels(torch.tensor([-0.1, 0.999 / 255, 100.9 / 255, 1.2])).tolist() == [0, 0, 100, 255]
