"""`talkbench env`: which environments there are, what is printed, and how it ends."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from talkbench import environments
from talkbench.cli import doctor, env
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.systems.machine import Machine
from talkbench.systems.spec import SystemSpec, read
from tests.unit.workers.test_checkout import commit, git
from tests.unit.workers.wheels import PYTHON, make_wheel, use_only

needs_tools = pytest.mark.skipif(
    shutil.which("git") is None or (shutil.which("uv") is None and find_spec("uv") is None), reason="needs uv and git"
)


@pytest.fixture
def systems(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> dict[str, SystemSpec]:
    """Two systems that share an environment, and one that runs in ours."""
    official = tmp_path / "official"
    official.mkdir()
    git(official, "init", "--quiet")
    environment = {"name": "loom", "python": PYTHON, "lock": "requirements.lock", "about_gigabytes": 0.001,
                   "imports": ["warp"]}  # fmt: skip
    entry = {"version": 1, "description": "a fake", "needs": {"environment": environment}}
    data = {
        "title": "Fakes", "licence": "MIT",
        "launch": ["{python}", "{shim}", "{here}/worker.py", "{name}", "{source}", "{weights}", "{gpus}"],
        "source": {"repo": official.as_uri(), "commit": commit(official, "one")[:7], "entry": "inference.py"},
        "systems": {"loom": entry, "loom-fast": entry, "plain": {"version": 1, "description": "in ours"}},
    }  # fmt: skip
    (tmp_path / "adapter.yaml").write_text(yaml.safe_dump(data))
    (tmp_path / "requirements.lock").write_text("warp==1.0\n")
    specs = {spec.name: spec for spec in read(tmp_path / "adapter.yaml")}
    monkeypatch.setattr(environments, "adapters", lambda: specs)
    make_wheel(tmp_path / "wheels", "warp", "1.0")
    use_only(tmp_path / "wheels", tmp_path_factory.getbasetemp() / "uv", monkeypatch)
    return specs


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def run(*arguments: object):
    return CliRunner().invoke(env.app, [str(argument) for argument in arguments])


def test_systems_may_share_an_environment_and_oracles_have_their_own(systems: dict, weights: Path) -> None:
    found = environments.named(weights)
    assert list(found) == ["loom", "calibrate-vbench", "calibrate-syncnet", "calibrate-pyiqa"]
    assert found["loom"].users == ("loom", "loom-fast")
    assert found["loom"].recipe.folder == weights / "baselines" / "loom" / "env"
    assert found["calibrate-vbench"].code is None
    assert {each["state"] for each in environments.listing(weights) if each["name"] == "loom"} == {"absent"}


def test_a_system_starts_in_its_environment_with_its_checkout(systems: dict, weights: Path, tmp_path: Path) -> None:
    given = {"python": "ours", "weights": weights, "shim": "shim.py", "gpus": 1}
    place = weights / "baselines" / "loom"
    python, worker, source = f"{place}/env/bin/python", f"{tmp_path}/worker.py", f"{place}/source"
    line = systems["loom-fast"].command(**given)
    assert line == [python, "shim.py", worker, "loom-fast", source, str(weights), "1"]
    assert systems["plain"].command(**given)[0] == "ours"


def test_an_unknown_name_says_which_one_is_near_or_where_a_system_runs(systems: dict) -> None:
    with pytest.raises(TalkbenchError, match=r"Did you mean 'loom'\?.*talkbench env list"):
        environments.select("looom")
    with pytest.raises(TalkbenchError, match="loom-fast runs in loom"):
        environments.select("loom-fast")


@needs_tools
def test_an_environment_and_its_code_are_made_and_checked(systems: dict, weights: Path) -> None:
    missing = Machine(weights, ()).lacks(systems["loom"])
    assert [sentence.rpartition(": ")[2] for sentence in missing] == [
        f"talkbench env create loom --weights-dir {weights}",
        f"talkbench env create loom --source --weights-dir {weights}",
    ]
    with pytest.raises(PrerequisiteError, match=f"Then: talkbench system check loom --weights-dir {weights}$"):
        Machine(weights, ()).require(systems["loom"])
    with pytest.raises(PrerequisiteError, match="loom: its environment"):
        environments.check("loom", weights_dir=weights)
    made = run("create", "loom", "--weights-dir", weights)
    assert made.exit_code == 0, made.output
    half = run("check", "loom", "--weights-dir", weights, "--json")
    assert half.exit_code == 4
    assert [problem.rpartition(": ")[2] for problem in json.loads(half.stdout)["problems"]] == [
        missing[1].rpartition(": ")[2]
    ]
    assert run("create", "loom", "--source", "--weights-dir", weights).exit_code == 0
    whole = run("check", "loom", "--weights-dir", weights)
    assert whole.exit_code == 0, whole.output
    assert "as its lock says" in whole.output
    assert Machine(weights, ()).lacks(systems["loom-fast"]) == []
    listed = json.loads(run("list", "--json", "--weights-dir", weights).stdout)
    assert (listed[0]["state"], listed[0]["lacks"], listed[0]["packages"]) == ("ready", [], 1)
    assert "loom-fast" in run("list", "--weights-dir", weights).output


def test_commands_name_the_weights_folder_only_where_it_is_not_the_default(systems: dict, tmp_path: Path) -> None:
    recipe = systems["loom"].recipe(Machine.this().weights)
    assert recipe is not None
    assert recipe.create == "talkbench env create loom"
    assert systems["loom"].recipe(tmp_path / "my weights").create.endswith(f" --weights-dir '{tmp_path}/my weights'")


def test_a_dry_run_prints_commands_and_makes_nothing(systems: dict, weights: Path) -> None:
    done = run("create", "loom", "--dry-run", "--weights-dir", weights)
    lines = done.stdout.splitlines()
    assert done.exit_code == 0
    assert [line.split()[:2] for line in lines] == [["uv", "venv"], ["uv", "pip"], ["git", "clone"], ["git", "-C"]]
    assert lines[-1].endswith(f"checkout --detach {systems['loom'].source.commit}")
    assert not weights.exists()


def test_a_lock_that_cannot_be_read_costs_its_own_environment_only(
    systems: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "requirements.lock").write_text("warp\n")
    assert "loom" not in environments.named()
    assert "environment loom is not available" in caplog.text and "line 1" in caplog.text


def test_the_doctor_says_which_environments_are_here(systems: dict) -> None:
    (finding,) = [each for each in doctor.examine() if each.name == "environments"]
    assert "of 4 environments" in finding.found
