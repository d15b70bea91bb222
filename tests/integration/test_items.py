"""Scoring a part of the items."""

from __future__ import annotations

from pathlib import Path

import pytest

from talkbench import api
from talkbench.errors import TalkbenchError
from talkbench.store.run import Run


def test_only_matching_items_are_scored_and_the_rest_stays_missing(two_systems: Path, tmp_path: Path) -> None:
    api.score(two_systems, tmp_path / "run", items=["*-1", "*-3"], metrics=["flicker"], jobs=1)
    assert {row["item"] for row in Run(tmp_path / "run").current_rows()} == {"item-1", "item-3"}
    found = api.status(tmp_path / "run")
    assert found["systems"]["ours"]["metrics"]["flicker"]["missing"] == 2
    assert found["next"] == f"talkbench score {tmp_path / 'run'}"


def test_a_pattern_that_matches_nothing_is_refused_with_examples(two_systems: Path, tmp_path: Path) -> None:
    with pytest.raises(TalkbenchError, match="item-0"):
        api.score(two_systems, tmp_path / "run", items=["short-*"], metrics=["flicker"])
