"""The page as text: sections for what a run has, everything escaped, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reports import html as page
from reports import quoted
from talkbench.errors import TalkbenchError
from talkbench.manifests.load import load
from talkbench.schema import Item
from talkbench.store.run import Run
from tests.support import make_clip
from tests.unit.reports.conftest import RunMaker

EVIL = "<script>alert(1)</script>\"'&"


def sections(text: str) -> set[str]:
    return set(re.findall(r'<section id="([^"]+)"', text))


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return dict(json.loads(found.group(1)))


def test_a_run_with_everything_shows_every_section(small_run: Run) -> None:
    text = page.render_page(small_run, small_run.path / "report", "complete")
    assert sections(text) == {
        "results", "intervals", "over-time", "items", "quoted", "coverage", "caveats", "provenance"
    }  # fmt: skip
    for table in ("table1", "drift", "speed", "table1_quoted", "table4_quoted"):
        assert f'<figure class="table" id="{table}">' in text
    assert len(quoted.findings()) > 3
    assert all(html.escape(finding.what) in text for finding in quoted.findings())


def test_write_page_makes_one_file_where_it_was_asked_to(small_run: Run, tmp_path: Path) -> None:
    path = page.write_page(small_run, tmp_path / "new folder")
    assert path == tmp_path / "new folder" / "index.html"
    assert [entry.name for entry in path.parent.iterdir()] == ["index.html"]
    assert data_of(path.read_text(encoding="utf-8"))["run"]["suite"] == "toy.v1"


def test_an_unknown_policy_is_refused(small_run: Run, tmp_path: Path) -> None:
    with pytest.raises(TalkbenchError, match="unknown policy 'guess'"):
        page.write_page(small_run, tmp_path, policy="guess")


def test_a_run_without_long_clips_and_without_speed_leaves_those_sections_out(make_run: Callable[..., Any]) -> None:
    maker = make_run()
    maker.system("only one")
    maker.clip("only one", "a")
    maker.score("only one", "a", 0.9)
    text = page.render_page(maker.run, maker.run.path / "report", "available")
    assert "over-time" not in sections(text)
    assert 'id="speed"' not in text
    assert 'id="speed-views"' not in text
    assert {"results", "intervals", "items"} <= sections(text)


def test_a_run_without_any_row_or_clip_still_has_a_page(make_run: Callable[..., Any]) -> None:
    text = page.render_page(make_run().run, Path("/nowhere"), "complete")
    assert "This run has no scored clip yet" in text
    assert "items" not in sections(text)
    assert "No session is recorded." in text


def test_names_and_messages_are_escaped_everywhere(make_run: Callable[..., Any]) -> None:
    item = EVIL.replace("/", "|")
    maker = make_run([Item(id=item, tier="short", identity=EVIL, duration_seconds=2, text=EVIL, tags=(EVIL,))])
    for system in (EVIL, "plain"):
        maker.system(system)
        maker.clip(system, item, notes=(EVIL,), identity=EVIL)
        maker.score(system, item, 0.9, identity=EVIL)
    maker.score("plain", item, None, "motion.amount", status="failed", reason=EVIL, message=EVIL)
    text = page.render_page(maker.run, maker.run.path / "report", "complete")
    assert "<script>alert" not in text
    assert text.count("<script") == text.count("</script") == 3
    assert data_of(text)["systems"][0]["name"] == EVIL


def test_the_page_asks_for_nothing_from_elsewhere_and_runs_only_its_own_scripts(small_run: Run) -> None:
    text = page.render_page(small_run, small_run.path / "report", "complete")
    assert set(re.findall(r"https?://[^\s\"'<)]+", text)) == {"http://www.w3.org/2000/svg"}
    policy = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text).group(1))  # type: ignore[union-attr]
    for script in re.findall(r'<script(?: type="module")?>(.*?)</script>', text, re.DOTALL):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'")


def test_every_element_the_scripts_look_up_exists(small_run: Run) -> None:
    text = page.render_page(small_run, small_run.path / "report", "complete")
    wanted = set(re.findall(r'byId\("([^"]+)"\)', text))
    present = re.findall(r'\bid="([^"]+)"', text)
    assert wanted <= set(present)
    assert len(present) == len(set(present)), "no id stands twice"


def test_problems_are_grouped_by_reason_and_link_to_their_item(small_run: Run) -> None:
    text = page.render_page(small_run, small_run.path / "report", "complete")
    block = re.search(r'<details class="problem">.*?</details>', text, re.DOTALL)
    assert block
    assert "not-a-video" in block.group()
    assert "no video stream" in block.group()
    assert 'href="#item=item-9"' in block.group()


def test_provenance_names_parameters_and_keeps_strangers_as_digests(make_run: Callable[..., Any]) -> None:
    maker = make_run()
    maker.system("ours")
    maker.clip("ours", "a")
    maker.score("ours", "a", 0.9, params="f" * 64)
    with maker.run.session(
        "score", {"metrics": ["flicker"]}, {"python": "3.11", "git": {"commit": "abc", "dirty": True}}
    ):
        pass
    text = page.render_page(maker.run, maker.run.path / "report", "complete")
    assert "digest ffffffffffff" in text
    assert "abc with uncommitted changes" in text
    assert "finished" in text


def test_frames_are_shown_small_and_only_where_there_are_pictures(small_run: Run, tmp_path: Path) -> None:
    assert 'id="frames"' not in page.render_page(small_run, tmp_path, "complete"), "its clips are empty files"
    maker = RunMaker(tmp_path / "other")
    maker.system(EVIL)
    maker.clip(EVIL, "item-0", make_clip(tmp_path / "item-0.mp4", seconds=2, height=360, width=640, audio=False))
    text = page.render_page(maker.run, tmp_path, "complete")
    assert "frames" in sections(text)
    pictures = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" width="144" height="81" alt="([^"]*)"', text)
    assert [html.unescape(told) for _, told in pictures] == [
        f"{EVIL}, {at} s" for at in ("0.17", "0.5", "0.83", "1.17", "1.5", "1.83")
    ]
    with Image.open(io.BytesIO(base64.b64decode(pictures[0][0]))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (144, 81))
    assert sum(len(data) for data, _ in pictures) < 60_000


def test_the_page_of_the_short_suite_has_the_rows_of_the_report(tmp_path: Path) -> None:
    maker = RunMaker(tmp_path / "run", suite=load("short"))
    maker.system("ditto")
    for number in range(3):
        maker.clip("ditto", f"item-{number}")
        maker.score("ditto", f"item-{number}", 0.9)
    text = page.render_page(maker.run, tmp_path, "complete")
    table = text.partition('<figure class="table" id="table1">')[2].partition("</figure>")[0]
    assert table.count("SoulX-LiveTalk<") == 2
    assert '<td class="quoted" data-value="4.37">4.37</td>' in table
