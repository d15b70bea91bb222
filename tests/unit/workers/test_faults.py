"""The words for clips that were not made: each in use has a sentence, and the README prints the same."""

from __future__ import annotations

import inspect
import re
from typing import get_args

import pytest

from talkbench.media import decode, probe
from talkbench.workers import faults
from talkbench.workers.host import Reason
from tests.support import ROOT

README = (ROOT / "baselines" / "README.md").read_text(encoding="utf-8")


def test_every_word_that_the_code_can_say_is_listed() -> None:
    used = set()
    for path in ("workers/accept.py", "systems/face_check.py"):
        source = (ROOT / "talkbench" / path).read_text(encoding="utf-8")
        used |= set(re.findall(r'RefusedClipError\(\s*"([a-z-]+)"', source))
    for part in (probe, decode.stored_frames):
        used |= set(re.findall(r'Undecodable\(\s*"([a-z-]+)"', inspect.getsource(part)))
    assert used == set(faults.FAULTS)
    assert set(get_args(Reason)) == set(faults.REASONS)


@pytest.mark.parametrize("words", [faults.REASONS, faults.KINDS, faults.FAULTS], ids=["reasons", "kinds", "faults"])
def test_the_readme_prints_every_word_with_its_sentence(words: dict[str, str]) -> None:
    for word, sentence in words.items():
        assert f"| {word} | {sentence} |" in README
