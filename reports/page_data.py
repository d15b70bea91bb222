"""What the page's scripts draw from: items, clips, scores, curves. Plain JSON without NaN and without absolute paths.

Systems and items are referred to by their position, so that a name stands in the page once. Values keep seven
significant digits; sound peaks are stored as bytes.
"""

from __future__ import annotations

import base64
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote

from talkbench.metrics import drift
from talkbench.metrics.base import Output
from talkbench.schema import ClipRecord, Item, SystemRecord
from talkbench.stats import aggregate
from talkbench.store.run import Run

from .clips import find
from .table import Column, number

FORMAT = 1
SIGNIFICANT_DIGITS = 7
SMALLEST_SHARE = 0.5
"""A mean curve ends where fewer than this share of its clips go on."""

Data = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A run, read once.

    Attributes:
        run: The run.
        systems: In the order of the tables.
        clips: The current clip of every system and item.
        rows: The current rows.
        outputs: Every known output by id; those of rows whose runner is not installed are added bare.
    """

    run: Run
    systems: tuple[SystemRecord, ...]
    clips: tuple[ClipRecord, ...]
    rows: list[Row]
    outputs: dict[str, Output]

    @classmethod
    def read(cls, run: Run) -> Source:
        """Read a run."""
        systems = tuple(run.systems())
        names = {system.name for system in systems}
        clips = tuple(clip for clip in run.clips() if clip.system in names)
        rows = [row for row in run.current_rows() if row["system"] in names]
        outputs = aggregate.known_outputs()
        outputs |= {name: Output(name, name) for name in sorted({row["output"] for row in rows} - outputs.keys())}
        return cls(run, systems, clips, rows, outputs)


@dataclass(frozen=True)
class Index:
    """Positions of systems and items in the lists of the page."""

    system: dict[str, int]
    item: dict[str, int]

    def of(self, row: Row) -> tuple[int, int]:
        """Return the position of a row's system and item."""
        return self.system[row["system"]], self.item[row["item"]]


def collect(source: Source, folder: Path, policy: aggregate.Policy = "complete") -> Data:
    """Return everything the scripts need.

    Args:
        source: The run.
        folder: Where the page will lie; links to clips start there.
        policy: What to do about missing rows in the figures beside the drift curves.
    """
    items = _items(source)
    index = Index(
        {system.name: number for number, system in enumerate(source.systems)},
        {item["id"]: number for number, item in enumerate(items)},
    )
    waves = _Waves()
    clips = [_clip(source, clip, index, folder, waves) for clip in source.clips]
    return {
        "format": FORMAT,
        "run": {"name": run_name(source.run), "suite": source.run.suite.id, "title": source.run.suite.title},
        "systems": [
            {"name": system.name, "description": system.description, "tiers": system.tiers} for system in source.systems
        ],
        "tiers": [{"name": rule.name, "title": rule.title} for rule in source.run.suite.tiers],
        "outputs": _outputs(source),
        "items": items,
        "clips": clips,
        "waves": waves.stored,
        **_scores(source, index),
        "windows": _windows(source, index),
        "drift": [_drift_entry(source, index, tier, output, policy) for tier, output in drift_groups(source)],
    }


