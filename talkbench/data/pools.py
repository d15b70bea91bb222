"""Stage 3: one pass over the candidate table into arrays of what may be chosen, small enough for millions of rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from talkbench.data import filters, protocol

_LANGUAGES = sorted(set(protocol.LANGUAGES.values()))
_CELLS = {
    "gender": list(protocol.GENDERS),
    "language": _LANGUAGES,
    "age": list(protocol.AGES),
    "ethnicity": list(protocol.ETHNICITIES),
    "framing": ["close", "medium", "wide"],
    "dataset": list(protocol.DATASETS),
    "length": ["standard", "xl"],
}
Codes = NDArray[np.int16]


@dataclass(frozen=True)
class Clips:
    """Candidates of one tier before quotas. Legend: N candidates.

    Attributes:
        codes: Axis -> code per candidate; see `cells`.
        rank_N4: The 32 bytes of each rank as four big-endian numbers.
        rows_N: Row in the candidate table.
        persons_N: Hashed person keys.
        sources_N: Hashed source keys.
        start_N: Where the window may begin (long tier).
        span_N: How many seconds it may last (long tier).
    """

    codes: Mapping[str, Codes]
    rank_N4: NDArray[np.uint64]
    rows_N: NDArray[np.int64]
    persons_N: NDArray[np.uint64]
    sources_N: NDArray[np.uint64]
    start_N: NDArray[np.float64]
    span_N: NDArray[np.float64]

    def position(self) -> NDArray[np.int64]:
        """Return the place of each candidate in the order of ranks."""
        order = np.lexsort(tuple(self.rank_N4[:, at] for at in (3, 2, 1, 0)))
        place = np.empty(order.size, np.int64)
        place[order] = np.arange(order.size)
        return place


def cells(axis: str) -> list[str]:
    """Return the names of an axis's codes."""
    return _CELLS[axis]


def batches(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
    """Yield the row groups of the candidate table with the number of their first row."""
    first = 0
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=list(columns))
            yield first, table
            first += table.num_rows


def collect(path: Path, seed: int, adults: frozenset[str], counts: Mapping[str, Counter[str]]) -> tuple[Clips, Clips]:
    """Return what may be chosen for the short and for the long tier; count what may not, by tier and reason."""
    short: dict[str, list[NDArray[Any]]] = {}
    speech: dict[str, list[NDArray[Any]]] = {}
    short_rules, quality = filters.short_rules(adults), filters.quality_rules(adults)
    for first, table in batches(path, _COLUMNS):
        keep = filters.apply(table, short_rules, counts["short"])
        _append(short, _arrays(table.filter(pa.array(keep)), first + np.flatnonzero(keep), seed))
        talkvid = pc.equal(table["dataset"], "talkvid").to_numpy(zero_copy_only=False).astype(bool)
        if talkvid.any():
            some = table.filter(pa.array(talkvid))
            good = filters.apply(some, quality, counts["long"])
            rows = first + np.flatnonzero(talkvid)
            _append(speech, _arrays(some, rows, None) | _speech(some, good))
    return _clips(_joined(short)), _spans(path, _joined(speech), seed, counts["long"])


_COLUMNS = ("dataset", "split", "clip_id", "person_key", "source_key", "start", "end", "height", "gender", "age",
            "ethnicity", "language", "face_share", "dover", "cotracker", "orientation", "num_persons")  # fmt: skip


def framing(share: float) -> str:
    """Return the framing that a face share of the frame means."""
    return "wide" if share < protocol.WIDE_BELOW else "medium" if share < protocol.CLOSE_FROM else "close"


def _framing_codes(share_N: NDArray[np.float64]) -> Codes:
    return np.where(share_N < protocol.WIDE_BELOW, 2, np.where(share_N < protocol.CLOSE_FROM, 1, 0)).astype(np.int16)


def _arrays(table: pa.Table, rows: NDArray[np.int64], seed: int | None) -> dict[str, NDArray[Any]]:
    """Return codes and hashes of some rows, and their ranks if a seed is given."""
    share = pc.fill_null(table["face_share"], np.nan).to_numpy()
    found: dict[str, NDArray[Any]] = {
        "rows": rows,
        "persons": _hashes(table["person_key"]),
        "sources": _hashes(table["source_key"]),
        "framing": _framing_codes(share),
    }
    for axis in ("gender", "language", "age", "ethnicity", "dataset"):
        found[axis] = _codes(table[axis], _CELLS[axis])
    if seed is not None:
        names = zip(table["dataset"].to_pylist(), table["clip_id"].to_pylist(), strict=True)
        found["rank"] = _ranks(b"".join(protocol.digest(seed, dataset, clip) for dataset, clip in names))
    return found


def _ranks(digests: bytes) -> NDArray[np.uint64]:
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 4)


def _codes(column: pa.ChunkedArray, names: list[str]) -> Codes:
    found = pc.index_in(column, value_set=pa.array(names, pa.string()))
    codes: Codes = pc.fill_null(found, -1).to_numpy().astype(np.int16)
    return codes


