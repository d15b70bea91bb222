"""What adapters declare of their clips, and when a clip is another one."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from talkbench.ids import digest, key
from talkbench.mini.suite import mini_suite
from talkbench.systems.spec import ClipLimits
from talkbench.systems.task import job_key


def test_a_clip_encoded_under_the_other_policy_is_another_clip_and_old_keys_stay() -> None:
    (item,) = mini_suite(num_short=1, num_long=0).items or ()
    before = key({"item": digest(item.model_dump(mode="json")), "system": "abc"})
    assert job_key(item, "abc") == job_key(item, "abc", "native") == before
    assert job_key(item, "abc", "tap") != before


@pytest.mark.parametrize("size", ["512", "512x", "x512", "0x512", "512X512", "512x512x3"])
def test_a_size_that_is_none_is_refused_where_it_is_declared(size: str) -> None:
    with pytest.raises(ValidationError):
        ClipLimits(sizes=(size,))
    assert ClipLimits(sizes=("832x480",)).sizes_px == ((832, 480),)
