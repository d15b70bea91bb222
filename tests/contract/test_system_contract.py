"""What every system of `baselines/` must do, shown against simulated ones: clips, refusals, and nothing left behind."""

from __future__ import annotations

import ast
import contextlib
import json
import runpy
import shutil
import subprocess
import sys
import time
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest

from talkbench.errors import PrerequisiteError
from talkbench.systems import discover
from talkbench.systems.adapter import Machine
from talkbench.systems.check import listing
from talkbench.workers.accept import accept, compare_sound
from talkbench.workers.host import WorkerFailedError
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
    # frames and size of the file that each system leaves for 1.2 s of sound, and whether it is encoded again
    "ditto": (30, [256, 256], False),
    "echomimic_v3": (29, [256, 256], False),
    "echomimic_v3-flash": (29, [256, 256], False),
    "stableavatar": (85, [512, 512], True),
    "omniavatar": (39, [144, 144], True),
    "liveavatar": (30, [128, 128], False),
    "liveavatar-5gpu": (30, [128, 128], False),
    "infinitetalk": (87, [160, 160], True),
}


def made(name: str, folder: Path, words: str = "", seconds: float = SECONDS, **more):
    """Have a simulated system make a clip; return its path and its sidecar."""
    place = bench(name, folder, words, **more)
    with contextlib.closing(place.station):
        task = place.task(seconds)
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
        assert found.num_frames == 30
    assert str(sidecar.settings["seed"]) in json.dumps(told), "the seed is nowhere"


def test_a_lead_is_measured_on_what_the_system_wrote_and_is_gone_from_the_clip(clips) -> None:
    _, sidecar = clips("omniavatar")
    told = sidecar.settings["clip"]
    assert told["native"]["sound_late_seconds"] == pytest.approx(0.36, abs=0.021)
    assert (told["clip"]["lead_frames_cut"], told["clip"]["frames_minus_expected"]) == (9, 0)
    assert "first_chunk" in told["events"]


def test_another_loudness_is_measured_and_the_clip_has_the_benchmarks(clips) -> None:
    (clip, sidecar), (other, _) = clips("infinitetalk"), clips("ditto")
    told = sidecar.settings["clip"]
    assert told["native"]["sound_gain_db"] == pytest.approx(-7.96, abs=0.5)
    assert told["settings"]["padded_to_seconds"] == 3.5
    assert list(told["events"]) == ["loading", "generating", "saved"]
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
    end = time.monotonic() + 20
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


def _of(folder: Path, seconds: float = 3.0) -> list[int]:
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
    explain = runpy.run_path(str(ROOT / "baselines" / "common.py"))["explain"]
    lines = [printed] if printed else []
    assert explain(lines, code, (("mine", "cannot unpack"),)).startswith(kind)


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
        assert (spec.path.parent / spec.needs.environment.requirements).is_file(), name
        assert (spec.path.parent / "README.md").is_file(), name
        assert (HERE / spec.path.parent.name).is_dir(), "there is no simulated system for it"
        assert all(group.url.startswith("https://") and group.licence for group in spec.needs.weights)


def test_what_is_missing_is_listed_and_refused_before_anything_starts(tmp_path: Path) -> None:
    machine = Machine(tmp_path, ())
    listed = {entry.name: entry for entry in listing(machine)}
    for name, spec in SPECS.items():
        lacks = "\n".join(listed[name].lacks)
        assert "it needs" in lacks and "GPU" in lacks
        for part in ("env lacks bin/python", "source lacks", spec.source.commit):
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
