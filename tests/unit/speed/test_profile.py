"""Profiles: raw seconds become records, configurations are measured once, and nothing is lost or orphaned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from talkbench import profiling
from talkbench.cli.app import app
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.provenance import device_name
from talkbench.schema import ProfileRecord
from talkbench.speed import profile
from talkbench.store.run import Run, read_record
from talkbench.systems import discover
from talkbench.systems.spec import SystemSpec
from tests.support import ROOT

FACTS = {
    "recipe": "tiny", "num_processes": 1, "ulysses": 1, "ring": 1, "vae": "exact", "compiled": False,
    "device_kind": "cpu", "device": device_name(), "dtype": "float32", "attention": "math", "weights_kind": "random",
    "height": 128, "width": 128, "frame_rate": "25", "chunk_frames": 28, "num_steps": 4, "provenance": {"torch": "2"},
}  # fmt: skip
FAKE = """
import argparse, json, os, sys, time
parser = argparse.ArgumentParser()
names = "recipe device processes warmup chunks seconds compile emulate weights-dir out"
for name in names.split():
    parser.add_argument(f"--{name}")
parser.add_argument("--random-weights", action="store_true")
parser.add_argument("--dry-run", action="store_true")
given = parser.parse_args()
here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "calls"), "a") as file:
    file.write(f"{given.processes} {given.compile} {given.emulate}\\n")
facts = json.load(open(os.path.join(here, "facts.json")))
if given.processes == "3":
    print(json.dumps({"error": "8 heads do not divide by 3.", "exit_code": 2}))
    sys.exit(2)
if given.processes == "5":
    raise RuntimeError("out of luck")
if given.processes == "7":
    time.sleep(60)
facts |= {"num_processes": int(given.processes), "compiled": given.compile == "on"}
print(json.dumps(facts))
"""


def measurement(cycles: list[float], **changes: Any) -> dict[str, Any]:
    sections = {"audio": 0.01, "decode": 0.1, "encode": 0.02, "color": 0.005, "copy": 0.001, "rest": 0.004}
    return FACTS | {
        "origin": "measured",
        "sections": {name: [seconds] * len(cycles) for name, seconds in sections.items()}
        | {"dit_step": [0.05, 0.06, 0.07, 0.9] * len(cycles)},
        "cycles": cycles,
        "startup": {"load_seconds": 2, "stream_seconds": 1, "cold_seconds": 3, "first_frame_seconds": 0.2},
        "peak_memory_bytes": 10**9, "power_watts": None, "power_limit_watts": None,
    } | changes  # fmt: skip


@pytest.fixture
def profiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a profiler in place that answers at once, and a system that it knows; return where it notes its calls."""
    script = tmp_path / "profiler" / "fake.py"
    script.parent.mkdir()
    script.write_text(FAKE)
    (script.parent / "facts.json").write_text(json.dumps(measurement([0.5] * 20)))
    monkeypatch.setattr(profile, "PROFILER", (sys.executable, str(script)))
    toy = SystemSpec.model_validate(
        {"name": "toy", "version": 1, "description": "Toy.", "title": "Toys", "licence": "MIT",
         "source": {"repo": "a/b"}, "launch": ["{python}"], "settings": {"recipe": "tiny"}, "path": "adapter.yaml"}
    )  # fmt: skip
    monkeypatch.setattr(discover, "select", lambda names: tuple(toy for name in names if name == "toy"))
    return script.parent / "calls"


def measured(out: Path, *counts: int, **options: Any) -> list[ProfileRecord]:
    return profiling.profile("toy", out, device="cpu", counts=counts, **options)


def test_a_record_holds_medians_with_their_counts() -> None:
    record = profile.summarise(measurement([0.5] * 19 + [2.0]), "toy")
    step = record.components["dit_step"]
    assert (step.count, step.p50_seconds, step.mean_seconds) == (80, pytest.approx(0.065), pytest.approx(0.27))
    assert record.cycle.count == 20
    assert record.fps == pytest.approx(28 / 0.5)
    assert record.real_time_factor == pytest.approx((19 * 0.5 + 2) / 20 / 1.12)
    assert record.missed_deadlines == pytest.approx(1 / 20)


def test_a_percentile_without_enough_evidence_is_left_out() -> None:
    few, more = profile.durations([0.1] * 19), profile.durations([0.1] * 20)
    assert (few.p90_seconds, more.p90_seconds, more.p99_seconds) == (None, pytest.approx(0.1), None)
    assert profile.durations([0.1] * 200).p99_seconds == pytest.approx(0.1)


def test_a_measurement_short_of_the_scenario_is_refused() -> None:
    with pytest.raises(TalkbenchError, match="19 cycles over 19.0 s.*needs 20"):
        profile.summarise(measurement([1.0] * 19), "toy")
    with pytest.raises(TalkbenchError, match="over 3 s"):
        profile.summarise(measurement([0.1] * 20), "toy")


