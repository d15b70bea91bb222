"""From a selection to a released version: what is fetched, what is not, and the same bytes twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from talkbench import atomic
from talkbench.data import fetch as fetching
from talkbench.data import placing, reference, snapshot, sound, truth
from talkbench.data.downloader import Downloader, FetchFailed
from talkbench.data.folder import Build
from talkbench.data.manifest import Sample, json_schema
from talkbench.data.render import check_version, render
from talkbench.data.verify import find, verify
from talkbench.errors import PrerequisiteError, TalkbenchError, Unscorable
from talkbench.manifests import check as checking
from talkbench.manifests import load as manifests
from talkbench.media.encode import write_clip
from talkbench.workers import orphans
from tests.support import ROOT
from tests.unit.data import building
from tests.unit.workers.fakes import gone


@pytest.fixture(scope="module", autouse=True)
def _small_ground_truth() -> Iterator[None]:
    """Let ground truth be tiny pictures: encoding real ones would take most of the time, and has a test of its own."""

    def write(source: Path, target: Path, orientation: str, face: Any, audio_N: np.ndarray) -> int:
        return write_clip(target, [np.zeros((16, 16, 3), np.uint8)] * (audio_N.size // 640))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(truth, "write", write)
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Downloader]:
    root = tmp_path_factory.mktemp("prepared")
    building.make_selection(root, building.SHORT_ONLY)
    return root, building.make_downloader(root / "program")


Start = Callable[..., tuple[Build, Downloader]]


@pytest.fixture
def start(prepared: tuple[Path, Downloader], tmp_path: Path) -> Start:
    """Return a fresh copy of build and downloader; given a plan: slot or `*` -> misbehaviour."""

    def make(timeout: float = 60.0, **plan: str) -> tuple[Build, Downloader]:
        root, downloader = prepared
        shutil.copytree(root, tmp_path / "copy", dirs_exist_ok=True)
        build = Build(tmp_path / "copy" / "build")
        slots = {entry.slot: entry.source_key[3:] for entry in snapshot.load_selection(build) if entry.slot}
        named = {slots.get(name.replace("_", "-"), name): what for name, what in plan.items()}
        (tmp_path / "copy" / "program" / "plan.json").write_text(json.dumps(named))
        program = tmp_path / "copy" / "program" / "yt-dlp"
        return build, Downloader(str(program), downloader.ffmpeg, timeout)

    return make


@pytest.fixture(scope="module")
def released(prepared: tuple[Path, Downloader], tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A build that was fetched and rendered once; copy it before changing it."""
    build = building.make_selection(tmp_path_factory.mktemp("released"), building.SHORT_ONLY)
    assert fetching.fetch(build, prepared[1], day=building.DAY, checks=False).frozen
    assert not render(build).missing
    return build


def calls(build: Build) -> list[str]:
    path = build.root.parent / "program" / "calls.txt"
    return path.read_text().splitlines() if path.exists() else []


def attempts(build: Build) -> list[dict[str, Any]]:
    return [json.loads(line) for line in build.attempts.read_text().splitlines()]


def test_everything_is_fetched_once_and_frozen(start: Start) -> None:
    build, downloader = start()
    report = fetching.fetch(build, downloader, day=building.DAY, checks=False)
    assert report.frozen
    assert report.coverage == {"short": [3, 3]}
    assert {state.status for state in snapshot.load_snapshot(build)} == {"available"}
    number = len(calls(build))
    assert number == 6, "a window and a reference each"
    before = build.snapshot.read_bytes()
    fetching.fetch(build, downloader, day="2027-01-01")
    assert len(calls(build)) == number
    assert build.snapshot.read_bytes() == before


def test_a_source_that_is_gone_is_replaced_from_the_reserve_before_the_freeze_and_logged(start: Start) -> None:
    build, downloader = start(tbs_0002="gone")
    report = fetching.fetch(build, downloader, day=building.DAY, checks=False)
    assert report.frozen
    assert report.failures == {"gone": 1}
    assert report.coverage["short"] == [3, 3]
    version = render(build)
    lines = [json.loads(line) for line in (Path(version.folder) / "manifest.jsonl").read_text().splitlines()]
    replaced = next(sample for sample in lines if sample["id"] == "tbs-0002")
    assert replaced["selection"]["reserve_index"] is not None
    assert all(s["selection"]["reserve_index"] is None for s in lines if s["id"] != "tbs-0002")


