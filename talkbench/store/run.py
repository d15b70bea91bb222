"""A run folder: create, open, and find what is in it.

run.json            the suite, frozen when the run is created
systems/*.json      who takes part
index/*.json        one record per clip file: path, digest, container facts, what the decode found
rows/part-*.jsonl   scores (talkbench.store.rows)
sessions/*.json     each invocation: configuration, versions, device, start, end
profiles/*.json     one record per system, device, number of processes and compilation (`talkbench profile`)
locks/              one empty file per clip being scored
logs/               one file per process
clips/<system>/     only if the clips were generated here
attempts/<system>/  every attempt to make a clip, one file per item (talkbench.store.attempts)
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from talkbench import atomic, migrate
from talkbench.errors import TalkbenchError
from talkbench.ids import key
from talkbench.schema import (
    UNAVAILABLE,
    ClipRecord,
    ProfileRecord,
    Record,
    RunRecord,
    SessionRecord,
    Suite,
    SystemRecord,
    now,
)
from talkbench.store.rows import RowStore

_log = logging.getLogger(__name__)
R = TypeVar("R", bound=Record)


def read_record(path: Path, kind: type[R]) -> R:
    """Read one JSON record.

    Raises:
        TalkbenchError: If the file is missing, torn, or of another kind or version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TalkbenchError(f"{path}: no such file.") from error
    except (OSError, ValueError) as error:
        raise TalkbenchError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(data, dict):
        raise TalkbenchError(f"{path}: expected a JSON object.")
    try:
        return kind.model_validate(migrate.lift(data, str(path)))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "record"
        raise TalkbenchError(f"{path}: {field}: {first['msg']} (found {first.get('input')!r:.80}).") from error


