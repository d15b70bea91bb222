"""S3FD's names, grids and boxes, and a fitted one that finds drawn faces."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from talkbench.metrics.base import Context
from talkbench.metrics.faces import FaceFinder, overlaps
from talkbench.nets import s3fd
from tests.fitted_s3fd import drawn, fitted_s3fd
from tests.support import ROOT


def test_names_and_shapes_are_those_of_the_released_file() -> None:
    keys = json.loads((ROOT / "tests/data/keys/s3fd.json").read_text())
    with torch.device("meta"):
        net = s3fd.S3FD()
    assert {name: list(value.shape) for name, value in net.state_dict().items()} == keys


@torch.inference_mode()
def test_the_grids_of_a_quarter_of_720x416_are_the_official_ones() -> None:
    with torch.device("meta"):
        net = s3fd.S3FD()
        # The mean is subtracted where the weights are.
        grids = [tuple(source.shape[2:]) for source in net.sources(torch.zeros(1, 3, 104, 180))]
    assert grids == [(26, 45), (13, 23), (6, 11), (3, 5), (2, 3), (1, 2)]


@torch.inference_mode()
def test_the_least_side_is_the_first_at_which_no_pool_runs_empty() -> None:
    net = s3fd.S3FD()
    assert s3fd.MIN_SIDE_PX == 28
    assert net(torch.zeros(1, 3, 28, 28))[0].isfinite().all()
    with pytest.raises(RuntimeError, match="too small"):
        net(torch.zeros(1, 3, 27, 40))


def test_a_prior_is_centred_on_its_cell_and_decodes_to_itself() -> None:
    boxes = s3fd.priors(104, 180, ((26, 45), (13, 23), (6, 11), (3, 5), (2, 3), (1, 2)), torch.device("cpu"))
    assert len(boxes) == 26 * 45 + 13 * 23 + 66 + 15 + 6 + 2
    second_scale = boxes[26 * 45 + 23 + 2]
    np.testing.assert_allclose(second_scale, [2.5 * 8 / 180, 1.5 * 8 / 104, 32 / 180, 32 / 104], rtol=1e-6)
    corners = s3fd.decode(torch.zeros(1, len(boxes), 4), boxes)[0, 26 * 45 + 23 + 2]
    np.testing.assert_allclose(corners * torch.tensor([180, 104, 180, 104]), [4, -4, 36, 28], atol=1e-4)


def test_offsets_move_by_a_tenth_of_the_prior_and_grow_by_a_fifth_of_the_exponent() -> None:
    prior = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    left, top, right, bottom = s3fd.decode(torch.tensor([[[1.0, -1.0, 5.0, 0.0]]]), prior)[0, 0].tolist()
    assert (left + right) / 2 == pytest.approx(0.52)
    assert (top + bottom) / 2 == pytest.approx(0.46)
    assert right - left == pytest.approx(0.2 * np.e, rel=1e-6)
    assert bottom - top == pytest.approx(0.4)


def test_weights_fitted_to_a_few_drawings_find_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    people = [drawn(seed, 2, every=10, side=160) for seed in (20251230, 20251231)]
    net = s3fd.S3FD().eval()
    net.load_state_dict(fitted_s3fd([example for person in people for example in person]))
    monkeypatch.setattr("talkbench.metrics.faces.load_s3fd", lambda _context: net)
    later = [drawn(seed, 3, every=7, side=160)[2] for seed in (20251230, 20251231)]
    frames = np.stack([frame for frame, _ in later] + [np.zeros((160, 160, 3), np.uint8)])
    *found, nothing = FaceFinder(Context()).find(frames)
    assert len(nothing) == 0
    for boxes, (_, truth) in zip(found, later, strict=True):
        assert len(boxes) == 1
        assert overlaps(np.array(truth), boxes)[0] > 0.6


def test_frames_taken_one_by_one_or_together_have_the_same_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Short(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            calls.append(len(images))
            if len(images) > 2:
                raise torch.cuda.OutOfMemoryError
            return torch.full((len(images), 1), 0.95), torch.tensor([[0.1, 0.2, 0.5, 0.6]]).expand(len(images), 1, 4)

    monkeypatch.setattr("talkbench.metrics.faces.load_s3fd", lambda _context: Short())
    finder = FaceFinder(Context(), batch_size=8)
    found = finder.find(np.zeros((5, 40, 80, 3), np.uint8))
    assert calls == [5, 4, 2, 2, 1]
    assert finder.batch.halved("face_batch") == {"face_batch": 2}
    np.testing.assert_allclose(found, [[[8, 8, 40, 24]]] * 5, rtol=1e-6)


@pytest.mark.parametrize(("score", "corner"), [(torch.nan, 0.0), (0.0, torch.inf)])
def test_a_network_that_gives_nan_is_not_a_clip_without_faces(
    monkeypatch: pytest.MonkeyPatch, score: float, corner: float
) -> None:
    broken = lambda images: (torch.full((len(images), 1), score), torch.full((len(images), 1, 4), corner))  # noqa: E731
    monkeypatch.setattr("talkbench.metrics.faces.load_s3fd", lambda _context: broken)
    with pytest.raises(FloatingPointError, match="S3FD"):
        FaceFinder(Context()).find(np.zeros((1, 40, 40, 3), np.uint8))
