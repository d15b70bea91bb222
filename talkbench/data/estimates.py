"""Labels that a set does not state, estimated elsewhere and marked so: JSON lines with `clip_id`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from talkbench.data.protocol import AGES, ETHNICITIES, GENDERS, LANGUAGES
from talkbench.data.records import label, number
from talkbench.data.stream import Broken, elements_of

Estimates = Mapping[str, Mapping[str, Any]]


class Guess(NamedTuple):
    """Estimated labels of a clip; None where there is none."""

    gender: str | None
    age: str | None
    ethnicity: str | None
    language: str | None
    face_share: float | None


def guessed(estimates: Mapping[str, Any]) -> Guess:
    """Return the labels of one line of estimates.

    Raises:
        Rejected: If one of them is of a wrong type or unknown.
    """
    return Guess(
        gender=label(estimates, "gender", GENDERS),
        age=label(estimates, "age", AGES),
        ethnicity=label(estimates, "ethnicity", ETHNICITIES),
        language=label(estimates, "language", frozenset(LANGUAGES.values())),
        face_share=number(estimates, "face_share", low=0, high=1),
    )


def read_estimates(path: Path, reasons: dict[str, int], wanted: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the estimated labels of clips from JSON lines with `clip_id`; a clip with two different lines has none.

    Args:
        path: The file; it may speak of all the millions of clips of a set.
        reasons: Counts the lines that cannot be used.
        wanted: Names of the clips that can be chosen; lines of others are passed over, so memory does not grow.
    """
    found: dict[str, dict[str, Any]] = {}
    contradictory = set()
    for element in elements_of(path):
        reason = None
        if isinstance(element, Broken):
            reason = element.reason
        elif not isinstance(element, dict) or not isinstance(element.get("clip_id"), str):
            reason = "missing:clip_id"
        elif element["clip_id"] not in wanted:
            continue
        elif found.setdefault(element["clip_id"], element) != element:
            reason = "contradictory-id"
            contradictory.add(element["clip_id"])
        if reason:
            reasons[reason] = reasons.get(reason, 0) + 1
    return {name: labels for name, labels in found.items() if name not in contradictory}
