"""Sets beside TalkVid: HDTF's tables, and the raw labels of SpeakerVid-5M."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from talkbench.data import filters, pools
from talkbench.data.folder import Build
from talkbench.data.index import index
from talkbench.data.labels import Joiner
from talkbench.data.select import select
from talkbench.data.stream import Broken
from talkbench.errors import TalkbenchError
from tests.unit.data import metadata

LINK = "https://www.youtube.com/watch?v="


def hdtf(root: Path, part: str = "WDA", **tables: str) -> Path:
    """Write invented tables of one part; a table left out is not there."""
    folder = root / "HDTF_dataset"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in tables.items():
        (folder / f"{part}_{name}.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    return root


def rows(build: Build) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in pq.read_table(build.candidates).to_pylist()}


def test_hdtf_ranges_become_clips_of_one_hashed_person(tmp_path: Path) -> None:
    root = hdtf(
        tmp_path / "meta",
        video_url=f"AnnSmith0 {LINK}aaaaaaaaaa0\nAnnSmith1 {LINK}aaaaaaaaaa1&t=6s\nRadio5 {LINK}aaaaaaaaaa2\n",
        annotion_time="AnnSmith0.mp4 00:10-05:40 06:00-06:30\nAnnSmith1.mp4 01:00:05-01:02:00\n"
        "Radio5.mp4 00:15-01:10\n",
        resolution="AnnSmith0.mp4 1080\nAnnSmith1.mp4 720\nRadio5.mp4 720\n",
    )
    guesses = tmp_path / "e.jsonl"
    guesses.write_text(json.dumps({"clip_id": "AnnSmith0_0", "gender": "Female", "face_share": 0.05}) + "\n")
    build = Build(tmp_path / "build")
    report = index(build, hdtf=[root], estimates=guesses)
    found = rows(build)
    assert (report.rows, report.read, report.rejected) == (4, 4, {})
    assert (found["AnnSmith0_0"]["start"], found["AnnSmith0_0"]["end"]) == (10, 340)
    assert found["AnnSmith1_0"]["start"] == 3605
    assert found["AnnSmith0_0"]["person_key"] == found["AnnSmith1_0"]["person_key"] != found["Radio5_0"]["person_key"]
    assert "Smith" not in found["AnnSmith0_0"]["person_key"]
    assert (found["AnnSmith0_0"]["gender"], found["AnnSmith0_0"]["gender_origin"]) == ("Female", "estimated")
    assert (found["Radio5_0"]["language"], found["Radio5_0"]["language_origin"]) == ("en", "derived")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"annotion_time": "A.mp4 00:10-00:05\n"}, "bad-times"),
        ({"annotion_time": "A.mp4 soon\n"}, "wrong-type:times"),
        ({"annotion_time": "A.mp4\n"}, "malformed-line"),
        ({"annotion_time": "\udcff\udcfe 00:10-00:50\n"}, "not-utf8"),
        ({"video_url": "B https://youtu.be/aaaaaaaaaaa\n"}, "missing:url"),
        ({"video_url": "A https://example.org/\n"}, "bad-link:url"),
        ({"video_url": f"A {LINK}aaaaaaaaaaa\nA {LINK}bbbbbbbbbbb\n"}, "contradictory-id"),
        ({"resolution": "A.mp4 high\n"}, "wrong-type:resolution"),
        ({"resolution": ""}, "missing:resolution"),
    ],
)
def test_a_wrong_line_of_hdtf_is_counted_under_its_reason(tmp_path: Path, change: dict[str, str], reason: str) -> None:
    tables = {
        "video_url": f"A {LINK}aaaaaaaaaaa\n",
        "annotion_time": "A.mp4 00:10-05:40\n",
        "resolution": "A.mp4 720\n",
    }
    report = index(Build(tmp_path / "build"), hdtf=[hdtf(tmp_path / "meta", **(tables | change))])
    assert (report.rows, report.rejected) == (0, {reason: 1})


def test_an_hdtf_monologue_is_a_filmed_long_sample_and_never_a_short_one(tmp_path: Path) -> None:
    root = hdtf(
        tmp_path / "meta",
        video_url=f"A {LINK}aaaaaaaaaaa\n",
        annotion_time="A.mp4 00:10-05:40 06:00-06:07\n",
        resolution="A.mp4 720\n",
    )
    guesses = tmp_path / "e.jsonl"
    lines = [
        {"clip_id": f"A_{n}", "gender": "Male", "age": "60+", "ethnicity": "White", "face_share": 0.05} for n in (0, 1)
    ]
    guesses.write_text("\n".join(map(json.dumps, lines)))
    build = Build(tmp_path / "build")
    index(build, hdtf=[root], estimates=guesses)
    report = select(build)
    assert report.accepted == {"short": 0, "long": 1}
    assert report.rejected["short"] == {"long-tier-only": 2}
    entry = json.loads(build.selection.read_text())
    (window,) = entry["segments"]
    assert (entry["filmed"], entry["assembly"], window["start"]) == (True, "continuous", 10)
    assert 305 <= window["end"] - window["start"] <= 330
    assert entry["references"][0]["start"] == 360


def test_a_folder_without_tables_is_named(tmp_path: Path) -> None:
    with pytest.raises(TalkbenchError, match="RD_annotion_time.txt"):
        index(Build(tmp_path / "build"), hdtf=[tmp_path])


NAME = "Zz9-Yy8_Xx7_full_video_1920×1080_012_B_x"


@pytest.mark.parametrize(
    "prefix", [NAME, "Zz9-Yy8_Xx7_full_video_1920×1080_012", "Zz9-Yy8_Xx7_full_video_1920×1080_012_B"]
)
def test_labels_are_found_under_the_name_or_a_beginning_of_it(prefix: str) -> None:
    joiner = Joiner(frozenset({NAME}))
    joiner.add("asr", prefix, {"avg_logprob": -0.4, "no_speech_prob": 0.1}, Counter())
    labels = joiner.labels()[NAME]
    assert (labels.asr_confidence, labels.no_speech, labels.compression) == (-0.4, 0.1, None)


def test_the_label_of_the_clip_counts_before_that_of_the_scene_in_any_order() -> None:
    scene = NAME[: -len("_B_x")]
    for order in ((scene, NAME), (NAME, scene)):
        joiner = Joiner(frozenset({NAME}))
        for name in order:
            joiner.add("l_score", name, {"face": 0.9 if name == NAME else 0.1}, Counter())
        assert joiner.labels()[NAME].face_sharpness == 0.9


def test_spoken_segments_are_averaged() -> None:
    joiner = Joiner(frozenset({NAME}))
    joiner.add("asr", NAME, {"text": "a b", "segments": [{"avg_logprob": -1.0}, {"avg_logprob": -0.5}]}, Counter())
    assert joiner.labels()[NAME].asr_confidence == -0.75


def test_labels_that_cannot_be_used_are_counted_and_those_of_other_clips_passed_over() -> None:
    joiner, reasons = Joiner(frozenset({NAME})), Counter[str]()
    joiner.add("asr", NAME, {"score": 1}, reasons)
    joiner.add("anno", NAME, {"num_people": "two"}, reasons)
    joiner.add("l_score", NAME, Broken("not-utf8"), reasons)
    joiner.add("l_score", "other", Broken("not-utf8"), reasons)
    assert reasons == {"no-known-field:asr": 1, "anno:wrong-type:num_people": 1, "not-utf8": 1}


@pytest.mark.parametrize("layout", ["raw_labels", "flat"])
def test_labels_are_read_from_archives_and_folders_and_only_for_the_test_split(tmp_path: Path, layout: str) -> None:
    clips = [
        (name, record | {"clip_speaker_num": 1}) for name, record in metadata.speakervid(12) if record["is_talking"]
    ]
    meta = tmp_path / "meta"
    names = metadata.write_speakervid(meta, clips)
    folder = meta / "raw_labels" if layout == "raw_labels" else meta
    (folder / "asr").mkdir(parents=True)
    (folder / "anno").mkdir()
    with tarfile.open(folder / "asr" / "batch_0.tar.gz", "w:gz") as archive:
        for name in names:
            data = json.dumps({"confidence": -2.0, "no_speech_prob": 0.0, "compression_ratio": 1.2}).encode()
            member = tarfile.TarInfo(f"asr/{name}.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (folder / "anno" / f"{names[0]}.json").write_text(json.dumps({"number_of_people": 2}))
    build = Build(tmp_path / "build")
    index(build, speakervid=[meta])
    found = rows(build)
    for name in names:
        assert found[name]["asr_confidence"] == (-2.0 if found[name]["split"] == "test" else None)
    assert found[names[0]]["num_persons"] == 2
    counts = Counter[str]()
    table = pq.read_table(build.candidates, columns=list(pools._COLUMNS))
    rules = [rule for rule in filters.quality_rules(frozenset()) if rule[0] == "unsure-words"]
    filters.apply(table, rules, counts)
    assert counts == {"unsure-words": len(names[::2])}


def test_labels_that_change_make_the_index_read_again(tmp_path: Path) -> None:
    clips = [clip for clip in metadata.speakervid(8) if clip[1]["is_talking"]]
    names = metadata.write_speakervid(tmp_path / "meta", clips)
    (tmp_path / "meta" / "l_score").mkdir()
    build = Build(tmp_path / "build")
    for value in (0.9, 0.2):
        (tmp_path / "meta" / "l_score" / f"{names[0]}.json").write_text(json.dumps({"face": value}))
        index(build, speakervid=[tmp_path / "meta"])
        assert rows(build)[names[0]]["face_sharpness"] == value
