"""Find and read suites.

A suite is a YAML header (`<name>.v<version>.yaml`) with, beside it, one JSON line per item (`.jsonl`) once its list is
frozen. A path to a `.jsonl` file of items is a suite too. `mini` is computed, not stored.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from talkbench.errors import TalkbenchError
from talkbench.registry import suggest
from talkbench.schema import Item, Suite, TierRule

FOLDER = Suite(
    name="folder",
    version=1,
    title="Clips",
    description="Any folder of clips: items are the file names, every item is its own identity.",
    licence="as the clips",
    tiers=(TierRule(name="clips", title="Clips"),),
)


def names() -> tuple[str, ...]:
    """Return the names of the built-in suites."""
    stored = sorted(entry.name.partition(".v")[0] for entry in _data().iterdir() if entry.name.endswith(".yaml"))
    return ("mini", *stored)


def load(name: str) -> Suite:
    """Return a suite by name (`short`, `short.v1`) or by the path of a `.jsonl` file.

    Raises:
        TalkbenchError: If nothing of that name exists, or a line of it is wrong.
    """
    if name.endswith(".jsonl"):
        return _from_file(Path(name))
    base, _, version = name.partition(".v")
    if base == "mini":
        from talkbench.mini.suite import mini_suite

        return mini_suite()
    header = next((e for e in _data().iterdir() if e.name == f"{base}.v{version or 1}.yaml"), None)
    if header is None:
        raise TalkbenchError(
            f"unknown suite {name!r}.{suggest(name, names())} Known: {', '.join(names())} (`talkbench manifest list`), "
            "or the path of a .jsonl file of items."
        )
    suite = Suite.model_validate(yaml.safe_load(header.read_text(encoding="utf-8")))
    listed = _data() / f"{suite.id}.jsonl"
    return (
        suite.model_copy(update={"items": read_items(listed.read_text(encoding="utf-8"), suite.id)})
        if listed.is_file()
        else suite
    )


def folder_of(name: str) -> Path | None:
    """Return the folder that a suite's files lie in, if it was named by the path of a `.jsonl` file."""
    return Path(name).parent if name.endswith(".jsonl") else None


def read_items(text: str, where: str) -> tuple[Item, ...]:
    """Return the items of a manifest's lines.

    Raises:
        TalkbenchError: At the first line that is no item, or an id that stands twice.
    """
    items = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            items.append(Item.model_validate(json.loads(line)))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "item"
            raise TalkbenchError(
                f"{where}, line {number}: {field}: {first['msg']} (found {first.get('input')!r:.80})."
            ) from error
        except ValueError as error:
            raise TalkbenchError(f"{where}, line {number}: not JSON ({error}).") from error
    twice = [item_id for item_id, count in Counter(item.id for item in items).items() if count > 1]
    if twice:
        raise TalkbenchError(f"{where}: item ids stand more than once: {', '.join(twice[:5])}.")
    return tuple(items)


def matches(item_id: str, patterns: Sequence[str]) -> bool:
    """Tell whether an item's id matches a pattern such as ``mini-s*``; without patterns, every id does."""
    return not patterns or any(fnmatchcase(item_id, pattern) for pattern in patterns)


def _from_file(path: Path) -> Suite:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TalkbenchError(f"cannot read the manifest {path}: {error}.") from error
    items = read_items(text, str(path))
    if not items:
        raise TalkbenchError(f"the manifest {path} has no items.")
    tiers = tuple(TierRule(name=tier, title=tier.capitalize()) for tier in dict.fromkeys(item.tier for item in items))
    name, _, version = path.stem.partition(".v")
    return Suite(
        name=name,
        version=int(version) if version.isdigit() else 1,
        title=name,
        description=f"Items of {path.name}",
        licence="as stated per item",
        tiers=tiers,
        items=items,
    )


def _data() -> Any:
    return files("talkbench.manifests") / "data"
