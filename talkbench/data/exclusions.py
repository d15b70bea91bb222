"""What trainers must leave out, and whether a list of theirs touches it.

Excluded are every person and every source used, the reserve included, and all other clips of those persons and sources.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from talkbench.data import pools, protocol
from talkbench.data.manifest import Selected
from talkbench.data.records import youtube_id
from talkbench.data.stream import Broken, elements_of
from talkbench.errors import TalkbenchError

SCHEMA = "talkbench/exclusions/1"
MAX_EXAMPLES = 20
_VIDEO_IN_NAME = re.compile(r"^([A-Za-z0-9_-]{11})_full_video_")
_COLUMNS = ("dataset", "split", "clip_id", "person_key", "source_key", "start", "end", "orientation")


def related(table: Path, chosen: Sequence[Selected]) -> list[dict[str, Any]]:
    """Return all candidates that share a person or a source with what was chosen."""
    persons = pa.array(sorted({entry.person_key for entry in chosen}), pa.string())
    sources = pa.array(sorted({entry.source_key for entry in chosen}), pa.string())
    found: list[dict[str, Any]] = []
    for _, rows in pools.batches(table, _COLUMNS):
        mask = pc.or_(pc.is_in(rows["person_key"], value_set=persons), pc.is_in(rows["source_key"], value_set=sources))
        found += rows.filter(mask).to_pylist()
    return found


def document(
    chosen: Sequence[Selected], clips: Sequence[Mapping[str, Any]], seed: int, candidates_sha256: str
) -> dict[str, Any]:
    """Return the content of `exclusions.json`."""
    return {
        "schema": SCHEMA,
        "protocol": protocol.VERSION,
        "seed": seed,
        "candidates_sha256": candidates_sha256,
        "persons": sorted({entry.person_key for entry in chosen}),
        "sources": sorted({entry.source_key for entry in chosen}),
        "clips": sorted({f"{row['dataset']}:{row['clip_id']}" for row in clips}),
    }


@dataclass
class Overlap:
    """What a list of training ids has in common with the benchmark.

    Attributes:
        read: Ids read.
        unreadable: Reason -> lines that are none.
        hits: Kind (clip, source, person) -> ids.
        examples: The first ids that hit, with what they hit.
    """

    read: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    overlapping: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing overlaps and every line could be read."""
        return not self.overlapping and not self.unreadable


def check_overlap(path: Path, excluded: Mapping[str, Any]) -> Overlap:
    """Compare a list of training ids with the exclusions.

    Args:
        path: One id per line (clip name, video id, address, `yt:ID`, `talkvid:PERSON`), or JSON (array or lines) of
            such texts or of TalkVid records.
        excluded: Content of `exclusions.json`.

    Raises:
        TalkbenchError: If the file is not there, holds no id, or `excluded` is no exclusion list.
    """
    if not path.is_file():
        raise TalkbenchError(f"no list of ids at {path}.")
    try:
        if excluded["schema"] != SCHEMA:
            raise TalkbenchError(f"exclusion lists of schema {excluded['schema']!r} are not known; expected {SCHEMA}.")
        clips = {clip.partition(":")[2] for clip in excluded["clips"]}
        sets = {"clip": clips, "source": set(excluded["sources"]), "person": set(excluded["persons"])}
    except (KeyError, TypeError, AttributeError) as error:
        raise TalkbenchError(f"this is no exclusion list of talkbench: {error!r} is not there.") from error
    found = Overlap()
    for names in _ids(path, found):
        found.read += 1
        hit = False
        for kind, known in sets.items():
            shared = next((key for key in _keys(names, kind) if key in known), None)
            if shared is not None:
                hit = True
                found.hits[kind] += 1
                if len(found.examples) < MAX_EXAMPLES:
                    found.examples.append((names[0], f"{kind} {shared}"))
        found.overlapping += hit
    if not found.read:
        raise TalkbenchError(f"{path} holds no id: expected one per line, or JSON.")
    return found


def _ids(path: Path, found: Overlap) -> Iterator[tuple[str, ...]]:
    """Yield the names that each entry goes by: id, person, address."""
    with path.open("rb") as file:
        start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if start in {b"[", b"{", b'"'}:
        for element in elements_of(path):
            if isinstance(element, Broken):
                found.unreadable[element.reason] += 1
            elif names := _names(element):
                yield names
            else:
                found.unreadable["no-id"] += 1
        return
    with path.open("rb") as file:
        for raw in file:
            try:
                name = raw.decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                found.unreadable["not-utf8"] += 1
                continue
            if name:
                yield (name,)


def _names(element: Any) -> tuple[str, ...]:
    if isinstance(element, str):
        return (element,) if element.strip() else ()
    if not isinstance(element, dict):
        return ()
    found = element.get("info")
    info = found if isinstance(found, dict) else {}
    person = info.get("Person ID")
    given = [element.get(name) for name in ("id", "clip_id", "clip_name", "source_key", "person_key", "video_name")]
    given += [info.get("Video Link"), f"talkvid:{person}" if person else None]
    return tuple(name for name in given if isinstance(name, str) and name)


def _keys(names: Sequence[str], kind: str) -> Iterator[str]:
    """Yield the keys of one kind under which the names of an entry may be excluded."""
    for name in names:
        if kind == "clip":
            yield name.partition(":")[2] if name.partition(":")[0] in protocol.DATASETS else name
            yield name.rpartition("/")[2].removesuffix(".mp4").removesuffix(".json")
        elif kind == "person":
            yield name
        else:
            yield name
            found = _VIDEO_IN_NAME.match(name.rpartition("/")[2])
            video = found.group(1) if found else youtube_id(name)
            if video:
                yield f"yt:{video}"