class Run:
    """One run folder.

    Args:
        path: The folder; must hold a `run.json`. Use `open_or_create` to make one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "run.json").is_file():
            raise TalkbenchError(
                f"{path} is not a run folder (no run.json). Make one with `talkbench score CLIPS --out {path}`."
            )
        self.suite: Suite = read_record(path / "run.json", RunRecord).suite
        self.rows = RowStore(path / "rows")

    @classmethod
    def open_or_create(cls, path: Path, suite: Suite) -> Run:
        """Open a run of this suite, or create it.

        Raises:
            TalkbenchError: If the folder holds a run of another suite, or other files.
        """
        if (path / "run.json").is_file():
            run = cls(path)
            if run.suite != suite:
                raise TalkbenchError(
                    f"{path} is a run of {run.suite.id} with another item list than {suite.id} as asked. "
                    "Choose another --out, or leave out --suite to go on with this one."
                )
            return run
        if path.exists() and not path.is_dir():
            raise TalkbenchError(f"{path} is a file; --out names a folder.")
        try:
            with atomic.lock(path / "locks" / "create.lock", wait=True):
                if not (path / "run.json").is_file():
                    atomic.write_text(path / "run.json", RunRecord(suite=suite).model_dump_json(indent=1) + "\n")
        except OSError as error:
            raise TalkbenchError(f"cannot create the run folder {path}: {error.strerror}.") from error
        return cls(path)

    def add_system(self, record: SystemRecord) -> None:
        """Record that a system takes part; the first record of a name stays unless its folder changed."""
        path = self.path / "systems" / f"{key(record.name)}.json"
        if path.is_file():
            known = read_record(path, SystemRecord)
            if known.model_copy(update={"joined_ns": record.joined_ns}) == record:
                return
            record = record.model_copy(update={"joined_ns": known.joined_ns})
        atomic.write_text(path, record.model_dump_json(indent=1) + "\n")

    def systems(self) -> list[SystemRecord]:
        """Return the systems in the order in which they joined."""
        records = [read_record(path, SystemRecord) for path in (self.path / "systems").glob("*.json")]
        return sorted(records, key=lambda record: (record.joined_ns, record.name))

    def put_clip(self, record: ClipRecord) -> None:
        """Write or replace a clip's record."""
        atomic.write_text(self.path / "index" / f"{record.clip_key}.json", record.model_dump_json() + "\n")

    def get_clip(self, clip_key: str) -> ClipRecord | None:
        """Return a clip's record, or None if the clip is unknown."""
        path = self.path / "index" / f"{clip_key}.json"
        return read_record(path, ClipRecord) if path.is_file() else None

    def clips(self) -> list[ClipRecord]:
        """Return the current clip of every system and item: the newest record, in order of system and item."""
        newest: dict[tuple[str, str], ClipRecord] = {}
        for path in (self.path / "index").glob("*.json"):
            record = read_record(path, ClipRecord)
            name = (record.system, record.item)
            if name not in newest or newest[name].written_at < record.written_at:
                newest[name] = record
        order = {system.name: number for number, system in enumerate(self.systems())}
        return sorted(newest.values(), key=lambda record: (order.get(record.system, len(order)), record.item))

    def current_rows(self) -> list[dict[str, Any]]:
        """Return the rows of current clips, in order of system, item and output.

        If a metric was scored with several settings or versions, the rows of the one scored last are taken, per clip;
        rows that only say that weights were missing come after any others.
        """
        self.rows.refresh()
        current = {record.clip_key for record in self.clips()}
        rows = [row for row in self.rows.rows() if row["clip_key"] in current]
        newest: dict[tuple[str, str], tuple[bool, str, str]] = {}
        for row in rows:
            name = (row["clip_key"], row["metric"])
            rank = (row["reason"] not in UNAVAILABLE, row["written_at"], row["score_key"])
            newest[name] = max(newest.get(name, rank), rank)
        chosen = [row for row in rows if row["score_key"] == newest[row["clip_key"], row["metric"]][2]]
        return sorted(chosen, key=lambda row: (row["system"], row["item"], row["output"]))

    def put_profile(self, record: ProfileRecord) -> None:
        """Write a profile, over an earlier one of the same configuration."""
        configuration = record.model_dump(
            include={"system", "recipe", "origin", "num_processes", "compiled", "device_kind", "device", "weights_kind"}
        )
        atomic.write_text(
            self.path / "profiles" / f"{key(configuration)}.json", record.model_dump_json(indent=1) + "\n"
        )

    def profiles(self) -> list[ProfileRecord]:
        """Return the profiles, in order of system, device, origin, number of processes and compilation."""
        records = [read_record(path, ProfileRecord) for path in (self.path / "profiles").glob("*.json")]
        return sorted(records, key=lambda r: (r.system, r.device, r.origin, r.num_processes, r.compiled))

    @contextlib.contextmanager
    def session(self, command: str, config: dict[str, Any], provenance: dict[str, Any]) -> Iterator[None]:
        """Record an invocation: written at the start, completed at the end whatever happens."""
        started = now()
        path = self.path / "sessions" / f"{started.replace(':', '')}-{os.getpid()}.json"
        record = SessionRecord(command=command, config=config, provenance=provenance, started_at=started)
        atomic.write_text(path, record.model_dump_json(indent=1) + "\n")
        outcome = "stopped"
        try:
            yield
            outcome = "finished"
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
            raise
        finally:
            ended = record.model_copy(update={"ended_at": now(), "outcome": outcome})
            atomic.write_text(path, ended.model_dump_json(indent=1) + "\n")

    def sessions(self) -> list[SessionRecord]:
        """Return all invocations, oldest first."""
        return [read_record(path, SessionRecord) for path in sorted((self.path / "sessions").glob("*.json"))]


def siblings(path: Path) -> list[Run]:
    """Return the other runs in the same parent folder; what they scored is not scored again."""
    found = []
    for candidate in sorted(path.resolve().parent.glob("*/run.json")):
        if candidate.parent != path.resolve():
            try:
                found.append(Run(candidate.parent))
            except TalkbenchError as error:
                _log.warning("not reusing %s: %s", candidate.parent, error)
    return found
