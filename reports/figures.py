"""Figures as pure functions of tables and curves: interval dots, quality against speed, drift over time.

Each returns a matplotlib Figure whose sizes are CSS pixels (72 dpi) and whose colours are those of the page's light
theme. `inline` turns one into SVG for the page: text stays text in the page's font, colours become CSS variables, and
every mark carries its numbers as a tooltip. `write` saves the same figures as files.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

from talkbench.atomic import replacing
from talkbench.errors import TalkbenchError
from talkbench.registry import suggest
from talkbench.store.run import Run

from . import build, page_data, spec
from .table import Cell, Column, Table

FORMATS = ("svg", "png", "pdf")
SPEED = "speed.fps"
INK, MUTED, RULE = "#1c1e22", "#5f646d", "#dfe1e4"
SERIES = (
    "#2f5fc4", "#c2561a", "#2b8a4a", "#b3287a", "#7a4fc9", "#0b8791", "#a17000", "#cf4343", "#68707c", "#5d7b1a",
)  # fmt: skip
DARK_SERIES = (
    "#82a8f7", "#f0a06a", "#6fcf8b", "#ee86c3", "#b79cf7", "#57ccd4", "#e0b64c", "#f58a86", "#a9b0bb", "#b3cc66",
)  # fmt: skip
"""As many hues as can be told apart; further systems repeat them with another marker or dash."""

_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule"} | {hue: f"--s{n}" for n, hue in enumerate(SERIES)}
_MARKERS = "oDs^v"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_TIP = "tip:"
_UNREFERENCED = re.compile(r"[A-Za-z0-9.]+_\d+")
_FAMILY = re.compile(r"font-family:[^;]*")
_XLINK = "{http://www.w3.org/1999/xlink}href"
LARGEST_SCALE = 1.12
"""How much a figure may be enlarged to fill its place before its text looks too big."""
_PANEL_WIDTH, _LABEL_WIDTH, _ROW_HEIGHT, _FOOT = 290, 116, 21, 28
_LONGEST_NAME = 17
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "talkbench", "pdf.fonttype": 42, "font.family": "sans-serif",
    "font.size": 11.5, "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": RULE, "axes.linewidth": 0.8,
    "xtick.color": RULE, "ytick.color": RULE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "xtick.labelsize": 11, "ytick.labelsize": 11, "axes.labelsize": 11, "axes.unicode_minus": True,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "path.simplify": False,
}  # fmt: skip


@contextmanager
def style() -> Iterator[None]:
    """Draw with our settings and nobody else's; names in scripts the file font lacks are no reason to warn."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        yield


def hue(position: int) -> str:
    """Return the colour of the system at `position`."""
    return SERIES[position % len(SERIES)]


def names(table: Table) -> list[str]:
    """Return the systems of a table, in its order."""
    return list(dict.fromkeys(row.label for block in table.blocks for row in block.rows))


def interval_panel(table: Table, column: Column) -> Figure:
    """Return dots with 95 % intervals of all systems in one column; the first tier filled, the second hollow."""
    order = names(table)
    with style():
        height = _ROW_HEIGHT * len(order) + _FOOT
        figure = Figure(figsize=(_PANEL_WIDTH / 72, height / 72), dpi=72)
        left, bottom = _LABEL_WIDTH / _PANEL_WIDTH, _FOOT / height
        axes = figure.add_axes((left, bottom, 0.97 - left, 1 - bottom))
        _draw_intervals(axes, table, column, order, with_names=True)
    return figure


def intervals(table: Table) -> Figure:
    """Return all columns of a table as small multiples with one list of systems, for print."""
    order = names(table)
    width, plot_width, top = _LABEL_WIDTH + 178 * len(table.columns), 178, 46
    height = _ROW_HEIGHT * len(order) + _FOOT + top
    with style():
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        for number, column in enumerate(table.columns):
            left = (_LABEL_WIDTH + number * plot_width) / width
            box = (left, _FOOT / height, (plot_width - 18) / width, (height - _FOOT - top) / height)
            axes = figure.add_axes(box)
            _draw_intervals(axes, table, column, order, with_names=number == 0)
            axes.set_title(column.head, fontsize=12, color=INK, loc="left", parse_math=False)
        _name_tiers(figure, table, 12 / width)
    return figure


