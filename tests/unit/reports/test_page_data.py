"""What the page's scripts are given: links, reasons, curves; JSON that survives any name."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from reports import page_data
from talkbench.schema import Item
from talkbench.store.run import Run
from tests.support import row

FLICKER = "vbench.temporal_flickering"
WEIRD = ["a b.mp4", 'it\'s "q".mp4', "<script>alert(1).mp4", "100%?#é&amp;.mp4", "日本語.mp4", "a;b=c:d.mp4", "%41.mp4"]


def collect(run: Run, folder: Path | None = None) -> dict[str, Any]:
    data = page_data.collect(page_data.Source.read(run), folder or run.path / "report")
    json.dumps(data, allow_nan=False)
    return data


@pytest.mark.parametrize("name", WEIRD)
def test_a_link_leads_back_to_the_file_whatever_its_name(tmp_path: Path, name: str) -> None:
    file, page = tmp_path / "clips of #1" / name, tmp_path / "run" / "report"
    url = page_data.relative_url(file, page)
    assert (page / unquote(url)).resolve() == file
    assert not set(url) & set(" \"'<>?#&;:")
    assert url.startswith("../../")


def test_data_cannot_leave_its_script_element() -> None:
    data = {"name": "</script><script>alert(1)</script><!-- &amp; \u2028\u2029 ünï"}
    text = page_data.to_script(data)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == data


def test_a_number_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        page_data.to_script({"value": float("nan")})


def test_systems_and_items_come_in_the_order_of_run_and_suite(make_run: Callable[..., Any]) -> None:
    items = [
        Item(id=name, tier="short", identity="p", duration_seconds=2, text="Hello", language="en")
        for name in ("z", "a", "m")
    ]
    maker = make_run(items)
    for system in ("second", "first"):
        maker.system(system)
    for item in ("a", "z", "stranger"):
        maker.clip("first", item)
    data = collect(maker.run)
    assert [system["name"] for system in data["systems"]] == ["second", "first"]
    assert [item["id"] for item in data["items"]] == ["z", "a", "stranger"], "m has no clip; strangers come last"
    assert data["items"][0]["text"] == "Hello"
    assert (data["items"][2]["seconds"], data["items"][2]["identity"]) == (2.0, "")


def test_a_clip_that_cannot_be_used_keeps_its_reason_and_has_no_link(small_run: Run) -> None:
    data = collect(small_run)
    item = [item["id"] for item in data["items"]].index("item-9")
    (clip,) = [clip for clip in data["clips"] if clip["item"] == item]
    assert clip["url"] is None
    assert clip["problem"] == {"status": "failed", "reason": "not-a-video", "message": "no video stream"}
    assert data["scores"][FLICKER][0][item] is None
    assert data["reasons"][data["gaps"][FLICKER][f"0,{item}"]]["message"] == "no video stream"


def test_no_absolute_path_enters_the_data(small_run: Run, tmp_path: Path) -> None:
    assert str(tmp_path) not in page_data.to_script(collect(small_run))


def test_a_file_that_is_gone_is_a_problem_not_a_dead_link(make_run: Callable[..., Any], tmp_path: Path) -> None:
    maker = make_run()
    maker.system("ours")
    maker.clip("ours", "a", tmp_path / "gone.mp4")
    (clip,) = collect(maker.run)["clips"]
    assert clip["url"] is None
    assert clip["problem"]["reason"] == "file-gone"


def test_generated_clips_are_found_after_their_run_folder_moved(make_run: Callable[..., Any]) -> None:
    maker = make_run()
    maker.system("ours", kind="generated")
    here = maker.run.path / "clips" / "ours" / "a.mp4"
    here.parent.mkdir(parents=True)
    here.touch()
    maker.clip("ours", "a", Path("/elsewhere/run/clips/ours/a.mp4"))
    (clip,) = collect(maker.run)["clips"]
    assert clip["url"] == "../clips/ours/a.mp4"


def test_equal_sounds_are_stored_once_and_decode_to_their_peaks(small_run: Run) -> None:
    data = collect(small_run)
    assert {clip["wave"] for clip in data["clips"] if clip["url"]} == {0}
    (wave,) = data["waves"]
    assert list(base64.b64decode(wave["peaks"])) == [0, 128, 255]


def test_scores_stand_where_system_and_item_say(small_run: Run) -> None:
    data = collect(small_run)
    at = [item["id"] for item in data["items"]].index("item-3")
    assert data["scores"][FLICKER][1][at] == pytest.approx(0.966)
    known = {output["id"]: output for output in data["outputs"]}
    assert (known[FLICKER]["scale"], known[FLICKER]["better"]) == (100.0, "higher")


def test_drift_has_mean_curve_printed_values_and_the_clips_behind_them(small_run: Run) -> None:
    (entry,) = collect(small_run)["drift"]
    assert (entry["tier"], entry["output"]) == ("long", FLICKER)
    ours, theirs = entry["systems"]
    assert len(ours["mean"]) == 32
    assert ours["mean"][0] == pytest.approx(0.98)
    assert theirs["texts"]["stable_seconds"] == "12"
    assert [clip["never_failed"] for clip in ours["clips"] + theirs["clips"]] == [True, False]
    assert ours["period"] == 28


def test_a_run_without_long_clips_has_no_drift(make_run: Callable[..., Any]) -> None:
    maker = make_run()
    maker.system("ours")
    maker.clip("ours", "a")
    maker.score("ours", "a", 0.9)
    assert collect(maker.run)["drift"] == []


def test_rows_of_a_runner_that_is_not_installed_are_shown_bare(make_run: Callable[..., Any]) -> None:
    maker = make_run()
    maker.system("ours")
    maker.clip("ours", "a")
    maker.score("ours", "a", 0.9, "toy.sharpness")
    (output,) = collect(maker.run)["outputs"]
    assert (output["id"], output["label"], output["better"]) == ("toy.sharpness", "toy.sharpness", None)


def test_a_mean_curve_ends_where_fewer_than_half_of_its_clips_go_on() -> None:
    def curve(values: list[float | None]) -> dict[str, Any]:
        return row("ours", "a", 1.0, windows={"seconds": 1.0, "values": values})

    rows = [curve([1.0, 2.0]), curve([3.0, None, 5.0, 6.0]), curve([2.0])]
    assert page_data.mean_curve(rows) == [2.0, 2.0]
    assert page_data.mean_curve([curve([1.0, None])]) == [1.0, None]
    assert page_data.mean_curve([]) == []
