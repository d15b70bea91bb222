"""Subject and background consistency, and the pieces of VBench-Long, on networks whose features are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from talkbench.errors import TalkbenchError, Unscorable
from talkbench.media.clip import ClipFacts, FrameBatch, Frames
from talkbench.metrics import networks
from talkbench.metrics.base import Context, Runner, Scores, params_digest
from talkbench.metrics.consistency import BackgroundRunner, ConsistencyRunner, SubjectRunner
from talkbench.metrics.vbench import Pieces, VBenchParams
from talkbench.nets.clip import ClipVision
from talkbench.nets.dino import DinoViT
from talkbench.nets.resize import Preprocess
from talkbench.weights.catalog import WeightFile
from tests.support import moving_square

CONTEXT = Context(
    threads=1, weights={name: WeightFile(name, Path(name), name, "released") for name in ("dino", "clip")}
)
DARK, LIGHT, RED, GREEN = (0, 0, 0), (255, 255, 255), (255, 128, 128), (128, 255, 128)


class MeanColour(nn.Module):
    """A network whose feature is the mean colour, from -1 to 1; at most `at_most` pictures fit."""

    def __init__(self, at_most: int = 99) -> None:
        super().__init__()
        self.at_most = at_most

    def forward(self, pictures_BCHW: Tensor) -> Tensor:
        if len(pictures_BCHW) > self.at_most:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return pictures_BCHW.mean(dim=(2, 3))


class ColourRunner(SubjectRunner):
    """Subject consistency on mean colours."""

    net: nn.Module = MeanColour()

    def _build(self, path: Path) -> nn.Module:
        return self.net

    def _preprocess(self) -> Preprocess:
        return Preprocess("bilinear", crop=False, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), side_px=8)


@pytest.fixture(autouse=True)
def no_network_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_loaded", {})


def tiny(runner: type[ConsistencyRunner], monkeypatch: pytest.MonkeyPatch) -> ConsistencyRunner:
    """Return a real runner on a small network with random weights."""
    torch.manual_seed(0)
    net = DinoViT(32, 2, 4) if runner is SubjectRunner else ClipVision(32, 2, 4, num_features=16)
    for value in net.state_dict().values():
        value.copy_(torch.randn_like(value) * 0.4)
    monkeypatch.setattr(runner, "_build", lambda self, path: net)
    return runner(context=CONTEXT)


def score(runner: Runner, frames: Frames, rate: int = 25, size: int = 64) -> Scores:
    height, width = frames.shape[1:3] if len(frames) else (8, 8)
    runner.start(ClipFacts(width, height, Fraction(rate), has_audio=False))
    for start in range(0, len(frames), size):
        part = frames[start : start + size]
        runner.update(FrameBatch(part, start, (start + np.arange(len(part))) / rate))
    return runner.finish()


def painted(colours: Sequence[tuple[int, int, int]]) -> Frames:
    frames = np.zeros((len(colours), 8, 8, 3), np.uint8)
    frames[:] = np.array(colours, np.uint8).reshape(-1, 1, 1, 3)
    return frames


def colour_cosine(first: tuple[int, int, int], second: tuple[int, int, int]) -> float:
    a, b = (np.array(colour) / 127.5 - 1 for colour in (first, second))
    return max(0.0, float(a @ b / math.sqrt(a @ a * (b @ b))))


def test_a_term_is_half_likeness_to_the_frame_before_and_half_to_the_first() -> None:
    found = score(ColourRunner(context=CONTEXT), painted([RED, RED, GREEN, GREEN]))
    apart = colour_cosine(RED, GREEN)
    terms = found.series["vbench.subject_consistency"]
    assert terms.values_T == pytest.approx([1, apart, (1 + apart) / 2], abs=1e-6)
    assert terms.seconds_T == pytest.approx([0.04, 0.08, 0.12])
    assert found.values["vbench.subject_consistency"] == pytest.approx((1 + apart) / 2, abs=1e-6)
    assert found.details == {"num_terms": 3, "num_pieces": 1}


def test_features_that_point_apart_count_as_unlike_and_not_as_less_than_that() -> None:
    found = score(ColourRunner(context=CONTEXT), painted([DARK, LIGHT]))
    assert found.values["vbench.subject_consistency"] == 0


def test_a_frozen_clip_scores_one_and_never_more() -> None:
    frames = np.repeat(next(moving_square(1))[None], 9, axis=0)
    assert score(ColourRunner(context=CONTEXT), frames).values["vbench.subject_consistency"] == pytest.approx(
        1, abs=1e-12
    )
    assert score(ColourRunner(context=CONTEXT), frames).values["vbench.subject_consistency"] <= 1


@pytest.mark.parametrize("runner", [SubjectRunner, BackgroundRunner])
def test_the_way_frames_arrive_never_matters(runner: type[ConsistencyRunner], monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.stack(list(moving_square(21, 32, 48)))
    made = tiny(runner, monkeypatch)
    whole = score(made, frames)
    assert 0.1 < whole.values[runner.outputs[0].id] < 0.9999
    for size in (1, 7):
        again = score(made, frames, size=size)
        assert again.values == whole.values
        for name, terms in again.series.items():
            assert terms.values_T.tolist() == whole.series[name].values_T.tolist()


@pytest.mark.parametrize("runner", [SubjectRunner, BackgroundRunner])
def test_it_gives_what_it_declares(runner: type[ConsistencyRunner], monkeypatch: pytest.MonkeyPatch) -> None:
    found = score(tiny(runner, monkeypatch), np.stack(list(moving_square(12, 32, 24))))
    assert list(found.values) == [output.id for output in runner.outputs]
    assert list(found.series) == [output.id for output in runner.outputs if output.series]
    assert all(output.better == "higher" and output.rewards_stillness for output in runner.outputs)


@pytest.mark.parametrize("num_frames", [0, 1])
def test_a_clip_without_two_frames_cannot_be_scored(num_frames: int) -> None:
    with pytest.raises(Unscorable, match=f"the clip has {num_frames}") as caught:
        score(ColourRunner(context=CONTEXT), painted([RED] * num_frames))
    assert caught.value.reason == "one-frame"


def test_the_long_protocol_is_the_mean_over_pieces_scored_as_clips_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = tiny(SubjectRunner, monkeypatch)
    frames = np.stack(list(moving_square(27, 32, 48, speed=4)))  # 5.4 seconds: two pieces and 1.4 seconds
    pieces = [frames[:10], frames[10:20], frames[20:]]
    apart = [score(runner, piece, rate=5).values["vbench.subject_consistency"] for piece in pieces]
    found = score(runner, frames, rate=5)
    assert found.values["vbench_long.subject_consistency"] == pytest.approx(np.mean(apart), abs=1e-6)
    assert found.values["vbench.subject_consistency"] != pytest.approx(np.mean(apart), abs=1e-5)
    assert found.details["num_pieces"] == 3


@pytest.mark.parametrize(("num_frames", "num_pieces"), [(14, 1), (15, 2), (4, 1), (20, 2), (21, 2)])
def test_a_last_piece_under_half_length_is_left_out_unless_it_is_the_only_one(num_frames: int, num_pieces: int) -> None:
    found = score(ColourRunner(context=CONTEXT), painted([RED] * num_frames), rate=5)
    assert found.details["num_pieces"] == num_pieces


def test_pieces_without_two_frames_leave_the_long_protocol_without_a_value() -> None:
    runner = ColourRunner(VBenchParams(piece_seconds=0.1), CONTEXT)
    found = score(runner, painted([RED, GREEN, RED]), rate=5)
    assert list(found.values) == ["vbench.subject_consistency"]
    assert found.missing["vbench_long.subject_consistency"].reason == "pieces-too-short"


def test_a_frame_on_the_edge_of_a_piece_belongs_to_the_next_one() -> None:
    pieces = Pieces(2.0)
    assert [pieces.index(at) for at in (0, 1.96, 1.9999999, 2.0, 59 * 1001 / 30000, 60 * 1001 / 30000)] == [
        0, 0, 1, 1, 0, 1,
    ]  # fmt: skip


def test_a_network_that_gives_no_number_is_a_failure_and_not_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(nn.Module):
        def forward(self, pictures_BCHW: Tensor) -> Tensor:
            return pictures_BCHW.mean(dim=(2, 3)) * math.nan

    monkeypatch.setattr(ColourRunner, "net", Broken())
    with pytest.raises(FloatingPointError, match="dino network"):
        score(ColourRunner(context=CONTEXT), painted([RED, GREEN]))


def test_when_cuda_memory_ends_batches_are_halved_and_the_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = painted([RED, GREEN, LIGHT, RED, GREEN])
    whole = score(ColourRunner(context=CONTEXT), frames)
    monkeypatch.setattr(ColourRunner, "net", MeanColour(at_most=2))
    monkeypatch.setattr(networks, "_loaded", {})
    runner = ColourRunner(context=CONTEXT)
    found = score(runner, frames)
    assert found.values == pytest.approx(whole.values)
    assert found.details == whole.details | {"batch": 2}
    assert "batch" not in score(runner, frames[:2]).details, "each clip starts with whole batches"


def test_precision_and_compilation_enter_the_score_key() -> None:
    made = [VBenchParams(), VBenchParams(precision="bf16"), VBenchParams(compile=True), VBenchParams(piece_seconds=3)]
    assert len({params_digest(params) for params in made}) == 4


@pytest.mark.parametrize("wrong", [{"precision": "fp8"}, {"piece_seconds": 0.0}, {"piece_seconds": math.nan}])
def test_a_parameter_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(TalkbenchError, match=next(iter(wrong))):
        replace(VBenchParams(), **wrong)


@pytest.mark.parametrize(("runner", "weight"), [(SubjectRunner, "dino"), (BackgroundRunner, "clip")])
def test_a_file_of_another_model_is_named(runner: type[ConsistencyRunner], weight: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"conv.weight": torch.zeros(3)}, path)
    made = runner(context=Context(weights={weight: WeightFile(weight, path, weight, "unverified")}))
    with pytest.raises(TalkbenchError, match=r"weights\.pth does not fit"):
        score(made, painted([RED, GREEN]))
