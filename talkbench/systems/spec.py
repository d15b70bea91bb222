"""`adapter.yaml` -> `SystemSpec`: what a system is, what it needs, how it is started, and how long to wait for it.

    title: What the systems of this file have in common
    licence: Apache-2.0
    source: {repo: OWNER/NAME, commit: 7 to 40 hex digits}
    systems:
      mysystem:
        version: 1
        description: One line for tables
        launch: ["{python}", "{shim}", "{here}/worker.py"]

`{python}` is our interpreter, `{shim}` our side of the protocol, `{here}` the folder of the file, `{weights}` the
folder of weight files, `{gpus}` the number of GPUs. A system with an environment of its own names that interpreter.
"""

from __future__ import annotations

import string
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from talkbench.errors import TalkbenchError
from talkbench.ids import digest
from talkbench.schema import Finite, Item, Rate, RelativePath, Tier

PLACEHOLDERS = ("python", "shim", "here", "weights", "gpus")

_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=100)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Part):
    """Where a system's code comes from."""

    repo: str = Field(description="OWNER/NAME, or an address.")
    commit: str | None = Field(default=None, pattern=r"^[0-9a-f]{7,40}$")


class WeightFolder(_Part):
    """Files that belong together, under the names their authors gave them: weights, a checkout, an environment."""

    folder: RelativePath
    url: str = Field(pattern=r"^https?://\S+$")
    licence: str
    about_gigabytes: Finite = Field(gt=0)
    files: tuple[RelativePath, ...] = Field(min_length=1, description="Files without which nothing works.")


class Environment(_Part):
    """The Python environment of a system that cannot share ours."""

    python: str = Field(pattern=r"^3\.\d+$", description="Version of the interpreter.")
    requirements: RelativePath = Field(description="Packages, beside the adapter.yaml: a solved lock or a plain list.")


class Needs(_Part):
    """What must be there before it is started."""

    gpus: int = Field(default=0, ge=0, description="GPUs of one process or group of processes.")
    gpu_gigabytes: Finite | None = Field(default=None, gt=0, description="Memory of each GPU; null if nobody says.")
    ram_gigabytes: Finite | None = Field(default=None, gt=0, description="Host memory, without the clip's frames.")
    ram_gigabytes_per_second: Finite = Field(default=0.0, ge=0, description="More for every second of sound.")
    environment: Environment | None = None
    modules: tuple[str, ...] = Field(default=(), description="Modules that `{python}` must be able to import.")
    install: str | None = Field(default=None, description="Command that installs them.")
    weights: tuple[WeightFolder, ...] = ()


class ClipLimits(_Part):
    """What clips it can make."""

    max_seconds: Finite | None = Field(default=None, gt=0)
    frame_rate: Rate = "25"
    tolerance_frames: int = Field(
        default=1, ge=0, description="How far a clip may be longer or shorter than its sound."
    )


class Patience(_Part):
    """How long to wait before it is killed."""

    start_seconds: Finite = Field(default=120.0, gt=0, description="Until it says hello: imports, loading weights.")
    silence_seconds: Finite = Field(default=120.0, gt=0, description="Between signs of life in a job.")
    job_seconds: Finite = Field(default=120.0, gt=0, description="For a job of no length.")
    job_seconds_per_second: Finite = Field(default=60.0, ge=0, description="More for every second of sound.")


class SystemSpec(_Part):
    """A system that runs in processes of its own."""

    name: _Name
    version: int = Field(ge=1, description="Bumped whenever the same job would become another clip.")
    description: str = Field(min_length=1)
    caution: str = Field(default="", description="A footnote wherever it stands in a table.")
    title: str
    licence: str = Field(min_length=1)
    source: Source
    launch: tuple[str, ...] = Field(min_length=1)
    needs: Needs = Needs()
    limits: ClipLimits = ClipLimits()
    patience: Patience = Patience()
    scenario: Literal["single", "stream", "offline"] = Field(default="single", description="Meaning of its timing.")
    prompt: str | None = Field(default=None, description="Text it is given; none for its own.")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Choices that a reader of the table should know."
    )
    path: Path = Field(description="The adapter.yaml.")

    @field_validator("launch")
    @classmethod
    def _only_known_placeholders(cls, launch: tuple[str, ...]) -> tuple[str, ...]:
        for argument in launch:
            for _, name, _, _ in string.Formatter().parse(argument):
                if name is not None and name not in PLACEHOLDERS:
                    raise ValueError(
                        f"{argument!r}: the placeholders are {', '.join(f'{{{p}}}' for p in PLACEHOLDERS)}"
                    )
        return launch

    @property
    def digest(self) -> str:
        """Changes whenever the same item would become another clip; neither wording nor patience enters."""
        kept: dict[str, Any] = dict.fromkeys(("name", "version", "source", "launch", "prompt", "settings"), True)
        kept |= {"limits": {"frame_rate"}, "needs": {"weights": {"__all__": {"folder", "files"}}}}
        return digest(self.model_dump(mode="json", include=kept))

    @property
    def tiers(self) -> tuple[Tier, ...] | None:
        """Tiers it takes part in: all."""
        return None

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second of its clips."""
        return Fraction(self.limits.frame_rate)

    def refuses(self, item: Item) -> str | None:
        """Return why the system cannot make the clip of an item, or None if it can."""
        longest = self.limits.max_seconds
        if longest is not None and item.duration_seconds > longest:
            return f"unsupported: lasts {item.duration_seconds:g} s, {self.name} makes clips of up to {longest:g} s"
        return None

    def command(self, **values: object) -> list[str]:
        """Return the launch line with its placeholders filled in."""
        return [argument.format_map({"here": self.path.parent, **values}) for argument in self.launch]


def read(path: Path) -> tuple[SystemSpec, ...]:
    """Return the systems that an adapter file describes.

    Raises:
        TalkbenchError: If it cannot be read, or a field of it is wrong.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TalkbenchError(f"cannot read the adapter {path}: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("systems"), dict) or not data["systems"]:
        raise TalkbenchError(f"{path}: expected `systems:` with one entry per system.")
    shared = {name: value for name, value in data.items() if name != "systems"}
    return tuple(_system(path, str(name), shared, fields) for name, fields in data["systems"].items())


def _system(path: Path, name: str, shared: dict[str, Any], fields: Any) -> SystemSpec:
    if not isinstance(fields, dict):
        raise TalkbenchError(f"{path}: systems.{name}: expected fields, found {type(fields).__name__}.")
    try:
        return SystemSpec.model_validate({**shared, **fields, "name": name, "path": path.resolve()})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise TalkbenchError(
            f"{path}: system {name}: {where}: {first['msg']} (found {first.get('input')!r:.80})."
        ) from error
