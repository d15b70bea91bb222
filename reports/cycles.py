"""Figure 6: where a cycle goes, as one stacked bar per number of GPUs, measured beside published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from talkbench.schema import ProfileRecord
from talkbench.store.run import Run

from . import figures, quoted
from .latency import mode, profiles, setting_of

PARTS = {
    "audio": "speech features",
    "dit": "DiT steps",
    "decode": "VAE decode",
    "encode": "VAE encode",
    "other": "colour, copy, rest",
}
"""Segments of a bar, from the left."""
_BAR_PX, _LABEL_PX, _FOOT_PX, _RIGHT_PX, _WIDTH_PX, _TOP_PX = 26, 240, 44, 96, 860, 34


def figure(records: Sequence[ProfileRecord]) -> Figure:
    """Return one stacked bar per configuration, measured and predicted, and the published one under them."""
    entries: list[str | _Bar] = []
    for heading in dict.fromkeys(map(_heading, records)):
        entries += [heading, *(_bar(record) for record in records if _heading(record) == heading)]
    published = quoted.cycle()
    entries += [f"{published.source}; not measured by talkbench", _published(published)]
    height = _TOP_PX + _BAR_PX * len(entries) + _FOOT_PX
    plot_width = _WIDTH_PX - _LABEL_PX - _RIGHT_PX
    box = (_LABEL_PX / _WIDTH_PX, _FOOT_PX / height, plot_width / _WIDTH_PX, 1 - (_FOOT_PX + _TOP_PX) / height)
    with figures.style():
        drawn = Figure(figsize=(_WIDTH_PX / 72, height / 72), dpi=72)
        axes = drawn.add_axes(box)
        for place, entry in enumerate(entries):
            if isinstance(entry, _Bar):
                _draw(axes, place, entry)
            else:
                axes.text(
                    (12 - _LABEL_PX) / plot_width, place, entry, transform=axes.get_yaxis_transform(), va="center",
                    color=figures.MUTED, fontsize=10.5, parse_math=False,
                )  # fmt: skip
        _finish(axes, len(entries))
    return drawn


def write(run: Run, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write Figure 6 as `figure6.<format>`; return the paths.

    Raises:
        TalkbenchError: If a format is unknown, or the run has no profile.
    """
    figures.check_formats(formats)
    drawn = figure(profiles(run))
    paths = [folder / f"figure6.{kind}" for kind in formats]
    for path, kind in zip(paths, formats, strict=True):
        figures.save(drawn, path, kind)
    return paths


@dataclass(frozen=True)
class _Bar:
    label: str
    parts: dict[str, float]
    cycle: float
    fps: float
    origin: str


def _heading(record: ProfileRecord) -> str:
    weights = "" if record.weights_kind == "released" else f", {record.weights_kind} weights"
    return f"{replace(setting_of(record), origin='measured')}{weights}"


def _bar(record: ProfileRecord) -> _Bar:
    """Return the segments of a record; what the first four leave of the median cycle is the last."""
    median = {name: each.p50_seconds for name, each in record.components.items()}
    parts = {"audio": median["audio"], "dit": record.num_steps * median["dit_step"]}
    parts |= {"decode": median["decode"], "encode": median["encode"]}
    parts["other"] = max(0.0, record.cycle.p50_seconds - sum(parts.values()))
    one, several = ("GPU", "GPUs") if record.device_kind == "cuda" else ("CPU process", "CPU processes")
    label = f"{record.num_processes} {one if record.num_processes == 1 else several}, {mode(record)}"
    label += ", predicted" if record.origin == "predicted" else ""
    return _Bar(label, parts, record.cycle.p50_seconds, record.fps, record.origin)


def _published(found: quoted.QuotedCycle) -> _Bar:
    parts = {name: found.components[name] / 1e3 for name in PARTS}
    return _Bar(found.label, parts, found.cycle / 1e3, found.chunk_frames / (found.cycle / 1e3), "quoted")


def _draw(axes: Axes, place: int, bar: _Bar) -> None:
    left = 0.0
    for position, seconds in enumerate(bar.parts[name] for name in PARTS):
        axes.barh(
            place, 1e3 * seconds, left=left, height=0.62, color=figures.hue(position), edgecolor="white", linewidth=0.6,
            alpha=1.0 if bar.origin == "measured" else 0.55, hatch="////" if bar.origin == "predicted" else None,
        )  # fmt: skip
        left += 1e3 * seconds
    axes.text(
        left, place, f"  {1e3 * bar.cycle:.0f} ms, {bar.fps:.1f} FPS", va="center", color=figures.INK, fontsize=10.5,
        clip_on=False, style="italic" if bar.origin == "quoted" else "normal",
    )  # fmt: skip
    axes.text(
        -0.012, place, bar.label, transform=axes.get_yaxis_transform(), ha="right", va="center", color=figures.INK,
        style="italic" if bar.origin == "quoted" else "normal", parse_math=False,
    )  # fmt: skip


def _finish(axes: Axes, count: int) -> None:
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xlim(left=0)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("milliseconds per cycle")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    handles = [Patch(facecolor=figures.hue(n), label=label) for n, label in enumerate(PARTS.values())]
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(PARTS), frameon=False, fontsize=10.5,
        handlelength=1, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip
