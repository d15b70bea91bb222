"""One clip to make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from talkbench.schema import Item


@dataclass(frozen=True)
class Task:
    """One clip to make.

    Attributes:
        system: Name of the system.
        item: What to make a clip of.
        path: Where it belongs.
        key: Changes whenever the clip would.
    """

    system: str
    item: Item
    path: Path
    key: str
