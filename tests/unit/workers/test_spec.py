"""adapter.yaml: what it may say, what is refused, and where adapters are found."""

from __future__ import annotations

import logging
import math
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml

from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.mini.suite import mini_suite
from talkbench.systems import discover, machine
from talkbench.systems.known import SYSTEMS
from talkbench.systems.machine import Machine
from talkbench.systems.spec import SystemSpec, read
from tests.support import ROOT

ENTRY = {"version": 1, "description": "a fake", "launch": ["{python}", "{shim}", "{here}/worker.py", "{weights}"]}


def write(folder: Path, name: str = "fake", shared: dict | None = None, **changes) -> Path:
    """Write an adapter of one system."""
    data = {"title": "Fakes", "licence": "MIT", "source": {"repo": "a/b"}, "systems": {name: ENTRY | changes}}
    path = folder / "adapter.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data | (shared or {})))
    return path


def one(folder: Path, **changes) -> SystemSpec:
    (spec,) = read(write(folder, **changes))
    return spec


@pytest.fixture
def no_adapters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[EntryPoint]:
    """Entry points as the test says, and no checkout."""
    points: list[EntryPoint] = []
    monkeypatch.setattr(discover, "entry_points", lambda group: points)
    monkeypatch.setattr(discover, "__file__", str(tmp_path / "talkbench" / "systems" / "discover.py"))
    return points


def test_the_launch_line_is_filled_in(tmp_path: Path) -> None:
    spec = one(tmp_path)
    assert spec.command(python="python3", shim="shim.py", weights="/w", gpus=1) == [
        "python3", "shim.py", f"{tmp_path.resolve()}/worker.py", "/w",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"launch": ["{pyton}"]}, "the placeholders are {python}"),
        ({"launch": []}, "launch"),
        ({"colour": "blue"}, "colour"),
        ({"version": 0}, "version"),
        ({"limits": {"frame_rate": "0"}}, "not a positive rate"),
        ({"patience": {"silence_seconds": float("nan")}}, "silence_seconds"),
        ({"needs": {"weights": [{"folder": "../up", "url": "https://x/y", "licence": "a", "about_gigabytes": 1,
                                 "files": ["a"]}]}}, "leaves the suite's folder"),
        ({"name": "../evil"}, "name"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_refused_with_file_system_and_field(tmp_path: Path, changes: dict, words: str) -> None:
    changes = dict(changes)
    path = write(tmp_path, changes.pop("name", "fake"), **changes)
    with pytest.raises(TalkbenchError, match="adapter.yaml: system") as caught:
        read(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "systems: {}", "systems: [a]", "{", "systems: {fake: 3}", "\xff\xfe"])
def test_a_file_that_is_no_adapter_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "adapter.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(TalkbenchError, match=r"adapter\.yaml"):
        read(path)


def test_what_changes_the_clip_changes_the_digest_and_nothing_else_does(tmp_path: Path) -> None:
    base = one(tmp_path / "a").digest
    same = (
        one(tmp_path / "b").digest,
        one(tmp_path / "c", description="other words", patience={"job_seconds": 9}).digest,
        one(tmp_path / "d", needs={"modules": ["torch"]}, limits={"tolerance_frames": 3}).digest,
    )
    other = (
        one(tmp_path / "e", version=2).digest,
        one(tmp_path / "f", launch=["{python}", "other.py"]).digest,
        one(tmp_path / "g", settings={"steps": 8}).digest,
        one(tmp_path / "h", name="another").digest,
        one(tmp_path / "i", limits={"frame_rate": "30"}).digest,
    )
    assert set(same) == {base}
    assert len({base, *other}) == 6


def test_a_clip_that_is_too_long_for_the_system_is_refused_in_words(tmp_path: Path) -> None:
    spec = one(tmp_path, limits={"max_seconds": 60})
    short, long = (mini_suite(num_short=1, num_long=1).items or ())[:2]
    assert spec.refuses(short) is None
    assert spec.refuses(long) == "unsupported: lasts 120 s, fake makes clips of up to 60 s"