def _hashes(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return a 64-bit hash per row; neighbours share keys, so each distinct one is hashed once."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    unique = np.array([key_hash(value) for value in encoded.dictionary.to_pylist()], np.uint64)
    return unique[encoded.indices.to_numpy()] if unique.size else unique


def key_hash(value: str) -> int:
    """Return the 64-bit hash under which a person or source counts as taken."""
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "big")


def _speech(table: pa.Table, good: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    return {
        "start": table["start"].to_numpy(),
        "end": table["end"].to_numpy(),
        "share": pc.fill_null(table["face_share"], np.nan).to_numpy(),
        "good": good,
    }


def _append(lists: dict[str, list[NDArray[Any]]], arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        lists.setdefault(name, []).append(array)


def _joined(lists: Mapping[str, list[NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate(arrays) for name, arrays in lists.items()}


def _clips(arrays: Mapping[str, NDArray[Any]]) -> Clips:
    """Return the short tier's candidates."""
    size = arrays["rows"].size if arrays else 0
    nothing = np.zeros(size)
    return Clips(
        codes={axis: arrays[axis] if arrays else np.zeros(0, np.int16) for axis in protocol.SHORT.quotas},
        rank_N4=arrays["rank"] if arrays else np.zeros((0, 4), np.uint64),
        rows_N=arrays["rows"] if arrays else np.zeros(0, np.int64),
        persons_N=arrays["persons"] if arrays else np.zeros(0, np.uint64),
        sources_N=arrays["sources"] if arrays else np.zeros(0, np.uint64),
        start_N=nothing,
        span_N=nothing,
    )


def _spans(path: Path, arrays: dict[str, NDArray[Any]], seed: int, counts: Counter[str]) -> Clips:
    """Return one candidate of the long tier per person and source whose clips span long enough."""
    chosen: list[tuple[int, float, float, float]] = []
    if arrays:
        order = np.lexsort((arrays["rows"], arrays["start"], arrays["sources"], arrays["persons"]))
        arrays = {name: array[order] for name, array in arrays.items()}
        new = (np.diff(arrays["persons"].astype(np.int64)) != 0) | (np.diff(arrays["sources"].astype(np.int64)) != 0)
        starts = np.flatnonzero(np.r_[True, new])
        last = np.maximum.reduceat(arrays["end"], starts)
        for at, (begin, stop) in enumerate(zip(starts, np.r_[starts[1:], order.size], strict=True)):
            group = slice(int(begin), int(stop))
            span = float(last[at] - arrays["start"][begin])
            reason = _span_reason(arrays, group, span)
            if reason:
                counts[f"source:{reason}"] += 1
            else:
                good = group.start + int(np.argmax(arrays["good"][group]))
                chosen.append((good, float(arrays["start"][begin]), span, float(np.nanmedian(arrays["share"][group]))))
    first = np.array([index for index, *_ in chosen], np.int64)
    spans = np.array([span for _, _, span, _ in chosen])
    rows = arrays["rows"][first] if chosen else np.zeros(0, np.int64)
    names = take(path, rows, ("dataset", "clip_id"))
    digests = (protocol.digest(seed, row["dataset"], row["clip_id"]) for row in names)
    return Clips(
        codes={
            "gender": arrays["gender"][first] if chosen else np.zeros(0, np.int16),
            "language": arrays["language"][first] if chosen else np.zeros(0, np.int16),
            "framing": _framing_codes(np.array([share for *_, share in chosen])),
            "length": (spans >= protocol.XL_SECONDS[0]).astype(np.int16),
        },
        rank_N4=_ranks(b"".join(digests)),
        rows_N=rows,
        persons_N=arrays["persons"][first] if chosen else np.zeros(0, np.uint64),
        sources_N=arrays["sources"][first] if chosen else np.zeros(0, np.uint64),
        start_N=np.array([start for _, start, _, _ in chosen]),
        span_N=spans,
    )


def _span_reason(arrays: Mapping[str, NDArray[Any]], group: slice, span: float) -> str | None:
    """Return why the clips of one person in one source give no long window."""
    if span < protocol.LONG_SPAN_SECONDS:
        return "span-too-short"
    start, end = arrays["start"][group], arrays["end"][group]
    reached = np.maximum.accumulate(np.r_[start[0], end[:-1]])
    covered = float(np.maximum(0.0, end - np.maximum(start, reached)).sum())
    if covered < protocol.LONG_COVER * span:
        return "covered-too-little"
    if not arrays["good"][group].any():
        return "no-good-clip"
    for axis in ("gender", "language"):
        if np.ptp(arrays[axis][group]):
            return f"contradictory-{axis}"
    return None


def take(path: Path, rows: NDArray[np.int64], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return some rows of the candidate table, in the order asked, reading one row group at a time."""
    found: dict[int, dict[str, Any]] = {}
    wanted = np.unique(rows)
    for first, table in batches(path, columns) if wanted.size else ():
        here = wanted[(wanted >= first) & (wanted < first + table.num_rows)]
        if here.size:
            found.update(zip(here.tolist(), table.take(pa.array(here - first)).to_pylist(), strict=True))
    return [found[row] for row in rows.tolist()]
