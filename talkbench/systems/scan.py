"""Folders of `<item id>.mp4` -> clip records. Every file becomes a record, usable or not; none is lost."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from talkbench.errors import TalkbenchError, Unscorable
from talkbench.ids import clip_key, digest, sha256_file
from talkbench.media.probe import ClipProbe, probe
from talkbench.registry import suggest
from talkbench.schema import ClipRecord, Item, Problem, Sidecar, Suite
from talkbench.store.run import Run, read_record

_log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
SIDECAR_SUFFIX = ".clip.json"


@dataclass(frozen=True)
class Source:
    """A system given as a folder of clips.

    Attributes:
        name: The system's name in tables; the folder's name unless given as ``NAME=FOLDER``.
        folder: Where its clips lie.
    """

    name: str
    folder: Path


def parse_sources(arguments: list[str]) -> list[Source]:
    """Return the systems that the command line names, each ``FOLDER`` or ``NAME=FOLDER``.

    A folder without clips of its own stands for the folders of clips inside it, each a system.

    Raises:
        TalkbenchError: If a folder does not exist or holds no clip, or two systems would have one name.
    """
    sources = [source for argument in arguments for source in _expanded(argument)]
    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TalkbenchError(
            f"two folders are both called {twice[0]!r}. Name them: `talkbench score a=FOLDER b=FOLDER`."
        )
    return sources


def _expanded(argument: str) -> list[Source]:
    name, equals, folder = argument.partition("=")
    named = bool(equals) and not Path(argument).exists()
    path = Path(folder if named else argument).expanduser()
    if not path.is_dir():
        kind = "is a file" if path.is_file() else "does not exist"
        raise TalkbenchError(f"{path} {kind}. Give a folder of clips, one system per folder: `talkbench score FOLDER`.")
    if _clips(path):
        return [Source(name if named else path.resolve().name, path)]
    inside = sorted(entry for entry in path.iterdir() if entry.is_dir() and _clips(entry))
    if not inside:
        raise TalkbenchError(f"{path} holds no clip ({', '.join(VIDEO_SUFFIXES)}), nor do the folders in it.")
    _log.info("%s holds folders of clips; each is taken as a system: %s", path, ", ".join(e.name for e in inside))
    return [Source(f"{name}/{entry.name}" if named else entry.name, entry) for entry in inside]


def _clips(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES and not p.name.startswith(".")]


def index(run: Run, source: Source) -> list[ClipRecord]:
    """Record every clip of a folder in the run, hashing only files that changed since the last scan.

    Raises:
        TalkbenchError: If the folder holds no clip at all.
    """
    known = {record.item: record for record in run.clips() if record.system == source.name}
    items = {item.id: item for item in run.suite.items} if run.suite.items is not None else None
    records = []
    for item_id, paths in _grouped(source.folder):
        path = paths[0]
        before = known.get(item_id)
        if before is not None and _unchanged(before, path):
            records.append(before)
            continue
        record = _record(run.suite, items, source.name, item_id, paths)
        run.put_clip(record)
        records.append(record)
    return records


def sidecar_path(clip: Path) -> Path:
    """Return where the sidecar of a clip lies."""
    return clip.with_name(clip.stem + SIDECAR_SUFFIX)


def read_sidecar(clip: Path) -> Sidecar | None:
    """Return the sidecar of a clip, or None if it has none."""
    path = sidecar_path(clip)
    return read_record(path, Sidecar) if path.is_file() else None


def _grouped(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    paths = _clips(folder) if folder.is_dir() else []
    if not paths:
        raise TalkbenchError(f"{folder} holds no clip ({', '.join(VIDEO_SUFFIXES)}).")
    groups: dict[str, list[Path]] = {}
    for path in sorted(paths):
        readable = path.stem.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        groups.setdefault(unicodedata.normalize("NFC", readable), []).append(path)
    yield from groups.items()


def _unchanged(record: ClipRecord, path: Path) -> bool:
    try:
        state = path.stat()
    except OSError:
        return False
    if (record.path, record.size_bytes, record.modified_ns) != (_text(path), state.st_size, state.st_mtime_ns):
        return False
    sidecar = sidecar_path(path)
    return record.sidecar_sha256 == (sha256_file(sidecar) if sidecar.is_file() else None)


def _record(suite: Suite, items: dict[str, Item] | None, system: str, item_id: str, paths: list[Path]) -> ClipRecord:
    path = paths[0]
    facts, problem = _probe(path)
    item = items.get(item_id) if items is not None else None
    if len(paths) > 1:
        both = " and ".join(repr(p.name) for p in paths[:2])
        problem = Problem(
            status="failed", reason="duplicate-item", message=f"{both} are both item {item_id!r}; keep one"
        )
    elif items is not None and item is None:
        message = f"{item_id!r} is not an item of {suite.id}.{suggest(item_id, items)}"
        problem = Problem(status="skipped", reason="unknown-item", message=message)
    tier = item.tier if item is not None else suite.tiers[0].name
    if facts is not None and problem is None and item is None:
        problem = _outside(suite, facts)
    readable = problem is None or problem.reason not in {"unreadable", "file-name"}
    sha256 = sha256_file(path) if readable and path.is_file() else digest({"unreadable": item_id})
    state = path.stat() if path.exists() else None
    sidecar = sidecar_path(path)
    return ClipRecord(
        clip_key=clip_key(
            suite=suite.id,
            item_digest=digest(item.model_dump(mode="json") if item else item_id),
            system=system,
            clip_sha256=sha256,
        ),
        system=system,
        item=item_id,
        tier=tier,
        identity=item.identity if item is not None else item_id,
        path=_text(path),
        size_bytes=state.st_size if state else 0,
        modified_ns=state.st_mtime_ns if state else 0,
        sha256=sha256,
        sidecar_sha256=sha256_file(sidecar) if sidecar.is_file() else None,
        problem=problem,
        video=facts.video if facts else None,
        audio=facts.audio if facts else None,
        notes=_notes(facts) if facts else (),
    )


def _probe(path: Path) -> tuple[ClipProbe | None, Problem | None]:
    if not _is_text(path):
        return None, Problem(status="failed", reason="file-name", message="the file name is not UTF-8; rename the file")
    try:
        return probe(path), None
    except Unscorable as error:
        return None, Problem(status=error.status, reason=error.reason, message=error.message)


def _outside(suite: Suite, facts: ClipProbe) -> Problem | None:
    """Say that a clip of an open suite breaks the suite's length rule."""
    rule = suite.tiers[0]
    if facts.video.num_frames is None:
        return None
    seconds = facts.video.num_frames / float(Fraction(facts.video.frame_rate))
    if rule.admits(seconds):
        return None
    allowed = f"under {rule.max_seconds:g} s" if rule.max_seconds is not None else f"of {rule.min_seconds:g} s or more"
    return Problem(
        status="skipped", reason="outside-suite", message=f"lasts {seconds:.2f} s; {rule.title} holds clips {allowed}"
    )


def _notes(facts: ClipProbe) -> tuple[str, ...]:
    video, audio = facts.video, facts.audio
    notes = []
    if video.bit_depth > 8:
        notes.append(
            f"{video.bit_depth}-bit picture reduced to 8 bits; decoders disagree here by 1 to 2 levels on average"
        )
    if video.has_alpha:
        notes.append("transparency dropped; colours as stored")
    if video.rotation_degrees:
        notes.append(f"shown rotated by {video.rotation_degrees} degrees, as the file asks")
    if audio is None:
        notes.append("no audio track")
    elif audio.num_channels > 1:
        notes.append(f"{audio.num_channels} audio channels mixed to one")
    return tuple(notes)


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(path: Path) -> str:
    return str(path.resolve()).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
