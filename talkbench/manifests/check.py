"""What is wrong with a suite beyond its schema: lengths, licences, numbers, and the files where they are at hand."""

from __future__ import annotations

import wave
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from talkbench.ids import sha256_file
from talkbench.schema import Asset, Item, Suite

MAX_UNEQUAL_SECONDS = 0.05
MIN_IMAGE_PX = 128


def check(suite: Suite, assets: Path | None = None) -> list[str]:
    """Return what is wrong with a suite, one sentence each; empty if nothing is.

    Args:
        suite: Without items there is nothing to check.
        assets: Folder that the items' paths are relative to; without it files are not looked at.
    """
    if suite.items is None:
        return []
    return [
        *_lengths_and_licences(suite, suite.items),
        *_doubles(suite.items),
        *(problem for item in suite.items if assets is not None for problem in _files(item, assets)),
    ]


def languages(suite: Suite) -> dict[str, int]:
    """Return how many items speak each language, most frequent first."""
    return dict(Counter(item.language for item in suite.items or ()).most_common())


def _lengths_and_licences(suite: Suite, items: tuple[Item, ...]) -> Iterator[str]:
    rules = {rule.name: rule for rule in suite.tiers}
    for item in items:
        rule = rules.get(item.tier)
        if rule is None:
            yield f"item {item.id}: tier {item.tier!r} is not one of {', '.join(rules)}"
        elif not rule.admits(item.duration_seconds):
            allowed = f"{rule.min_seconds:g}-{'' if rule.max_seconds is None else format(rule.max_seconds, 'g')} s"
            yield f"item {item.id}: lasts {item.duration_seconds:.2f} s, but tier {rule.name} holds {allowed}"
        if item.licence == "unknown":
            yield f"item {item.id}: no licence"
    for rule in suite.tiers:
        count = sum(item.tier == rule.name for item in items)
        if rule.num_items is not None and count != rule.num_items:
            yield f"tier {rule.name}: {count} items, {rule.num_items} expected"


def _doubles(items: tuple[Item, ...]) -> Iterator[str]:
    """Tell of files that two items share: the same speech twice is one sample, not two."""
    for kind in ("image", "audio"):
        first: dict[str, Item] = {}
        for item in items:
            asset: Asset | None = getattr(item, kind)
            if asset is None:
                continue
            other = first.setdefault(asset.sha256, item)
            if other is not item and (kind == "audio" or other.identity != item.identity):
                yield f"item {item.id}: has the {kind} of item {other.id}"


def _files(item: Item, assets: Path) -> Iterator[str]:
    for asset in (item.image, item.audio):
        if asset is None:
            continue
        path = assets / asset.path
        if not path.is_file():
            yield f"item {item.id}: {asset.path} is not there"
        elif sha256_file(path) != asset.sha256:
            yield f"item {item.id}: {asset.path} has another sha256 than the manifest says"
        elif problem := (_picture if asset is item.image else _sound)(item, path):
            yield f"item {item.id}: {asset.path} {problem}"


def _picture(_item: Item, path: Path) -> str | None:
    try:
        with Image.open(path) as picture:
            picture.load()
            small = min(picture.size) < MIN_IMAGE_PX
            return f"is {picture.width}x{picture.height}, below {MIN_IMAGE_PX} pixels a side" if small else None
    except (UnidentifiedImageError, OSError) as error:
        return f"cannot be decoded: {error}"


def _sound(item: Item, path: Path) -> str | None:
    if path.suffix != ".wav":
        return None
    try:
        with wave.open(str(path)) as file:
            seconds = file.getnframes() / file.getframerate()
    except (wave.Error, EOFError) as error:
        return f"cannot be decoded: {error}"
    if abs(seconds - item.duration_seconds) <= MAX_UNEQUAL_SECONDS:
        return None
    return f"lasts {seconds:.2f} s, the manifest says {item.duration_seconds:.2f} s"
