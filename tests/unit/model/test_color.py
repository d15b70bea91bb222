"""Colour correction against a plain transcription in numpy, pixel by pixel formulas in fp64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model import color

TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
TO_RGB = np.array(
    [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])
TOLERANCES = {torch.float64: 1e-9, torch.float32: 3e-5}
"""In [-1, 1]; rounding grows where a flat frame is stretched to the reference's contrast."""


def plain_lab(frame_CHW: np.ndarray) -> np.ndarray:
    value_HWC = np.moveaxis((frame_CHW.astype(np.float64) + 1) / 2, 0, -1)
    linear_HWC = np.where(value_HWC > 0.04045, ((value_HWC + 0.055) / 1.055) ** 2.4, value_HWC / 12.92)
    t_HWC = np.clip(linear_HWC @ TO_XYZ.T / WHITE, 1e-8, 1)
    f_HWC = np.where(t_HWC > 0.008856, np.cbrt(t_HWC), (903.3 * t_HWC + 16) / 116)
    x, y, z = np.moveaxis(f_HWC, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def plain_rgb(lab_CHW: np.ndarray) -> np.ndarray:
    light, a, b = lab_CHW
    fy = (light + 16) / 116
    fx, fz = a / 500 + fy, fy - b / 200
    x, z = (np.where(f**3 > 0.008856, f**3, (116 * f - 16) / 903.3) for f in (fx, fz))
    y = np.where(light > 903.3 * 0.008856, fy**3, light / 903.3)
    linear_HWC = (np.stack([x, y, z], -1) * WHITE) @ TO_RGB.T
    power_HWC = 1.055 * np.maximum(linear_HWC, 0) ** (1 / 2.4) - 0.055
    return np.moveaxis(np.clip(np.where(linear_HWC > 0.0031308, power_HWC, 12.92 * linear_HWC), 0, 1), -1, 0)


def plain_correct(frame_CHW: np.ndarray, image_CHW: np.ndarray, strength: float) -> np.ndarray:
    lab_CHW, wanted_CHW = plain_lab(frame_CHW), plain_lab(image_CHW)
    for plane, wanted in zip(lab_CHW, wanted_CHW, strict=True):
        std = plane.std()
        plane[:] = (plane - plane.mean()) * (wanted.std() / (1 if std < 1e-8 else std)) + wanted.mean()
    value_CHW = (frame_CHW.astype(np.float64) + 1) / 2
    return ((1 - strength) * value_CHW + strength * plain_rgb(lab_CHW)) * 2 - 1


def smooth(seed: int, *frames: int, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    """Return smooth random pictures `[3, *frames, 40, 24]` between two values."""
    coarse = torch.rand((max(1, *frames, 0), 3, 5, 4), generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, size=(40, 24), mode="bilinear") * (high - low) + low
    return fine.movedim(0, 1) if frames else fine[0]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("strength", [1.0, 0.3])
@pytest.mark.parametrize(
    ("frames", "reference"),
    [((-1.0, 1.0), (-1.0, 1.0)), ((-0.95, -0.9), (-1.0, 1.0)), ((-1.0, 1.0), (-1.0, -0.75))],
    ids=["all colours", "dark frames", "dark reference"],
)
def test_frames_are_corrected_as_the_formulas_say(
    strength: float, frames: tuple[float, float], reference: tuple[float, float], dtype: torch.dtype
) -> None:
    video_CFHW, image_CHW = smooth(1, 5, low=frames[0], high=frames[1]), smooth(2, low=reference[0], high=reference[1])
    result_CFHW = color.correct(video_CFHW, color.statistics(image_CHW, dtype), strength, dtype)
    for i in range(5):
        expected_CHW = plain_correct(video_CFHW[:, i].numpy(), image_CHW.numpy(), strength)
        np.testing.assert_allclose(result_CFHW[:, i].numpy(), expected_CHW, atol=TOLERANCES[dtype])


def test_negative_light_is_black_and_not_nan() -> None:
    video_CFHW, image_CHW = smooth(1, 2, low=-0.1, high=0.1), smooth(2)
    image_CHW[0], image_CHW[2] = 1.0, -1.0
    result_CFHW = color.correct(video_CFHW, color.statistics(image_CHW), 1.0)
    expected_CHW = plain_correct(video_CFHW[:, 1].numpy(), image_CHW.numpy(), 1.0)
    np.testing.assert_allclose(result_CFHW[:, 1].numpy(), expected_CHW, atol=TOLERANCES[torch.float32])
    assert result_CFHW.min() == -1


def test_corrected_frames_have_the_reference_statistics_where_nothing_clips() -> None:
    reference = color.statistics(smooth(3, low=-0.3, high=0.3))
    result_CFHW = color.correct(smooth(4, 3, low=-0.5, high=0.7), reference, 1.0)
    assert result_CFHW.abs().max() < 1
    for i in range(3):
        lab_CHW = plain_lab(result_CFHW[:, i].numpy())
        np.testing.assert_allclose(lab_CHW.mean((1, 2)), reference.mean_C, atol=1e-3)
        np.testing.assert_allclose(lab_CHW.std((1, 2)), reference.std_C, atol=1e-3)


def test_the_reference_itself_does_not_change() -> None:
    image_CHW = smooth(5)
    result_CFHW = color.correct(image_CHW[:, None], color.statistics(image_CHW), 1.0)
    torch.testing.assert_close(result_CFHW[:, 0], image_CHW, atol=1e-5, rtol=0)


def test_strength_0_is_the_identity_and_strengths_between_are_blends() -> None:
    video_CFHW, reference = smooth(6, 2), color.statistics(smooth(7))
    assert torch.equal(color.correct(video_CFHW, reference, 0), video_CFHW)
    full_CFHW, half_CFHW = (color.correct(video_CFHW, reference, strength) for strength in (1.0, 0.5))
    torch.testing.assert_close(half_CFHW, (full_CFHW + video_CFHW) / 2, atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [-1.0, 0.1, 1.0])
def test_a_constant_frame_becomes_the_constant_mean_of_the_reference(value: float) -> None:
    reference = color.statistics(smooth(8, low=-0.2, high=0.2))
    result_CFHW = color.correct(torch.full((3, 1, 16, 16), value), reference, 1.0)
    assert torch.isfinite(result_CFHW).all()
    lab_CHW = plain_lab(result_CFHW[:, 0].numpy())
    np.testing.assert_allclose(lab_CHW[:, 0, 0], reference.mean_C, atol=1e-3)
    assert lab_CHW.std((1, 2)).max() < 1e-3


def test_a_constant_reference_leaves_no_contrast() -> None:
    reference = color.statistics(torch.full((3, 16, 16), 0.2))
    torch.testing.assert_close(
        color.correct(smooth(9, 2), reference, 1.0), torch.full((3, 2, 40, 24), 0.2), atol=1e-3, rtol=0
    )


def test_a_frame_does_not_depend_on_the_others_nor_on_how_many_are_handled_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    video_CFHW, reference = smooth(10, 7), color.statistics(smooth(11))
    whole_CFHW = color.correct(video_CFHW, reference, 1.0)
    assert torch.equal(color.correct(video_CFHW[:, 3:4], reference, 1.0), whole_CFHW[:, 3:4])
    monkeypatch.setattr(color, "_PIXELS_AT_ONCE", 2 * 40 * 24)
    assert torch.equal(color.correct(video_CFHW, reference, 1.0), whole_CFHW)


def test_the_frames_given_are_not_written_to() -> None:
    video_CFHW = smooth(12, 3)
    before_CFHW = video_CFHW.clone()
    for strength in (0, 0.5, 1):
        color.correct(video_CFHW, color.statistics(smooth(13)), strength)
    assert torch.equal(video_CFHW, before_CFHW)


def test_bfloat16_frames_are_corrected_in_float32_unless_asked_otherwise() -> None:
    video_CFHW, image_CHW = smooth(14, 2), smooth(15)
    exact_CFHW = color.correct(video_CFHW.bfloat16(), color.statistics(image_CHW), 1.0)
    torch.testing.assert_close(
        exact_CFHW, color.correct(video_CFHW.bfloat16().float(), color.statistics(image_CHW), 1.0), atol=0, rtol=0
    )
    rough_CFHW = color.correct(
        video_CFHW.bfloat16(), color.statistics(image_CHW, torch.bfloat16), 1.0, dtype=torch.bfloat16
    )
    assert rough_CFHW.dtype == torch.bfloat16
    steps = (rough_CFHW.float() - exact_CFHW).abs() * 127.5
    assert 0.1 < steps.mean() < 3
