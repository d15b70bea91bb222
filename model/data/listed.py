"""Clips of TalkVid and SpeakerVid-5M: metadata filtered, the benchmark's people left out, files found on disk.

The metadata become the benchmark's own table of candidates (`talkbench.data.index`): streamed, kept, and read once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from talkbench.data import exclusions, filters, pools
from talkbench.data.filters import Mask, Rule
from talkbench.data.folder import Build
from talkbench.data.index import index
from talkbench.data.stream import Broken, elements_of
from talkbench.errors import TalkbenchError
from talkbench.progress import Progress

from .recorded import ClipFile

SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v"})
QUALITY = ("maybe-minor", "several-persons", "low-dover", "turned-away", "unstable-tracks", "low-sync-label",
           "unsure-words", "no-speech-label", "repeated-words", "blurred-face")  # fmt: skip
"""Of the benchmark's rules, those that training shares: a label that a set does not give refuses nothing here."""
_COLUMNS = ("dataset", "split", "clip_id", "person_key", "source_key", "start", "end", "age", "num_persons", "dover",
            "orientation", "cotracker", "sync", "asr_confidence", "no_speech", "compression",
            "face_sharpness")  # fmt: skip
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True)
class Metadata:
    """Where a set's metadata lie, and what is left out of it.

    Attributes:
        dataset: ``talkvid`` or ``speakervid``.
        paths: Of the set's own files.
        table: Folder that the table of candidates is kept in.
        excluded: Content of the benchmark's `exclusions.json`; None leaves nothing out.
        min_seconds: Shorter clips hold no window.
    """

    dataset: str
    paths: tuple[Path, ...]
    table: Path
    excluded: Mapping[str, Any] | None
    min_seconds: float


def read_exclusions(path: Path) -> dict[str, Any]:
    """Return what must not be trained on.

    Raises:
        TalkbenchError: If the file is absent, or no exclusion list of a benchmark.
    """
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TalkbenchError(f"{path} cannot be read: {error}. It is written by `talkbench data select`.") from error
    kinds = ("persons", "sources", "clips")
    if not isinstance(stated, dict) or stated.get("schema") != exclusions.SCHEMA or not all(k in stated for k in kinds):
        raise TalkbenchError(
            f"{path} is no exclusion list: expected schema {exclusions.SCHEMA} with {', '.join(kinds)}."
        )
    return stated


