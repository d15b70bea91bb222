"""One pass over a clip feeds every runner: decode once, convert once, hear once.

A runner that fails is set aside and becomes rows with a reason; the others go on. Sound and picture are read
alternately, so that neither is held.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from talkbench.errors import Unscorable
from talkbench.ids import score_key
from talkbench.media import audio, decode, probe
from talkbench.media.ahead import ahead
from talkbench.media.clip import ClipFacts, FrameBatch, Samples
from talkbench.metrics import drift
from talkbench.metrics.base import RUNNERS, Context, Output, Runner, Scores, params_digest
from talkbench.provenance import device_name, environment_id
from talkbench.schema import ClipRecord, DecodedFacts, Problem, ScoreRow, Sidecar
from talkbench.weights.catalog import WeightFile, WeightsKind
from talkbench.weights.read import BadWeights

_log = logging.getLogger(__name__)

WAVEFORM_RATE_HZ = 16_000
UNEQUAL_SECONDS = 0.25


@dataclass(frozen=True)
class Metric:
    """A runner with its parameters, as planned for a run; small, and picklable.

    Attributes:
        name: Runner name.
        params: Instance of the runner's `params_type`, or None for its defaults.
        weights: Weight name -> file.
        unavailable: Why it cannot run here (a weight file or a package is missing): its rows say so, and are computed
            as soon as it can.
    """

    name: str
    params: Any = None
    weights: Mapping[str, WeightFile] = field(default_factory=dict)
    unavailable: Problem | None = None

    @property
    def runner_type(self) -> type[Runner]:
        """The runner's class."""
        found: type[Runner] = RUNNERS.get(self.name)
        return found

    @property
    def params_digest(self) -> str:
        """Digest of the parameters in force."""
        return params_digest(self.params if self.params is not None else self.runner_type.params_type())

    @property
    def weight_digests(self) -> dict[str, str]:
        """Weight name -> sha256."""
        return {name: file.sha256 for name, file in sorted(self.weights.items())}

    @property
    def weights_kind(self) -> WeightsKind | Literal["none"]:
        """The least trusted kind among the weight files."""
        kinds = {file.kind for file in self.weights.values()}
        order: tuple[WeightsKind, ...] = ("unverified", "mini-domain", "released")
        return next((kind for kind in order if kind in kinds), "none")

    def key(self, record: ClipRecord) -> str:
        """Return the score key of this metric on a clip."""
        runner = self.runner_type
        has_series = any(output.series for output in runner.outputs)
        inputs = {}
        if runner.needs.truth or runner.needs.timing:
            inputs["sidecar"] = record.sidecar_sha256 or "none"
        if self.unavailable is not None:
            inputs["unavailable"] = str(self.unavailable.reason)
        return score_key(
            clip_sha256=record.sha256,
            metric=self.name,
            metric_version=f"{runner.version}+drift{drift.VERSION}" if has_series else runner.version,
            params=self.params_digest,
            decode_policy=decode.POLICY,
            weights=self.weight_digests,
            inputs=inputs,
        )


@dataclass
class _Lane:
    """A runner on its way through a clip."""

    metric: Metric
    runner: Runner
    problem: Problem | None = None
    scores: Scores | None = None
    drift: dict[str, Scores] = field(default_factory=dict)

    def guard(self, step: str, call: Any, *arguments: Any) -> Any:
        """Call into the runner unless it failed before; turn what it raises into a problem."""
        if self.problem is not None:
            return None
        try:
            return call(*arguments)
        except Exception as error:  # noqa: BLE001
            # A third party's exception costs this metric on this clip, never the rest of the run.
            self.problem = _problem(error, step, self.metric.name)
        return None

    @property
    def wants_frames(self) -> bool:
        return self.problem is None and self.runner.needs.frames

    @property
    def hears(self) -> int | None:
        return self.runner.needs.audio_rate_hz if self.problem is None else None


