"""The files of a suite's items: made or checked, under names that are their digests.

Suites that come with talkbench hold no media. Items with a generator are drawn on first use and kept in the cache
folder; those of TalkBench come from `talkbench data`, beside a `.jsonl` of their own.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from talkbench import atomic
from talkbench.config import cache_folder
from talkbench.errors import TalkbenchError
from talkbench.ids import sha256_file
from talkbench.progress import Progress, Silent
from talkbench.schema import Asset, Item, Suite


@dataclass
class Fetched:
    """What is at hand.

    Attributes:
        folder: Where the suite's manifest and files lie.
        num_files: Files there, each with the sha256 that the manifest states.
        problems: (item, what is wrong): files that are missing or are others.
    """

    folder: Path
    num_files: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)


def assets_of(item: Item) -> tuple[Asset, ...]:
    """Return the files that an item names."""
    return tuple(asset for asset in (item.image, item.audio) if asset is not None)


def obtain(item: Item, asset: Asset) -> Path:
    """Return a file of an item that can be drawn, from the cache folder; drawn now if it is not there.

    Args:
        item: With a generator.
        asset: Its image or its audio.

    Raises:
        TalkbenchError: If what is drawn here is not the file that the manifest froze.
    """
    path = cache_folder() / "assets" / f"{asset.sha256}{Path(asset.path).suffix}"
    if path.is_file() and sha256_file(path) == asset.sha256:
        return path
    from talkbench.mini import open as drawn

    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, drawn.picture(item) if asset == item.image else drawn.sound(item))
    found = sha256_file(path)
    if found != asset.sha256:
        path.unlink()
        raise TalkbenchError(
            f"item {item.id}: this version draws {asset.path} with sha256 {found}, the manifest froze {asset.sha256}: "
            "use the version of talkbench that the manifest came with."
        )
    return path


def fetch(suite: Suite, to: Path, *, beside: Path | None = None, progress: Progress | None = None) -> Fetched:
    """Put a suite's files and its manifest into a folder; files that are there and whole are kept.

    Args:
        suite: With items.
        to: The folder; `<to>/<suite>.jsonl` is then a suite by path.
        beside: Folder of a manifest given by path: its files are there already, and only checked.
        progress: Told about every item.

    Raises:
        TalkbenchError: If the suite has no items or names no files, or what is drawn here is not what was frozen.
    """
    if suite.items is None:
        raise TalkbenchError(
            f"the item list of {suite.id} is not frozen: build it with `talkbench data index`, `select`, `fetch` and "
            "`render`, then give the path of its .jsonl."
        )
    if not any(assets_of(item) for item in suite.items):
        raise TalkbenchError(f"{suite.id} names no files: its items are drawn when a system asks for them.")
    done = Fetched(beside or to)
    report = progress or Silent()
    report.start("fetch", len(suite.items))
    for item in suite.items:
        before = len(done.problems)
        for asset in assets_of(item):
            path = done.folder / asset.path
            if beside is None and not _is(path, asset):
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(obtain(item, asset), path)
            if _is(path, asset):
                done.num_files += 1
            else:
                done.problems.append((item.id, f"{path} {'has another sha256' if path.is_file() else 'is not there'}"))
        report.step(item.id, ok=len(done.problems) == before)
    report.finish()
    if beside is None:
        atomic.write_text(to / f"{suite.id}.jsonl", "".join(f"{item.to_json()}\n" for item in suite.items))
    return done


def _is(path: Path, asset: Asset) -> bool:
    return path.is_file() and sha256_file(path) == asset.sha256
