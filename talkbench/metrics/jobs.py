"""What is still to be scored: plan against the stored rows, reuse equal work, score one job under a lock."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from talkbench import atomic
from talkbench.errors import TalkbenchError
from talkbench.metrics.base import Context
from talkbench.metrics.score import Metric, Scored, score_clip
from talkbench.provenance import host_name
from talkbench.schema import ClipRecord, Problem, ScoreRow, Sidecar, now
from talkbench.store.rows import RowWriter
from talkbench.store.run import Run
from talkbench.systems.scan import read_sidecar

_log = logging.getLogger(__name__)

Rerun = Literal["missing", "failed", "all", "none"]


@dataclass(frozen=True)
class Job:
    """One pass over one file.

    Attributes:
        records: The clips whose bytes and sidecar are this file; usually one.
        metrics: What to compute.
        force: Compute even if rows have appeared since planning (`--rerun all` or `failed`).
    """

    records: tuple[ClipRecord, ...]
    metrics: tuple[Metric, ...]
    force: bool = False

    @property
    def label(self) -> str:
        """Name for progress and messages."""
        return f"{self.records[0].system}/{self.records[0].item}"


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        label: The job's name.
        statuses: Rows written, by status.
        busy: Another process holds the clip; nothing was done.
    """

    label: str
    statuses: Counter[str]
    busy: bool = False

    @property
    def ok(self) -> bool:
        """Whether no row failed."""
        return not self.statuses["failed"]


@dataclass(frozen=True)
class _Found:
    """Rows of one metric on one clip that already exist somewhere."""

    run: Run
    clip_key: str
    rows: list[dict[str, Any]]


def plan(run: Run, records: Iterable[ClipRecord], metrics: tuple[Metric, ...], rerun: Rerun) -> list[Job]:
    """Return the jobs that are left, longest clips first so that workers end together.

    `missing` computes what has no row; `failed` also what has a failed one; `all` everything; `none` nothing. Clips
    that the suite rules out get their rows too: a file that was given is never silently left out.
    """
    if rerun == "none":
        return []
    run.rows.refresh()
    stored = run.rows.statuses()
    grouped: dict[tuple[str, str | None, str], list[tuple[ClipRecord, list[Metric]]]] = {}
    for record in records:
        needed = [metric for metric in metrics if _is_needed(stored.get((record.clip_key, metric.key(record))), rerun)]
        if needed:
            same = (record.sha256, record.sidecar_sha256, record.problem.reason if record.problem else "")
            grouped.setdefault(same, []).append((record, needed))
    jobs = []
    for members in grouped.values():
        names = {metric.name for _, needed in members for metric in needed}
        chosen = tuple(metric for metric in metrics if metric.name in names)
        jobs.append(Job(tuple(record for record, _ in members), chosen, force=rerun != "missing"))
    return sorted(jobs, key=lambda job: -job.records[0].size_bytes)


def reuse(run: Run, jobs: list[Job], others: list[Run], writer: RowWriter) -> list[Job]:
    """Copy rows that another run (or another clip of this one) already has under the same key; return what is left."""
    found: dict[str, _Found] = {}
    for source in [run, *others]:
        source.rows.refresh()
        for row in source.rows.rows():
            known = found.setdefault(row["score_key"], _Found(source, row["clip_key"], []))
            if (known.run, known.clip_key) == (source, row["clip_key"]):
                known.rows.append(row)
    left = []
    for job in jobs:
        if job.force:
            left.append(job)
            continue
        remaining = tuple(
            metric for metric in job.metrics if not _copy(run, job, found.get(metric.key(job.records[0])), writer)
        )
        if remaining:
            left.append(Job(job.records, remaining))
    return left


