"""The weight catalog: one entry per official file, and what is known of the copy at hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from talkbench.errors import TalkbenchError
from talkbench.registry import suggest

WeightsKind = Literal["released", "unverified", "mini-domain"]

_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_Url = Annotated[str, StringConstraints(pattern=r"^https?://\S+[^/\s]$")]
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$|^[0-9a-f]{4,}\.\.\.[0-9a-f]{4,}$")]


@dataclass(frozen=True)
class WeightFile:
    """A weight file at hand.

    Attributes:
        name: Catalog name: ``dino``.
        path: The file, or the folder of a sharded checkpoint.
        sha256: Of the file's bytes (of a folder: over the digests of its files), 64 hex digits.
        kind: ``released`` if the catalog vouches for the digest.
    """

    name: str
    path: Path
    sha256: str
    kind: WeightsKind


class Entry(BaseModel):
    """One official weight file, or the folder of a sharded checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _Name = Field(description="Catalog name, as runners ask for it.")
    file: _Name = Field(description="Official file name, or folder name if there are `parts`.")
    aliases: tuple[str, ...] = Field(default=(), description="Other relative paths under which people keep it.")
    urls: tuple[_Url, ...] = Field(default=(), description="Official addresses, tried in order; of a folder: its base.")
    parts: tuple[_Name, ...] = Field(default=(), description="Files of the folder besides its index and shards.")
    packaged: bool = Field(default=False, description="Comes with talkbench, in `weights/mini/`; never fetched.")
    stands_in_for: str = Field(
        default="", description="Weights whose place it takes on drawn clips, if they are absent."
    )
    about_megabytes: float = Field(gt=0, description="Published size, rounded, 10^6 bytes; no exact one is published.")
    sha256: _Digest | None = Field(default=None, description="Published digest, whole or quoted in short.")
    licence: str = Field(min_length=1)
    licence_note: str = Field(default="", description="What a user should know before fetching.")
    non_commercial: bool = False
    needed_by: tuple[str, ...] = Field(min_length=1, description="Outputs (`*`: any ending) and commands that use it.")
    source: str = Field(min_length=1, description="Where address and digest are stated.")

    @model_validator(mode="after")
    def _has_an_origin(self) -> Entry:
        if self.packaged == bool(self.urls):
            raise ValueError("give either `urls` or `packaged: true`")
        if self.packaged and (self.sha256 is None or "..." in self.sha256):
            raise ValueError("a packaged file needs its whole sha256")
        return self

    @property
    def is_folder(self) -> bool:
        """Whether it is a sharded checkpoint."""
        return bool(self.parts)

    def vouches(self, digest: str) -> bool:
        """Return whether the published digest, whole or in short, is that of a file with `digest`."""
        if self.sha256 is None:
            return False
        first, _, last = self.sha256.partition("...")
        return digest.startswith(first) and digest.endswith(last)


@cache
def catalog() -> dict[str, Entry]:
    """Return the catalog by name, in the order of the file."""
    data = yaml.safe_load((files("talkbench.weights") / "catalog.yaml").read_text(encoding="utf-8"))
    return {name: Entry.model_validate({"name": name, **entry}) for name, entry in data.items()}


def entries(names: Sequence[str]) -> tuple[Entry, ...]:
    """Return catalog entries by name, each once; ``all`` stands for every one that can be fetched.

    Args:
        names: Catalog names; each may be a comma-separated list.

    Raises:
        TalkbenchError: If a name is unknown.
    """
    known = catalog()
    wanted = [part for name in names for part in re.split(r"[,\s]+", name) if part]
    for name in wanted:
        if name not in known and name != "all":
            raise TalkbenchError(
                f"unknown weights {name!r}.{suggest(name, [*known, 'all'])} "
                f"Known: {', '.join(known)} (`talkbench weights list`), or all."
            )
    everything = [name for name, entry in known.items() if not entry.packaged] if "all" in wanted else []
    return tuple(known[name] for name in dict.fromkeys([*wanted, *everything]) if name != "all")