def quality_speed(table: Table, column: Column, block: int = 0) -> Figure:
    """Return one tier's systems in one column against their frames per second (log scale)."""
    width, height = 470, 330
    tier = table.blocks[block]
    order = names(table)
    found = [
        (row.label, row.cells[SPEED], row.cells[column.id])
        for row in tier.rows
        if _has(row.cells.get(SPEED)) and _has(row.cells.get(column.id))
    ]
    with style():
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        axes = figure.add_axes((58 / width, 44 / height, (width - 74) / width, (height - 62) / height))
        for label, speed, quality in found:
            _cross(axes, order.index(label), label, speed, quality, column)
        _speed_axes(axes, column, [speed for _, speed, _ in found])
        _label_points(axes, [(label, s.value or 0.0, (q.value or 0.0) * column.scale) for label, s, q in found], order)
    return figure


def drift(title: str, scale: float, curves: Sequence[tuple[str, int, float, Sequence[float | None]]]) -> Figure:
    """Return one line per system over time.

    Args:
        title: Of the vertical axis.
        scale: Factor from stored to printed values.
        curves: Name, position, seconds per window and values of each system.
    """
    with style():
        figure = Figure(figsize=(720 / 72, 330 / 72), dpi=72)
        axes = figure.add_axes((0.09, 0.14, 0.7, 0.82))
        for name, position, seconds, values in curves:
            at = [(number + 0.5) * seconds for number in range(len(values))]
            shown = [float("nan") if value is None else value * scale for value in values]
            dash = _DASHES[position // len(SERIES) % len(_DASHES)]
            axes.plot(at, shown, color=hue(position), linewidth=1.3, linestyle=dash, label=f"{_short(name)}")
        _quiet(axes)
        axes.set_xlabel("seconds")
        axes.set_ylabel(title, parse_math=False)
        axes.margins(x=0.01)
        legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=10.5)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def inline(figure: Figure, name: str, description: str) -> str:
    """Return a figure as an SVG element for the page.

    Args:
        figure: What to draw.
        name: Prefix of all ids, so that figures on one page do not share them.
        description: What a reader who does not see it is told.
    """
    file = io.StringIO()
    with style():
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    root = ET.fromstring(file.getvalue())  # noqa: S314 - written by matplotlib two lines above
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in {"metadata", "style"}:
                parent.remove(child)
        _adapt(parent, name)
    width = float(root.get("viewBox", "").split()[2])
    root.attrib = {
        "viewBox": root.get("viewBox", ""),
        "role": "img",
        "aria-label": description,
        "style": f"max-width:{width * LARGEST_SCALE:.0f}px",
    }
    return ET.tostring(root, encoding="unicode")


def write(run: Run, folder: Path, formats: Sequence[str] = ("svg", "png", "pdf")) -> list[Path]:
    """Write every figure the run has values for as `<name>.<format>`; return the paths.

    Raises:
        TalkbenchError: If a format is unknown, or the run has no value at all.
    """
    check_formats(formats)
    drawn = _all(run)
    paths = []
    for name, figure in drawn.items():
        for kind in formats:
            path = folder / f"{name}.{kind}"
            save(figure, path, kind)
            paths.append(path)
    return paths


def check_formats(formats: Sequence[str]) -> None:
    """Refuse a format that figures cannot be written in.

    Raises:
        TalkbenchError: If there is one.
    """
    for kind in formats:
        if kind not in FORMATS:
            raise TalkbenchError(
                f"unknown figure format {kind!r}.{suggest(kind, FORMATS)} Known: {', '.join(FORMATS)}."
            )


def describe(table: Table, column: Column) -> str:
    """Return an interval panel in words."""
    parts = []
    for block in table.blocks:
        shown = [f"{row.label} {row.cells[column.id].text}" for row in block.rows if _has(row.cells.get(column.id))]
        parts.append(f"{block.title}: {', '.join(shown) or 'no values'}")
    return f"{column.head}, mean and 95 % interval. {'. '.join(parts)}."


