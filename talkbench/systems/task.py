"""One clip to make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from talkbench.ids import digest, key
from talkbench.schema import Encode, Item


@dataclass(frozen=True)
class Task:
    """One clip to make.

    Attributes:
        system: Name of the system.
        item: What to make a clip of.
        path: Where it belongs.
        key: Changes whenever the clip would.
        force: Make it even if it is there.
        encode: ``native`` leaves the clip as its system writes it; ``tap`` brings it into the layout that the clips of
            all systems share then (`talkbench.media.normalise`), with the benchmark's own sound.
    """

    system: str
    item: Item
    path: Path
    key: str
    force: bool = False
    encode: Encode = "native"

    @property
    def label(self) -> str:
        """Name for progress and messages."""
        return f"{self.system}/{self.item.id}"


def job_key(item: Item, system_digest: str, encode: Encode = "native") -> str:
    """Return the key of a generation job: another one whenever the clip would be another.

    Args:
        item: What to make a clip of.
        system_digest: Of the system that makes it.
        encode: Who encodes it. ``native`` adds nothing, so that keys from before there was a choice stay.
    """
    tapped = {} if encode == "native" else {"encode": encode}
    return key({"item": digest(item.model_dump(mode="json")), "system": system_digest, **tapped})
