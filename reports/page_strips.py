"""Figures 3, 4 and 5 on the page: tables of small JPEG pictures, so that a page with them stays light."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

from PIL import Image

from talkbench.errors import TalkbenchError
from talkbench.media.clip import Frames
from talkbench.store.run import Run

from . import strips
from .moments import Panel

WIDTH_PX = 144
QUALITY = 80
_TITLES = {"figure3": "The same moments", "figure4": "Over a long clip", "figure5": "Mouths at chosen phones"}


def frames(run: Run) -> Iterator[dict[str, Any]]:
    """Yield title, heads and rows of every figure that the run has a picture for; a row is a label and its cells."""
    for name, make in strips.GRIDS.items():
        try:
            grid = make(run, strips.Wanted())
        except TalkbenchError:
            continue  # no clips, none long enough, or nobody knows where the mouth is: the figure is left out
        if any(panel.picture_HWC is not None for row in grid.rows for panel in row):
            yield {
                "name": name,
                "title": _TITLES[name],
                "item": grid.title.partition(":")[0],
                "heads": [head.split("\n") for head in grid.heads],
                "rows": [
                    (label, [_cell(panel, label, head) for panel, head in zip(row, grid.heads, strict=False)])
                    for label, row in zip(grid.labels, grid.rows, strict=True)
                ],
            }


def _cell(panel: Panel, label: str, head: str) -> dict[str, Any]:
    if panel.picture_HWC is None:
        return {"picture": None, "told": panel.reason}
    picture = _small(panel.picture_HWC)
    width, height = picture.size
    told = f"{label}, {' '.join(head.split())}"
    return {"picture": _jpeg(picture), "width": width, "height": height, "told": told}


def _small(picture_HWC: Frames) -> Image.Image:
    """Return a picture no wider than the page shows it on a sharp screen."""
    picture = Image.fromarray(picture_HWC)
    picture.thumbnail((WIDTH_PX, 2 * WIDTH_PX))
    return picture


def _jpeg(picture: Image.Image) -> str:
    """Return a picture as a data address."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