def _problem(error: Exception, step: str, whose: str) -> Problem:
    """Return an exception as the reason of rows; one that explains nothing leaves its traceback in the log."""
    if isinstance(error, Unscorable):
        return Problem(status=error.status, reason=error.reason, message=error.message)
    if isinstance(error, BadWeights):
        return Problem(status="failed", reason="bad-weights", message=str(error))
    what = type(error).__name__
    if isinstance(error, MemoryError) or what == "OutOfMemoryError" or "ALLOC_FAILED" in str(error):
        reason = "out-of-memory"
    elif isinstance(error, FloatingPointError):
        reason = "not-finite"
    else:
        _log.error("%s failed in %s", whose, step, exc_info=error)
        reason = "exception"
    return Problem(status="failed", reason=reason, message=f"{what} in {step}: {error}")


@dataclass
class Scored:
    """What one pass found.

    Attributes:
        record: The clip's record with what the decode added.
        rows: One row per output, for this record.
    """

    record: ClipRecord
    rows: list[ScoreRow] = field(default_factory=list)


def score_clip(
    record: ClipRecord,
    metrics: tuple[Metric, ...],
    sidecar: Sidecar | Problem | None,
    context: Context,
) -> Scored:
    """Run `metrics` over one clip; never raises for a property of the clip or an exception of a runner.

    Args:
        record: The clip.
        metrics: What to compute.
        sidecar: Its sidecar, or why that cannot be read (costs only the metrics that need it).
        context: Device of the runners, and threads of networks and decoder.
    """
    began = time.perf_counter()
    lanes = [_lane(metric, context) for metric in metrics]
    if isinstance(sidecar, Problem):
        for lane in lanes:
            if lane.runner.needs.truth or lane.runner.needs.timing:
                lane.problem = sidecar
        sidecar = None
    problem = record.problem
    if problem is None and record.video is not None:
        try:
            record = _Pass(record, sidecar, lanes, context).run()
        except Exception as error:  # noqa: BLE001 - one clip never ends a run
            problem = _problem(error, "decoding", record.path)
            if isinstance(error, Unscorable):  # else it may be gone the next time
                record = record.model_copy(update={"problem": problem})
    if problem is not None:
        for lane in lanes:
            lane.problem = problem
    seconds = time.perf_counter() - began
    return Scored(record, [row for lane in lanes for row in _rows(record, lane, seconds, context)])


def _lane(metric: Metric, context: Context) -> _Lane:
    runner = metric.runner_type(metric.params, replace(context, weights=metric.weights))
    return _Lane(metric, runner, problem=metric.unavailable)