def to_script(data: Data) -> str:
    """Return JSON that can stand inside a script element, whatever the names in it.

    Raises:
        ValueError: If a number is not finite.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for symbol in "<>&\u2028\u2029":
        text = text.replace(symbol, f"\\u{ord(symbol):04x}")
    return text


def run_name(run: Run) -> str:
    """Return what the run is called: its folder."""
    return run.path.resolve().name


def relative_url(path: Path, folder: Path) -> str:
    """Return the link from a page in `folder` to a file, each part percent-encoded."""
    parts = Path(os.path.relpath(path.resolve(), folder.resolve())).parts
    return "/".join(quote(part, safe="", errors="surrogateescape") for part in parts)


def drift_groups(source: Source) -> list[tuple[str, str]]:
    """Return (tier, output) of everything that has drift values, in the order of tiers and outputs."""
    tiers = [rule.name for rule in source.run.suite.tiers]
    with_drift = {
        (row["tier"], base) for row in source.rows if row["status"] == "ok" and (base := _drift_base(row["output"]))
    }
    order = list(source.outputs)
    return sorted(
        (group for group in with_drift if group[1] in source.outputs),
        key=lambda group: (tiers.index(group[0]), order.index(group[1])),
    )


def drift_curves(source: Source, tier: str, output: str) -> dict[str, list[Row]]:
    """Return, by system, the rows of `output` whose clips were long enough for drift."""
    long_enough = {row["clip_key"] for row in source.rows if _drift_base(row["output"]) == output}
    curves: dict[str, list[Row]] = {system.name: [] for system in source.systems}
    for row in source.rows:
        if row["tier"] == tier and row["output"] == output and row["clip_key"] in long_enough and row["windows"]:
            curves[row["system"]].append(row)
    return {system: rows for system, rows in curves.items() if rows}


def mean_curve(rows: Sequence[Row]) -> list[float | None]:
    """Return the mean per window over clips, up to where fewer than half of them go on."""
    series = [row["windows"]["values"] for row in rows]
    means: list[float | None] = []
    for at in range(max(map(len, series), default=0)):
        going_on = [values for values in series if at < len(values)]
        if len(going_on) < SMALLEST_SHARE * len(series):
            break
        present = [values[at] for values in going_on if values[at] is not None]
        means.append(_short(sum(present) / len(present)) if present else None)
    return means


def _items(source: Source) -> list[Data]:
    """Return the items of which at least one system has a clip, in the suite's order, strangers last."""
    present = {clip.item: clip for clip in reversed(source.clips)}
    listed: list[Item] = list(source.run.suite.items or ())
    items = [
        {
            "id": item.id,
            "tier": item.tier,
            "identity": item.identity,
            "seconds": item.duration_seconds,
            "language": "" if item.language == "und" else item.language,
            "tags": list(item.tags),
            "text": item.text or "",
        }
        for item in listed
        if item.id in present
    ]
    known = {item["id"] for item in items}
    for clip in sorted(present.values(), key=lambda clip: clip.item):
        if clip.item not in known:
            seconds = clip.decoded.duration_seconds if clip.decoded else None
            identity = "" if clip.identity == clip.item else clip.identity
            items.append(
                {"id": clip.item, "tier": clip.tier, "identity": identity, "seconds": seconds}
                | {"language": "", "tags": [], "text": ""}
            )
    return items


class _Waves:
    """Sound peaks as base64 bytes; equal sounds are stored once."""

    def __init__(self) -> None:
        self.stored: list[Data] = []
        self._known: dict[tuple[str, float], int] = {}

    def add(self, peaks: Sequence[float], seconds: float) -> int | None:
        """Return the position of a waveform, or None without one."""
        if not peaks:
            return None
        text = base64.b64encode(bytes(min(255, max(0, round(255 * peak))) for peak in peaks)).decode()
        if (text, seconds) not in self._known:
            self._known[text, seconds] = len(self.stored)
            self.stored.append({"seconds": seconds, "peaks": text})
        return self._known[text, seconds]


def _clip(source: Source, clip: ClipRecord, index: Index, folder: Path, waves: _Waves) -> Data:
    video, decoded = clip.video, clip.decoded
    path = _file(source, clip)
    problem = clip.problem.model_dump() if clip.problem else None
    if path is None and problem is None:
        problem = {"status": "failed", "reason": "file-gone", "message": "the file is no longer where it was scored"}
    return {
        "system": index.system[clip.system],
        "item": index.item[clip.item],
        # A file that is no video has no picture to show, only a problem.
        "url": relative_url(path, folder) if path is not None and video is not None else None,
        "problem": problem,
        "notes": list(clip.notes),
        "width": video.width if video else None,
        "height": video.height if video else None,
        "frame_rate": float(Fraction(video.frame_rate)) if video else None,
        "seconds": decoded.duration_seconds if decoded else None,
        "audio": clip.audio is not None,
        "wave": waves.add(decoded.waveform, decoded.waveform_seconds) if decoded else None,
    }


def _file(source: Source, clip: ClipRecord) -> Path | None:
    kinds = {system.name: system.kind for system in source.systems}
    return find(source.run, clip, generated=kinds[clip.system] == "generated")


