"""Stage 6: fetch what was selected, then the reserve for what is not to be had; freeze what was found.

Every attempt is appended to a log, so a stopped run goes on where it was. Once every slot is settled the outcome is
frozen in `snapshot.jsonl`. From then on nothing is substituted: what vanishes later is lower coverage.

No network looks at anything here. Clips that networks must have looked at wait as `unchecked` until `talkbench data
check` has written down what it measured; the verdict then is a rule over those numbers (`acceptance.by_networks`).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from talkbench import atomic
from talkbench.data import acceptance, placing
from talkbench.data.downloader import Downloader, FetchFailed
from talkbench.data.folder import Build, read_lines
from talkbench.data.hosted import Host
from talkbench.data.manifest import Availability, Selected, line
from talkbench.data.placing import Key
from talkbench.data.snapshot import (
    frozen,
    load_attempts,
    load_checked,
    load_selection,
    media_digest,
    pieces,
    sections,
    sections_digest,
)
from talkbench.errors import TalkbenchError
from talkbench.ids import sha256_file
from talkbench.progress import Progress, Silent
from talkbench.workers import orphans

UNCHECKED = "unchecked"
"""Why a clip waits that networks have not looked at yet."""


@dataclass
class FetchReport:
    """What was settled.

    Attributes:
        frozen: Whether a snapshot exists.
        coverage: Tier -> [slots with media here, slots].
        failures: Reason -> clips that are out for good.
        pending: Reason -> clips that are worth another try.
    """

    frozen: bool = False
    coverage: dict[str, list[int]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    pending: Counter[str] = field(default_factory=Counter)


def fetch(
    build: Build,
    downloader: Downloader,
    *,
    day: str,
    host: Host | None = None,
    checks: bool = True,
    rejected: Mapping[tuple[str, str], str] | None = None,
    freeze: bool = False,
    progress: Progress | None = None,
) -> FetchReport:
    """Fetch until every slot is settled, then freeze; after that only bring back what is missing.

    Args:
        build: Where the selection is.
        downloader: The programs.
        day: Today, YYYY-MM-DD; stored with each decision.
        host: Where files lie that TalkVid-Bench hosts; its clips come from their sources otherwise.
        checks: Wait for what networks measure in every clip (`talkbench.vetting`), and go by it.
        rejected: (dataset, clip) -> reason, for clips that were refused by measurements made elsewhere.
        freeze: Count what is still worth another try as unavailable.
        progress: Told about every clip.

    Raises:
        PrerequisiteError: If a program or the host's folder is missing, or the disk is full.
        TalkbenchError: If there is no selection, or another process is fetching into the same folder.
    """
    downloader.require()
    if host is not None:
        host.require()
    with atomic.lock(build.attempts.with_suffix(".lock"), wait=False) as free:
        if not free:
            raise TalkbenchError(f"another process is fetching into {build.root}; run this again after it.")
        orphans.reap()
        work = _Fetch(build, downloader, host, day, rejected or {}, progress or Silent(), checks=checks)
        return work.restore() if build.snapshot.is_file() else work.run(freeze=freeze)


def read_rejected(path: Path | None) -> dict[tuple[str, str], str]:
    """Return refusals from JSON lines with `dataset`, `clip_id` and `reason`.

    Raises:
        TalkbenchError: If a line lacks one of them.
    """
    found = {}
    for at, entry in enumerate(read_lines(path, "your own measurements") if path else [], 1):
        given = entry if isinstance(entry, dict) else {}
        dataset, clip_id, reason = (given.get(name) for name in ("dataset", "clip_id", "reason"))
        if not (isinstance(dataset, str) and isinstance(clip_id, str) and isinstance(reason, str) and reason):
            raise TalkbenchError(f"{path}, line {at}: expected dataset, clip_id and reason, found {entry!r:.80}.")
        found[dataset, clip_id] = reason
    return found


class _Fetch:
    """One run over a build folder."""

    def __init__(
        self,
        build: Build,
        downloader: Downloader,
        host: Host | None,
        day: str,
        rejected: Mapping[tuple[str, str], str],
        progress: Progress,
        *,
        checks: bool,
    ) -> None:
        self._build, self._downloader, self._host, self._day = build, downloader, host, day
        self._rejected, self._progress = rejected, progress
        self._selection = load_selection(build)
        self._checked = load_checked(build) if checks else None
        self._settled: dict[Key, Availability] = {}
        self._pending: dict[Key, str] = {}

    def run(self, *, freeze: bool) -> FetchReport:
        """Settle slot after slot, reserve entries included, until nothing changes."""
        log = atomic.AppendFile(self._build.attempts)
        try:
            self._settled = load_attempts(self._build, self._selection)
            tried: set[Key] = set()
            while todo := [entry for entry in self._wanted() if placing.key(entry) not in tried | self._settled.keys()]:
                self._progress.start("fetch", len(todo))
                for entry in todo:
                    tried.add(placing.key(entry))
                    self._progress.step(entry.clip_id, ok=self._settle(entry, log))
                self._progress.finish()
                if freeze:
                    self._give_up(log)
        finally:
            log.close()
        if not self._pending:
            self._freeze()
        return self._report()

    def restore(self) -> FetchReport:
        """Bring back missing media of a frozen snapshot; a file with another content is refused, nothing replaced."""
        self._settled = frozen(self._build, self._selection)
        wanted = [(e, self._settled[placing.key(e)]) for e in self._wanted()]
        self._progress.start("fetch", len(wanted))
        for entry, state in wanted:
            reason = None
            sha256s = (*state.media_sha256, state.reference_sha256)
            for number, (path, sha256) in enumerate(zip(pieces(self._build, entry), sha256s, strict=True)):
                reason = reason or self._bring_back(path, sha256, entry, number)
            if reason:
                self._pending[placing.key(entry)] = reason
            self._progress.step(entry.clip_id, ok=reason is None)
        self._progress.finish()
        return self._report()

    def _bring_back(self, path: Path, sha256: str | None, entry: Selected, number: int) -> str | None:
        try:
            if not path.is_file():
                self._download(path, entry, number)
        except FetchFailed as error:
            return error.reason
        if sha256_file(path) == sha256:
            return None
        path.replace(path.with_suffix(".changed.mkv"))
        return "changed-hash"

    def _wanted(self) -> list[Selected]:
        usable = {key: state.status == "available" for key, state in self._settled.items()}
        return [placed.entry for placed in placing.place(self._selection, usable) if placed.entry is not None]

    def _settle(self, entry: Selected, log: atomic.AppendFile) -> bool:
        """Fetch one clip; note the outcome if it is final, the attempt if it is not."""
        key = placing.key(entry)
        refused = self._rejected.get((entry.dataset, entry.clip_id))
        reason, final, message = (refused, True, "") if refused else self._obtain(entry)
        state = None
        if final:
            state = self._state(entry, reason, rejected=bool(refused))
            if reason is None and self._checked is not None:
                state, final = self._by_networks(state)
                reason = state.reason
        if state is None or not final:
            self._pending[key] = reason or UNCHECKED
            if reason:
                log.append([json.dumps({"clip": key, "attempt": reason, "message": message, "day": self._day})])
            return False
        self._pending.pop(key, None)
        self._settled[key] = state
        log.append([line(state)])
        return reason is None

    def _obtain(self, entry: Selected) -> tuple[str | None, bool, str]:
        """Return why a clip cannot be used (None if it can), whether that is final, and what was said."""
        *windows, reference = pieces(self._build, entry)
        for number, path in enumerate((*windows, reference)):
            try:
                if not path.is_file():
                    self._download(path, entry, number)
            except FetchFailed as error:
                return ("" if path in windows else "reference-") + error.reason, error.final, error.message
        return acceptance.by_ear(entry, windows) or acceptance.by_eye(reference), True, ""

    def _download(self, path: Path, entry: Selected, number: int) -> None:
        """Fetch one section into its place, once it has been looked at."""
        source_key, start, end = sections(entry)[number]
        work = self._build.media / f".{path.stem}"
        if entry.hosted is not None and self._host is not None and number == 0:
            found = self._host.fetch(entry.hosted, work)
        else:
            found = self._downloader.fetch(source_key, start, end, work)
        fault = acceptance.media(found, end - start)
        if fault:
            shutil.rmtree(work)
            raise FetchFailed(fault, f"what arrived is {fault}", final=fault == "too-small")
        found.replace(path)
        shutil.rmtree(work)

    def _by_networks(self, state: Availability) -> tuple[Availability, bool]:
        """Return a state with what networks measured and the verdict that follows, and whether they have looked."""
        sha256s = [*state.media_sha256, str(state.reference_sha256)]
        found = (self._checked or {}).get(media_digest(sha256s))
        if found is None:
            return state, False
        reason = acceptance.by_networks(found.measured)
        changes: dict[str, object] = {"measured": found.measured, "reason": reason}
        if reason is not None:
            changes |= {"status": "rejected", "media_sha256": (), "reference_sha256": None}
        return state.model_copy(update=changes), True

    def _state(self, entry: Selected, reason: str | None, *, rejected: bool) -> Availability:
        *windows, reference = pieces(self._build, entry)
        measured = rejected or (reason or "").startswith("measured:")
        return Availability(
            tier=entry.tier,
            dataset=entry.dataset,
            clip_id=entry.clip_id,
            source_key=entry.source_key,
            sections=sections_digest(entry),
            status="available" if reason is None else "rejected" if measured else "unavailable",
            reason=reason,
            retrieved=self._day,
            media_sha256=() if reason else tuple(sha256_file(window) for window in windows),
            reference_sha256=None if reason else sha256_file(reference),
        )

    def _give_up(self, log: atomic.AppendFile) -> None:
        """Count what is still pending as unavailable."""
        for entry in self._selection:
            reason = self._pending.get(placing.key(entry))
            # What is only waiting to be looked at is here: it is not given up.
            if reason not in {None, UNCHECKED}:
                del self._pending[placing.key(entry)]
                self._settled[placing.key(entry)] = self._state(entry, reason, rejected=False)
                log.append([line(self._settled[placing.key(entry)])])

    def _freeze(self) -> None:
        order = [placing.key(entry) for entry in self._selection]
        states = [self._settled[key] for key in order if key in self._settled]
        atomic.write_text(self._build.snapshot, "".join(f"{line(state)}\n" for state in states))

    def _report(self) -> FetchReport:
        report = FetchReport(frozen=self._build.snapshot.is_file())
        report.pending.update(self._pending.values())
        report.failures.update(s.reason for s in self._settled.values() if s.reason is not None)
        for tier in dict.fromkeys(entry.tier for entry in self._selection):
            slots = sum(entry.tier == tier and entry.slot is not None for entry in self._selection)
            here = [e for e in self._wanted() if e.tier == tier and placing.key(e) in self._settled]
            there = [
                e
                for e in here
                if placing.key(e) not in self._pending and all(p.is_file() for p in pieces(self._build, e))
            ]
            report.coverage[tier] = [len(there), slots]
        return report
