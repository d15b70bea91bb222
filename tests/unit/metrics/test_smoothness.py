"""Motion smoothness, on a network whose predictions are known."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from talkbench.errors import TalkbenchError, Unscorable
from talkbench.media.clip import ClipFacts, FrameBatch, Frames
from talkbench.metrics import networks, smoothness
from talkbench.metrics.base import Context, Scores, params_digest
from talkbench.metrics.smoothness import SmoothnessParams, SmoothnessRunner
from talkbench.nets.amt import AmtS
from talkbench.weights.catalog import WeightFile

CONTEXT = Context(threads=1, weights={"amt": WeightFile("amt", Path("amt"), "amt", "released")})
WHOLE, LONG = (output.id for output in SmoothnessRunner.outputs)


class Average(nn.Module):
    """Predicts the mean of both pictures, plus a little against rounding; remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.at_most = 99
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, first_BCHW: Tensor, second_BCHW: Tensor, scale: float) -> Tensor:
        if len(first_BCHW) > self.at_most:
            raise torch.cuda.OutOfMemoryError("out of memory")
        self.shapes.append((*first_BCHW.shape, scale))
        return ((first_BCHW + second_BCHW) / 2 + 1e-4).clamp(0, 1)


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Average:
    made = Average()
    monkeypatch.setattr(networks, "_loaded", {})
    monkeypatch.setattr(SmoothnessRunner, "_build", lambda self, path: made)
    return made


def score(runner: SmoothnessRunner, frames: Frames, rate: int = 25, size: int = 64) -> Scores:
    runner.start(ClipFacts(frames.shape[2], frames.shape[1], Fraction(rate), has_audio=False))
    for start in range(0, len(frames), size):
        part = frames[start : start + size]
        runner.update(FrameBatch(part, start, (start + np.arange(len(part))) / rate))
    return runner.finish()


def levels(*values: int, side: int = 128) -> Frames:
    return np.stack([np.full((side, side, 3), value, np.uint8) for value in values])


def noise(num_frames: int, seed: int = 0) -> Frames:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, 128, 128, 3), dtype=np.uint8)


def test_every_second_frame_is_compared_with_what_its_neighbours_predict(net: Average) -> None:
    found = score(SmoothnessRunner(context=CONTEXT), levels(10, 20, 30, 99, 50))
    assert found.values[WHOLE] == pytest.approx(1 - (0 + 59) / 2 / 255)
    assert found.series[WHOLE].values_T == pytest.approx([1, 1 - 59 / 255])
    assert found.series[WHOLE].seconds_T == pytest.approx([0.04, 0.12])


def test_a_prediction_is_cut_off_to_levels_and_not_rounded(net: Average) -> None:
    found = score(SmoothnessRunner(context=CONTEXT), levels(10, 10, 11))
    assert found.values[WHOLE] == 1


def test_the_last_of_an_even_number_of_frames_is_not_used(net: Average) -> None:
    used = score(SmoothnessRunner(context=CONTEXT), noise(5)).values[WHOLE]
    assert score(SmoothnessRunner(context=CONTEXT), np.concatenate([noise(5), levels(0)])).values[WHOLE] == used