def test_what_vanishes_after_the_freeze_lowers_coverage_and_is_never_replaced(start: Start) -> None:
    build, downloader = start()
    fetching.fetch(build, downloader, day=building.DAY, checks=False)
    entry = next(e for e in snapshot.load_selection(build) if e.slot == "tbs-0001")
    window, _ = snapshot.pieces(build, entry)
    window.unlink()
    plan = downloader and Path(downloader.program).with_name("plan.json")
    plan.write_text(json.dumps({entry.source_key[3:]: "gone"}))
    report = fetching.fetch(build, downloader, day="2026-06-01", checks=False)
    assert report.coverage["short"] == [2, 3]
    assert report.pending == {"gone": 1}
    version = render(build)
    assert version.missing == {"tbs-0001": "media-missing"}
    assert version.coverage["short"] == [2, 3]
    found = verify(Path(version.folder))
    assert found.problems == []
    assert found.coverage["short"] == [2, 3]
    assert found.missing == [("tbs-0001", "media-missing")]


def test_a_file_that_comes_back_with_another_content_is_refused(start: Start) -> None:
    build, downloader = start()
    fetching.fetch(build, downloader, day=building.DAY, checks=False)
    entry = next(e for e in snapshot.load_selection(build) if e.slot == "tbs-0001")
    snapshot.pieces(build, entry)[0].unlink()
    building.make_template(Path(downloader.program).with_name("16.mkv"), 16, rate=6)
    report = fetching.fetch(build, downloader, day="2026-06-01", checks=False)
    assert report.pending == {"changed-hash": 1}
    assert not snapshot.pieces(build, entry)[0].exists()


def test_what_may_still_come_keeps_the_snapshot_open_until_it_is_settled(start: Start) -> None:
    build, downloader = start(tbs_0003="blocked")
    report = fetching.fetch(build, downloader, day=building.DAY, checks=False)
    assert not report.frozen
    assert report.pending == {"blocked": 1}
    with pytest.raises(TalkbenchError, match="talkbench data fetch"):
        render(build)
    number = len(calls(build))
    Path(downloader.program).with_name("plan.json").unlink()
    assert fetching.fetch(build, downloader, day="2026-01-06", checks=False).frozen
    assert len(calls(build)) == number + 2, "only the blocked clip is asked for again"
    assert all(state.status == "available" for state in snapshot.load_snapshot(build))


def test_freezing_settles_what_is_pending_from_the_reserve(start: Start) -> None:
    build, downloader = start(tbs_0003="blocked")
    report = fetching.fetch(build, downloader, day=building.DAY, checks=False, freeze=True)
    assert report.frozen
    assert report.failures == {"blocked": 1}
    assert report.coverage["short"] == [3, 3]


@pytest.mark.parametrize(
    ("what", "reason"), [("silent", "no-audio"), ("small", "too-small"), ("short", "cut-short"), ("nothing", "failed")]
)
def test_every_misbehaviour_has_a_name(start: Start, what: str, reason: str) -> None:
    build, downloader = start(tbs_0001=what)
    report = fetching.fetch(build, downloader, day=building.DAY, checks=False)
    assert (report.failures + report.pending) == {reason: 1}


def test_a_download_that_stalls_is_ended_with_its_children(start: Start) -> None:
    build, downloader = start(timeout=0.5, tbs_0001="hang")
    entry = next(e for e in snapshot.load_selection(build) if e.slot == "tbs-0001")
    with pytest.raises(FetchFailed) as error:
        downloader.fetch(entry.source_key, 1.0, 2.0, build.media / ".work")
    assert (error.value.reason, error.value.final) == ("timeout", False)


def test_a_killed_fetch_takes_its_downloader_and_what_that_started_along(tmp_path: Path) -> None:
    program = tmp_path / "yt-dlp"
    program.write_text("#!/bin/sh\nsleep 600 &\nwait\n")
    program.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from talkbench.data.downloader import Downloader; "
        "Downloader(sys.argv[1]).fetch('yt:a', 0, 1, Path(sys.argv[2]))"
    )
    host = subprocess.Popen([sys.executable, "-c", code, str(program), str(tmp_path / "work")], cwd=ROOT)
    end = time.monotonic() + 30
    while len(started := orphans.carrying(f".{host.pid}.")) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    host.kill()
    host.wait()
    assert len(started) == 2
    assert gone(started)


def test_clips_refused_by_measurements_elsewhere_are_out_with_that_reason(start: Start, tmp_path: Path) -> None:
    build, downloader = start()
    entry = next(e for e in snapshot.load_selection(build) if e.slot == "tbs-0001")
    file = tmp_path / "rejected.jsonl"
    file.write_text(json.dumps({"dataset": entry.dataset, "clip_id": entry.clip_id, "reason": "low-sync"}) + "\n")
    report = fetching.fetch(build, downloader, day=building.DAY, checks=False, rejected=fetching.read_rejected(file))
    assert report.failures == {"low-sync": 1}
    assert {s.status for s in snapshot.load_snapshot(build) if s.reason} == {"rejected"}
    file.write_text('{"clip_id": "x"}\n')
    with pytest.raises(TalkbenchError, match="line 1"):
        fetching.read_rejected(file)