def score_job(run: Run, writer: RowWriter, job: Job, context: Context, *, wait: bool = False) -> Outcome:
    """Score one job under the clip's lock and store its rows and facts; a job that is done by now costs nothing."""
    with atomic.lock(run.path / "locks" / f"{job.records[0].clip_key}.lock", wait=wait) as mine:
        if not mine:
            return Outcome(job.label, Counter(), busy=True)
        metrics = job.metrics if job.force else _still_missing(run, job)
        if not metrics:
            return Outcome(job.label, Counter())
        first = job.records[0]
        scored = score_clip(first, metrics, _sidecar(Path(first.path)), context)
        rows = [row for record in job.records for row in _for(record, scored)]
        writer.write(rows)
        for record in job.records:
            update = {"decoded": scored.record.decoded, "notes": scored.record.notes, "problem": scored.record.problem}
            run.put_clip(record.model_copy(update=update))
        return Outcome(job.label, Counter(row.status for row in rows))


class Scorer:
    """What a worker process keeps from job to job: the run, its part file, its log.

    Args:
        run_path: The run folder.
        context: Where networks run.
    """

    def __init__(self, run_path: Path, context: Context) -> None:
        log_folder = run_path / "logs"
        log_folder.mkdir(exist_ok=True)
        log = log_folder / f"worker-{host_name()}-{os.getpid()}.log"
        handler = logging.FileHandler(log, delay=True, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger("talkbench").addHandler(handler)
        self._run = Run(run_path)
        self._writer = RowWriter(run_path / "rows")
        self._context = context

    def score(self, job: Job, *, wait: bool = False) -> Outcome | Exception:
        """Return what became of a job, or the exception that ends the run: the parent raises it."""
        try:
            return score_job(self._run, self._writer, job, self._context, wait=wait)
        except Exception as error:  # noqa: BLE001 - the parent decides: a full disk ends the run, with its message
            return error

    def close(self) -> None:
        """Let the next process have the part."""
        self._writer.close()


def record_crash(run: Run, job: Job, device: str, message: str) -> Outcome:
    """Store rows for a job whose worker process died.

    Args:
        run: Where rows go.
        job: What it was scoring.
        device: Name of the device it computed on (`provenance.device_name`).
        message: How it died.
    """
    rows = []
    for record in job.records:
        problem = Problem(status="failed", reason="worker-died", message=message)
        rows += score_clip(record.model_copy(update={"problem": problem}), job.metrics, None, Context()).rows
    writer = RowWriter(run.path / "rows")
    try:
        writer.write(row.model_copy(update={"device": device}) for row in rows)
    finally:
        writer.close()
    _log.error("%s: %s", job.label, message)
    return Outcome(job.label, Counter(row.status for row in rows))


def _is_needed(statuses: set[str] | None, rerun: Rerun) -> bool:
    return not statuses or rerun == "all" or (rerun == "failed" and "failed" in statuses)


def _sidecar(path: Path) -> Sidecar | Problem | None:
    try:
        return read_sidecar(path)
    except TalkbenchError as error:
        return Problem(status="failed", reason="bad-sidecar", message=str(error).replace(f"{path.parent}/", ""))


def _still_missing(run: Run, job: Job) -> tuple[Metric, ...]:
    run.rows.refresh()
    stored = run.rows.statuses()
    return tuple(m for m in job.metrics if any((r.clip_key, m.key(r)) not in stored for r in job.records))


def _for(record: ClipRecord, scored: Scored) -> list[ScoreRow]:
    """Return the rows of a pass as rows of `record`, which has the same bytes."""
    if record.clip_key == scored.record.clip_key:
        return scored.rows
    return [ScoreRow.model_validate(row.model_dump() | _belongs_to(record)) for row in scored.rows]


def _copy(run: Run, job: Job, found: _Found | None, writer: RowWriter) -> bool:
    if found is None or any(row["status"] == "failed" for row in found.rows):
        return False
    origin = found.run.get_clip(found.clip_key)
    if origin is None or (origin.decoded is None and job.records[0].problem is None):
        return False
    for record in job.records:
        new = {"written_at": now(), "reused_from": str(found.run.path.resolve())} | _belongs_to(record)
        writer.write(ScoreRow.model_validate(row | new) for row in found.rows)
        run.put_clip(record.model_copy(update={"decoded": origin.decoded, "notes": origin.notes}))
    return True


def _belongs_to(record: ClipRecord) -> dict[str, str]:
    return {
        "clip_key": record.clip_key,
        "item": record.item,
        "system": record.system,
        "tier": record.tier,
        "identity": record.identity,
    }