def test_the_way_frames_arrive_never_matters(net: Average, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talkbench.metrics.smoothness.BATCH_PAIRS", {"cpu": 4})
    frames = noise(19)
    whole = score(SmoothnessRunner(context=CONTEXT), frames, rate=5)
    assert [shape[0] for shape in net.shapes] == [4, 4, 1]
    for size in (1, 7):
        again = score(SmoothnessRunner(context=CONTEXT), frames, rate=5, size=size)
        assert again.values == whole.values
        assert again.series[WHOLE].values_T.tolist() == whole.series[WHOLE].values_T.tolist()


@pytest.mark.parametrize("rate", [5, 6])
def test_the_long_protocol_is_the_mean_over_pieces_scored_as_clips_of_their_own(net: Average, rate: int) -> None:
    piece_frames = 11 if rate == 5 else 12
    params = SmoothnessParams(piece_seconds=piece_frames / rate)
    frames = noise(2 * piece_frames + 8)
    pieces = [frames[:piece_frames], frames[piece_frames : 2 * piece_frames], frames[2 * piece_frames :]]
    apart = [score(SmoothnessRunner(context=CONTEXT), piece, rate).values[WHOLE] for piece in pieces]
    found = score(SmoothnessRunner(params, CONTEXT), frames, rate)
    assert found.values[LONG] == pytest.approx(np.mean(apart), abs=1e-12)
    assert found.values[WHOLE] == score(SmoothnessRunner(context=CONTEXT), frames, rate).values[WHOLE]
    assert found.details == {"num_terms": (len(frames) - 1) // 2, "num_pieces": 3}


@pytest.mark.parametrize(("num_frames", "reason"), [(0, "one-frame"), (1, "one-frame"), (2, "too-short")])
def test_fewer_than_three_frames_cannot_be_scored(net: Average, num_frames: int, reason: str) -> None:
    with pytest.raises(Unscorable, match=f"the clip has {num_frames}") as caught:
        score(SmoothnessRunner(context=CONTEXT), noise(3)[:num_frames])
    assert caught.value.reason == reason


def test_odd_sizes_are_padded_and_cut_back(net: Average) -> None:
    found = score(SmoothnessRunner(context=CONTEXT), noise(3)[:, :119, :125])
    assert net.shapes == [(1, 3, 128, 128, 1.0)]
    expected = np.abs((noise(3)[0].astype(int) + noise(3)[2]) // 2 - noise(3)[1])[:119, :125].mean()
    assert found.values[WHOLE] == pytest.approx(1 - expected / 255, abs=1e-6)


def test_frames_too_small_for_the_network_cannot_be_scored(net: Average) -> None:
    with pytest.raises(Unscorable, match="200x112") as caught:
        SmoothnessRunner(context=CONTEXT).start(ClipFacts(200, 112, Fraction(25), has_audio=False))
    assert caught.value.reason == "too-small"
    with pytest.raises(Unscorable, match="128 px"):
        SmoothnessRunner(SmoothnessParams(scale=0.5), CONTEXT).start(ClipFacts(200, 200, Fraction(25), has_audio=False))


def test_a_smaller_scale_pads_to_its_own_multiple_and_is_recorded(net: Average) -> None:
    found = score(SmoothnessRunner(SmoothnessParams(scale=16 / 20), CONTEXT), levels(1, 2, 3, side=165))
    assert net.shapes == [(1, 3, 180, 180, 0.8)]
    assert found.details["scale"] == 0.8


def test_the_official_memory_heuristic_scales_small_cards_only() -> None:
    def scale(gigabytes: float, height: int, width: int) -> float:
        return SmoothnessParams(memory_heuristic_bytes=int(gigabytes * 1e9)).scale_for(height, width)

    assert scale(24, 416, 720) == scale(3.1, 416, 720) == 1
    assert scale(3.0, 416, 720) == 16 / 17
    assert scale(80, 1080, 1920) == 1
    assert scale(16, 1080, 1920) < 1
    assert SmoothnessParams().scale_for(2160, 3840) == 1


@pytest.mark.parametrize("wrong", [{"scale": 0.9}, {"scale": 2.0}, {"memory_heuristic_bytes": 10**9}])
def test_a_parameter_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(TalkbenchError, match=next(iter(wrong))):
        replace(SmoothnessParams(), **wrong)


def test_the_scale_enters_the_score_key() -> None:
    assert params_digest(SmoothnessParams()) != params_digest(SmoothnessParams(scale=0.5))


def test_a_network_that_gives_no_number_is_a_failure_and_not_a_score(
    net: Average, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net, "forward", lambda first, second, scale: first * math.nan)
    with pytest.raises(FloatingPointError, match="amt network"):
        score(SmoothnessRunner(context=CONTEXT), noise(3))


def test_when_cuda_memory_ends_batches_are_halved_and_the_row_says_so(
    net: Average, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoothness, "BATCH_PAIRS", {"cpu": 4})
    whole = score(SmoothnessRunner(context=CONTEXT), noise(17))
    net.at_most = 2
    found = score(SmoothnessRunner(context=CONTEXT), noise(17))
    assert [shape[0] for shape in net.shapes] == [4, 4, 2, 2, 2, 2]
    assert found.values == whole.values
    assert found.details == whole.details | {"batch": 2}


def test_weights_come_from_the_released_kind_of_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_loaded", {})
    torch.manual_seed(0)
    net = AmtS().eval()
    torch.save({"state_dict": net.state_dict(), "epoch": 1}, tmp_path / "amt-s.pth")
    context = Context(threads=1, weights={"amt": WeightFile("amt", tmp_path / "amt-s.pth", "x", "unverified")})
    found = score(SmoothnessRunner(context=context), noise(4))
    assert 0 < found.values[WHOLE] < 1