def test_a_prediction_says_so_and_has_no_counts() -> None:
    seconds = {"audio": 0.01, "dit_step": 0.1, "decode": 0.1, "encode": 0.02, "rest": 0.01, "cycle": 0.54}
    told = measurement([0.5] * 20, origin="predicted", predicted=seconds, basis={"dit_step": "one rank measured"})
    record = profile.summarise(told, "toy")
    assert (record.origin, record.cycle.count, record.startup, record.missed_deadlines) == ("predicted", 0, None, None)
    assert record.fps == pytest.approx(28 / 0.54)
    assert "cycle" not in record.components


def test_counts_beyond_this_machine_become_ranks_of_a_run_on_one() -> None:
    planned = profile.plan("tiny", (1, 2, 4, 8), (False, True), "cuda", present=2)
    assert [(p.num_processes, p.compiled, p.emulated) for p in planned] == [
        (1, False, (4, 8)), (2, False, ()), (1, True, (4, 8)), (2, True, ()),
    ]  # fmt: skip
    assert "--emulate 4,8" in " ".join(planned[0].arguments)


def test_a_prediction_is_replaced_once_it_can_be_measured() -> None:
    predicted = profile.summarise(
        measurement([], origin="predicted", predicted={"dit_step": 0.1, "cycle": 0.5}, basis={}, num_processes=2), "toy"
    )
    assert profile.plan("tiny", (2,), (False,), "cuda", present=1, known=[predicted]) == []
    (planned,) = profile.plan("tiny", (2,), (False,), "cuda", present=2, known=[predicted])
    assert planned.num_processes == 2


def test_every_configuration_is_stored_and_measured_once(tmp_path: Path, profiler: Path) -> None:
    records = measured(tmp_path / "run", 1, 2, compiled=(False, True))
    assert [(r.num_processes, r.compiled) for r in records] == [(1, False), (1, True), (2, False), (2, True)]
    assert len(profiler.read_text().splitlines()) == 4
    measured(tmp_path / "run", 1, 2, 4, compiled=(False, True))
    assert profiler.read_text().splitlines()[4:] == ["4 off None", "4 on None"]
    measured(tmp_path / "run", 1, rerun=True)
    assert len(profiler.read_text().splitlines()) == 7
    assert Run(tmp_path / "run").profiles()[0].provenance["profiler"] == {"torch": "2"}
    assert [session.outcome for session in Run(tmp_path / "run").sessions()] == ["finished"] * 3


def test_a_failure_keeps_what_was_measured_and_says_why(tmp_path: Path, profiler: Path) -> None:
    with pytest.raises(TalkbenchError, match="^8 heads do not divide by 3.$"):
        measured(tmp_path / "run", 1, 3)
    assert [record.num_processes for record in Run(tmp_path / "run").profiles()] == [1]
    with pytest.raises(TalkbenchError, match="RuntimeError: out of luck.*exit code 1; its log: .*run/logs/profile-"):
        measured(tmp_path / "run", 5)


def test_a_profile_joins_a_run_of_any_suite(tmp_path: Path, profiler: Path) -> None:
    from talkbench.mini.suite import mini_suite

    Run.open_or_create(tmp_path / "run", mini_suite(num_long=0))
    assert len(measured(tmp_path / "run", 1)) == 1
    assert Run(tmp_path / "run").suite.name.startswith("mini")


def test_systems_without_components_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profiler: Path
) -> None:
    with pytest.raises(TalkbenchError, match="nobody has no components"):
        profiling.profile("nobody", tmp_path / "run")
    toy = discover.select(["toy"])[0]
    assert isinstance(toy, SystemSpec)
    without = toy.model_copy(update={"settings": {}})
    monkeypatch.setattr(discover, "select", lambda names: (without,))
    with pytest.raises(TalkbenchError, match="names no recipe"):
        profiling.profile("toy", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_said_with_a_way_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "gpus", list)
    with pytest.raises(PrerequisiteError, match="--device cpu --processes 1,2.*--device H200 --dry-run"):
        profile.device_found("cuda")


def test_released_weights_are_asked_for_unless_random_ones_will_do(tmp_path: Path, profiler: Path) -> None:
    toy = discover.select(["toy"])[0]
    assert isinstance(toy, SystemSpec)
    weights = {"folder": "big", "url": "https://x.org/big", "licence": "MIT", "about_gigabytes": 54, "files": ["a"]}
    needy = SystemSpec.model_validate(toy.model_dump() | {"needs": {"gpus": 1, "weights": [weights]}})
    machine = profiling.Machine(tmp_path, ())
    with pytest.raises(PrerequisiteError, match=r"lacks a \(about 54 GB(.|\n)*--random-weights"):
        profiling._weights(needy, machine, random_weights=False)
    assert profiling._weights(needy, machine, random_weights=True) == ("--random-weights",)
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "a").touch()
    assert profiling._weights(needy, machine, random_weights=False) == ("--weights-dir", str(tmp_path))


