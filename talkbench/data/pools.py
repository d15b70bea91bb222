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

from talkbench.data import filters, protocol, spans

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
        windows: How each may be heard (long tier).
    """

    codes: Mapping[str, Codes]
    rank_N4: NDArray[np.uint64]
    rows_N: NDArray[np.int64]
    persons_N: NDArray[np.uint64]
    sources_N: NDArray[np.uint64]
    windows: Sequence[spans.Window] = ()

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
        here = _may_be_long(table)
        if here.any():
            some = table.filter(pa.array(here))
            good = filters.apply(some, quality, counts["long"])
            _append(speech, _arrays(some, first + np.flatnonzero(here), None) | _speech(some, good))
    return _clips(_joined(short)), _long(path, _joined(speech), seed, counts["long"])


_COLUMNS = ("dataset", "split", "clip_id", "person_key", "source_key", "start", "end", "height", "gender", "age",
            "ethnicity", "language", "face_share", "dover", "cotracker", "orientation", "num_persons", "sync",
            "asr_confidence", "no_speech", "compression", "face_sharpness")  # fmt: skip


def _may_be_long(table: pa.Table) -> NDArray[np.bool_]:
    """Return the rows whose persons may speak for five minutes; of SpeakerVid the test split, so that memory is bound.

    Clips of TalkVid-Bench last five seconds and name no person.
    """
    test = pc.and_(pc.equal(table["dataset"], "speakervid"), pc.equal(table["split"], "test"))
    mask = pc.or_(pc.is_in(table["dataset"], value_set=pa.array(["talkvid", "hdtf"])), test)
    here: NDArray[np.bool_] = mask.to_numpy(zero_copy_only=False).astype(bool)
    return here


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
        "filmed": pc.equal(table["dataset"], "hdtf").to_numpy(zero_copy_only=False).astype(bool),
        "pieces_only": pc.equal(table["dataset"], "speakervid").to_numpy(zero_copy_only=False).astype(bool),
    }


def _append(lists: dict[str, list[NDArray[Any]]], arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        lists.setdefault(name, []).append(array)


def _joined(lists: Mapping[str, list[NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate(arrays) for name, arrays in lists.items()}


def _clips(arrays: Mapping[str, NDArray[Any]]) -> Clips:
    """Return the short tier's candidates."""
    return Clips(
        codes={axis: arrays[axis] if arrays else np.zeros(0, np.int16) for axis in protocol.SHORT.quotas},
        rank_N4=arrays["rank"] if arrays else np.zeros((0, 4), np.uint64),
        rows_N=arrays["rows"] if arrays else np.zeros(0, np.int64),
        persons_N=arrays["persons"] if arrays else np.zeros(0, np.uint64),
        sources_N=arrays["sources"] if arrays else np.zeros(0, np.uint64),
    )


def _long(path: Path, arrays: dict[str, NDArray[Any]], seed: int, counts: Counter[str]) -> Clips:
    """Return one candidate of the long tier per person and source that give a window."""
    found = list(spans.windows(arrays, counts)) if arrays else []
    at = np.array([window.clip for window in found], np.int64)

    def of(name: str, kind: Any) -> NDArray[Any]:
        return arrays[name][at] if found else np.zeros(0, kind)

    rows = of("rows", np.int64)
    names = take(path, rows, ("dataset", "clip_id"))
    return Clips(
        codes={
            "gender": of("gender", np.int16),
            "language": of("language", np.int16),
            "framing": _framing_codes(np.array([window.face_share for window in found])),
            "length": np.array([window.xl for window in found], np.int16),
        },
        rank_N4=_ranks(b"".join(protocol.digest(seed, row["dataset"], row["clip_id"]) for row in names)),
        rows_N=rows,
        persons_N=of("persons", np.uint64),
        sources_N=of("sources", np.uint64),
        windows=found,
    )


def take(path: Path, rows: NDArray[np.int64], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return some rows of the candidate table, in the order asked, reading one row group at a time."""
    found: dict[int, dict[str, Any]] = {}
    wanted = np.unique(rows)
    for first, table in batches(path, columns) if wanted.size else ():
        here = wanted[(wanted >= first) & (wanted < first + table.num_rows)]
        if here.size:
            found.update(zip(here.tolist(), table.take(pa.array(here - first)).to_pylist(), strict=True))
    return [found[row] for row in rows.tolist()]