def candidates(metadata: Metadata, progress: Progress) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Return what may be trained on, in an order that mixes sources, and count what may not, by reason.

    Returns:
        Rows with `dataset`, `clip_id`, `person_key` and `source_key`, ordered by a digest of their names: the sets
        are grouped by source, so that their first clips show few people.

    Raises:
        TalkbenchError: If the path holds no metadata.
    """
    build = Build(metadata.table)
    given: dict[str, Any] = {metadata.dataset: metadata.paths}
    report = index(build, progress=progress, **given)
    counts = Counter({f"metadata: {reason}": count for reason, count in report.rejected.items()})
    rows: list[dict[str, Any]] = []
    refusals = _rules(metadata)
    for _, table in pools.batches(build.candidates, _COLUMNS):
        kept = table.filter(pa.array(filters.apply(table, refusals, counts)))
        rows += kept.select(["dataset", "clip_id", "person_key", "source_key"]).to_pylist()
    rows.sort(key=lambda row: hashlib.sha256(f"{row['dataset']}|{row['clip_id']}".encode()).digest())
    return rows, counts


def _rules(metadata: Metadata) -> list[Rule]:
    """Return the rules in the order in which a clip is counted."""
    known = dict(filters.quality_rules(frozenset()))
    return [
        *_exclusion_rules(metadata.excluded),
        ("test-split", lambda t: _among(t["split"], ("test", "bench"))),
        ("too-short", lambda t: _seconds(t) <= metadata.min_seconds),
        *((name, known[name]) for name in QUALITY),
    ]


def _exclusion_rules(excluded: Mapping[str, Any] | None) -> list[Rule]:
    if excluded is None:
        return []
    clips = [clip.partition(":")[2] for clip in excluded["clips"]]
    return [
        ("excluded-person", lambda t: _among(t["person_key"], excluded["persons"])),
        ("excluded-source", lambda t: _among(t["source_key"], excluded["sources"])),
        ("excluded-clip", lambda t: _among(t["clip_id"], clips)),
    ]


def _among(column: pa.ChunkedArray, values: Iterable[str]) -> Mask:
    inside = pc.is_in(column, value_set=pa.array(sorted(values), pa.string()))
    mask: Mask = pc.fill_null(inside, False).to_numpy(zero_copy_only=False).astype(bool, copy=False)
    return mask


def _seconds(table: pa.Table) -> Any:
    return np.round(table["end"].to_numpy() - table["start"].to_numpy(), 6)


def with_files(
    rows: Iterable[Mapping[str, Any]], root: Path, prompts: Mapping[str, str] | None, prompt: str
) -> tuple[list[ClipFile], Counter[str]]:
    """Return the clips that have a file, and count those that have not, or have no caption.

    Args:
        rows: Of `candidates`.
        root: Folder with a file per clip, anywhere below, named by the clip's id; characters that are unsafe in file
            names may be underscores.
        prompts: Clip id -> caption; None describes all clips alike.
        prompt: That description.
    """
    stems = {path.stem: path for path in media_files(root)}
    found: list[ClipFile] = []
    counts: Counter[str] = Counter()
    for row in rows:
        clip_id = row["clip_id"]
        path = stems.get(clip_id) or stems.get(_UNSAFE.sub("_", clip_id))
        caption = prompt if prompts is None else prompts.get(clip_id)
        if path is None or caption is None:
            counts["no-file" if path is None else "no-caption"] += 1
            continue
        found.append(ClipFile(f"{row['dataset']}:{clip_id}", path, row["source_key"], row["person_key"], caption))
    return found, counts


def in_folder(root: Path, prompts: Mapping[str, str] | None, prompt: str) -> tuple[list[ClipFile], Counter[str]]:
    """Return all media files of a folder as clips, each a source of its own; the folder it lies in is the person."""
    found: list[ClipFile] = []
    counts: Counter[str] = Counter()
    for path in media_files(root):
        name = path.relative_to(root).with_suffix("").as_posix()
        caption = prompt if prompts is None else prompts.get(name)
        if caption is None:
            counts["no-caption"] += 1
            continue
        person = name if path.parent == root else path.parent.relative_to(root).as_posix()
        found.append(ClipFile(f"folder:{name}", path, f"folder:{name}", f"folder:{person}", caption))
    return found, counts


def media_files(root: Path) -> list[Path]:
    """Return the media files below a folder, in order of their names.

    Raises:
        TalkbenchError: If there is none.
    """
    found = sorted(
        path
        for folder, _, names in os.walk(root)
        for path in map(Path(folder).joinpath, names)
        if path.suffix.lower() in SUFFIXES
    )
    if not found:
        raise TalkbenchError(f"no video below {root}: expected files that end in {', '.join(sorted(SUFFIXES))}.")
    return found


def read_captions(path: Path) -> dict[str, str]:
    """Return clip id -> caption of a JSON file of any size: TalkVid's own with captions, or lines of id and caption.

    Raises:
        TalkbenchError: If the file is absent, or holds no caption.
    """
    if not path.is_file():
        raise TalkbenchError(f"no captions at {path}: expected JSON with `id` and `caption` or `description` each.")
    captions: dict[str, str] = {}
    for element in elements_of(path):
        if isinstance(element, Broken) or not isinstance(element, dict):
            continue
        name, caption = element.get("id"), element.get("caption", element.get("description"))
        if isinstance(name, str) and isinstance(caption, str) and caption.strip():
            captions[name] = " ".join(caption.split())
    if not captions:
        raise TalkbenchError(f"{path} holds no caption: expected `id` and `caption` or `description` in each element.")
    return captions
