"""`talkbench data` from metadata to a verified version, as a user runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.support import talkbench
from tests.unit.data import building, metadata


def test_the_commands_of_a_build_lead_from_one_to_the_next(tmp_path: Path) -> None:
    """Index, select, check-overlap, fetch, render and verify, with a fake downloader and clips of seconds."""
    meta = metadata.write_all(tmp_path / "meta", num_talkvid=600, num_bench=40, num_speakervid=80)
    out = ("--out", tmp_path / "build")
    done = talkbench(
        "data", "index", "--talkvid", meta / "talkvid", "--speakervid", meta / "speakervid",
        "--estimates", meta / "estimates.jsonl", *out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "rejected" in done.stderr
    assert "talkbench data select" in done.stderr
    done = talkbench("data", "select", "--seed", "20251230", *out)
    assert done.returncode == 0, done.stderr
    assert "gender (achieved/wanted)" in done.stderr
    first = json.loads((tmp_path / "build" / "select" / "selection.jsonl").read_text().splitlines()[0])
    (tmp_path / "ids.txt").write_text(f"fine\n{first['clip_id']}\n")
    done = talkbench("data", "check-overlap", tmp_path / "ids.txt", *out)
    assert done.returncode == 3
    assert "OVERLAP: 1 of 2" in done.stderr
    (tmp_path / "ids.txt").write_text("fine\n")
    done = talkbench("data", "check-overlap", tmp_path / "ids.txt", *out)
    assert done.returncode == 0
    assert "CLEAN" in done.stderr
    done = talkbench("data", "fetch", "--downloader", "no-such-yt-dlp", *out)
    assert done.returncode == 4
    assert "no-such-yt-dlp" in done.stderr
    done = talkbench("data", "verify", "short.v1", *out)
    assert done.returncode == 2
    assert "talkbench data render" in done.stderr


def test_the_open_suite_is_fetched_checked_and_run_from_its_folder(tmp_path: Path) -> None:
    done = talkbench("manifest", "fetch", "open", "--to", tmp_path / "open", "--json")
    assert (done.returncode, json.loads(done.stdout)["files"]) == (0, 24), done.stderr
    path = tmp_path / "open" / "open.v1.jsonl"
    done = talkbench("manifest", "check", path, "--json")
    assert json.loads(done.stdout) == {"suite": "open.v1", "languages": {"synthetic": 12}, "problems": []}
    done = talkbench("generate", path, "--system", "recorded", "--items", "open-s01", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    (tmp_path / "open" / "open-s03" / "audio.wav").unlink()
    assert talkbench("manifest", "fetch", path).returncode == 3
    assert "open-s03: open-s03/audio.wav is not there" in talkbench("manifest", "check", path).stderr
    done = talkbench("manifest", "fetch", "short")
    assert done.returncode == 2
    assert "talkbench data index" in done.stderr


def test_the_schema_is_printed_and_a_check_without_weights_says_what_to_fetch(tmp_path: Path) -> None:
    build = building.make_selection(tmp_path, building.SHORT_ONLY)
    assert json.loads(talkbench("data", "schema").stdout)["additionalProperties"] is False
    done = talkbench("data", "check", "--weights-dir", tmp_path, "--out", build.root)
    assert done.returncode == 4
    assert "talkbench weights fetch" in done.stderr


def test_fetch_render_and_verify_report_coverage_and_leave_with_3_where_something_is_missing(tmp_path: Path) -> None:
    build = building.make_selection(tmp_path, building.SHORT_ONLY)
    program = building.make_downloader(tmp_path / "program").program
    out = ("--out", build.root)
    done = talkbench("data", "fetch", "--no-checks", "--downloader", program, "--ffmpeg", sys.executable, *out)
    assert done.returncode == 0, done.stderr
    assert "short: 3/3" in done.stderr
    done = talkbench("data", "render", *out)
    assert done.returncode == 0, done.stderr
    done = talkbench("data", "verify", "short.v1", *out)
    assert done.returncode == 0, done.stderr
    assert "0 problems" in done.stderr
    (build.release("1.0.0") / "samples" / "tbs-0001" / "ref.png").unlink()
    done = talkbench("data", "verify", "short.v1", *out)
    assert done.returncode == 3
    assert "short: 2/3" in done.stderr
    done = talkbench("data", "verify", "short.v1", "--json", *out)
    assert json.loads(done.stdout)["coverage"] == {"short": [2, 3]}
