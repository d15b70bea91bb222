"""Response curves of a validity run: how far each output moves with each level of known harm."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from talkbench.errors import TalkbenchError
from talkbench.metrics.base import Output
from talkbench.stats.aggregate import known_outputs
from talkbench.store.run import Run

from . import figures

Verdict = dict[str, Any]
ACROSS = 4
PANEL_INCHES = (2.9, 2.1)
_COLOURS = {True: "#2a7d4f", False: "#b3261e", None: "#6b7280"}
_WORDS = {True: "pass", False: "fail", None: "shown"}


def write(run: Run, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write one figure per output as `validity-<output>.<format>`.

    Raises:
        TalkbenchError: If the run is no validity run.
    """
    stored = run.path / "validity.json"
    if not stored.is_file():
        raise TalkbenchError(f"{run.path} has no validity.json. Make it: `talkbench validity all --out {run.path}`.")
    verdicts: list[Verdict] = json.loads(stored.read_text(encoding="utf-8"))
    known = known_outputs()
    paths = []
    for name in dict.fromkeys(verdict["output"] for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict["output"] == name]
        output = known.get(name, Output(name, name))
        for kind in formats:
            path = folder / f"validity-{name}.{kind}"
            figures.save(draw(output, own), path, kind)
            paths.append(path)
    return paths


def draw(output: Output, verdicts: Sequence[Verdict]) -> Figure:
    """Return a panel per degradation: change from the clip as it is, with intervals, in printed units."""
    down = -(-len(verdicts) // ACROSS)
    across = min(ACROSS, len(verdicts))
    with figures.style():
        figure = Figure(figsize=(PANEL_INCHES[0] * across, PANEL_INCHES[1] * down + 0.5), layout="constrained")
        figure.suptitle(f"{output.label}: change from {verdicts[0]['as_is'] * output.scale:.{output.digits}f}")
        panels = figure.subplots(down, across, squeeze=False, sharey=True)
        for axes, verdict in zip(panels.flat, verdicts, strict=False):
            _panel(axes, verdict, output.scale)
        for axes in panels.flat[len(verdicts) :]:
            axes.set_axis_off()
    return figure


def _panel(axes: Axes, verdict: Verdict, scale: float) -> None:
    colour = _COLOURS[verdict["passed"]]
    places = range(len(verdict["steps"]) + 1)
    changes = [0.0, *(nan if step["change"] is None else step["change"] * scale for step in verdict["steps"])]
    axes.axhline(0, color="#9ca3af", linewidth=0.8)
    axes.plot(places, changes, marker="o", markersize=4, color=colour)
    for place, step in enumerate(verdict["steps"], 1):
        if step["low"] is not None and step["high"] is not None:
            axes.plot([place, place], [step["low"] * scale, step["high"] * scale], color=colour, linewidth=1.2)
    axes.set_xticks(places, ["as is", *(f"{step['level']:g}" for step in verdict["steps"])])
    expected = "" if verdict["must"] == "shown" else f": must {verdict['must']}"
    axes.set_title(f"{verdict['degradation']}{expected} ({_WORDS[verdict['passed']]})", fontsize=10)
