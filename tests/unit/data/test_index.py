"""Metadata of others, right and wrong, becomes candidates and counted rejections."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from talkbench.data import stream
from talkbench.data.estimates import read_estimates
from talkbench.data.folder import Build
from talkbench.data.index import index
from talkbench.data.sources import speakervid_sources
from talkbench.errors import TalkbenchError
from tests.unit.data import metadata


def records(count: int = 3) -> list[dict[str, Any]]:
    return list(metadata.talkvid(count))


def rejected(tmp_path: Path, *lines: bytes) -> tuple[int, dict[str, int]]:
    file = tmp_path / "meta.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n")
    report = index(Build(tmp_path / "build"), talkvid=[file])
    return report.rows, report.rejected


def changed(**changes: Any) -> bytes:
    record = records(1)[0]
    for path, value in changes.items():
        target = record
        *parents, last = path.split("__")
        for name in parents:
            target = target[name]
        target[last] = value
    return json.dumps(record).encode()


def test_array_lines_and_joined_values_give_the_same_elements(tmp_path: Path) -> None:
    given = records(5)
    forms = {
        "array": json.dumps(given, indent=2),
        "lines": "\n".join(map(json.dumps, given)),
        "joined": "".join(map(json.dumps, given)),
        "marked": "\ufeff" + json.dumps(given),
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert list(stream.elements_of(tmp_path / name)) == given, name


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_where_a_block_ends_does_not_matter(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [{"id": "ä€😀", "n": [1, {"x": None}]}, {"id": "b"}, 17, "text"]
    monkeypatch.setattr(stream, "CHUNK_BYTES", chunk)
    (tmp_path / "a").write_text(json.dumps(given, ensure_ascii=False), encoding="utf-8")
    assert list(stream.elements_of(tmp_path / "a")) == given


@pytest.mark.parametrize("chunk", [16, 1 << 20])
def test_one_broken_element_costs_only_itself(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CHUNK_BYTES", chunk)
    (tmp_path / "a").write_bytes(b'[{"a": 1}, {"b": oops}, {"c": "\xff"}, {"d": 4}]')
    broken = stream.Broken
    assert list(stream.elements_of(tmp_path / "a")) == [
        {"a": 1}, broken("malformed-json"), broken("not-utf8"), {"d": 4},
    ]  # fmt: skip
    (tmp_path / "b").write_bytes(b'{"a": 1}\nnot json at all\n{"d": 4}\n')
    assert list(stream.elements_of(tmp_path / "b")) == [{"a": 1}, broken("malformed-json"), {"d": 4}]


def test_an_array_that_breaks_off_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'[{"a": 1}, ')
    assert list(stream.elements_of(tmp_path / "a")) == [{"a": 1}, stream.Broken("truncated")]
    (tmp_path / "b").write_bytes(b'[{"a": 1}, {"b": ')
    assert list(stream.elements_of(tmp_path / "b")) == [{"a": 1}, stream.Broken("malformed-json")]


def test_an_element_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CHUNK_BYTES", 256)
    monkeypatch.setattr(stream, "MAX_ELEMENT_CHARS", 1024)
    (tmp_path / "a").write_bytes(b'{"a": "' + b"x" * 10_000 + b'\n{"b": 2}')
    window = stream._Stream((tmp_path / "a").open("rb"))
    seen = []
    for element in window:
        assert len(window._text) < 4096
        seen.append(element)
    window._file.close()
    assert seen == [stream.Broken("malformed-json"), {"b": 2}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'"text"', "wrong-type:record"),
        (changed(id=None), "missing:id"),
        (changed(id=7), "wrong-type:id"),
        (changed(id="a\nb"), "bad-text:id"),
        (changed(id="a\u2028b"), "bad-text:id"),
        (changed(id="a\x85b"), "bad-text:id"),
        (changed(info=[]), "wrong-type:info"),
        (changed(**{"info__Person ID": ""}), "missing:Person ID"),
        (changed(**{"info__Person ID": 5}), "wrong-type:Person ID"),
        (changed(**{"info__Video Link": "https://example.org/"}), "bad-link:Video Link"),
        (changed(info__Gender="unsure"), "unknown-label:Gender"),
        (changed(**{"start-time": "1.0"}), "wrong-type:start-time"),
        (changed(**{"start-time": -1}), "out-of-range:start-time"),
        (changed(**{"end-time": 1.0}), "bad-times"),
        (changed(durations="99s"), "contradictory-times"),
        (changed(durations="soon"), "wrong-type:durations"),
        (changed(height=True), "wrong-type:height"),
        (changed(height=0), "out-of-range:height"),
        (changed(fps=float("nan")), "out-of-range:fps"),
        (changed(width=10**400), "out-of-range:width"),
        (changed(**{"video-path": "../a.mp4"}), "bad-path:video-path"),
        (changed(**{"video-path": 3}), "wrong-type:video-path"),
    ],
)
def test_a_wrong_record_is_counted_under_its_reason_and_costs_no_other(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    good = json.dumps(records(2)[1]).encode()
    assert rejected(tmp_path, line, good) == (1, {reason: 1})


def test_missing_optional_fields_stay_candidates_and_unknown_fields_are_counted(tmp_path: Path) -> None:
    record = records(1)[0]
    del record["head_detail"], record["info"]["Gender"], record["durations"]
    file = metadata.write_array(tmp_path / "meta.json", [record | {"new": 1}])
    report = index(Build(tmp_path / "build"), talkvid=[file])
    assert (report.rows, report.rejected, report.unknown_fields) == (1, {}, {"new": 1})
    row = pq.read_table(Build(tmp_path / "build").candidates).to_pylist()[0]
    assert row["gender"] is None
    assert row["gender_origin"] is None
    assert row["face_share"] is None


def test_the_same_record_twice_counts_once_and_contradictions_not_at_all(tmp_path: Path) -> None:
    first, second, third = records(3)
    other = first | {"height": 720}
    file = metadata.write_array(tmp_path / "a.json", [first, second, other])
    more = metadata.write_array(tmp_path / "b.json", [third, second | {"description": "another caption"}, third])
    report = index(Build(tmp_path / "build"), talkvid=[file, more])
    assert report.rows == 2
    assert report.rejected == {"contradictory-id": 2, "duplicate": 2}


def test_the_table_depends_on_the_bytes_of_the_files_alone(tmp_path: Path) -> None:
    for name, (main, bench) in {"one": ("a", "b"), "two": ("z", "c")}.items():
        files = [
            metadata.write_array(tmp_path / name / main, metadata.talkvid(30)),
            metadata.write_array(tmp_path / name / bench, metadata.talkvid(30, seed=4, bench=True)),
        ]
        index(Build(tmp_path / name / "build"), talkvid=sorted(files))
    one, two = (Build(tmp_path / name / "build").candidates.read_bytes() for name in ("one", "two"))
    assert one == two


def test_an_index_that_was_stopped_goes_on_with_the_next_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [
        metadata.write_array(tmp_path / "1.json", metadata.talkvid(20)),
        metadata.write_array(tmp_path / "2.json", metadata.talkvid(20, bench=True)),
    ]
    whole = index(Build(tmp_path / "whole"), talkvid=files)

    from talkbench.data import index as module

    real, calls = module._table, []

    def dies(group: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(group)

    monkeypatch.setattr(module, "_table", dies)
    with pytest.raises(KeyboardInterrupt):
        index(Build(tmp_path / "again"), talkvid=files)
    assert index(Build(tmp_path / "again"), talkvid=files) == whole
    assert len(calls) == 3, "the finished part is not read again"
    assert not list((tmp_path / "again").rglob("*.tmp"))


def test_speakervid_is_read_from_archives_lists_maps_and_folders_alike(tmp_path: Path) -> None:
    clips = list(metadata.speakervid(12))
    metadata.write_speakervid(tmp_path / "tars", clips, per_archive=5)
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "merge_anno.json").write_text(json.dumps(dict(clips)))
    (flat / "testset.json").write_text(json.dumps([{"pair": [name for name, _ in clips[::2]]}]))
    loose = tmp_path / "loose" / "merged_anno" / "batch"
    loose.mkdir(parents=True)
    for name, record in clips:
        (loose / f"{name}.json").write_text(json.dumps(record))
    (tmp_path / "loose" / "testset.json").write_text(json.dumps([name for name, _ in clips[::2]]))
    tables = []
    for name in ("tars", "flat", "loose"):
        report = index(Build(tmp_path / f"b-{name}"), speakervid=[tmp_path / name])
        assert report.read == 12
        rows = pq.read_table(Build(tmp_path / f"b-{name}").candidates).to_pylist()
        tables.append(sorted(rows, key=lambda row: row["clip_id"]))
    assert tables[0] == tables[1] == tables[2]
    assert {row["split"] for row in tables[0]} == {"test", "train"}


def test_a_video_id_may_hold_the_separators_of_a_clip_name(tmp_path: Path) -> None:
    record = next(metadata.speakervid(1))[1] | {"video_name": "Zz9-Yy8_Xx7", "is_talking": 1}
    metadata.write_speakervid(tmp_path, [("Zz9-Yy8_Xx7_full_video_1920×1080_012_B_x", record)])
    index(Build(tmp_path / "build"), speakervid=[tmp_path])
    row = pq.read_table(Build(tmp_path / "build").candidates).to_pylist()[0]
    assert (row["source_key"], row["person_key"]) == ("yt:Zz9-Yy8_Xx7", "speakervid:Zz9-Yy8_Xx7:B")


def test_bad_annotations_and_broken_archives_are_counted(tmp_path: Path) -> None:
    (name, record), (other, second) = [clip for clip in metadata.speakervid(10) if clip[1]["is_talking"]][:2]
    folder = tmp_path / "merged_anno"
    folder.mkdir()
    bad = {
        f"{name}.json": json.dumps(record).encode(),
        f"{other}.json": json.dumps(second | {"video_name": "AAAAAAAAAAA"}).encode(),
        "noname.json": json.dumps(record).encode(),
        "c.json": b"\xff\xfe{}",
        "d.json": b"{",
        "readme.txt": b"x",
    }
    with tarfile.open(folder / "tar_batch_0.tar", "w") as archive:
        for member, data in bad.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (folder / "tar_batch_1.tar.gz").write_bytes((folder / "tar_batch_0.tar").read_bytes()[:700])
    report = index(Build(tmp_path / "build"), speakervid=[tmp_path])
    assert report.rows == 1
    assert report.rejected == {
        "bad-clip-name": 1, "broken-archive": 1, "contradictory-id": 1, "malformed-json": 1, "not-utf8": 1,
    }  # fmt: skip


def test_estimates_are_marked_and_two_that_disagree_count_for_nothing(tmp_path: Path) -> None:
    clips = [clip for clip in metadata.speakervid(10) if clip[1]["is_talking"]][:3]
    names = metadata.write_speakervid(tmp_path / "meta", clips)
    lines = [*metadata.estimates(names), {"clip_id": names[2], "gender": "Male", "age": "60+"}, {"gender": "Male"}]
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, lines)))
    build = Build(tmp_path / "build")
    report = index(build, speakervid=[tmp_path / "meta"], estimates=tmp_path / "e.jsonl")
    rows = {row["clip_id"]: row for row in pq.read_table(build.candidates).to_pylist()}
    assert rows[names[0]]["gender_origin"] == "estimated"
    assert rows[names[2]]["gender"] is None
    assert report.rejected == {"contradictory-id": 1, "missing:clip_id": 1}


def test_estimates_are_kept_for_clips_that_can_be_chosen_alone(tmp_path: Path) -> None:
    names = [name for name, _ in metadata.speakervid(4)]
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, metadata.estimates(names))))
    reasons = Counter[str]()
    assert list(read_estimates(tmp_path / "e.jsonl", reasons, frozenset(names[::2]))) == names[::2]
    metadata.write_speakervid(tmp_path / "meta", metadata.speakervid(4))
    (source,) = speakervid_sources(tmp_path / "meta", tmp_path / "e.jsonl", reasons)
    assert list(source.estimates) == names[::2], "of the test split"
    assert not reasons


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    for given in (
        {},
        {"talkvid": [tmp_path / "no.json"]},
        {"speakervid": [tmp_path / "no"]},
        {"speakervid": [tmp_path]},
    ):
        with pytest.raises(TalkbenchError, match=r"nothing to index|no TalkVid|no SpeakerVid"):
            index(Build(tmp_path / "build"), **given)
