"""Clips of TalkVid and SpeakerVid-5M: who is left out, in which order, and what has no file."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from model.data import listed, prepare
from talkbench.errors import TalkbenchError
from talkbench.progress import Silent
from tests.unit.data import metadata

NOBODY = {"schema": "talkbench/exclusions/1", "persons": [], "sources": [], "clips": []}


@pytest.fixture(scope="module")
def talkvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("talkvid")
    metadata.write_array(folder / "filtered_video_clips.json", metadata.talkvid(300))
    return folder


def candidates(
    path: Path, table: Path, dataset: str = "talkvid", excluded: dict[str, Any] | None = None, seconds: float = 5.8
) -> tuple[list[dict[str, Any]], Counter[str]]:
    asked = listed.Metadata(dataset, (path,), table, NOBODY | (excluded or {}), seconds)
    return listed.candidates(asked, Silent())


def test_every_record_is_kept_or_counted(talkvid: Path, tmp_path: Path) -> None:
    rows, counts = candidates(talkvid / "filtered_video_clips.json", tmp_path)
    assert len(rows) + counts.total() == 300
    assert set(counts) == {"too-short", "maybe-minor", "low-dover", "turned-away", "unstable-tracks"}
    assert 50 < len(rows) < 150


def test_the_persons_sources_and_clips_of_the_benchmark_are_left_out(talkvid: Path, tmp_path: Path) -> None:
    path = talkvid / "filtered_video_clips.json"
    rows, _ = candidates(path, tmp_path / "a")
    person, source, clip = rows[0]["person_key"], None, None
    others = [row for row in rows if row["person_key"] != person]
    source = others[0]["source_key"]
    clip = next(row["clip_id"] for row in others if row["source_key"] != source)
    excluded = {"persons": [person], "sources": [source], "clips": [f"talkvid:{clip}"]}
    left, counts = candidates(path, tmp_path / "b", excluded=excluded)
    assert left == [r for r in rows if (r["person_key"], r["source_key"], r["clip_id"]) not in
                    {(r["person_key"], r["source_key"], r["clip_id"]) for r in rows
                     if r["person_key"] == person or r["source_key"] == source or r["clip_id"] == clip}]  # fmt: skip
    assert len(left) < len(rows)
    assert counts["excluded-person"] and counts["excluded-source"] and counts["excluded-clip"] == 1


def test_the_order_mixes_sources_and_depends_on_the_names_alone(talkvid: Path, tmp_path: Path) -> None:
    rows, _ = candidates(talkvid / "filtered_video_clips.json", tmp_path / "a")
    records = list(metadata.talkvid(300))
    again, _ = candidates(metadata.write_array(tmp_path / "other.json", records[::-1]), tmp_path / "b")
    assert again == rows
    assert len({row["source_key"] for row in rows[:20]}) > 12


def test_the_test_split_of_speakervid_is_never_trained_on(tmp_path: Path) -> None:
    names = metadata.write_speakervid(tmp_path / "set", metadata.speakervid(200))
    rows, counts = candidates(tmp_path / "set", tmp_path / "table", "speakervid")
    assert rows and not {row["clip_id"] for row in rows} & set(names[::2])
    assert counts["test-split"] and counts["metadata: not-talking"] and counts["several-persons"]


def test_clips_are_found_by_their_names_wherever_they_lie(tmp_path: Path) -> None:
    rows = [{"dataset": "speakervid", "clip_id": name, "source_key": "yt:a", "person_key": "p"}
            for name in ("a_full_video_1920×1080_000_A", "plain", "absent", "wordless")]  # fmt: skip
    for name in ("deep/er/a_full_video_1920_1080_000_A.MP4", "plain.mkv", "wordless.mp4", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    captions = {row["clip_id"]: f"About {row['clip_id']}." for row in rows[:3]}
    found, counts = listed.with_files(rows, tmp_path, captions, "default")
    assert [clip.path.name for clip in found] == ["a_full_video_1920_1080_000_A.MP4", "plain.mkv"]
    assert found[1].id == "speakervid:plain" and found[1].prompt == "About plain."
    assert counts == {"no-file": 1, "no-caption": 1}
    assert {clip.prompt for clip in listed.with_files(rows, tmp_path, None, "default")[0]} == {"default"}


def test_files_of_a_folder_are_clips_of_the_person_whose_folder_it_is(tmp_path: Path) -> None:
    for name in ("ann/one.mp4", "ann/two.mp4", "lone.mov"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found, _ = listed.in_folder(tmp_path, None, "default")
    assert [(clip.id, clip.person) for clip in found] == [
        ("folder:ann/one", "folder:ann"), ("folder:ann/two", "folder:ann"), ("folder:lone", "folder:lone")]  # fmt: skip
    with pytest.raises(TalkbenchError, match="no video below"):
        listed.in_folder(tmp_path / "ann" / "none", None, "default")


def test_captions_are_read_from_the_set_itself_or_from_lines(talkvid: Path, tmp_path: Path) -> None:
    captions = listed.read_captions(talkvid / "filtered_video_clips.json")
    assert len(captions) == 300 and set(captions.values()) == {"A person explains something to the camera."}
    lines = tmp_path / "captions.jsonl"
    lines.write_text('{"id": "a", "caption": "Two\\n words"}\n{"id": "b", "caption": " "}\n')
    assert listed.read_captions(lines) == {"a": "Two words"}
    lines.write_text("[]")
    with pytest.raises(TalkbenchError, match="holds no caption"):
        listed.read_captions(lines)


def test_sets_that_the_benchmark_draws_on_need_its_exclusions(
    talkvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    given = ["--source", "talkvid", "--root", str(talkvid), "--out", str(tmp_path / "out"), "--dry-run"]
    with pytest.raises(SystemExit) as caught:
        prepare.main(given)
    assert caught.value.code == 2 and "--exclude exclusions.json" in capsys.readouterr().err
    (talkvid / "clips").mkdir()
    kept = [row["clip_id"] for row in candidates(talkvid / "filtered_video_clips.json", tmp_path / "table")[0]]
    for name in kept[:7]:
        (talkvid / "clips" / f"{name}.mp4").touch()
    with caplog.at_level(logging.WARNING):
        prepare.main([*given, "--no-exclusions", "--clips", "5"])
    assert "NO EXCLUSIONS" in caplog.text
    summary = json.loads(capsys.readouterr().out)
    assert summary["clips"] == 5 and summary["shards_missing"] == 1
    assert summary["refused"]["no-file"] == len(kept) - 7 and summary["refused"]["beyond --clips"] == 2
    assert summary["clips"] + sum(summary["refused"].values()) == 300


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": "talkbench/exclusions/1"}', '{"schema": "else"}'])
def test_a_file_that_is_no_exclusion_list_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "exclusions.json"
    path.write_text(content)
    with pytest.raises(TalkbenchError, match=r"exclusions.json (cannot be read|is no exclusion list)"):
        listed.read_exclusions(path)
