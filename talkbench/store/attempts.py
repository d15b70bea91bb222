"""Every attempt to make a clip, in one file per clip that survives `kill -9`: `attempts/<system>/<item>.jsonl`.

An attempt writes a line when it begins and one when it ends. In between it holds the file's lock, which the kernel
frees when its process dies, so that two processes never make the same clip at once, and an attempt that was cut short
is one that begun and neither ended nor holds the lock.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from talkbench import migrate
from talkbench.atomic import AppendFile
from talkbench.errors import TalkbenchError
from talkbench.provenance import host_name
from talkbench.schema import AttemptRecord, SystemRecord
from talkbench.store.run import Run

FOLDER = "attempts"
MADE, INTERRUPTED, NOT_TRIED = "made", "interrupted", "not-tried"


class Attempt:
    """An attempt that has begun; leaving it as a context manager without `end` is an interruption.

    Args:
        run_path: The run folder.
        system: Name of the system.
        item: Id of the item.
        job_key: Key of the clip.

    Raises:
        BlockingIOError: If another process attempts this clip now.
        OSError: If nothing can be written.
    """

    def __init__(self, run_path: Path, system: str, item: str, job_key: str) -> None:
        self._began = time.monotonic()
        self._record = AttemptRecord(
            attempt=secrets.token_hex(6), system=system, item=item, job_key=job_key, outcome="begun", host=host_name()
        )
        self._file = AppendFile(file_of(run_path, system, item))
        try:
            self._file.append([self._record.to_json()])
        except BaseException:
            self._file.close()
            raise

    def made(self, device: str) -> None:
        """Record that the clip is in its place."""
        self._end(outcome="made", device=device)

    def failed(self, reason: str, message: str, last_words: tuple[str, ...] = (), device: str = "") -> None:
        """Record why there is no clip."""
        self._end(outcome="failed", reason=reason, message=message, last_words=last_words, device=device)

    def _end(self, **fields: object) -> None:
        seconds = round(time.monotonic() - self._began, 3)
        record = AttemptRecord.model_validate(
            self._record.model_dump(exclude={"written_at"}) | fields | {"seconds": seconds}
        )
        self._file.append([record.to_json()])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def file_of(run_path: Path, system: str, item: str) -> Path:
    """Return where the attempts at a clip are recorded."""
    return run_path / FOLDER / system / f"{item}.jsonl"


def read(run_path: Path, system: str, item: str) -> list[AttemptRecord]:
    """Return the attempts at a clip, oldest first; one that did not end has the outcome `begun`.

    Raises:
        TalkbenchError: If a line is no such record. A torn last line is none yet.
    """
    path = file_of(run_path, system, item)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    found: dict[str, AttemptRecord] = {}
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            record = AttemptRecord.model_validate(migrate.lift(json.loads(line), f"{path}, line {number}"))
        except (ValueError, ValidationError) as error:
            raise TalkbenchError(
                f"{path}, line {number}: no record of an attempt ({error}). Remove the line; its clip is tried again."
            ) from error
        found[record.attempt] = record
    return list(found.values())


def outcome(run_path: Path, system: str, item: str, job_key: str | None = None) -> str | None:
    """Return what the last attempt came to: `made`, `interrupted`, the reason of its failure; None if there was none.

    Args:
        run_path: The run folder.
        system: Name of the system.
        item: Id of the item.
        job_key: Only attempts under this key; all by default.
    """
    attempts = [record for record in read(run_path, system, item) if job_key in (None, record.job_key)]
    if not attempts:
        return None
    last = attempts[-1]
    return {"begun": INTERRUPTED, "made": MADE}.get(last.outcome, last.reason or "failed")


def summary(run: Run) -> dict[str, dict[str, int]]:
    """Return, for every system that clips were generated with, how many items came to what.

    `made` counts clips that are there; every other word is why one is not: the reason of the last attempt's failure,
    `interrupted`, or `not-tried`. A suite without a frozen list knows only the items that were attempted.
    """
    return {system.name: _counts(run, system) for system in run.systems() if system.kind == "generated"}


def _counts(run: Run, system: SystemRecord) -> dict[str, int]:
    there = {path.stem for path in (run.path / "clips" / system.name).glob("[!.]*.mp4")}
    tried = {path.stem for path in (run.path / FOLDER / system.name).glob("*.jsonl")}
    asked = {item.id for item in run.suite.items or () if system.takes_part(item.tier)}
    counts = Counter(
        MADE if item in there else _why_missing(run, system.name, item) for item in (asked or there | tried)
    )
    return dict(counts.most_common())


def _why_missing(run: Run, system: str, item: str) -> str:
    found = outcome(run.path, system, item)
    # A clip that was made and is gone is one to be made again.
    return NOT_TRIED if found in (None, MADE) else str(found)
