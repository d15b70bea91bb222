"""Older records -> the current schema, one function per step; a file of each version stays in the tests for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from talkbench.errors import TalkbenchError
from talkbench.schema import SCHEMA_VERSION

STEPS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Version n -> the function that lifts a record from n to n + 1. Version 1 is the first, so there is none yet."""


def lift(record: dict[str, Any], where: str) -> dict[str, Any]:
    """Return `record` in the current schema.

    Raises:
        TalkbenchError: If a newer talkbench wrote it, or it carries no version.
    """
    version = record.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise TalkbenchError(f"{where}: no schema_version, so this is not a talkbench record.")
    if version > SCHEMA_VERSION:
        raise TalkbenchError(
            f"{where}: schema {version}, but this talkbench reads up to {SCHEMA_VERSION}. "
            "Upgrade with `pip install --upgrade talkbench`."
        )
    while version < SCHEMA_VERSION:
        record = STEPS[version](record)
        version += 1
    return record