class _Pass:
    """One decode of one clip."""

    def __init__(self, record: ClipRecord, sidecar: Sidecar | None, lanes: list[_Lane], context: Context) -> None:
        assert record.video is not None  # noqa: S101 - the caller's invariant
        self._record, self._video, self._lanes = record, record.video, lanes
        self._threads, self._overlap = context.threads or 1, context.device != "cpu"
        self._path = Path(record.path)
        self._sidecar = sidecar or Sidecar()
        rates = {lane.runner.needs.frame_rate for lane in lanes}
        self._converters = {rate: decode.RateConverter(rate) for rate in rates if rate is not None}
        self._waveform = audio.Waveform(WAVEFORM_RATE_HZ)
        self._audio_problem: Problem | None = None

    def run(self) -> ClipRecord:
        """Feed every lane; return the record with decoded facts."""
        self._start()
        reader = None
        self._ears = self._open_ears()
        self._heard = dict.fromkeys(self._ears, 0)
        if any(lane.wants_frames for lane in self._lanes) or self._record.decoded is None:
            with probe.open_clip(self._path) as container:
                reader = decode.VideoReader(container, self._path, self._video, threads=self._threads)
                # Beside a GPU the next frames are decoded meanwhile; a CPU has no idle time to fill.
                with ahead(reader.batches()) if self._overlap else nullcontext(reader.batches()) as batches:
                    for batch in batches:
                        for rate, converter in self._converters.items():
                            self._show(rate, converter.push(batch))
                        self._show(None, [batch])
                for rate, converter in self._converters.items():
                    self._show(rate, converter.flush(reader.duration_seconds))
        self._listen(math.inf)
        record = self._record if reader is None else self._with_facts(reader)
        assert record.decoded is not None  # noqa: S101 - without a reader it was there
        for lane in self._lanes:
            lane.scores = lane.guard("finish", lane.runner.finish)
            lane.guard("drift", _derive_drift, lane, record.decoded.duration_seconds)
        return record

    def _start(self) -> None:
        for lane in self._lanes:
            needs = lane.runner.needs
            facts = ClipFacts(
                width=self._video.width,
                height=self._video.height,
                frame_rate=needs.frame_rate or Fraction(self._video.frame_rate),
                has_audio=self._record.audio is not None,
                truth=self._sidecar.truth if needs.truth else None,
                timing=self._sidecar.timing if needs.timing else None,
                path=self._path if needs.file else None,
            )
            lane.guard("start", _refuse_deaf, needs.audio_rate_hz, facts)
            lane.guard("start", lane.runner.start, facts)

    def _show(self, rate: Fraction | None, batches: Iterable[FrameBatch]) -> None:
        """Deliver frames at a rate that runners ask for, None for the clip's own, and the sound up to them."""
        for batch in batches:
            for lane in self._lanes:
                if lane.wants_frames and lane.runner.needs.frame_rate == rate:
                    lane.guard("update", lane.runner.update, batch)
            self._listen(float(batch.seconds_T[-1]))

    def _open_ears(self) -> dict[int, Iterator[Samples]]:
        if self._record.audio is None:
            return {}
        rates = {lane.hears for lane in self._lanes if lane.hears} | {WAVEFORM_RATE_HZ}
        start = probe.probe(self._path).first_frame_seconds
        return {rate: audio.blocks(self._path, rate, first_frame_seconds=start) for rate in sorted(rates)}

    def _listen(self, until_seconds: float) -> None:
        for rate in list(self._ears):
            while rate in self._ears and self._heard[rate] < until_seconds * rate:
                try:
                    block = next(self._ears[rate], None)
                except Exception as error:  # noqa: BLE001 - costs the metrics that listen
                    self._audio_problem = _problem(error, "decoding the sound", self._record.path)
                    block = None
                if block is None:
                    del self._ears[rate]
                    self._end_sound(rate)
                else:
                    self._tell(rate, block, self._heard[rate])
                    self._heard[rate] += block.size

    def _tell(self, rate: int, block: Samples, first_sample: int) -> None:
        if rate == WAVEFORM_RATE_HZ:
            self._waveform.add(block)
        for lane in self._lanes:
            if lane.hears == rate:
                lane.guard("hear", lane.runner.hear, block, first_sample)

    def _end_sound(self, rate: int) -> None:
        for lane in self._lanes:
            if lane.hears == rate and self._audio_problem is not None:
                lane.problem = self._audio_problem
            elif lane.hears == rate:
                lane.guard("end_sound", lane.runner.end_sound)

    def _with_facts(self, reader: decode.VideoReader) -> ClipRecord:
        notes = list(self._record.notes)
        heard = self._waveform.duration_seconds
        if reader.variable_frame_rate:
            notes.append("variable frame rate: frames are scored as stored, windows follow their timestamps")
        if self._audio_problem is not None:
            notes.append(self._audio_problem.message)
        elif self._record.audio is not None and abs(heard - reader.duration_seconds) > UNEQUAL_SECONDS:
            notes.append(f"audio lasts {heard:.2f} s, picture {reader.duration_seconds:.2f} s")
        decoded = DecodedFacts(
            num_frames=reader.num_frames,
            duration_seconds=round(reader.duration_seconds, 6),
            variable_frame_rate=reader.variable_frame_rate,
            pixels_digest=reader.pixels_digest,
            audio_seconds=round(heard, 4) if self._record.audio is not None else None,
            waveform=tuple(self._waveform.peaks),
        )
        return self._record.model_copy(update={"decoded": decoded, "notes": tuple(dict.fromkeys(notes))})


