"""Stage 6: fetch what was selected, then the reserve for what is not to be had; freeze what was found.

Every attempt is appended to a log, so a stopped run goes on where it was. Once every slot is settled the outcome is
frozen in `snapshot.jsonl`. From then on nothing is substituted: what vanishes later is lower coverage.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from talkbench import atomic
from talkbench.data import placing, sound
from talkbench.data.downloader import MIN_HEIGHT_PX, Downloader, FetchFailed
from talkbench.data.folder import Build, read_lines
from talkbench.data.manifest import Availability, Selected, line
from talkbench.data.placing import Key
from talkbench.errors import TalkbenchError, Unscorable
from talkbench.ids import digest, sha256_file
from talkbench.media import probe
from talkbench.progress import Progress, Silent

MIN_SPEECH = {"short": 0.6, "long": 0.7}
MAX_GAP_SECONDS = {"short": 10.0, "long": 4.0}


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


def load_selection(build: Build) -> list[Selected]:
    """Return accepted clips and reserve.

    Raises:
        TalkbenchError: If there is no selection, or it is not one of this version.
    """
    return [
        _checked(Selected, entry, build.selection) for entry in read_lines(build.selection, "talkbench data select")
    ]


def load_snapshot(build: Build) -> list[Availability]:
    """Return the frozen availability.

    Raises:
        TalkbenchError: If nothing was frozen yet.
    """
    return [
        _checked(Availability, entry, build.snapshot) for entry in read_lines(build.snapshot, "talkbench data fetch")
    ]


def frozen(build: Build, selection: Sequence[Selected]) -> dict[Key, Availability]:
    """Return the frozen availability of a selection, by clip.

    Raises:
        TalkbenchError: If nothing was frozen, or for another selection.
    """
    states: dict[Key, Availability] = {(a.tier, a.dataset, a.clip_id): a for a in load_snapshot(build)}
    usable = {key: state.status == "available" for key, state in states.items()}
    for placed in placing.place(selection, usable):
        if placed.entry is not None and placing.key(placed.entry) not in states:
            raise TalkbenchError(
                f"{build.snapshot} does not know {placed.entry.clip_id} of {build.selection}: they belong to different "
                "builds; give another --out and run `talkbench data select` and `fetch` again."
            )
    return states


def fetch(
    build: Build,
    downloader: Downloader,
    *,
    day: str,
    rejected: Mapping[tuple[str, str], str] | None = None,
    freeze: bool = False,
    progress: Progress | None = None,
) -> FetchReport:
    """Fetch until every slot is settled, then freeze; after that only bring back what is missing.

    Args:
        build: Where the selection is.
        downloader: The programs.
        day: Today, YYYY-MM-DD; stored with each decision.
        rejected: (dataset, clip) -> reason, for clips that were refused by measurements made elsewhere.
        freeze: Count what is still worth another try as unavailable.
        progress: Told about every clip.

    Raises:
        PrerequisiteError: If a program is missing or the disk is full.
        TalkbenchError: If there is no selection, or another process is fetching into the same folder.
    """
    downloader.require()
    with atomic.lock(build.attempts.with_suffix(".lock"), wait=False) as free:
        if not free:
            raise TalkbenchError(f"another process is fetching into {build.root}; run this again after it.")
        work = _Fetch(build, downloader, day, rejected or {}, progress or Silent())
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


def piece(build: Build, source_key: str, start: float, end: float) -> Path:
    """Return where a section of a source lies once it is fetched."""
    return build.media / f"{digest([source_key, start, end])[:32]}.mkv"


def pieces(build: Build, entry: Selected) -> tuple[Path, Path]:
    """Return where the heard window and the reference clip of an entry lie."""
    window, reference = entry.segments[0], entry.references[0]
    return (
        piece(build, entry.source_key, window.start, window.end),
        piece(build, reference.source_key, reference.start, reference.end),
    )


class _Fetch:
    """One run over a build folder."""

    def __init__(
        self,
        build: Build,
        downloader: Downloader,
        day: str,
        rejected: Mapping[tuple[str, str], str],
        progress: Progress,
    ) -> None:
        self._build, self._downloader, self._day = build, downloader, day
        self._rejected, self._progress = rejected, progress
        self._selection = load_selection(build)
        self._settled: dict[Key, Availability] = {}
        self._pending: dict[Key, str] = {}

    def run(self, *, freeze: bool) -> FetchReport:
        """Settle slot after slot, reserve entries included, until nothing changes."""
        log = atomic.AppendFile(self._build.attempts)
        try:
            self._recall()
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
            window, reference = pieces(self._build, entry)
            reason = None
            for path, sha256, (key, start, end) in zip(
                (window, reference), (state.media_sha256, state.reference_sha256), _sections(entry), strict=True
            ):
                reason = reason or self._bring_back(path, sha256, key, start, end)
            if reason:
                self._pending[placing.key(entry)] = reason
            self._progress.step(entry.clip_id, ok=reason is None)
        self._progress.finish()
        return self._report()

    def _bring_back(self, path: Path, sha256: str | None, source_key: str, start: float, end: float) -> str | None:
        try:
            if not path.is_file():
                self._download(path, source_key, start, end)
        except FetchFailed as error:
            return error.reason
        if sha256_file(path) == sha256:
            return None
        path.replace(path.with_suffix(".changed.mkv"))
        return "changed-hash"

    def _recall(self) -> None:
        """Take over what earlier runs settled."""
        for record in read_lines(self._build.attempts, "talkbench data fetch"):
            if "status" in record:
                state = _checked(Availability, record, self._build.attempts)
                self._settled[state.tier, state.dataset, state.clip_id] = state

    def _wanted(self) -> list[Selected]:
        usable = {key: state.status == "available" for key, state in self._settled.items()}
        return [placed.entry for placed in placing.place(self._selection, usable) if placed.entry is not None]

    def _settle(self, entry: Selected, log: atomic.AppendFile) -> bool:
        """Fetch one clip; note the outcome if it is final, the attempt if it is not."""
        key = placing.key(entry)
        refused = self._rejected.get((entry.dataset, entry.clip_id))
        reason, final, message = (refused, True, "") if refused else self._obtain(entry)
        if reason and not final:
            self._pending[key] = reason
            log.append([json.dumps({"clip": key, "attempt": reason, "message": message, "day": self._day})])
            return False
        self._pending.pop(key, None)
        self._settled[key] = self._state(entry, reason, rejected=bool(refused))
        log.append([line(self._settled[key])])
        return reason is None

    def _obtain(self, entry: Selected) -> tuple[str | None, bool, str]:
        """Return why a clip cannot be used (None if it can), whether that is final, and what was said."""
        window, reference = pieces(self._build, entry)
        for path, (key, start, end) in zip((window, reference), _sections(entry), strict=True):
            try:
                if not path.is_file():
                    self._download(path, key, start, end)
            except FetchFailed as error:
                return ("" if path == window else "reference-") + error.reason, error.final, error.message
        return (*_heard(window, entry), "") if not (fault := _seen(reference)) else (f"reference-{fault}", True, "")

    def _download(self, path: Path, source_key: str, start: float, end: float) -> None:
        """Fetch one section into its place, once it has been looked at."""
        work = self._build.media / f".{path.stem}"
        found = self._downloader.fetch(source_key, start, end, work)
        fault = check_media(found, end - start)
        if fault:
            shutil.rmtree(work)
            raise FetchFailed(fault, f"what arrived is {fault}", final=fault == "too-small")
        found.replace(path)
        shutil.rmtree(work)

    def _state(self, entry: Selected, reason: str | None, *, rejected: bool) -> Availability:
        window, reference = pieces(self._build, entry)
        measured = rejected or (reason or "").startswith("measured:")
        return Availability(
            tier=entry.tier,
            dataset=entry.dataset,
            clip_id=entry.clip_id,
            source_key=entry.source_key,
            status="available" if reason is None else "rejected" if measured else "unavailable",
            reason=reason,
            retrieved=self._day,
            media_sha256=None if reason else sha256_file(window),
            reference_sha256=None if reason else sha256_file(reference),
        )

    def _give_up(self, log: atomic.AppendFile) -> None:
        """Count what is still pending as unavailable."""
        for entry in self._selection:
            reason = self._pending.pop(placing.key(entry), None)
            if reason is not None:
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


def _sections(entry: Selected) -> Sequence[tuple[str, float, float]]:
    window, reference = entry.segments[0], entry.references[0]
    return (
        (entry.source_key, window.start, window.end),
        (reference.source_key, reference.start, reference.end),
    )


def check_media(path: Path, seconds: float) -> str | None:
    """Return why a fetched file cannot be used, or None: no picture, no sound, cut short, or too small."""
    try:
        found = probe.probe(path)
        with probe.open_clip(path) as container:
            lasts = container.duration / 1e6 if container.duration else None
    except Unscorable as error:
        return error.reason
    if found.audio is None:
        return "no-audio"
    if min(found.video.height, found.video.width) < MIN_HEIGHT_PX:
        return "too-small"
    if lasts is not None and lasts < seconds - sound.MAX_MISSING_SECONDS:
        return "cut-short"
    return None


def _heard(window: Path, entry: Selected) -> tuple[str | None, bool]:
    """Return what speaks against the sound of a window; measured, so another try changes nothing."""
    seconds = entry.segments[0].end - entry.segments[0].start
    try:
        found = sound.prepare(window, seconds)
    except Unscorable as error:
        return f"measured:{error.reason}", True
    if found.speech_ratio < MIN_SPEECH[entry.tier]:
        return "measured:little-speech", True
    if found.max_gap_s > MAX_GAP_SECONDS[entry.tier]:
        return "measured:long-gap", True
    return None, True


def _seen(reference: Path) -> str | None:
    from talkbench.data.reference import choose

    try:
        choose(reference)
    except Unscorable as error:
        return error.reason
    return None


def _checked(model: Any, entry: Any, path: Path) -> Any:
    try:
        return model.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        field_name = ".".join(map(str, first["loc"]))
        raise TalkbenchError(f"{path}: {field_name}: {first['msg']} (found {first.get('input')!r:.60}).") from error
