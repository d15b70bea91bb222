"""One pass over a clip: what goes wrong in it becomes rows with the right reason, and never ends the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from talkbench.media import audio, decode, probe
from talkbench.metrics import drift, score
from talkbench.metrics.base import Context, Needs, Output, Runner, Scores, select
from talkbench.metrics.series import Terms
from talkbench.schema import ClipRecord, ScoreRow
from talkbench.weights.read import BadWeights
from tests.support import make_clip


class Level(Runner):
    """Mean level of the picture; `wrong` says what happens instead."""

    name, version = "level", "1"
    outputs = (Output("toy.level", "Level", series=True),)
    needs = Needs()
    wrong: Callable[[object], object] | None = None

    def start(self, clip: object) -> None:
        self._terms = Terms()

    def update(self, batch: decode.FrameBatch) -> None:
        if self.wrong is not None:
            self.wrong()
        self._terms.add(batch.frames_THWC.mean(axis=(1, 2, 3)), batch.seconds_T)

    def finish(self) -> Scores:
        return Scores({"toy.level": self._terms.mean()}, series={"toy.level": self._terms})


class Loudness(Runner):
    """Peak of the sound, and how often its end was told."""

    name, version = "loudness", "1"
    outputs = (Output("toy.peak", "Peak"), Output("toy.ends", "Ends"))
    needs = Needs(frames=False, audio_rate_hz=8000)

    def start(self, clip: object) -> None:
        self._peak, self._ends = 0.0, 0

    def hear(self, samples_N: audio.Samples, first_sample: int) -> None:
        assert not self._ends
        self._peak = max(self._peak, float(np.abs(samples_N).max()))

    def end_sound(self) -> None:
        self._ends += 1

    def finish(self) -> Scores:
        return Scores({"toy.peak": self._peak, "toy.ends": float(self._ends)})


class Backwards(Level):
    """Gives a series that lies before the clip."""

    name = "backwards"

    def finish(self) -> Scores:
        self._terms.add([1.0], [-5.0])
        return super().finish()


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {toy.name: toy for toy in (Level, Loudness, Backwards)}
    monkeypatch.setattr(score.Metric, "runner_type", property(lambda metric: known[metric.name]))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipRecord:
    path = make_clip(tmp_path_factory.mktemp("score") / "a.mp4", seconds=0.4)
    facts = probe.probe(path)
    return ClipRecord(
        clip_key="a", system="ours", item="a", tier="short", identity="a", path=str(path), sha256="0" * 64,
        size_bytes=1, modified_ns=1, video=facts.video, audio=facts.audio,
    )  # fmt: skip


def scored(clip: ClipRecord, *names: str) -> dict[str, ScoreRow]:
    found = score.score_clip(clip, tuple(score.Metric(name) for name in names), None, Context())
    return {row.output: row for row in found.rows}


def test_sound_that_surprises_us_costs_what_listens_and_pictures_that_do_cost_the_clip(
    clip: ClipRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(*_: object) -> None:
        raise ValueError("Frame does not match")

    with monkeypatch.context() as patch:
        patch.setattr(audio, "_placed", surprise)
        rows = scored(clip, "level", "loudness")
    assert (rows["toy.level"].status, rows["toy.peak"].status) == ("ok", "failed")
    assert rows["toy.peak"].message == "ValueError in decoding the sound: Frame does not match"
    monkeypatch.setattr(decode.VideoReader, "_to_rgb", surprise)
    rows = scored(clip, "level", "loudness")
    assert {row.reason for row in rows.values()} == {"exception"}


def test_a_result_that_fits_no_row_costs_its_metric_only(clip: ClipRecord) -> None:
    rows = scored(clip, "backwards", "loudness")
    assert (rows["toy.level"].status, rows["toy.level"].reason) == ("failed", "exception")
    assert rows["toy.peak"].status == "ok"


def test_broken_off_sound_is_found_on_a_clip_that_was_decoded_before(
    clip: ClipRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = score.score_clip(clip, (score.Metric("level"),), None, Context()).record
    assert scored(decoded, "loudness")["toy.ends"].value == 1
    monkeypatch.setattr(probe, "MAX_LEAP_SECONDS", -1.0)
    for record in (clip, decoded):
        assert scored(record, "loudness")["toy.peak"].reason == "broken-timestamps"


class OutOfMemoryError(RuntimeError):
    """As torch.cuda has one."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out-of-memory"),
        (OutOfMemoryError("CUDA out of memory"), "out-of-memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "out-of-memory"),
        (FloatingPointError("not finite"), "not-finite"),
        (BadWeights("x.pth does not fit"), "bad-weights"),
        (KeyError("x"), "exception"),
    ],
)
def test_a_reason_says_what_went_wrong_and_only_a_bug_leaves_a_traceback(
    clip: ClipRecord,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    reason: str,
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(Level, "wrong", fail)
    assert scored(clip, "level")["toy.level"].reason == reason
    assert ("Traceback" in caplog.text) == (reason == "exception")


def test_a_series_that_ends_before_its_clip_is_not_called_stable_to_the_end() -> None:
    output = Output("x.y", "X", better="higher", series=True)
    terms = Terms()
    terms.add(1 + 0.001 * np.random.default_rng(0).normal(size=40 * 25), np.arange(40 * 25) / 25)
    whole, left = drift.derive(output, terms, 40.5), drift.derive(output, terms, 300.0)
    assert whole is not None
    assert left is not None
    assert whole.values["drift.stable_seconds.x.y"] == 40.0
    assert left.missing["drift.stable_seconds.x.y"].reason == "ends-early"
    assert left.values["drift.slope.x.y"] == whole.values["drift.slope.x.y"]


def test_drift_goes_by_the_length_of_the_series_and_seams_by_the_number_of_its_terms() -> None:
    output = Output("x.y", "X", better="higher", series=True)
    few, late = Terms(), Terms()
    few.add(np.random.default_rng(0).normal(size=60), np.arange(60) / 1.5)
    found = drift.derive(output, few, 40.0)
    assert found is not None
    assert found.missing["drift.seam_strength.x.y"].reason == "too-few-terms"
    late.add(np.ones(100), 30 + np.arange(100) / 25)
    assert drift.derive(output, late, 34.0) is None


def test_the_direct_sync_protocol_can_be_chosen_alone() -> None:
    assert [runner.name for runner in select(["sync"])] == ["sync", "sync_frame"]
    assert [runner.name for runner in select(["sync_direct"])] == ["sync"]


def test_wrong_weights_are_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from talkbench.metrics import networks
    from talkbench.weights.catalog import WeightFile

    monkeypatch.setattr(networks, "_loaded", {})
    context, reads = Context(weights={"x": WeightFile("x", tmp_path, "0" * 64, "released")}), []

    def build(path: Path) -> None:
        reads.append(path)
        raise BadWeights("x is another model")

    for _ in range(2):
        with pytest.raises(BadWeights, match="another model"):
            networks.load(context, "x", build)
    assert len(reads) == 1