def _refuse_deaf(rate_hz: int | None, facts: ClipFacts) -> None:
    if rate_hz is not None and not facts.has_audio:
        raise Unscorable("no-audio", "the clip has no audio track")


def _derive_drift(lane: _Lane, clip_seconds: float) -> None:
    """Add slope, stable time and seams of every output with a series, if that is long enough for them."""
    for output in lane.runner.outputs:
        terms = lane.scores.series.get(output.id) if lane.scores else None
        if terms is not None and (found := drift.derive(output, terms, clip_seconds)) is not None:
            lane.drift[output.id] = found


def _rows(record: ClipRecord, lane: _Lane, seconds: float, context: Context) -> list[ScoreRow]:
    """Return one row per output, and those of its drift; what a runner returned may still be unfit for rows."""
    made = lane.guard("rows", lambda: list(_each_row(record, lane, seconds, context)))
    return list(_each_row(record, lane, seconds, context)) if made is None else made


def _each_row(record: ClipRecord, lane: _Lane, seconds: float, context: Context) -> Iterator[ScoreRow]:
    for output in lane.runner.outputs:
        terms = lane.scores.series.get(output.id) if lane.scores and lane.problem is None else None
        windows = terms.windows() if terms is not None and len(terms) else None
        yield _row(record, lane, output, seconds, context, windows=windows)
        if output.id in lane.drift and lane.problem is None:
            derived = _Lane(lane.metric, lane.runner, scores=lane.drift[output.id])
            for drifted in drift.outputs(output):
                yield _row(record, derived, drifted, seconds, context)


def _row(
    record: ClipRecord, lane: _Lane, output: Output, seconds: float, context: Context, windows: Any = None
) -> ScoreRow:
    value, problem = _value(lane, output)
    status: Literal["ok", "unscorable", "failed", "skipped"] = problem.status if problem else "ok"
    return ScoreRow(
        score_key=lane.metric.key(record),
        clip_key=record.clip_key,
        item=record.item,
        system=record.system,
        tier=record.tier,
        identity=record.identity,
        metric=lane.metric.name,
        metric_version=lane.runner.version,
        params=lane.metric.params_digest,
        output=output.scored_with(lane.metric.weights_kind).id,
        value=value,
        unit=output.unit,
        status=status,
        reason=problem.reason if problem else None,
        message=problem.message if problem else None,
        details=lane.scores.details if lane.scores and not problem else {},
        windows=windows if not problem else None,
        weights=lane.metric.weight_digests,
        weights_kind=lane.metric.weights_kind,
        clip_sha256=record.sha256,
        pixels_digest=record.decoded.pixels_digest if record.decoded else None,
        env=environment_id(),
        device=device_name(context.device),
        seconds=round(seconds, 4),
    )


def _value(lane: _Lane, output: Output) -> tuple[float | None, Problem | None]:
    if lane.problem is not None:
        return None, lane.problem
    assert lane.scores is not None  # noqa: S101 - finish() either set it or set the problem
    if output.id in lane.scores.missing:
        reason = lane.scores.missing[output.id]
        return None, Problem(status=reason.status, reason=reason.reason, message=reason.message)
    value = lane.scores.values.get(output.id)
    if value is None:
        return None, Problem(status="failed", reason="no-value", message=f"{lane.metric.name} returned no {output.id}")
    if not math.isfinite(value):
        return None, Problem(status="failed", reason="not-finite", message=f"{lane.metric.name} returned {value}")
    return float(value), None
