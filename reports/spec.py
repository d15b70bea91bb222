"""YAML spec -> which outputs, in which order, under which title; and the published table to quote beside it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from talkbench.errors import TalkbenchError
from talkbench.registry import suggest


class Spec(BaseModel):
    """What a table shows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    caption: str
    source: Literal["rows", "profiles", "ablation"] = Field(
        default="rows", description="What of a run it is made from."
    )
    outputs: tuple[str, ...] = Field(description="Output ids, in column order; those without a value are footnoted.")
    labels: dict[str, str] = Field(default_factory=dict, description="Label of outputs whose runner is not installed.")
    quoted: str | None = Field(default=None, description="Published table shown beside the measured one.")
    beside: bool = Field(
        default=False, description="Quoted values in the same table, for suites with the report's systems."
    )
    needs: str | None = Field(default=None, description="What to run if a run has none of the outputs.")


def folder() -> Any:
    """Return this package's folder, installed or not."""
    return files(__package__ or "reports")


def names() -> list[str]:
    """Return the names of the specs that ship with talkbench."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in (folder() / "specs").iterdir() if entry.name.endswith(".yaml")
    )


def load(name: str) -> Spec:
    """Return a spec by name, or from a `.yaml` path.

    Raises:
        TalkbenchError: If there is none, or a key of it is wrong.
    """
    source = Path(name) if name.endswith((".yaml", ".yml")) else folder() / "specs" / f"{name}.yaml"
    if not source.is_file():
        known = [*names(), "figures", "figure3", "figure4", "figure5", "figure6", "page"]
        raise TalkbenchError(
            f"unknown report {name!r}.{suggest(name, known)} Known: {', '.join(known)}, or the path of a .yaml spec."
        )
    try:
        return Spec.model_validate(yaml.safe_load(source.read_text(encoding="utf-8")))
    except (ValueError, yaml.YAMLError) as error:
        raise TalkbenchError(f"{source}: not a report spec: {error}") from error
