"""`adapter.yaml` -> `SystemSpec`: what a system is, what it needs, how it is started, and how long to wait for it.

    title: What the systems of this file have in common
    licence: Apache-2.0
    source: {repo: OWNER/NAME, commit: 7 to 40 hex digits}
    systems:
      mysystem:
        version: 1
        description: One line for tables
        launch: ["{python}", "{shim}", "{here}/worker.py", "{name}"]

`{python}` is the interpreter of the system's own environment, or ours if it has none; `{shim}` our side of the
protocol, `{here}` the folder of the file, `{name}` the system, `{source}` the checkout of its official code,
`{weights}` the folder of weight files, `{gpus}` the number of GPUs.
"""

from __future__ import annotations

import shlex
import string
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from talkbench.config import weights_folder
from talkbench.errors import TalkbenchError
from talkbench.ids import digest
from talkbench.schema import Finite, Item, Rate, RelativePath, Tier
from talkbench.workers.checkout import Checkout
from talkbench.workers.envs import Recipe

PLACEHOLDERS = ("python", "shim", "here", "name", "source", "weights", "gpus")

_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=100)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Part):
    """Where a system's code comes from."""

    repo: str = Field(description="OWNER/NAME on GitHub, or an address.")
    commit: str | None = Field(default=None, pattern=r"^[0-9a-f]{7,40}$")
    entry: RelativePath | None = Field(
        default=None, description="A file of it without which nothing works; null if no checkout is needed."
    )

    @property
    def url(self) -> str:
        """What it is cloned from."""
        return self.repo if ":" in self.repo else f"https://github.com/{self.repo}"


class WeightFolder(_Part):
    """Weight files that belong together, under the names their authors gave them."""

    folder: RelativePath
    url: str = Field(pattern=r"^https?://\S+$")
    licence: str
    about_gigabytes: Finite = Field(gt=0)
    files: tuple[RelativePath, ...] = Field(min_length=1, description="Files without which nothing works.")


class Environment(_Part):
    """The Python environment of a system that cannot share ours, and where the checkout of its code lies."""

    name: _Name = Field(description="For `talkbench env create NAME`; both lie in `baselines/<name>` of the weights.")
    python: str = Field(pattern=r"^3\.\d+$", description="Version of the interpreter.")
    lock: RelativePath = Field(description="Exact versions of all packages, beside the adapter.yaml.")
    about_gigabytes: Finite = Field(gt=0)
    compiled: tuple[str, ...] = Field(
        default=(), description="NAME==VERSION of what is built against the lock's torch."
    )
    imports: tuple[str, ...] = Field(default=(), description="Modules that show that it works.")


class Needs(_Part):
    """What must be there before it is started."""

    gpus: int = Field(default=0, ge=0, description="GPUs of one process or group of processes.")
    gpu_gigabytes: Finite | None = Field(default=None, gt=0, description="Memory of each GPU; null if nobody says.")
    ram_gigabytes: Finite | None = Field(default=None, gt=0, description="Host memory, without the clip's frames.")
    ram_gigabytes_per_second: Finite = Field(default=0.0, ge=0, description="More for every second of sound.")
    gpu_seconds_per_second: Finite | None = Field(
        default=None,
        gt=0,
        description="GPU seconds per second of video, quoted from the authors or the report; only for plans.",
    )
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
    sizes: tuple[Annotated[str, StringConstraints(pattern=r"^[1-9]\d*x[1-9]\d*$")], ...] = Field(
        default=(), description="WIDTHxHEIGHT of its clips, if these are a fixed list; none for any."
    )
    lead_trim_frames: int = Field(
        default=0,
        ge=0,
        description="Frames it puts before the sound, which its worker cuts off; checked on every clip.",
    )
    makes_sound: bool = Field(
        default=True, description="Whether its own file has a sound track; then one without it is a failure of it."
    )
    shows_reference: bool = Field(
        default=False,
        description="Whether its first frame is the picture it is given and the face in it stays about as large; then "
        "a clip that shows something else is refused.",
    )

    @property
    def sizes_px(self) -> tuple[tuple[int, int], ...]:
        """Widths and heights of its clips; none for any."""
        pairs = (size.split("x") for size in self.sizes)
        return tuple((int(width), int(height)) for width, height in pairs)


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
    prompt: str | None = Field(default=None, description="Text it is given for items that have none; null for its own.")
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
        kept: dict[str, Any] = dict.fromkeys(("name", "version", "launch", "prompt", "settings"), True)
        kept |= {
            "source": {"repo", "commit"},
            "limits": {"frame_rate"},
            "needs": {"weights": {"__all__": {"folder", "files"}}},
        }
        return digest(self.model_dump(mode="json", include=kept))

    @property
    def tiers(self) -> tuple[Tier, ...] | None:
        """Tiers it takes part in: all."""
        return None

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second of its clips."""
        return Fraction(self.limits.frame_rate)

    def ram_gigabytes(self, seconds: float) -> float:
        """Return the host memory of a job of this length, in 10^9 bytes, as far as the adapter says."""
        return (self.needs.ram_gigabytes or 0.0) + self.needs.ram_gigabytes_per_second * seconds

    def refuses(self, item: Item) -> str | None:
        """Return why the system cannot make the clip of an item, or None if it can."""
        longest = self.limits.max_seconds
        if longest is not None and item.duration_seconds > longest:
            return f"unsupported: lasts {item.duration_seconds:g} s, {self.name} makes clips of up to {longest:g} s"
        return None

    def recipe(self, weights: Path) -> Recipe | None:
        """Return how its environment is made below a folder of weights; None if it runs in ours."""
        wanted = self.needs.environment
        if wanted is None:
            return None
        return Recipe(
            name=wanted.name,
            folder=weights / "baselines" / wanted.name / "env",
            python=wanted.python,
            lock=self.path.parent / wanted.lock,
            about_gigabytes=wanted.about_gigabytes,
            compiled=wanted.compiled,
            imports=wanted.imports,
            options=option_for(weights),
        )

    def checkout(self, weights: Path) -> Checkout | None:
        """Return which checkout of its official code it needs below a folder of weights; None if it needs none."""
        name, commit, entry = self._place, self.source.commit, self.source.entry
        if commit is None or entry is None:
            return None
        folder = weights / "baselines" / name / "source"
        create = f"talkbench env create {name} --source{option_for(weights)}"
        return Checkout(self.source.url, commit, folder, entry, create)

    def command(self, *, python: str, weights: Path | str, **values: object) -> list[str]:
        """Return the launch line with its placeholders filled in.

        Args:
            python: Our interpreter, for a system without an environment of its own.
            weights: Folder of weight files.
            values: The other placeholders that only the caller knows: `shim`, `gpus`.
        """
        recipe = self.recipe(Path(weights))
        filled = {
            "here": self.path.parent,
            "name": self.name,
            "python": python if recipe is None else recipe.interpreter,
            "source": Path(weights) / "baselines" / self._place / "source",
            "weights": weights,
        }
        return [argument.format_map(filled | values) for argument in self.launch]

    @property
    def _place(self) -> str:
        return self.name if self.needs.environment is None else self.needs.environment.name


def option_for(weights: Path) -> str:
    """Return what a command needs besides to find a folder of weights: nothing for the default one."""
    return "" if weights == weights_folder() else f" --weights-dir {shlex.quote(str(weights))}"


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
