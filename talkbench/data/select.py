"""Stages 2 to 5 together: from the candidate table to accepted clips, reserve, exclusions and a report of what was not.

A pure function of the table, the protocol version and the seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from talkbench import atomic
from talkbench.data import exclusions, pools, protocol
from talkbench.data.allocate import Pool, Used, allocate
from talkbench.data.folder import Build, read_json, write_json
from talkbench.data.manifest import HostedFiles, ReferenceClip, Segment, Selected, Strata, line
from talkbench.data.records import SCHEMA
from talkbench.data.spans import Window
from talkbench.errors import TalkbenchError
from talkbench.ids import sha256_file

MIN_PIECE_SECONDS = 1.0
"""What an utterance must add where it overlaps the one before."""
PREFIX = {"short": "tbs", "long": "tbl"}


@dataclass(frozen=True)
class SelectReport:
    """What was chosen and what was not.

    Attributes:
        accepted: Tier -> samples.
        reserve: Tier -> reserve entries.
        rejected: Tier -> reason -> candidates.
        quotas: Tier -> axis -> cell -> [wanted, achieved].
        selection_sha256: Digest of `selection.jsonl`.
    """

    protocol: str
    seed: int
    candidates_sha256: str
    adults: int
    accepted: dict[str, int]
    reserve: dict[str, int]
    rejected: dict[str, dict[str, int]]
    quotas: dict[str, dict[str, dict[str, list[int]]]]
    selection_sha256: str
    exclusions_sha256: str


def select(
    build: Build,
    *,
    seed: int = protocol.SEED,
    adults: frozenset[str] = frozenset(),
    sizes: Mapping[str, int] | None = None,
) -> SelectReport:
    """Choose the samples and the reserve of both tiers; write `selection.jsonl`, `exclusions.json` and the report.

    Args:
        build: Where the index is.
        seed: Enters every rank.
        adults: Person keys labelled `0-19` whom a public source shows to be adults; all others of that label are out.
        sizes: Tier -> samples, for tests and trials; the protocol's sizes otherwise.

    Raises:
        TalkbenchError: If there is no index, the table is not the one the index wrote, or another selection is frozen.
    """
    indexed = read_json(build.index_report, "talkbench data index")
    if not build.candidates.is_file() or sha256_file(build.candidates) != indexed["candidates_sha256"]:
        raise TalkbenchError(f"{build.candidates} is not what the index wrote: run `talkbench data index` again.")
    counts: dict[str, Counter[str]] = {"short": Counter(), "long": Counter()}
    short, long = pools.collect(build.candidates, seed, adults, counts)
    used = Used()
    chosen: list[Selected] = []
    quotas: dict[str, dict[str, dict[str, list[int]]]] = {}
    # Long first: sources with five minutes of one person are the scarce ones.
    for tier, clips in (("long", long), ("short", short)):
        size = (sizes or {}).get(tier, protocol.PLANS[tier].size)
        plan = replace(protocol.PLANS[tier], size=size)
        entries, quotas[tier] = _tier(build.candidates, tier, plan, clips, used, seed)
        chosen += entries
    related = exclusions.related(build.candidates, chosen)
    chosen = [_with_references(_with_pieces(entry, related, seed), related) for entry in chosen]
    text = "".join(f"{line(entry)}\n" for entry in chosen)
    if build.snapshot.is_file() and (not build.selection.is_file() or build.selection.read_text("utf-8") != text):
        raise TalkbenchError(
            f"{build.snapshot} froze another selection, and a frozen one is never changed: give another --out."
        )
    atomic.write_text(build.selection, text)
    write_json(build.exclusions, exclusions.document(chosen, related, seed, indexed["candidates_sha256"]))
    report = SelectReport(
        protocol=protocol.VERSION,
        seed=seed,
        candidates_sha256=indexed["candidates_sha256"],
        adults=len(adults),
        accepted={tier: sum(e.tier == tier and e.slot is not None for e in chosen) for tier in protocol.PLANS},
        reserve={tier: sum(e.tier == tier and e.slot is None for e in chosen) for tier in protocol.PLANS},
        rejected={tier: dict(sorted(count.items())) for tier, count in counts.items()},
        quotas=quotas,
        selection_sha256=sha256_file(build.selection),
        exclusions_sha256=sha256_file(build.exclusions),
    )
    write_json(build.select_report, report.__dict__)
    return report


def _tier(
    table: Path, tier: str, plan: protocol.TierPlan, clips: pools.Clips, used: Used, seed: int
) -> tuple[list[Selected], dict[str, dict[str, list[int]]]]:
    """Choose one tier; return its entries and the table of wanted and achieved numbers."""
    wanted, codes = _quotas(plan, clips)
    axes = list(wanted)
    kinds = [window.assembly for window in clips.windows] or ["continuous"] * clips.rows_N.size
    pool = Pool(
        cells_NA=np.stack([codes[axis] for axis in axes], axis=1),
        position_N=clips.position(),
        persons_N=clips.persons_N,
        sources_N=clips.sources_N,
        joined_N=np.array([kind != "continuous" for kind in kinds], bool),
        last_N=np.array([kind == "joined" for kind in kinds], bool),
    )
    part, whole = protocol.JOINED_PART
    most = plan.size * part // whole
    taken = allocate(pool, [list(wanted[axis].values()) for axis in axes], plan.size, used, max_joined=most)
    accepted = taken[: plan.size]
    rows = pools.take(table, clips.rows_N[np.array(taken, np.int64)], SCHEMA.names)
    orientation = _orientations([row["clip_id"] for row in rows[: plan.size]], plan, seed)
    entries = []
    num_xl = 0
    room_xl = wanted["length"]["xl"] if "length" in wanted else 0
    for at, (index, row) in enumerate(zip(taken, rows, strict=True)):
        xl = "length" in codes and codes["length"][index] == 1 and (at >= plan.size or num_xl < room_xl)
        num_xl += xl and at < plan.size
        names = list(wanted["language"])
        window = clips.windows[index] if clips.windows else None
        assembly = "continuous" if window is None or (window.assembly == "joined_xl" and not xl) else window.assembly
        entries.append(
            Selected(
                tier="long" if tier == "long" else "short",
                slot=f"{PREFIX[tier]}-{at + 1:04d}" if at < plan.size else None,
                reserve_index=None if at < plan.size else at - plan.size,
                stratum=f"{tier}/{names[codes['language'][index]]}",
                dataset=row["dataset"],
                clip_id=row["clip_id"],
                person_key=row["person_key"],
                source_key=row["source_key"],
                segments=_segments(row, window, seed, xl=bool(xl)),
                assembly=assembly,
                xl=bool(xl),
                filmed=window is None or window.filmed,
                hosted=HostedFiles(video=row["video_path"], audio=row["audio_path"]) if row["video_path"] else None,
                orientation=orientation.get(row["clip_id"]),
                strata=_strata(row, pools.cells("framing")[codes["framing"][index]]),
                width=row["width"],
                height=row["height"],
                references=(),
                rank=protocol.digest(seed, row["dataset"], row["clip_id"]).hex(),
            )
        )
    achieved = {axis: np.bincount(codes[axis][accepted], minlength=len(wanted[axis])) for axis in axes}
    table_of = {
        axis: {cell: [number, int(achieved[axis][i])] for i, (cell, number) in enumerate(wanted[axis].items())}
        for axis in axes
    }
    if clips.windows:
        counted = Counter(entry.assembly == "continuous" for entry in entries if entry.slot)
        table_of["assembly"] = {"uncut": [plan.size - most, counted[True]], "joined": [most, counted[False]]}
    turns = protocol.apportion(plan.orientation, plan.size)
    given = Counter(orientation.values())
    table_of["orientation"] = {cell: [number, given[cell]] for cell, number in turns.items()}
    return entries, table_of


def _quotas(plan: protocol.TierPlan, clips: pools.Clips) -> tuple[dict[str, dict[str, int]], dict[str, pools.Codes]]:
    """Return the wanted number per axis and cell, and the candidates' codes in the order of those cells."""
    wanted: dict[str, dict[str, int]] = {}
    codes: dict[str, pools.Codes] = {}
    for axis, shares in plan.quotas.items():
        names = pools.cells(axis)
        cells = _language_cells(plan, clips.codes[axis]) if axis == "language" else dict(shares)
        wanted[axis] = protocol.apportion(cells, plan.size)
        order = list(cells)
        # A language without a cell of its own counts as other; it has a column even where its quota is none.
        if axis == "language" and protocol.OTHER not in wanted[axis]:
            wanted[axis][protocol.OTHER] = 0
            order.append(protocol.OTHER)
        place = np.array([order.index(n) if n in order else order.index(protocol.OTHER) for n in names], np.int16)
        codes[axis] = place[clips.codes[axis]]
    return wanted, codes