def _outputs(source: Source) -> list[Data]:
    present = {row["output"] for row in source.rows}
    return [
        {
            "id": output.id,
            "label": output.label,
            "unit": output.unit,
            "better": output.better,
            "scale": output.scale,
            "digits": output.digits,
            "description": output.description,
        }
        for output in source.outputs.values()
        if output.id in present
    ]


def _scores(source: Source, index: Index) -> Data:
    """Return values by output as system x item matrices, and why others are missing."""
    values: dict[str, list[list[float | None]]] = {}
    gaps: dict[str, dict[str, int]] = defaultdict(dict)
    reasons: dict[tuple[str, str, str], int] = {}
    for row in source.rows:
        output = row["output"]
        if output not in values:
            values[output] = [[None] * len(index.item) for _ in index.system]
        system, item = index.of(row)
        if row["status"] == "ok":
            values[output][system][item] = _short(row["value"])
        else:
            why = (row["status"], row["reason"] or "", row["message"] or "")
            gaps[output][f"{system},{item}"] = reasons.setdefault(why, len(reasons))
    named = [{"status": status, "reason": reason, "message": message} for status, reason, message in reasons]
    return {"scores": values, "gaps": dict(gaps), "reasons": named}


def _windows(source: Source, index: Index) -> Data:
    found: dict[str, dict[str, Data]] = defaultdict(dict)
    for row in source.rows:
        if row["windows"]:
            system, item = index.of(row)
            values = [None if value is None else _short(value) for value in row["windows"]["values"]]
            found[row["output"]][f"{system},{item}"] = {"seconds": row["windows"]["seconds"], "values": values}
    return dict(found)


def _drift_base(output: str) -> str:
    """Return the output a drift output belongs to, or nothing."""
    return output.split(".", 2)[2] if output.startswith("drift.") and output.count(".") >= 2 else ""


def _drift_entry(source: Source, index: Index, tier: str, output: str, policy: aggregate.Policy) -> Data:
    kinds = ("slope", "stable_seconds", "seam_strength")
    rows = [row for row in source.rows if row["tier"] == tier and _drift_base(row["output"]) == output]
    clips: dict[str, dict[str, Data]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row["status"] == "ok":
            clips[row["system"]][row["item"]] |= {
                row["output"].split(".")[1]: _short(row["value"]),
                "never_failed": bool(row["details"].get("never_failed")),
                "period": row["details"].get("seam_period_frames"),
            }
    names = list(index.system)
    columns = {column.output.id: column for column in aggregate.columns(rows, names, source.run.suite, policy)}
    texts = {kind: _texts(columns.get(f"drift.{kind}.{output}")) for kind in kinds}
    systems = []
    for system, curves in drift_curves(source, tier, output).items():
        own = [{"item": index.item[item]} | facts for item, facts in sorted(clips[system].items())]
        systems.append(
            {
                "system": index.system[system],
                "seconds": curves[0]["windows"]["seconds"],
                "mean": mean_curve(curves),
                "clips": own,
                "texts": {kind: texts[kind].get(system, "–") for kind in kinds},
                "period": _common_period(own),
            }
        )
    return {"tier": tier, "output": output, "systems": systems}


def _texts(column: aggregate.Column | None) -> dict[str, str]:
    """Return mean and half interval as printed, by system."""
    if column is None:
        return {}
    output = column.output
    printed = Column(output.id, output.label, scale=output.scale, digits=output.digits)
    texts = {}
    for system, cell in column.cells.items():
        if cell.interval is None:
            continue
        texts[system] = number(cell.interval.mean, printed)
        if cell.interval.low is not None and cell.interval.high is not None:
            texts[system] += f" ± {number((cell.interval.high - cell.interval.low) / 2, printed)}"
    return texts


def _common_period(clips: list[Data]) -> int | None:
    """Return the period of the strongest seam above noise, if any."""
    strong = [clip for clip in clips if clip.get("seam_strength", 0.0) >= drift.SEAM_NOISE_SIGMA and clip.get("period")]
    if not strong:
        return None
    return int(max(strong, key=lambda clip: clip["seam_strength"])["period"])


def _short(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