def speed_columns(table: Table) -> list[Column]:
    """Return the columns that can be drawn against speed: those of systems whose speed is known too."""
    return [
        column
        for column in table.columns
        if column.id != SPEED
        and any(
            _has(row.cells.get(SPEED)) and _has(row.cells.get(column.id))
            for block in table.blocks
            for row in block.rows
        )
    ]


def _all(run: Run) -> dict[str, Figure]:
    table = build.table(run, spec.load("table1"), "table1")
    source = page_data.Source.read(run)
    position = {system.name: number for number, system in enumerate(source.systems)}
    drawn = {"intervals": intervals(table)}
    for column in speed_columns(table):
        for number, block in enumerate(table.blocks):
            drawn[_file_name(f"speed-{column.id}-{block.title}")] = quality_speed(table, column, number)
    for tier, output in page_data.drift_groups(source):
        known = source.outputs[output]
        curves = [
            (system, position[system], rows[0]["windows"]["seconds"], page_data.mean_curve(rows))
            for system, rows in page_data.drift_curves(source, tier, output).items()
        ]
        drawn[_file_name(f"drift-{output}-{tier}")] = drift(known.label, known.scale, curves)
    return drawn


def _draw_intervals(axes: Axes, table: Table, column: Column, order: list[str], *, with_names: bool) -> None:
    for number, label in enumerate(order):
        axes.axhline(number, color=RULE, linewidth=0.7, zorder=0)
        if not any(
            _has(row.cells.get(column.id)) for block in table.blocks for row in block.rows if row.label == label
        ):
            axes.text(0.0, number, "– ", transform=axes.get_yaxis_transform(), color=MUTED, va="center")
        if with_names:
            axes.text(
                -0.035, number, _short(label), transform=axes.get_yaxis_transform(), ha="right", va="center",
                color=INK, parse_math=False,
            )  # fmt: skip
    for tier, block in enumerate(table.blocks):
        shift = (tier - (len(table.blocks) - 1) / 2) * 0.32
        for row in block.rows:
            cell = row.cells.get(column.id)
            if cell is not None and cell.value is not None:
                tip = f"{row.label}, {block.title}: {cell.text} ({cell.num_used} of {cell.num_expected} clips)"
                _dot(axes, cell, column.scale, order.index(row.label) + shift, tier, order.index(row.label), tip)
    axes.set_ylim(len(order) - 0.5, -0.5)
    _quiet(axes)
    axes.yaxis.set_major_locator(NullLocator())
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
    if column.id == SPEED:
        _log_x(axes, [cell.value for cell in _cells(table, column) if cell.value])
    if column.better == "zero":
        axes.axvline(0, color=MUTED, linewidth=0.8, zorder=0.5)


