"""Run configuration: a YAML file and command-line overrides become one validated object.

The only reader of environment variables: `TALKBENCH_CACHE` (where generated assets and fetched weights are kept),
`CUDA_VISIBLE_DEVICES`, and those that a worker process may inherit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from talkbench.errors import TalkbenchError
from talkbench.registry import suggest


class RunConfig(BaseModel):
    """What one invocation does; stored with the run and accepted back as is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clips: tuple[str, ...] = Field(default=(), description="Folders of clips, each FOLDER or NAME=FOLDER.")
    suite: str | None = Field(default=None, description="Suite name or path; none for any folder of clips.")
    out: str | None = Field(default=None, description="Run folder.")
    items: tuple[str, ...] = Field(default=(), description="Patterns of item ids; all by default.")
    metrics: tuple[str, ...] = Field(default=("all",), description="Metric or group names.")
    params: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Metric name -> its parameters.")
    systems: tuple[str, ...] = Field(default=(), description="Systems to generate with.")
    weights_dir: str | None = Field(default=None, description="Folder with weight files under their official names.")
    allow_unverified: bool = Field(default=False, description="Accept weight files of unknown origin, marked.")
    device: str = "cpu"
    gpus: int | None = Field(default=None, ge=0, description="GPUs to generate with; none for every visible one.")
    jobs: int | None = Field(default=None, ge=1, description="Processes; none for one per core.")
    ray: str | None = Field(default=None, description="Ray cluster to work on: auto, local or HOST:PORT.")
    slurm: str | None = Field(default=None, description="Options of Slurm jobs to generate in: KEY=VALUE,...")
    encode: Literal["native", "tap"] = Field(default="native", description="Who encodes the clips of adapters.")
    retries: int = Field(default=1, ge=0, description="How often a clip is tried again after a crash or a time limit.")
    rerun: Literal["missing", "failed", "all", "none"] = "missing"

    def with_overrides(self, **given: Any) -> RunConfig:
        """Return a copy in which every override that is not None or empty wins."""
        chosen = {name: value for name, value in given.items() if value not in (None, (), [])}
        return RunConfig.model_validate(self.model_dump() | chosen)


def load(path: Path) -> RunConfig:
    """Read a configuration file.

    Raises:
        TalkbenchError: If it cannot be read, or a key or value of it is wrong.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TalkbenchError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(data, dict):
        raise TalkbenchError(f"{path}: expected `key: value` lines, found {type(data).__name__}.")
    unknown = [str(key) for key in data if key not in RunConfig.model_fields]
    if unknown:
        known = list(RunConfig.model_fields)
        raise TalkbenchError(
            f"{path}: unknown key {unknown[0]!r}.{suggest(unknown[0], known)} Known: {', '.join(known)}."
        )
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise TalkbenchError(f"{path}: {where}: {first['msg']} (found {first.get('input')!r:.80}).") from error


_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "LD_LIBRARY_PATH", "TALKBENCH_CACHE", "XDG_CACHE_HOME")
_INHERITED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_", "TORCH", "TRITON_", "HF_", "SLURM_")


def inherited_environment() -> dict[str, str]:
    """Return the variables that a worker process may see: where things are and what hardware to use, nothing else."""
    return {
        name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }


def visible_gpus(num_installed: int) -> list[str]:
    """Return the GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(number) for number in range(num_installed)]
    return [name.strip() for name in chosen.split(",") if name.strip()][:num_installed]


def weights_folder() -> Path:
    """Return where weights are looked for unless a command names another folder; absolute."""
    return (cache_folder() / "weights").expanduser().resolve()


def cache_folder() -> Path:
    """Return where generated assets and fetched weights are kept: `TALKBENCH_CACHE`, or the user's cache folder."""
    chosen = os.environ.get("TALKBENCH_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(base) / "talkbench"
