"""Metadata files of the source sets: which belong to a folder, and the candidates and rejections in each."""

from __future__ import annotations

import hashlib
import json
import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from talkbench.data import hdtf, speakervid, talkvid
from talkbench.data.estimates import Estimates, read_estimates
from talkbench.data.labels import KINDS, Joiner, Labels
from talkbench.data.records import Candidate, Rejected
from talkbench.data.stream import Broken, elements_of
from talkbench.errors import TalkbenchError
from talkbench.ids import digest, sha256_file

READER_VERSION = 3
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
    """One metadata file (or folder of loose JSON files, or part of HDTF) and how it is read.

    Attributes:
        dataset: Whose reader takes it.
        path: The file; for HDTF the table of times.
        sha256: Of its bytes, or of those of all files that belong together.
        test_clips: SpeakerVid: the test split.
        estimates: Clip name -> estimated labels; of SpeakerVid those of the test split, for no others can be chosen.
        labels: SpeakerVid: clip name -> raw labels.
        companions: Digest of what else the rows depend on.
    """

    dataset: str
    path: Path
    sha256: str
    test_clips: frozenset[str] = frozenset()
    estimates: Estimates = field(default_factory=dict)
    labels: Mapping[str, Labels] = field(default_factory=dict)
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
        if self.dataset == "hdtf":
            part = self.path.name.removesuffix(hdtf.TIMES)
            for found in hdtf.parse(self.path.parent, part, self.estimates):
                counts.read += 1
                if isinstance(found, Rejected):
                    counts.rejected[str(found)] += 1
                else:
                    yield found
            return
        for name, element in self._annotations():
            parse = partial(
                speakervid.parse, name, element,
                test_clips=self.test_clips, estimates=self.estimates, labels=self.labels,
            )  # fmt: skip
            yield from _taken(parse, element, speakervid.KNOWN_FIELDS, counts)

    def _annotations(self) -> Iterator[tuple[str, Any]]:
        for name, value in documents(self.path):
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

    Both layouts are accepted: `merged_anno/tar_batch_*.tar.gz` and the older flat `merge_anno`, packed or not; raw
    labels are taken from `asr`, `anno` and `l_score` where they are, below `raw_labels` or not.

    Raises:
        TalkbenchError: If there is none.
    """
    if not given.exists():
        raise TalkbenchError(f"no SpeakerVid metadata at {given}: expected a folder with merged_anno/*.tar.gz.")
    tests = sorted(given.rglob("testset.json")) if given.is_dir() else []
    names: frozenset[str] = frozenset()
    for path in tests:
        names |= speakervid.read_test_clips(path, rejected)
    guesses = {} if estimates is None else read_estimates(_there(estimates), rejected, names)
    joined = {kind: _files(given, (kind,)) for kind in KINDS}
    labels = _labels(joined, names, rejected)
    companions = digest(
        [
            *(sha256_file(p) for p in tests),
            "" if estimates is None else sha256_file(estimates),
            {kind: [_sha256(path) for path in paths] for kind, paths in joined.items()},
        ]
    )
    found = [
        Source("speakervid", path, _sha256(path), names, guesses, labels, companions)
        for path in _files(given, ("merged_anno", "merge_anno"))
    ]
    if not found:
        raise TalkbenchError(f"no SpeakerVid annotations below {given}: expected merged_anno/tar_batch_*.tar.gz.")
    return found


def hdtf_sources(given: Path, estimates: Path | None, rejected: Counter[str]) -> list[Source]:
    """Return the parts of HDTF in a folder.

    Raises:
        TalkbenchError: If there is none.
    """
    folder = given / "HDTF_dataset" if (given / "HDTF_dataset").is_dir() else given
    found = hdtf.parts(folder) if folder.is_dir() else []
    if not found:
        raise TalkbenchError(f"no HDTF tables at {given}: expected HDTF_dataset with RD{hdtf.TIMES} and its like.")
    names = {name for part in found for name in hdtf.clip_names(folder, part)}
    guesses = {} if estimates is None else read_estimates(_there(estimates), rejected, names)
    companions = "" if estimates is None else sha256_file(estimates)
    return [
        Source(
            "hdtf",
            folder / f"{part}{hdtf.TIMES}",
            digest([sha256_file(path) for path in hdtf.files(folder, part)]),
            estimates=guesses,
            companions=companions,
        )
        for part in found
    ]


def documents(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the JSON documents of a folder, an archive or a file, with the names they go by (empty in a file)."""
    if path.is_dir():
        given: Iterator[tuple[str, bytes | Broken]] = ((each.name, each.read_bytes()) for each in _loose(path))
    elif path.name.endswith(_ARCHIVES):
        given = _members(path)
    else:
        yield from (("", element) for element in elements_of(path))
        return
    for name, data in given:
        yield name, data if isinstance(data, Broken) else _document(data)


def _labels(files: Mapping[str, list[Path]], names: frozenset[str], rejected: Counter[str]) -> dict[str, Labels]:
    joiner = Joiner(names)
    for kind, paths in files.items():
        for path in paths:
            for member, value in documents(path):
                given = value.items() if not member and isinstance(value, dict) else [(member, value)]
                for name, each in given:
                    joiner.add(kind, name.rpartition("/")[2].removesuffix(".json"), each, rejected)
    return joiner.labels()


def _sha256(path: Path) -> str:
    return _folder_digest(path) if path.is_dir() else sha256_file(path)


def _files(given: Path, starts: tuple[str, ...]) -> list[Path]:
    """Return the files, or folders of loose documents, that go by one of some names below a path."""
    if given.is_file():
        return [given] if "merged_anno" in starts else []
    folders = sorted(p for p in [given, *given.rglob("*")] if p.is_dir() and _goes_by(p, starts))
    found = [p for p in sorted(given.iterdir()) if p.is_file() and _goes_by(p, starts)]
    for folder in folders:
        packed = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name.endswith((*_ARCHIVES, ".jsonl"))]
        found += packed
        if not packed and next(_loose(folder), None) is not None:
            found.append(folder)
    return list(dict.fromkeys(found))


def _goes_by(path: Path, names: tuple[str, ...]) -> bool:
    stem = path.name.partition(".")[0]
    return stem in names or stem.startswith(tuple(f"{name}_" for name in names))


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
