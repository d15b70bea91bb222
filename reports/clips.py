"""Which clips a run has, scored or not, and which item to show of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from talkbench.errors import TalkbenchError, Undecodable
from talkbench.media.stills import PastEnd, stills
from talkbench.registry import suggest
from talkbench.schema import ClipRecord, Item, Sidecar, SystemRecord
from talkbench.store import attempts
from talkbench.store.run import Run, read_record

from . import quoted

_FAR = 1e6
"""Seconds after which every clip is over."""


@dataclass(frozen=True)
class Clips:
    """The clips of a run.

    Attributes:
        run: The run.
        systems: Those to show, in order: asked for, or all.
        files: Item -> system -> file; or why the file cannot be shown.
        lengths: Item -> seconds of its longest clip, of items with a scored one.
    """

    run: Run
    systems: tuple[str, ...]
    files: dict[str, dict[str, Path | str]] = field(repr=False)
    lengths: dict[str, float] = field(repr=False)

    @classmethod
    def of(cls, run: Run, systems: Sequence[str] = ()) -> Clips:
        """Find the clips of some systems, or of all.

        Raises:
            TalkbenchError: If there is no clip at all.
        """
        present = {system.name: system for system in run.systems()}
        chosen = tuple(systems) or tuple(present)
        files: dict[str, dict[str, Path | str]] = {}
        for system in chosen:
            if system in present:
                for item, file in _files(run, present[system]):
                    files.setdefault(item, {}).setdefault(system, file)
        if not any(isinstance(file, Path) for own in files.values() for file in own.values()):
            raise TalkbenchError(
                f"{run.path} has no clip of {', '.join(chosen) or 'any system'}. Make some: "
                f"`talkbench generate SUITE --system NAME --out {run.path}`, "
                f"or bring your own: `talkbench score FOLDER --out {run.path}`."
            )
        listed = {item.id: place for place, item in enumerate(run.suite.items or ())}
        order = sorted(files, key=lambda item: (listed.get(item, len(listed)), item))
        lengths: dict[str, float] = {}
        for clip in run.clips():
            if clip.decoded is not None and clip.item in files:
                lengths[clip.item] = max(clip.decoded.duration_seconds, lengths.get(clip.item, 0.0))
        return cls(run, chosen, {item: files[item] for item in order}, lengths)

    def item(
        self, asked: str | None, least_seconds: float = 0.0, better: Callable[[str], float] = lambda _: 0.0
    ) -> str:
        """Return the item asked for, or the best of those that most systems have and that are long enough.

        Args:
            asked: Id of an item; None to choose.
            least_seconds: How long it must be.
            better: Higher is better; among equals the first of the suite is taken.

        Raises:
            TalkbenchError: If no system has it, or no clip is that long.
        """
        if asked is not None:
            if asked not in self.files:
                known = ", ".join(list(self.files)[:5])
                raise TalkbenchError(
                    f"no system shown has a clip of item {asked!r}.{suggest(asked, self.files)} Items: {known}."
                )
            return asked
        fit = [item for item in self.files if self.seconds(item) >= least_seconds]
        if not fit:
            raise TalkbenchError(
                f"{self.run.path} has no clip of {least_seconds:g} s or more. Make some: "
                f"`talkbench generate long --system NAME --out RUN`, or name a clip and times: --item ID --times 1,2,3."
            )
        shown = {item: sum(isinstance(file, Path) for file in self.files[item].values()) for item in fit}
        return max(fit, key=lambda item: (shown[item], better(item)))

    def seconds(self, item: str) -> float:
        """Return how long an item lasts: as its suite says, or its longest scored clip, or one that can be read."""
        if (listed := self.listed(item)) is not None:
            return listed.duration_seconds
        if item in self.lengths:
            return self.lengths[item]
        for file in self.files[item].values():
            if isinstance(file, Path):
                try:
                    (end,) = stills(file, [_FAR])
                except Undecodable:
                    continue  # its panels will say so; another clip of the item may tell the length
                if isinstance(end, PastEnd):
                    return end.duration_seconds
        return 0.0

    def listed(self, item: str) -> Item | None:
        """Return the suite's item of that id, if its list is frozen and has it."""
        return next((each for each in self.run.suite.items or () if each.id == item), None)

    def shown(self, system: str, item: str) -> Path | str:
        """Return a system's clip of an item, or why there is none."""
        present = {each.name: each for each in self.run.systems()}
        if system not in present:
            return "not in this run"
        if (file := self.files[item].get(system)) is not None:
            return file
        listed = self.listed(item)
        if listed is not None and not present[system].takes_part(listed.tier):
            return f"takes no part in {listed.tier} items"
        failed = attempts.outcome(self.run.path, system, item)
        return "no clip of this item" if failed in {None, attempts.MADE} else f"not generated: {failed}"

    def label(self, system: str) -> str:
        """Return the name of a system as the report prints it, if it is one of the report's."""
        return next((entry.label for entry in quoted.systems() if entry.adapters[0] == system), system)


def sidecar(clip: Path) -> Sidecar | None:
    """Return what `talkbench generate` wrote beside a clip, if it did."""
    path = clip.with_name(f"{clip.stem}.clip.json")
    return read_record(path, Sidecar) if path.is_file() else None


def _files(run: Run, system: SystemRecord) -> Iterator[tuple[str, Path | str]]:
    """Yield the clips that were scored, then those that were only generated."""
    for clip in run.clips():
        if clip.system == system.name:
            yield clip.item, _file(run, clip, generated=system.kind == "generated")
    if system.kind == "generated":
        for path in sorted((run.path / "clips" / system.name).glob("*.mp4")):
            yield path.stem, path


def _file(run: Run, clip: ClipRecord, *, generated: bool) -> Path | str:
    if clip.problem is not None:
        return f"unusable: {clip.problem.reason}"
    return find(run, clip, generated=generated) or "the file is gone"


def find(run: Run, clip: ClipRecord, *, generated: bool) -> Path | None:
    """Return a clip's file; generated clips are found again after their run folder was moved."""
    stored = Path(clip.path)
    here = run.path / "clips" / stored.parent.name / stored.name
    if generated and here.is_file():
        return here
    return stored if stored.is_file() else None
