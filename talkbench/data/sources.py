"""Metadata files of the source sets: which belong to a folder, and the candidates and rejections in each."""

from __future__ import annotations

import hashlib
import json
import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from talkbench.data import speakervid, talkvid
from talkbench.data.records import Candidate, Rejected
from talkbench.data.stream import Broken, elements_of
from talkbench.errors import TalkbenchError
from talkbench.ids import digest, sha256_file

READER_VERSION = 1
"""Bumped whenever the same file would give other rows; enters the name of every finished part."""

MAX_MEMBER_BYTES = 4 << 20
MAX_FIELD_NAMES = 100
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
_TEXTS = (".json", ".jsonl")
_BREAKS = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError)


@dataclass
class Counts:
    """What happened to the records of a file."""

    read: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    unknown_fields: Counter[str] = field(default_factory=Counter)

    def unknown(self, names: set[str]) -> None:
        """Count fields that we do not know, in bounded memory."""
        for name in names:
            room = name in self.unknown_fields or len(self.unknown_fields) < MAX_FIELD_NAMES
            self.unknown_fields[name[:60] if room else "(more names)"] += 1


@dataclass(frozen=True)
class Source:
    """One metadata file (or folder of loose JSON files) and how it is read."""

    dataset: str
    path: Path
    sha256: str
    test_clips: frozenset[str] = frozenset()
    estimates: speakervid.Estimates = field(default_factory=dict)
    companions: str = ""

    @property
    def key(self) -> str:
        """Name of the finished part: changes with the bytes, the reader and what the file is read together with."""
        return digest([READER_VERSION, self.dataset, self.sha256, self.companions])[:32]

    def candidates(self, counts: Counts) -> Iterator[Candidate]:
        """Yield the candidates of the file; everything else is counted."""
        if self.dataset == "talkvid":
            for element in elements_of(self.path):
                yield from _taken(partial(talkvid.parse, element), element, talkvid.KNOWN_FIELDS, counts)
            return
        for name, element in self._annotations():
            parse = partial(speakervid.parse, name, element, test_clips=self.test_clips, estimates=self.estimates)
            yield from _taken(parse, element, speakervid.KNOWN_FIELDS, counts)

    def _annotations(self) -> Iterator[tuple[str, Any]]:
        if self.path.is_dir():
            documents: Iterator[tuple[str, bytes | Broken]] = (
                (path.name, path.read_bytes()) for path in _loose(self.path)
            )
        elif self.path.name.endswith(_ARCHIVES):
            documents = _members(self.path)
        else:
            for element in elements_of(self.path):
                if isinstance(element, Broken):
                    yield "", element
                else:
                    yield from speakervid.named("", element)
            return
        for name, data in documents:
            value = data if isinstance(data, Broken) else _document(data)
            if isinstance(value, Broken):
                yield name, value
            else:
                yield from speakervid.named(name, value)


def talkvid_sources(given: Path) -> list[Source]:
    """Return the metadata files of TalkVid or TalkVid-Bench at a path.

    Raises:
        TalkbenchError: If there is none.
    """
    files = sorted(p for p in given.rglob("*") if p.suffix in _TEXTS) if given.is_dir() else [given]
    if not files or not all(path.is_file() for path in files):
        raise TalkbenchError(f"no TalkVid metadata at {given}: expected filtered_video_clips.json or a folder with it.")
    return [Source("talkvid", path, sha256_file(path)) for path in files]


def speakervid_sources(given: Path, estimates: Path | None, rejected: Counter[str]) -> list[Source]:
    """Return the annotation archives of SpeakerVid-5M below a path, with its test split and the estimated labels.

    Both layouts are accepted: `merged_anno/tar_batch_*.tar.gz` and the older flat `merge_anno`, packed or not.

    Raises:
        TalkbenchError: If there is none.
    """
    if not given.exists():
        raise TalkbenchError(f"no SpeakerVid metadata at {given}: expected a folder with merged_anno/*.tar.gz.")
    tests = sorted(given.rglob("testset.json")) if given.is_dir() else []
    names: frozenset[str] = frozenset()
    for path in tests:
        names |= speakervid.read_test_clips(path, rejected)
    labels = {} if estimates is None else speakervid.read_estimates(_there(estimates), rejected)
    companions = digest([*(sha256_file(p) for p in tests), "" if estimates is None else sha256_file(estimates)])
    found = []
    for path in _annotation_files(given):
        sha256 = _folder_digest(path) if path.is_dir() else sha256_file(path)
        found.append(Source("speakervid", path, sha256, names, labels, companions))
    if not found:
        raise TalkbenchError(f"no SpeakerVid annotations below {given}: expected merged_anno/tar_batch_*.tar.gz.")
    return found


def _annotation_files(given: Path) -> list[Path]:
    if given.is_file():
        return [given]
    folders = sorted(
        p for p in [given, *given.rglob("*")] if p.is_dir() and p.name.startswith(("merged_anno", "merge_anno"))
    )
    flat = [p for p in sorted(given.iterdir()) if p.name.startswith(("merged_anno", "merge_anno")) and p.is_file()]
    found = list(flat)
    for folder in folders:
        packed = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name.endswith((*_ARCHIVES, ".jsonl"))]
        found += packed
        if not packed and next(_loose(folder), None) is not None:
            found.append(folder)
    return list(dict.fromkeys(found))


def _there(path: Path) -> Path:
    if not path.is_file():
        raise TalkbenchError(f"no file of estimates at {path}.")
    return path


def _loose(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*.json") if path.is_file())


def _folder_digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in _loose(folder):
        total.update(f"{path.relative_to(folder)} {sha256_file(path)}\n".encode())
    return total.hexdigest()


def _members(path: Path) -> Iterator[tuple[str, bytes | Broken]]:
    """Yield the JSON files of an archive in one pass; what lies behind a break is lost, and counted as one break."""
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if not member.isfile() or not member.name.endswith(".json"):
                    continue
                if member.size > MAX_MEMBER_BYTES:
                    yield member.name, Broken("too-large")
                    continue
                file = archive.extractfile(member)
                yield member.name, file.read() if file is not None else Broken("broken-archive")
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header
    except _BREAKS:
        yield path.name, Broken("broken-archive")


def _document(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        return Broken("not-utf8")
    except (ValueError, RecursionError):
        return Broken("malformed-json")


def _taken(parse: partial[Candidate], element: Any, known: frozenset[str], counts: Counts) -> Iterator[Candidate]:
    counts.read += 1
    if isinstance(element, Broken):
        counts.rejected[element.reason] += 1
        return
    if isinstance(element, dict) and not known.issuperset(element):
        counts.unknown({str(name) for name in element} - known)
    try:
        yield parse()
    except Rejected as reason:
        counts.rejected[str(reason)] += 1