def test_a_fetch_that_was_stopped_goes_on_where_it_was(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    build, downloader = start()
    real, done = Downloader.fetch, []

    def stops(self: Downloader, *arguments: Any) -> Path:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Downloader, "fetch", stops)
        with pytest.raises(KeyboardInterrupt):
            fetching.fetch(build, downloader, day=building.DAY, checks=False)
    assert not build.snapshot.exists()
    assert fetching.fetch(build, downloader, day=building.DAY, checks=False).frozen
    assert len(calls(build)) == 6


def test_a_frozen_selection_is_never_changed(start: Start) -> None:
    from talkbench.data.select import select

    build, downloader = start()
    fetching.fetch(build, downloader, day=building.DAY, checks=False)
    before = build.selection.read_bytes()
    select(build, sizes=building.SHORT_ONLY)
    with pytest.raises(TalkbenchError, match="never changed"):
        select(build, seed=1, sizes=building.SHORT_ONLY)
    assert build.selection.read_bytes() == before
    build.snapshot.write_text("".join(build.snapshot.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(TalkbenchError, match="different builds"):
        render(build)


def test_missing_programs_are_named_with_the_remedy(start: Start) -> None:
    build, downloader = start()
    with pytest.raises(PrerequisiteError, match=r"no-such-program.*pip install yt-dlp"):
        fetching.fetch(build, Downloader("no-such-program", downloader.ffmpeg), day=building.DAY, checks=False)


def test_addresses_and_names_are_arguments_of_their_own() -> None:
    command = Downloader().command("yt:-abcdefghij", 1.5, 9.25, Path("/tmp/with space"))
    assert command[-2:] == ["--", "https://www.youtube.com/watch?v=-abcdefghij"]
    assert "*1.500-9.250" in command
    assert "/tmp/with space/piece.%(ext)s" in command
    assert "bestaudio" in command[command.index("--format") + 1]


@pytest.mark.slow
def test_two_independent_builds_give_the_same_bytes(tmp_path: Path) -> None:
    sizes = building.WITH_LONG
    downloader = building.make_downloader(tmp_path / "program", long=True)
    releases = []
    for name in ("one", "two"):
        build = building.make_selection(tmp_path / name, sizes)
        fetching.fetch(build, downloader, day=building.DAY, checks=False)
        report = render(build)
        assert report.coverage == {tier: [size, size] for tier, size in sorted(sizes.items()) if size}
        releases.append(build.release("1.0.0"))
    one, two = releases
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    for file in names:
        assert (one / file).read_bytes() == (two / file).read_bytes(), file
    found = verify(one)
    assert (found.problems, found.missing) == ([], [])


def test_rendering_again_makes_only_what_is_not_whole(
    released: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(released.root, tmp_path / "build")
    build = Build(tmp_path / "build")
    before = {p.name: p.read_bytes() for p in build.release("1.0.0").glob("*.*")}
    (build.release("1.0.0") / "samples" / "tbs-0002" / "ref.png").write_bytes(b"torn")
    made = []
    real = sound.prepare
    monkeypatch.setattr(sound, "prepare", lambda *a, **k: made.append(a) or real(*a, **k))
    render(build)
    assert len(made) == 1
    assert {p.name: p.read_bytes() for p in build.release("1.0.0").glob("*.*")} == before


def test_what_a_killed_run_left_half_written_is_removed_and_nothing_hidden_is_ever_listed(
    released: Build, tmp_path: Path
) -> None:
    shutil.copytree(released.root, tmp_path / "build")
    folder = Build(tmp_path / "build").release("1.0.0")
    before = (folder / "MANIFEST.sha256").read_bytes()
    torn = [folder / ".manifest.jsonl.4194305.0123abcd.tmp", folder / "samples" / "tbs-0001" / ".gt.7.partial.mp4"]
    for path in (*torn, folder / ".notes"):
        path.write_bytes(b"torn")
    render(Build(tmp_path / "build"))
    assert (folder / "MANIFEST.sha256").read_bytes() == before
    assert [path.exists() for path in (*torn, folder / ".notes")] == [False, False, True]
    with (
        atomic.lock(folder.with_name(".1.0.0.lock"), wait=False),
        pytest.raises(TalkbenchError, match="another process"),
    ):
        render(Build(tmp_path / "build"))


def test_a_version_verifies_and_its_suites_can_be_run(released: Build) -> None:
    found = verify(*find("short.v1", released))
    assert (found.problems, found.missing, found.coverage) == ([], [], {"short": [3, 3]})
    suite = manifests.load(str(released.release("1.0.0") / "short.v1.jsonl"))
    assert suite.id == "short.v1"
    assert all(item.licence.startswith("annotations CC-BY-NC-4.0") for item in suite.items or ())
    # The fake gives every person the same picture.
    problems = checking.check(suite, released.release("1.0.0"))
    assert [problem for problem in problems if "has the image of" not in problem] == []


def test_the_sound_is_what_the_manifest_says(released: Build) -> None:
    folder = released.release("1.0.0")
    for line in (folder / "manifest.jsonl").read_text().splitlines():
        sample = Sample.model_validate(json.loads(line))
        with wave.open(str(folder / sample.audio.path)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
            assert file.getnframes() % 640 == 0
            assert file.getnframes() == sample.expect.frames * 640
        assert sample.audio.true_peak_dbfs <= -1.99
        assert sample.audio.lufs == pytest.approx(-23, abs=0.05) or sample.audio.true_peak_dbfs > -2.1


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("samples/tbs-0001/audio.wav", lambda b: b[:-1] + bytes([b[-1] ^ 1]), "another sha256"),
        ("samples/tbs-0001/ref.png", lambda b: b"no picture", "cannot be decoded"),
        ("manifest.jsonl", lambda b: b + b"{}\n", "Field required"),
        ("manifest.jsonl", lambda b: b + b"nonsense\n", "not JSON"),
        ("manifest.jsonl", lambda b: b + b.splitlines()[0] + b"\n", "stands 2 times"),
        ("manifest.jsonl", lambda b: b.replace(b'"Female"', b'"Male"'), "strata"),
        ("exclusions.json", lambda b: b"{}", "MANIFEST.sha256"),
        ("manifest.schema.json", lambda b: b"{}", "not the schema"),
    ],
)
def test_verify_finds_every_change(released: Build, tmp_path: Path, name: str, change: Any, what: str) -> None:
    shutil.copytree(released.release("1.0.0"), tmp_path / "v")
    path = tmp_path / "v" / name
    path.write_bytes(change(path.read_bytes()))
    found = verify(tmp_path / "v")
    assert any(what in why for _, why in found.problems), found.problems


def test_a_text_with_a_line_separator_is_one_line_of_a_manifest(released: Build, tmp_path: Path) -> None:
    shutil.copytree(released.release("1.0.0"), tmp_path / "v")
    path = tmp_path / "v" / "manifest.jsonl"
    path.write_text(path.read_text("utf-8").replace("A person talks", "A person\u2028talks"), "utf-8")
    found = verify(tmp_path / "v")
    assert found.problems == [("manifest.jsonl", "is not the file that MANIFEST.sha256 lists")]


def test_missing_files_are_coverage_and_other_majors_are_refused(released: Build, tmp_path: Path) -> None:
    shutil.copytree(released.release("1.0.0"), tmp_path / "v")
    (tmp_path / "v" / "samples" / "tbs-0003" / "audio.wav").unlink()
    found = verify(tmp_path / "v")
    assert found.missing == [("tbs-0003", "samples/tbs-0003/audio.wav is not there")]
    assert found.coverage == {"short": [2, 3]}
    path = tmp_path / "v" / "manifest.jsonl"
    path.write_text(path.read_text().replace('"version": "1.', '"version": "2.'))
    with pytest.raises(TalkbenchError, match="another major version"):
        verify(tmp_path / "v")
    with pytest.raises(TalkbenchError, match="talkbench data render"):
        find("short.v3", released)
    with pytest.raises(TalkbenchError, match="major.minor.patch"):
        check_version("1.0")


def test_a_whole_version_means_that_one_and_a_major_the_newest_of_it(tmp_path: Path) -> None:
    build = Build(tmp_path)
    for name in ("1.1.0", "1.10.0", "1.1.0.bak", "11.0.0", "2.0.0"):
        build.release(name).mkdir(parents=True)
        (build.release(name) / "manifest.jsonl").touch()
    assert find("short.v1", build) == (build.release("1.10.0"), "short")
    assert find("1", build) == (build.release("1.10.0"), None)
    assert find("long.v1.1.0", build) == (build.release("1.1.0"), "long")
    assert find("1.1.0", build) == (build.release("1.1.0"), None)
    for name in ("1.0.0", "short.v1.0.0"):
        with pytest.raises(TalkbenchError, match=rf"{name}.*there: 1\.1\.0, 1\.10\.0, 2\.0\.0, 11\.0\.0"):
            find(name, build)


def test_the_committed_schema_is_that_of_the_records() -> None:
    assert (ROOT / "talkbench" / "data" / "manifest.schema.json").read_text(encoding="utf-8") == json_schema()
    schema = json.loads(json_schema())
    assert schema["additionalProperties"] is False
    assert schema["properties"]["tier"]["enum"] == ["short", "long"]


def test_the_reserve_fills_its_own_stratum_first(prepared: tuple[Path, Downloader]) -> None:
    selection = snapshot.load_selection(Build(prepared[0] / "build"))
    slot = next(e for e in selection if e.tier == "short" and e.slot)
    reserve = [e for e in selection if e.tier == "short" and not e.slot]
    changed = [e.model_copy(update={"stratum": slot.stratum if e is reserve[-1] else "short/xx"}) for e in reserve]
    placed = placing.place([slot, *changed], {placing.key(slot): False})
    assert placed[0].entry is not None
    assert placed[0].entry.clip_id == reserve[-1].clip_id
    none = {placing.key(e): False for e in selection}
    assert all(place.entry is None for place in placing.place(selection, none))


def test_the_peak_between_samples_is_found() -> None:
    t = np.arange(16_000)
    faded = np.sin(np.pi / 2 * t + np.pi / 4) * np.hanning(t.size)
    assert sound.true_peak(faded) == pytest.approx(0.0, abs=0.1)
    assert 20 * np.log10(np.abs(faded).max()) == pytest.approx(-3.0, abs=0.1)


def test_resampling_keeps_what_is_below_and_removes_what_is_above_the_new_band() -> None:
    from fractions import Fraction

    for rate in (44_100, 48_000):
        t = np.arange(2 * rate) / rate
        kept = sound._resampled(np.sin(2 * np.pi * 1000 * t).astype(np.float32), Fraction(16_000, rate))
        gone = sound._resampled(np.sin(2 * np.pi * 9000 * t).astype(np.float32), Fraction(16_000, rate))
        expected = np.sin(2 * np.pi * 1000 * np.arange(kept.size) / 16_000)
        assert np.abs(kept - expected)[1000:-1000].max() < 1e-3
        assert np.abs(gone)[1000:-1000].max() < 1e-5


def test_pauses_are_measured() -> None:
    t = np.arange(16_000 * 10) / 16_000
    samples = 0.1 * np.sin(2 * np.pi * 200 * t) * ((t < 2) | (t > 5))
    ratio, gap = sound.speech(samples)
    assert ratio == pytest.approx(0.7, abs=0.01)
    assert gap == pytest.approx(3.0, abs=0.05)


def test_silence_and_missing_sound_are_told(tmp_path: Path) -> None:
    clip = building.make_template(tmp_path / "a.mp4", 3, height=144)
    with pytest.raises(Unscorable) as error:
        sound.prepare([sound.Piece(clip, 6.0)])
    assert error.value.reason == "sound-too-short"
    padded = sound.prepare([sound.Piece(clip, 2.99)])
    assert padded.audio_N.size == 75 * 640
    assert sound.prepare([sound.Piece(clip, 3.0)], below_seconds=3.0).seconds == pytest.approx(2.96)


def test_frames_near_a_cut_are_never_chosen(tmp_path: Path) -> None:
    from fractions import Fraction

    from talkbench.media.encode import write_clip

    random = np.random.default_rng(0)
    soft, sharp = np.full((144, 256, 3), 30, np.uint8), random.integers(150, 255, (144, 256, 3), np.uint8)
    soft[::8] = 40
    write_clip(tmp_path / "a.mp4", [soft] * 50 + [sharp] * 10 + [soft] * 50, frame_rate=Fraction(25))
    chosen = reference.choose(tmp_path / "a.mp4")
    assert chosen.seconds < 1.6 or chosen.seconds > 2.8
    write_clip(tmp_path / "b.mp4", [soft, sharp] * 10, frame_rate=Fraction(5))
    with pytest.raises(Unscorable) as error:
        reference.choose(tmp_path / "b.mp4")
    assert error.value.reason == "no-frame"


def test_crops_have_the_canonical_sizes_and_are_not_blown_up() -> None:
    frame = np.zeros((720, 1280, 3), np.uint8)
    assert reference.crop(frame, "portrait").size == (480, 832)
    assert reference.crop(frame, "landscape").size == (832, 480)
    assert reference.crop(frame, "square").size == (640, 640)
    with pytest.raises(Unscorable):
        reference.crop(np.zeros((360, 640, 3), np.uint8), "portrait")
