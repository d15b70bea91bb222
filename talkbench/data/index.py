"""Stage 1: metadata files of any size into one Parquet table of candidates.

Each file becomes a part under a name that follows from its bytes, so a stopped run goes on with the next file and an
unchanged file is never read again. Parts are then joined; ids that stand twice are settled there. Memory is bounded by
one row group and 16 bytes per candidate.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from talkbench import atomic
from talkbench.data.folder import Build, write_json
from talkbench.data.records import SCHEMA, Candidate
from talkbench.data.sources import Counts, Source, hdtf_sources, speakervid_sources, talkvid_sources
from talkbench.errors import TalkbenchError
from talkbench.progress import Progress, Silent

_log = logging.getLogger(__name__)

GROUP_ROWS = 20_000
_KEYS = ("_id", "_content")
_PART_SCHEMA = SCHEMA.append(pa.field("_id", pa.uint64())).append(pa.field("_content", pa.uint64()))


@dataclass(frozen=True)
class IndexReport:
    """What the index holds and what it does not.

    Attributes:
        rows: Candidates.
        read: Records read.
        rejected: Reason -> records.
        files: Per file: dataset, name, sha256, counts.
        candidates_sha256: Digest of the table.
    """

    rows: int
    read: int
    rejected: dict[str, int]
    files: list[dict[str, Any]]
    unknown_fields: dict[str, int]
    candidates_sha256: str


def index(
    build: Build,
    *,
    talkvid: Sequence[Path] = (),
    speakervid: Sequence[Path] = (),
    hdtf: Sequence[Path] = (),
    estimates: Path | None = None,
    progress: Progress | None = None,
) -> IndexReport:
    """Write the candidate table and its report.

    Args:
        build: Where to.
        talkvid: Metadata of TalkVid and TalkVid-Bench, files or folders.
        speakervid: Folders (or archives) of SpeakerVid-5M.
        hdtf: Checkouts of HDTF, or their folders of tables.
        estimates: JSON lines of estimated labels for clips of SpeakerVid and HDTF.
        progress: Told about every file.

    Raises:
        TalkbenchError: If nothing was given, or a path holds no metadata.
    """
    extra: Counter[str] = Counter()
    sources = [source for path in talkvid for source in talkvid_sources(path)]
    sources += [source for path in speakervid for source in speakervid_sources(path, estimates, extra)]
    sources += [source for path in hdtf for source in hdtf_sources(path, estimates, extra)]
    if not sources:
        raise TalkbenchError("nothing to index: give --talkvid FILE, --speakervid FOLDER or --hdtf FOLDER.")
    # Neither the order in which files were given nor where they lie may change the table.
    sources = sorted({source.key: source for source in sources}.values(), key=lambda s: (s.dataset, s.sha256))
    progress = progress or Silent()
    with atomic.lock(build.parts.with_suffix(".lock"), wait=True):
        progress.start("index", len(sources))
        parts = []
        for source in sources:
            parts.append(_part(build, source))
            progress.step(source.path.name)
        progress.finish()
        keep, doubles = _settle([path for path, _ in parts])
        rows = _join([path for path, _ in parts], keep, build.candidates)
        report = _report(sources, [counts for _, counts in parts], doubles + extra, rows, build.candidates)
        write_json(build.index_report, report.__dict__)
    return report


def _part(build: Build, source: Source) -> tuple[Path, dict[str, Any]]:
    """Return the finished part of a file and its counts, made now if it is not there."""
    path = build.parts / f"{source.key}.parquet"
    record = path.with_suffix(".json")
    if path.is_file() and record.is_file():
        stored: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        return path, stored
    counts = Counts()
    with _parquet(path, _PART_SCHEMA) as writer:
        rows = source.candidates(counts)
        while group := list(islice(rows, GROUP_ROWS)):
            writer.write_table(_table(group), row_group_size=GROUP_ROWS)
    done = {"read": counts.read, "rejected": dict(counts.rejected), "unknown_fields": dict(counts.unknown_fields)}
    write_json(record, done)
    return path, done


def _table(group: list[Candidate]) -> pa.Table:
    columns = [pa.array(column, field.type) for column, field in zip(zip(*group, strict=True), SCHEMA, strict=True)]
    columns.append(pa.array([_hash(f"{row.dataset}|{row.clip_id}") for row in group], pa.uint64()))
    columns.append(pa.array([_hash(repr(tuple(row))) for row in group], pa.uint64()))
    return pa.Table.from_arrays(columns, schema=_PART_SCHEMA)


def _hash(value: str) -> int:
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "big")


def _settle(parts: Sequence[Path]) -> tuple[NDArray[np.bool_], Counter[str]]:
    """Decide which rows stay: the first of identical ones; none of those that contradict each other."""
    tables = [pq.read_table(path, columns=list(_KEYS)) for path in parts]
    ids = np.concatenate([table["_id"].to_numpy() for table in tables])
    contents = np.concatenate([table["_content"].to_numpy() for table in tables])
    keep = np.ones(ids.size, bool)
    if not ids.size:
        return keep, Counter()
    order = np.argsort(ids, kind="stable")
    sorted_ids, sorted_contents = ids[order], contents[order]
    starts = np.flatnonzero(np.r_[True, sorted_ids[1:] != sorted_ids[:-1]])
    differs = np.r_[False, sorted_contents[1:] != sorted_contents[:-1]]
    differs[starts] = False
    group = np.cumsum(np.isin(np.arange(ids.size), starts)) - 1
    contradictory = np.zeros(starts.size, bool)
    contradictory[group[differs]] = True
    keep[order] = False
    keep[order[starts[~contradictory]]] = True
    num_contradictory = int(contradictory[group].sum())
    found = {"contradictory-id": num_contradictory, "duplicate": int((~keep).sum()) - num_contradictory}
    return keep, Counter({reason: count for reason, count in found.items() if count})


def _join(parts: Sequence[Path], keep: NDArray[np.bool_], target: Path) -> int:
    """Write the rows that stay as one table; return their number."""
    at = 0
    with _parquet(target, SCHEMA) as writer:
        for path in parts:
            with pq.ParquetFile(path) as file:
                for number in range(file.num_row_groups):
                    table = file.read_row_group(number, columns=SCHEMA.names)
                    kept = table.filter(pa.array(keep[at : at + table.num_rows]))
                    at += table.num_rows
                    if kept.num_rows:
                        writer.write_table(kept, row_group_size=GROUP_ROWS)
    return int(keep.sum())


@contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Yield a writer whose file gets its name only when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    try:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            yield writer
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _report(
    sources: Sequence[Source], counts: Sequence[dict[str, Any]], doubles: Counter[str], rows: int, table: Path
) -> IndexReport:
    from talkbench.ids import sha256_file

    rejected, unknown = Counter(doubles), Counter[str]()
    files = []
    for source, count in zip(sources, counts, strict=True):
        rejected.update(count["rejected"])
        unknown.update(count["unknown_fields"])
        files.append({"dataset": source.dataset, "name": source.path.name, "sha256": source.sha256, **count})
        if source.companions:
            files[-1]["companions"] = source.companions
    return IndexReport(
        rows=rows,
        read=sum(count["read"] for count in counts),
        rejected=dict(sorted(rejected.items())),
        files=files,
        unknown_fields=dict(sorted(unknown.items())),
        candidates_sha256=sha256_file(table),
    )
