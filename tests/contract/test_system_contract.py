"""What every system of `baselines/` must do, shown against simulated ones: clips, refusals, and nothing left behind."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import runpy
import shutil
import subprocess
import sys
import time
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from talkbench.errors import PrerequisiteError
from talkbench.media.normalise import LAYOUT
from talkbench.media.probe import probe
from talkbench.schema import Encode
from talkbench.systems import discover
from talkbench.systems.check import listing
from talkbench.systems.machine import Machine
from talkbench.workers.accept import accept
from talkbench.workers.faults import KINDS
from talkbench.workers.host import WorkerFailedError
from talkbench.workers.sound_check import compare_sound
from tests.data.baselines.support import GOLDEN, HERE, SPECS, bench, commands, plan
from tests.support import ROOT
from tests.unit.workers.fakes import gone, is_running

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="simulated systems write clips with ffmpeg")

SECONDS = 1.2
NAMES = (
    "ditto",
    "echomimic_v3",
    "echomimic_v3-flash",
    "stableavatar",
    "omniavatar",
    "liveavatar",
    "liveavatar-5gpu",
    "infinitetalk",
)
NATIVE = {
    # frames and size of the file that each system leaves for 1.2 s of sound, and whether frames of it are cut off
    "ditto": (30, [256, 256], False),
    "echomimic_v3": (29, [256, 256], False),
    "echomimic_v3-flash": (29, [256, 256], False),
    "stableavatar": (85, [512, 512], True),
    "omniavatar": (39, [720, 720], True),
    "liveavatar": (30, [128, 128], False),
    "liveavatar-5gpu": (30, [128, 128], False),
    "infinitetalk": (87, [160, 160], True),
}


def made(name: str, folder: Path, seconds: float = SECONDS, encode: Encode = "native"):
    """Have a simulated system make a clip; return its path and its sidecar."""
    place = bench(name, folder)
    with contextlib.closing(place.station):
        task = place.task(seconds, encode)
        return task.path, place.station.make(task)


def failure(name: str, folder: Path, words: str, **more) -> WorkerFailedError:
    place = bench(name, folder, words, **more)
    with contextlib.closing(place.station), pytest.raises(WorkerFailedError) as caught:
        place.station.make(place.task(SECONDS))
    assert not (folder / "clips").exists(), "something was published"
    return caught.value


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory):
    """One clip of every simulated system, made when it is first asked for."""
    return cache(lambda name: made(name, tmp_path_factory.mktemp(name)))


@pytest.mark.parametrize("name", NAMES)
def test_every_system_makes_a_clip_that_is_accepted_and_says_how(name: str, clips) -> None:
    clip, sidecar = clips(name)
    told = sidecar.settings["clip"]
    frames, size, again = NATIVE[name]
    assert (told["native"]["frames"], told["native"]["size"]) == (frames, size)
    assert told["clip"]["encoded_again"] == again
    assert sidecar.settings["worker"]["versions"]["torch"] == "2.9.9", "it did not run in the environment of its own"
    found = accept(
        clip, audio_seconds=SECONDS, frame_rate=Fraction(25), num_frames_told=0,
        tolerance_frames=SPECS[name].limits.tolerance_frames,
    )  # fmt: skip
    assert found.size == tuple(size)
    if again:
        assert found.picture.num_frames == 30
    assert str(sidecar.settings["seed"]) in json.dumps(told), "the seed is nowhere"


@pytest.mark.parametrize("name", NAMES)
def test_the_clip_is_the_systems_own_file_if_picture_and_sound_are_the_benchmarks(name: str, clips) -> None:
    clip, sidecar = clips(name)
    told = sidecar.settings["clip"]
    own = not NATIVE[name][2]
    assert told["clip"]["sound"] == sidecar.settings["encode"]["sound"] == ("native" if own else "benchmark")
    assert sidecar.settings["encode"]["policy"] == "native"
    data = clip.read_bytes()
    assert (data.index(b"mdat") < data.index(b"moov")) == own, (
        "simulated systems write the index last, we write it first"
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_clip_begins_with_the_picture_and_says_what_it_cost(name: str, clips) -> None:
    _, sidecar = clips(name)
    accepted = sidecar.settings["accepted"]
    assert accepted["picture"]["likeness"] > 0.95
    assert accepted["face"] == {"checked": "not checked: no sfd_face.pth (talkbench weights fetch s3fd)"}
    assert sidecar.settings["peak_rss_bytes"] > 10 << 20
    assert SPECS[name].limits.shows_reference


EVENTS = {
    # what the output of each system is known to tell of, besides the beginning and the end of its process
    "ditto": [],
    "echomimic_v3": ["import_end", "cond_end"],
    "echomimic_v3-flash": ["cond_end"],
    "stableavatar": ["cond_end"],
    "omniavatar": ["cond_end"],
    "liveavatar": ["cond_end"],
    "liveavatar-5gpu": ["cond_end", "gen_end"],
    "infinitetalk": ["import_end", "load_end", "cond_end", "encode_end"],
}


@pytest.mark.parametrize("name", NAMES)
def test_timing_holds_what_the_systems_own_output_tells_of_and_no_more(name: str, clips) -> None:
    _, sidecar = clips(name)
    timing = sidecar.timing
    assert set(timing.events) == {"spawn", *EVENTS[name], "exit"}
    moments = [timing.events[event] for event in ("spawn", *EVENTS[name], "exit")]
    assert moments == sorted(moments)
    assert timing.job_received_ns < moments[0] < moments[-1] < timing.file_closed_ns
    assert (timing.num_frames, timing.audio_seconds) == (NATIVE[name][0], SECONDS)
    assert timing.num_gpus == SPECS[name].needs.gpus


def test_the_windows_of_a_system_are_its_cycles_and_the_last_one_has_no_end(clips, tmp_path: Path) -> None:
    _, sidecar = clips("infinitetalk")
    assert [chunk.num_frames for chunk in sidecar.timing.chunks] == [81]
    assert sidecar.timing.first_frame_ns == sidecar.timing.chunks[0].done_ns
    _, longer = made("infinitetalk", tmp_path, seconds=10.0)
    assert [chunk.num_frames for chunk in longer.timing.chunks] == [81, 72, 72]
    _, short = clips("omniavatar")
    assert short.timing.chunks == ()


def test_a_tapped_clip_has_the_layout_of_all_and_the_benchmarks_sound(clips, tmp_path: Path) -> None:
    native, _ = clips("liveavatar")
    clip, sidecar = made("liveavatar", tmp_path, encode="tap")
    assert sidecar.settings["encode"] == {"policy": "tap", "sound": "benchmark", "layout": LAYOUT}
    before, after = probe(native), probe(clip)
    assert (after.video.width, after.video.height) == (before.video.width, before.video.height)
    assert (after.audio.rate_hz, after.audio.num_channels) == (16_000, 1)
    found = compare_sound(clip, native)
    assert (found.likeness, found.late_seconds, found.gain_db) == pytest.approx((1.0, 0.0, 0.0), abs=0.1)


def test_a_lead_is_measured_on_what_the_system_wrote_and_is_gone_from_the_clip(clips) -> None:
    _, sidecar = clips("omniavatar")
    told = sidecar.settings["clip"]
    assert told["native"]["sound_late_seconds"] == pytest.approx(0.36, abs=0.021)
    assert (told["clip"]["lead_frames_cut"], told["clip"]["frames_minus_expected"]) == (9, 0)
    assert SPECS["omniavatar"].limits.lead_trim_frames == 9


def test_another_loudness_is_measured_and_the_clip_has_the_benchmarks(clips) -> None:
    (clip, sidecar), (other, _) = clips("infinitetalk"), clips("ditto")
    told = sidecar.settings["clip"]
    assert told["native"]["sound_gain_db"] == pytest.approx(-7.96, abs=0.5)
    assert told["settings"]["padded_to_seconds"] == 3.5
    found = compare_sound(clip, other)
    assert (found.likeness, found.late_seconds, found.gain_db) == pytest.approx((1.0, 0.0, 0.0), abs=0.1)


@pytest.mark.parametrize(
    ("name", "words", "reason", "told"),
    [
        ("liveavatar", "nothing", "error", "no-output: exit code 0"),
        ("ditto", "five", "bad-output", "5 frames for 1.20 s of sound, 30 expected (give or take 1) [wrong-length]"),
        ("ditto", "no-face", "error", "no-face: exit code 1"),
        ("echomimic_v3", "other-commit", "error", "infer_preview.Config has no overlap_video_length"),
        ("echomimic_v3-flash", "oom", "error", "oom-gpu: exit code 1"),
        ("stableavatar", "grey", "bad-output", "are of one colour [blank]"),
        ("infinitetalk", "black", "bad-output", "30 of 30 frames are black [black]"),
        ("liveavatar", "still", "bad-output", "all 30 frames are the same [frozen]"),
        ("liveavatar", "stops", "bad-output", "frames repeat the one before them [repeated-tail]"),
        ("echomimic_v3", "stranger", "bad-output", "likeness to the reference picture is"),
        ("liveavatar", "mute", "bad-output", "the system's own file has no sound track [no-sound]"),
        ("ditto", "late", "bad-output", "0.30 s late in the system's own file, 0.00 s (0 frames) declared"),
        ("omniavatar", "no-lead", "bad-output", "0.36 s (9 frames) declared [wrong-lead]"),
        ("omniavatar", "small", "bad-output", "64x64, 400x720, 720x400, 720x720 expected [wrong-size]"),
        ("stableavatar", "small", "error", "wrong-size: 64x64, 512x512 asked for"),
        ("infinitetalk", "fast", "bad-output", "30 frames a second, 25 expected [wrong-rate]"),
        ("omniavatar", "partial", "error", "unreadable: "),
        ("omniavatar", "no-weight", "error", "missing-weight: exit code 1"),
    ],
)  # fmt: skip
def test_every_documented_misbehaviour_costs_the_clip_and_has_a_name(
    name: str, words: str, reason: str, told: str, tmp_path: Path
) -> None:
    error = failure(name, tmp_path, words)
    assert error.reason == reason
    assert told in error.message


def test_a_system_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    error = failure("omniavatar", tmp_path, "children hang", silence=2.0)
    assert (error.reason, error.message[:14]) == ("timeout", "silent for 2 s")
    assert len(children(tmp_path)) == 2
    assert gone(children(tmp_path))


def test_junk_is_only_logged_and_children_that_outlive_a_clip_are_ended(tmp_path: Path) -> None:
    place = bench("ditto", tmp_path, "junk children")
    with contextlib.closing(place.station):
        place.station.make(place.task(SECONDS))
        assert len(children(tmp_path)) == 2
        assert not any(is_running(pid) for pid in children(tmp_path)), "a child outlived its clip"


def test_a_host_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.data.baselines.support import bench\n"
        "place = bench('liveavatar', Path(sys.argv[1]), 'children hang'); place.station.make(place.task(1.2))"
    )
    host = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    end = time.monotonic() + 60
    while not children(tmp_path) and time.monotonic() < end:
        time.sleep(0.05)
    host.kill()
    host.wait()
    assert len(children(tmp_path)) == 2
    assert gone(children(tmp_path))
    assert not _of(tmp_path)


def children(folder: Path) -> list[int]:
    """Return the processes that a simulated system has started: it notes them in its checkout."""
    return [int(pid) for path in folder.glob("weights/*/*/source/children.txt") for pid in path.read_text().split()]


def _of(folder: Path, seconds: float = 15.0) -> list[int]:
    """Return the processes that name a folder in their command line and are not gone within some seconds."""
    end = time.monotonic() + seconds
    while found := [
        int(entry.name)
        for entry in Path("/proc").glob("[0-9]*")
        if str(folder).encode() in _command_line(entry) and is_running(int(entry.name))
    ]:
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    return found


def _command_line(entry: Path) -> bytes:
    with contextlib.suppress(OSError):
        return (entry / "cmdline").read_bytes()
    return b""


@pytest.mark.parametrize(
    ("printed", "code", "kind"),
    [
        ("OSError: [Errno 28] No space left on device", 1, "disk-full: exit code 1"),
        ("RuntimeError: No CUDA GPUs are available", 1, "no-gpu: exit code 1"),
        ("numpy.core._exceptions._ArrayMemoryError: MemoryError", 1, "oom-host: exit code 1"),
        ("The client socket has failed to bind: EADDRINUSE", 1, "port-taken: exit code 1"),
        ("ModuleNotFoundError: No module named 'flash_attn'", 1, "missing-module: exit code 1"),
        ("", -9, "killed: ended by SIGKILL: it printed nothing"),
        ("something else", 3, "exit: exit code 3: something else"),
        ("TypeError: cannot unpack non-iterable NoneType object", 1, "mine: exit code 1"),
    ],
)
def test_what_a_system_prints_when_it_fails_is_sorted_into_kinds(printed: str, code: int, kind: str) -> None:
    lines = [printed] if printed else []
    assert COMMON["explain"](lines, code, (("mine", "cannot unpack"),)).startswith(kind)


def test_every_kind_of_failure_is_explained() -> None:
    source = "".join(path.read_text() for path in (ROOT / "baselines").glob("*/worker.py"))
    kinds = {kind for kind, _ in COMMON["ERRORS"]} | set(re.findall(r'\("([a-z-]+)", r"', source))
    kinds |= set(re.findall(r'AttemptFailedError\(f?"([a-z-]+): ', (ROOT / "baselines" / "common.py").read_text()))
    assert kinds | {"killed", "exit", "refused"} == set(KINDS)


COMMON = runpy.run_path(str(ROOT / "baselines" / "common.py"))


def test_what_earlier_use_left_in_a_checkout_is_neither_written_to_nor_taken_for_a_clip(tmp_path: Path) -> None:
    wanted = plan("omniavatar", tmp_path / "one", seconds=5.0)
    source = tmp_path / "source"
    (source / "pretrained_models").mkdir(parents=True)
    stale = source / "demo_out" / "exp" / "res_old" / "result_000_wav.mp4"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"stale")
    places = COMMON["Places"]("python", str(source), "weights", 1, "omniavatar")
    for scratch in (tmp_path / "one", tmp_path / "two"):
        scratch.mkdir(exist_ok=True)
        COMMON["_lay_out"](wanted._replace(copies={}), scratch, places)
        assert list(scratch.glob(wanted.output)) == []
        assert len(list((scratch / "work" / "pretrained_models").iterdir())) == 3
    assert list((source / "pretrained_models").iterdir()) == []


def test_temporary_files_of_official_code_go_with_its_attempt(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    report = SimpleNamespace(mark=lambda _: None, note=lambda _: None)
    wanted = COMMON["Plan"]([sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"], "")
    attempt = COMMON["_Attempt"](wanted, tmp_path, report)
    attempt.run()
    assert list(attempt._lines) == [str(tmp_path)]


def test_a_process_that_cannot_be_killed_does_not_keep_the_guard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setitem(COMMON["_guard"].__globals__, "_KILL_SECONDS", 0.05)
    monkeypatch.setitem(COMMON["_guard"].__globals__, "_carrying", lambda _: [1 << 23])
    COMMON["_guard"]("token")
    assert f"even by kill -9: {1 << 23}" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "baselines").rglob("*.py")), ids=lambda path: "/".join(path.parts[-2:]))
def test_what_runs_in_foreign_environments_is_old_python_and_needs_nothing_of_ours(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert names <= set(sys.stdlib_module_names) | {"common", "talkbench_shim", "infer_preview"}


@pytest.mark.parametrize("name", sorted(SPECS))
def test_the_command_lines_are_the_documented_ones(name: str, tmp_path: Path) -> None:
    assert commands(name, tmp_path) == json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("omniavatar", {"prompt": "a@@b"}, "holds @@"),
        ("omniavatar", {"scratch": "/tmp/a b"}, "not quoted"),
        ("liveavatar", {"audio": "/tmp/a+b.wav"}, "second speaker"),
    ],
)
def test_what_a_system_would_misunderstand_is_refused(name: str, changes: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=f"refused: .*{words}"):
        plan(name, tmp_path, seconds=5.0, **changes)


@pytest.mark.parametrize("name", ["stableavatar", "infinitetalk"])
def test_only_a_sound_under_three_and_a_half_seconds_is_lengthened(name: str, tmp_path: Path) -> None:
    padded = [
        "apad=whole_dur=3.5" in json.dumps(plan(name, tmp_path, seconds=seconds).prepare)
        for seconds in (1.0, 3.49, 3.5, 60.0)
    ]
    assert padded == [True, True, False, False]


@pytest.mark.parametrize(
    ("size", "expected"), [((800, 800), (512, 512)), ((720, 1280), (480, 832)), ((1280, 720), (832, 480))]
)
def test_the_picture_decides_the_shape_of_stableavatars_clip(size: tuple, expected: tuple, tmp_path: Path) -> None:
    made_for = plan("stableavatar", tmp_path, seconds=5.0, size=size)
    assert made_for.size == expected
    assert ("square" in " ".join(made_for.argv)) == (expected == (512, 512))


def test_every_adapter_is_found_and_says_what_it_is_and_needs() -> None:
    found = discover.adapters()
    assert {name for name in found if not name.startswith("soulx")} == set(SPECS) >= set(NAMES)
    for name, spec in SPECS.items():
        assert spec == found[name]
        assert spec.source.commit is not None and spec.needs.gpus >= 1 and spec.needs.environment is not None
        recipe = spec.recipe(Path("weights"))
        assert recipe is not None and "torch" in recipe.pins(), name
        assert recipe.lock.with_name("requirements.in").is_file(), "nobody could solve the lock again"
        assert (spec.path.parent / "README.md").is_file(), name
        assert (HERE / spec.path.parent.name).is_dir(), "there is no simulated system for it"
        assert all(group.url.startswith("https://") and group.licence for group in spec.needs.weights)


def test_what_is_missing_is_listed_and_refused_before_anything_starts(tmp_path: Path) -> None:
    machine = Machine(tmp_path, ())
    listed = {entry.name: entry for entry in listing(machine)}
    for name, spec in SPECS.items():
        lacks = "\n".join(listed[name].lacks)
        assert "it needs" in lacks and "GPU" in lacks
        for part in ("env is not there", f"talkbench env create {spec.needs.environment.name}", spec.source.commit):
            assert part in lacks, name
        assert listed[name].licence == spec.licence
        with pytest.raises(PrerequisiteError, match=f"talkbench system check {name}"):
            machine.require(spec)


def test_sounds_beyond_a_systems_limits_are_refused_in_words() -> None:
    from talkbench.mini.suite import mini_suite

    (item,) = mini_suite(num_short=0, num_long=1).items or ()
    assert "unsupported: lasts" in (SPECS["echomimic_v3"].refuses(item) or "")
    assert "5.52 s" in (SPECS["echomimic_v3-flash"].refuses(item) or "")
    assert SPECS["infinitetalk"].refuses(item) is None