def _language_cells(plan: protocol.TierPlan, codes: pools.Codes) -> dict[str, int]:
    """Return the language cells: those of the protocol, and the most frequent others, ties by code."""
    shares = dict(plan.quotas["language"])
    names = pools.cells("language")
    counted = np.bincount(codes, minlength=len(names))
    free = [name for name in names if name not in shares and name != "und"]
    frequent = sorted(free, key=lambda name: (-counted[names.index(name)], name))[: plan.num_languages]
    cells = {name: shares[name] for name in ("en", "zh")} | dict.fromkeys(sorted(frequent), plan.language_share)
    return cells | ({protocol.OTHER: shares[protocol.OTHER]} if protocol.OTHER in shares else {})


def _orientations(clip_ids: Sequence[str], plan: protocol.TierPlan, seed: int) -> dict[str, str]:
    """Assign the orientations of a tier, in the order of a hash of their own."""
    given = protocol.apportion(plan.orientation, plan.size)
    cells = [cell for cell, count in given.items() for _ in range(count)]
    ordered = sorted(clip_ids, key=lambda clip_id: protocol.digest(seed, "orientation", clip_id))
    return dict(zip(ordered, cells, strict=False))


def _segments(row: Mapping[str, Any], window: Window | None, seed: int, *, xl: bool) -> tuple[Segment, ...]:
    """Return the seconds of the source that are heard; none yet where they are joined from clips."""
    if window is None:
        return (Segment(start=row["start"], end=row["end"]),)
    if window.assembly == "joined":
        return ()
    name = row["clip_id"]
    low, high = protocol.XL_SECONDS if xl else protocol.LONG_SECONDS
    if xl and len(window.spans) == 2:
        seconds = protocol.draw(seed, "length", name, low, min(high, int(sum(length for _, length in window.spans))))
        (start, length), (start_2, length_2) = window.spans
        first = max(min(length, seconds / 2), seconds - length_2)
        return (
            Segment(start=start, end=round(start + first, 6)),
            Segment(start=start_2, end=round(start_2 + seconds - first, 6), pause_seconds=_pause(seed, name, 1)),
        )
    start, length = window.spans[0]
    seconds = protocol.draw(seed, "length", name, low, min(high, int(length)))
    return (Segment(start=start, end=round(start + seconds, 6)),)


