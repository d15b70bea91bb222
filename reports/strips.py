"""Figures 3, 4 and 5: panels of frames, rows are systems, columns are moments."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from talkbench.media.clip import Frames
from talkbench.store.run import Run

from . import figures, moments
from .moments import Grid, Panel, Wanted

__all__ = ["Wanted", "draw", "write"]

GRIDS: dict[str, Callable[[Run, Wanted], Grid]] = {
    "figure3": moments.strip,
    "figure4": moments.long,
    "figure5": moments.mouths,
}
_LABEL_PX, _WIDTH_PX, _GAP_PX, _TOP_PX, _LINE_PX = 118, 900, 5, 30, 16
_NARROWEST_PX, _WIDEST_PX = 70, 150
_PRINTED_DPI = 200
_LETTER_PX = 5.6
_GROUND = "#f1f2f4"


def write(run: Run, name: str, wanted: Wanted, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write a figure as `<name>.<format>`; return the paths.

    Args:
        run: Whose clips.
        name: ``figure3``, ``figure4`` or ``figure5``.
        wanted: What to show.
        folder: Where to.
        formats: Of `figures.FORMATS`.

    Raises:
        TalkbenchError: If a format is unknown, or there is nothing to show.
    """
    figures.check_formats(formats)
    drawn = draw(GRIDS[name](run, wanted))
    paths = [folder / f"{name}.{kind}" for kind in formats]
    for path, kind in zip(paths, formats, strict=True):
        for image in (image for axes in drawn.axes for image in axes.images):
            # A vector file keeps the pixels as they are; a raster one has its own grid, onto which they must be drawn.
            image.set_interpolation("bicubic" if kind == "png" else "none")
        figures.save(drawn, path, kind)
    return paths


def draw(grid: Grid) -> Figure:
    """Return the figure of a grid; pictures wider than print can show are reduced, others keep their pixels."""
    across = len(grid.heads)
    width = min(_WIDEST_PX, max(_NARROWEST_PX, (_WIDTH_PX - _LABEL_PX) / across - _GAP_PX))
    heights = [_height(row, width) for row in grid.rows]
    top = _TOP_PX + _LINE_PX * max(head.count("\n") + 1 for head in grid.heads)
    size = (_LABEL_PX + across * (width + _GAP_PX), top + sum(height + _GAP_PX for height in heights))
    with figures.style():
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72)
        figure.text(
            4 / size[0], 1 - 4 / size[1], grid.title, va="top", fontsize=12, color=figures.INK, parse_math=False
        )
        for place, head in enumerate(grid.heads):
            middle = _LABEL_PX + place * (width + _GAP_PX) + width / 2
            figure.text(
                middle / size[0], 1 - (top - 4) / size[1], head, ha="center", va="bottom", color=figures.MUTED,
                parse_math=False,
            )  # fmt: skip
        down = float(top)
        for label, row, height in zip(grid.labels, grid.rows, heights, strict=True):
            _name(figure, label, down + height / 2, size)
            whole = across * (width + _GAP_PX) - _GAP_PX if len(row) == 1 and across > 1 else width
            for place, panel in enumerate(row):
                left = _LABEL_PX + place * (width + _GAP_PX)
                box = (left / size[0], 1 - (down + height) / size[1], whole / size[0], height / size[1])
                _panel(figure.add_axes(box), panel, whole)
            down += height + _GAP_PX
    return figure


def _height(row: Sequence[Panel], width: float) -> float:
    """Return the height of a row in px: of its highest picture, or of two lines of text."""
    shapes = [panel.picture_HWC.shape for panel in row if panel.picture_HWC is not None]
    return max((width * shape[0] / shape[1] for shape in shapes), default=2.5 * _LINE_PX)


def _name(figure: Figure, label: str, middle: float, size: tuple[float, float]) -> None:
    told = textwrap.fill(label, int((_LABEL_PX - 10) / _LETTER_PX))
    figure.text(
        (_LABEL_PX - 10) / size[0], 1 - middle / size[1], told, ha="right", va="center", color=figures.INK,
        parse_math=False,
    )  # fmt: skip


def _panel(axes: Axes, panel: Panel, width: float) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    if panel.picture_HWC is None:
        axes.set_facecolor(_GROUND)
        told = textwrap.fill(panel.reason, max(8, int((width - 8) / _LETTER_PX)))
        settings: dict[str, Any] = {"ha": "center", "va": "center", "color": figures.MUTED, "fontsize": 10.5}
        axes.text(0.5, 0.5, told, transform=axes.transAxes, parse_math=False, **settings)
        return
    axes.imshow(_reduced(panel.picture_HWC, width))


def _reduced(picture_HWC: Frames, width: float) -> Frames:
    """Return a picture no wider than its panel in print."""
    most = round(width * _PRINTED_DPI / 72)
    height, own = picture_HWC.shape[:2]
    if own <= most:
        return picture_HWC
    smaller = Image.fromarray(picture_HWC).resize((most, max(1, round(height * most / own))), Image.Resampling.LANCZOS)
    return np.asarray(smaller)