def _dot(axes: Axes, cell: Cell, scale: float, y: float, tier: int, position: int, tip: str) -> None:
    colour = hue(position)
    value = (cell.value or 0.0) * scale
    if cell.low is not None and cell.high is not None:
        axes.plot([cell.low * scale, cell.high * scale], [y, y], color=colour, linewidth=1.6, solid_capstyle="round")
    face = colour if tier == 0 else "none"
    marker = _MARKERS[position // len(SERIES) % len(_MARKERS)]
    axes.plot(
        [value], [y], marker=marker, markersize=5.6, markerfacecolor=face, markeredgecolor=colour, markeredgewidth=1.4,
        linestyle="none", gid=_TIP + tip,
    )  # fmt: skip


def _cross(axes: Axes, position: int, label: str, speed: Cell, quality: Cell, column: Column) -> None:
    colour, x, y = hue(position), speed.value or 0.0, (quality.value or 0.0) * column.scale
    if speed.low is not None and speed.high is not None and speed.low > 0:
        axes.plot([speed.low, speed.high], [y, y], color=colour, linewidth=1.3, alpha=0.7)
    if quality.low is not None and quality.high is not None:
        axes.plot(
            [x, x], [quality.low * column.scale, quality.high * column.scale], color=colour, linewidth=1.3, alpha=0.7
        )
    tip = f"{label}: {column.label} {quality.text} at {speed.text} frames / s"
    marker = _MARKERS[position // len(SERIES) % len(_MARKERS)]
    axes.plot([x], [y], marker=marker, markersize=7, color=colour, linestyle="none", gid=_TIP + tip)


def _speed_axes(axes: Axes, column: Column, speeds: list[Cell]) -> None:
    _quiet(axes)
    axes.grid(color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    _log_x(axes, [cell.value for cell in speeds if cell.value], room=(1.5, 2.2))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(y=0.12)
    axes.set_xlabel("frames per second (log)")
    axes.set_ylabel(column.head, parse_math=False)


def _log_x(axes: Axes, values: list[float], room: tuple[float, float] = (1.4, 1.4)) -> None:
    """Make the horizontal axis logarithmic around `values`, with plain numbers at its ticks."""
    if not values or min(values) <= 0:
        return
    low, high = min(values) / room[0], max(values) * room[1]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 60 else (1,)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())


def _label_points(axes: Axes, points: list[tuple[str, float, float]], order: list[str]) -> None:
    """Write names beside points, pushed apart where they would cover each other."""
    taken: list[tuple[float, float]] = []
    for label, x, y in sorted(points, key=lambda point: -point[2]):
        right, up = axes.transData.transform((x, y))
        height = up + 8  # clear of the point's own interval
        while any(abs(right - other) < 110 and abs(height - at) < 12 for other, at in taken):
            height -= 3
        taken.append((right, height))
        axes.annotate(
            _short(label), (x, y), xytext=(8, height - up), textcoords="offset points", va="center",
            color=hue(order.index(label)), fontsize=11, parse_math=False,
        )  # fmt: skip


def _name_tiers(figure: Figure, table: Table, left: float) -> None:
    if len(table.blocks) > 1:
        marks = "●○"
        text = "   ".join(f"{marks[min(n, 1)]} {block.title}" for n, block in enumerate(table.blocks))
        figure.text(left, 0.985, text, fontsize=11, color=MUTED, va="top", parse_math=False)


def _quiet(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=3)


def save(figure: Figure, path: Path, kind: str) -> None:
    """Write a figure in one step, the same bytes every time."""
    face = "white" if kind == "png" else "none"
    meta = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    with style():
        if kind == "svg":
            with replacing(path) as text:
                figure.savefig(text, format=kind, metadata=meta)
            return
        partial = path.with_name(f".{path.name}.partial")
        try:
            figure.savefig(partial, format=kind, metadata=meta, facecolor=face, dpi=200)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _adapt(element: ET.Element, name: str) -> None:
    """Make one element fit the page: theme colours, page font, ids of its own, tooltips; no XML namespaces."""
    element.tag = element.tag.rpartition("}")[2]
    own = element.attrib
    identity = own.pop("id", "")
    if identity.startswith(_TIP):
        title = ET.Element("title")
        title.text = identity.removeprefix(_TIP)
        element.insert(0, title)
    elif identity and not _UNREFERENCED.fullmatch(identity):
        own["id"] = f"{name}-{identity}"
    if link := own.pop(_XLINK, None):
        own["href"] = link.replace("#", f"#{name}-")
    if clip := own.get("clip-path"):
        own["clip-path"] = clip.replace("#", f"#{name}-")
    if drawn := own.get("style"):
        for colour, variable in _VARIABLES.items():
            drawn = drawn.replace(colour, f"var({variable})")
        own["style"] = _FAMILY.sub("font-family: var(--sans)", drawn)
    for space in ("text", "tail"):
        if (getattr(element, space) or "x").isspace():
            setattr(element, space, None)


def _cells(table: Table, column: Column) -> list[Cell]:
    return [row.cells[column.id] for block in table.blocks for row in block.rows if column.id in row.cells]


def _has(cell: Cell | None) -> bool:
    return cell is not None and cell.value is not None


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-")