def _with_pieces(entry: Selected, related: Sequence[Mapping[str, Any]], seed: int) -> Selected:
    """Fill a joined entry with the person's utterances in time order, none twice, until they last long enough.

    Of SpeakerVid only those of its test split: the others are what systems are trained on.
    """
    if entry.segments:
        return entry
    own = (
        r
        for r in related
        if (r["person_key"], r["source_key"]) == (entry.person_key, entry.source_key)
        and (r["dataset"], r["split"]) != ("speakervid", "train")
    )
    wanted = protocol.draw(seed, "length", entry.clip_id, *protocol.LONG_SECONDS)
    found: list[Segment] = []
    heard = 0.0
    for row in sorted(own, key=lambda row: (row["start"], row["end"], row["clip_id"])):
        start = max(row["start"], found[-1].end) if found else row["start"]
        if row["end"] - start < MIN_PIECE_SECONDS or heard >= wanted:
            continue
        pause = _pause(seed, entry.clip_id, len(found)) if found else 0.0
        found.append(Segment(start=start, end=row["end"], pause_seconds=pause))
        heard += found[-1].seconds + pause
    return entry.model_copy(update={"segments": tuple(found)})


def _pause(seed: int, clip_id: str, number: int) -> float:
    """Return the seconds of room tone before a piece."""
    return protocol.draw(seed, f"pause-{number}", clip_id, *protocol.PAUSE_MS) / 1000


def _strata(row: Mapping[str, Any], framing: str) -> Strata:
    return Strata(
        gender=(row["gender"], row["gender_origin"]),
        age=(row["age"], row["age_origin"]) if row["age"] else None,
        ethnicity=(row["ethnicity"], row["ethnicity_origin"]) if row["ethnicity"] else None,
        language=(row["language"], row["language_origin"]),
        framing=(framing, row["face_share_origin"]),
    )


def _with_references(entry: Selected, related: Sequence[Mapping[str, Any]]) -> Selected:
    """Add where the reference image comes from: another clip outside the window, best one before it."""
    # Whatever lies between joined pieces counts as heard.
    window = Segment(start=entry.segments[0].start, end=entry.segments[-1].end)
    away = protocol.AWAY_SECONDS
    found: list[tuple[tuple[Any, ...], ReferenceClip]] = []
    for row in related:
        same = row["source_key"] == entry.source_key
        if row["person_key"] != entry.person_key or (row["clip_id"] == entry.clip_id and entry.tier == "short"):
            continue
        if same and row["end"] > window.start - away and row["start"] < window.end + away:
            continue
        rule: Any = 3 if not same else 2 if entry.dataset == "talkvid-bench" else 1
        after = same and row["start"] >= window.end
        key = (rule, after, -(row["orientation"] or 0.0), row["source_key"], row["start"])
        clip = ReferenceClip(source_key=row["source_key"], start=row["start"], end=row["end"], rule=rule)
        found.append((key, clip))
    if not any(clip.source_key == entry.source_key for _, clip in found):
        # Nobody vouches for who is in the picture here, so it comes after clips of the person, in the order of rules.
        before = window.start >= 4 * away
        start = window.start - 4 * away if before else window.end + away
        found.append(((2, not before, 0.0, "", start), ReferenceClip(
            source_key=entry.source_key, start=round(start, 6), end=round(start + 3 * away, 6), rule=2)))  # fmt: skip
    _, chosen = min(found, key=lambda pair: pair[0])
    return entry.model_copy(update={"references": (chosen,)})


def read_adults(path: Path | None) -> frozenset[str]:
    """Return the person keys of a file, one a line.

    Raises:
        TalkbenchError: If it cannot be read.
    """
    if path is None:
        return frozenset()
    try:
        return frozenset(entry.strip() for entry in path.read_text(encoding="utf-8").splitlines() if entry.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise TalkbenchError(f"cannot read the person keys in {path}: {error}.") from error