def test_adapters_come_from_packages_and_broken_ones_are_warnings(
    tmp_path: Path, no_adapters: list, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("good_plugin", "broken_plugin", "bare_plugin", "greedy_plugin"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('a package is found, not imported')")
    write(tmp_path / "good_plugin", "mine")
    write(tmp_path / "broken_plugin", "theirs", version=-1)
    write(tmp_path / "greedy_plugin", "recorded")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("good_plugin", "broken_plugin", "bare_plugin", "greedy_plugin", "absent_plugin", "absent.deep"):
        no_adapters.append(EntryPoint(name, name, discover.GROUP))
    with caplog.at_level(logging.WARNING):
        found = discover.adapters()
    assert set(found) == {"mine"}
    for name in ("broken_plugin", "bare_plugin", "absent_plugin", "absent.deep", "recorded"):
        assert any(name in message for message in caplog.messages), name


def test_names_paths_and_groups_select_systems_once_and_in_order(tmp_path: Path, no_adapters: list) -> None:
    path = write(tmp_path)
    chosen = discover.select([f"drift,{path}", "known", str(path)])
    assert [system.name for system in chosen][:2] == ["drift", "fake"]
    assert {system.name for system in chosen} == {"fake", *(system.name for system in SYSTEMS)}
    with pytest.raises(TalkbenchError, match="Did you mean 'recorded'"):
        discover.select(["recordet"])
    with pytest.raises(TalkbenchError, match="two different systems are called 'fake'"):
        discover.select([str(path), str(write(tmp_path / "other", version=2))])
    with pytest.raises(TalkbenchError, match=r"nowhere\.yaml"):
        discover.select(["nowhere.yaml"])


def test_everything_that_a_system_lacks_is_said_at_once(tmp_path: Path) -> None:
    weights = {"folder": "Big", "url": "https://example.org/big", "licence": "free", "about_gigabytes": 54,
               "files": ["a.safetensors", "b.json"]}  # fmt: skip
    spec = one(
        tmp_path,
        needs={"gpus": 2, "modules": ["json", "no_such_module"], "install": "pip install it", "weights": [weights]},
    )
    machine = Machine(tmp_path / "weights", ("0",))
    with pytest.raises(PrerequisiteError) as caught:
        machine.require(spec)
    told = str(caught.value)
    expected = (
        "no_such_module are not installed: pip install it",
        "needs 2 GPU(s), 1 can be used",
        "a.safetensors, b.json",
        "about 54 GB",
        "https://example.org/big",
        "--weights-dir",
        "talkbench system check fake",
    )
    for words in expected:
        assert words in told
    (tmp_path / "weights" / "Big").mkdir(parents=True)
    for name in weights["files"]:
        (tmp_path / "weights" / "Big" / name).touch()
    assert machine.lacks_weights(spec) == []


def test_a_machine_has_its_visible_gpus_and_a_plan_may_have_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ["H200"] * 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    here = Machine.this()
    assert here.gpus == ("3", "1")
    assert 0.5 < here.ram_gigabytes < 1e5
    assert Machine.this(num_gpus=1).gpus == ("3",)
    assert Machine.this(num_gpus=0).gpus == ()
    with pytest.raises(PrerequisiteError, match="3 GPUs were asked for, 2 are visible"):
        Machine.this(num_gpus=3)
    assert here.imagined(None) == here
    assert here.imagined(1).gpus == ("3",)
    assert (len(here.imagined(8).gpus), here.imagined(8).ram_gigabytes) == (8, math.inf)


def test_the_adapter_of_the_reference_model_is_whole() -> None:
    specs = {spec.name: spec for spec in read(ROOT / "model" / "adapter.yaml")}
    assert set(specs) == {"soulx-livetalk-tiny", "soulx-livetalk", "soulx-livetalk-8gpu"}
    assert "Trained on drawn people" in specs["soulx-livetalk-tiny"].caution
    assert (specs["soulx-livetalk-tiny"].needs.gpus, specs["soulx-livetalk"].needs.gpus) == (0, 1)
    assert len(specs["soulx-livetalk"].needs.weights) == 2
    eight = specs["soulx-livetalk-8gpu"].command(python="python", shim="shim.py", weights="/w", gpus=8)
    assert eight[:6] == ["python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=8", "shim.py"]