def test_a_profiler_ends_with_a_host_that_is_killed(tmp_path: Path) -> None:
    """The profiler's own guard: a process started by one that is killed is gone a second later."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from model.profile import _output; import os, time\n"
    child = code + "with _output('-') as out:\n  out.write(f'{os.getpid()}\\n'); out.flush(); time.sleep(60)"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], start_new_session=True)"
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        pid = int(host.stdout.readline())
        os.kill(host.pid, signal.SIGKILL)
    end = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_the_command_line_refuses_what_does_not_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    from talkbench.cli.profile import _counts

    assert _counts("cpu", None, "1,2,2") == (1, 2)
    assert _counts("cuda", None, None) == (1,)
    for device, gpus, processes, message in (
        ("cpu", "1,2", None, "--processes 1,2"), ("cuda", None, "1,2", "--gpus 1,2"),
        ("cuda", "1;2", None, "separated by commas"), ("cuda", "0", None, "1 or more"),
    ):  # fmt: skip
        with pytest.raises(TalkbenchError, match=message):
            _counts(device, gpus, processes)


def test_the_command_prints_and_stores(tmp_path: Path, profiler: Path) -> None:
    given = ["profile", "toy", "--device", "cpu", "--processes", "1,2", "--out", str(tmp_path / "run"), "--json"]
    told = CliRunner().invoke(app, given)
    assert told.exit_code == 0
    assert [entry["num_processes"] for entry in json.loads(told.stdout)] == [1, 2]
    table = CliRunner().invoke(app, given[:-1])
    assert "measured, random weights" in " ".join(table.stdout.split())
    assert len(profiler.read_text().splitlines()) == 2, "the second command measured nothing"


def test_the_dry_run_leaves_with_a_code_if_it_does_not_fit(monkeypatch: pytest.MonkeyPatch, profiler: Path) -> None:
    entry = {
        "recipe": "tiny", "device": "H800", "num_processes": 1, "compiled": False, "kept_bytes": 10**9,
        "working_bytes": 10**9, "needed_bytes": 10**11, "device_bytes": 80e9, "shortage": "tiny needs too much",
        "predicted": {"dit_step": 0.1, "cycle": 0.5, "fps": 56.0},
    }  # fmt: skip
    monkeypatch.setattr(profiling, "estimate", lambda *_args: [entry])
    told = CliRunner().invoke(app, ["profile", "toy", "--dry-run", "--device", "H800"])
    assert told.exit_code == PrerequisiteError.exit_code
    assert "does not fit: tiny needs too much" in told.stderr
    assert "nothing was measured" in told.stdout


def test_a_record_of_the_first_schema_still_loads() -> None:
    record = read_record(ROOT / "tests" / "data" / "profiles" / "v1.json", ProfileRecord)
    assert (record.schema_version, record.components["dit_step"].count) == (1, 80)


def test_a_moved_field_would_be_noticed() -> None:
    """What the profiler says of itself is what records take over."""
    from model.profile import configured, facts

    told = set(facts(configured("tiny", 2, compiled=True)))
    assert told == set(profile.FACTS) - {"device_kind", "device", "attention", "weights_kind"}


def test_the_dry_run_needs_no_device_and_says_what_does_not_fit(tmp_path: Path) -> None:
    (entry,) = profile.estimate("flashtalk_14b", "H800", (8,), (True,))
    assert (entry["shortage"], entry["num_processes"], entry["compiled"]) == (None, 8, True)
    assert entry["needed_bytes"] < entry["device_bytes"] == 80e9
    assert entry["predicted"]["fps"] == pytest.approx(34, abs=1)
    with pytest.raises(TalkbenchError, match="^no data sheet of 'RTX'"):
        profile.estimate("flashtalk_14b", "RTX", (1,), (True,))
    with pytest.raises(TalkbenchError, match="unknown recipe 'huge'"):
        profile.estimate("huge", "H800", (1,), (True,))


def test_a_kept_dry_run_is_a_prediction_that_says_what_it_rests_on(tmp_path: Path) -> None:
    profiling.estimate("soulx-livetalk", "H800", (1, 8), (True,), tmp_path)
    records = Run(tmp_path).profiles()
    assert [(record.origin, record.num_processes, record.cycle.count) for record in records] == [
        ("predicted", 1, 0),
        ("predicted", 8, 0),
    ]
    assert all("fitted to the report" in text for record in records for text in record.basis.values())
    assert records[0].fps < 10 < records[1].fps


def test_configurations_spread_heads_first() -> None:
    from model.profile import configured

    spread = [configured("tiny", count, compiled=False).parallel for count in (1, 2, 6)]
    assert [(parallel.ulysses, parallel.ring) for parallel in spread] == [(1, 1), (2, 1), (2, 3)]
    with pytest.raises(TalkbenchError, match="1 or more"):
        configured("tiny", 0, compiled=False)
