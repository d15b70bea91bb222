"""Environments from locks: made once, made again when they must be, never half-made, and compared with their lock."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import venv
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from talkbench import atomic
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.progress import Silent
from talkbench.workers import contents, envs, uv
from talkbench.workers.envs import Recipe
from tests.support import ROOT
from tests.unit.workers.fakes import gone
from tests.unit.workers.wheels import PYTHON, make_wheel, use_only

pytestmark = pytest.mark.skipif(
    shutil.which("uv") is None and find_spec("uv") is None, reason="environments are made with uv"
)


@pytest.fixture
def recipe(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """An environment of two packages, one of which needs the other."""
    wheels = tmp_path / "wheels"
    make_wheel(wheels, "warp", "1.0", needs=("weft>=2",))
    make_wheel(wheels, "weft", "1.0")
    make_wheel(wheels, "weft", "2.0")
    use_only(wheels, tmp_path_factory.getbasetemp() / "uv", monkeypatch)
    return at(tmp_path, "# how to solve it\nwarp==1.0\n    # via -r requirements.in\nweft==2.0\n")


def at(folder: Path, lock: str, **changes) -> Recipe:
    path = folder / "requirements.lock"
    path.write_text(lock)
    made = Recipe("loom", folder / "loom" / "env", PYTHON, path, about_gigabytes=0.001, imports=("warp", "weft"))
    return replace(made, **changes)


def make(recipe: Recipe) -> Path:
    return envs.create(recipe, Silent())


def failure(recipe: Recipe) -> str:
    with pytest.raises(PrerequisiteError) as caught:
        make(recipe)
    return str(caught.value)


def test_an_environment_holds_what_its_lock_says_and_is_made_once(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert envs.state(recipe) == "absent"
    assert f"{recipe.folder} is not there (about 0.001 GB): talkbench env create loom" in (envs.lacking(recipe) or "")
    python = make(recipe)
    assert (envs.state(recipe), envs.lacking(recipe)) == ("ready", None)
    found = contents.look(recipe)
    assert (found.problems, found.gpus) == ((), ())
    assert found.python.startswith(PYTHON)
    monkeypatch.setattr(uv, "run", lambda *_, **__: pytest.fail("it was made again"))
    assert make(recipe) == python


def test_another_lock_makes_it_outdated_and_another_comment_does_not(recipe: Recipe, tmp_path: Path) -> None:
    make(recipe)
    assert envs.state(at(tmp_path, "weft==2.0\nwarp==1.0  # other words\n")) == "ready"
    changed = at(tmp_path, "weft==1.0\n", imports=("weft",))
    assert "was made from another lock" in (envs.lacking(changed) or "")
    make(changed)
    assert contents.look(changed).problems == (), "the old packages are still there"


def test_packages_that_depend_on_the_machine_come_first_and_the_lock_then_alone(recipe: Recipe, tmp_path: Path) -> None:
    make(at(tmp_path, "warp==1.0\n", first=("weft==1.0",)))
    assert (tmp_path / "loom" / "env.json").is_file()
    contradicting = at(tmp_path, "warp==1.0\n", first=("weft==1.0",))
    assert contents.look(contradicting).problems == ()


def test_what_is_compiled_comes_last_and_is_missed_if_it_is_not_there(recipe: Recipe, tmp_path: Path) -> None:
    kernels = replace(recipe, compiled=("kernel==3.0",), imports=("kernel",))
    told = failure(kernels)
    assert "kernel" in told and "talkbench env create loom" in told
    assert envs.state(kernels) == "unfinished"
    assert "kernel==3.0 is not installed" in contents.look(kernels).problems
    make_wheel(tmp_path / "wheels", "kernel", "3.0", needs=("torch",))
    make(kernels)
    assert contents.look(kernels).problems == ()


def test_packages_that_contradict_each_other_are_named(recipe: Recipe, tmp_path: Path) -> None:
    told = failure(at(tmp_path, "warp==1.0\nweft==1.0\n"))
    assert "environment loom: `uv pip install" in told
    for words in ("warp", "weft>=2", "you require warp==1.0", "you require weft==1.0"):
        assert words in told
    assert "solve the lock again" in told
    assert envs.state(recipe) == "unfinished"


def test_a_package_that_there_is_not_is_named(recipe: Recipe, tmp_path: Path) -> None:
    assert "gone" in failure(at(tmp_path, "gone==7.1\n"))


def test_without_a_network_the_address_is_named_and_a_mirror_suggested(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("UV_NO_INDEX", "UV_OFFLINE", "UV_FIND_LINKS"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    told = failure(recipe)
    assert "http://127.0.0.1:9/simple" in told and "UV_DEFAULT_INDEX" in told


def test_a_python_that_there_is_not_is_asked_for(recipe: Recipe) -> None:
    assert "uv found no Python 3.99" in failure(replace(recipe, python="3.99"))


def test_without_uv_the_command_that_installs_it_is_said(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uv.shutil, "which", lambda _: None)
    monkeypatch.setattr(uv, "find_spec", lambda _: None)
    assert failure(recipe).endswith("pip install uv")
    assert not recipe.folder.parent.exists()


def test_a_disk_that_is_too_small_is_said_before_anything_is_downloaded(recipe: Recipe) -> None:
    told = failure(replace(recipe, about_gigabytes=1e9))
    assert "takes about 1e+09 GB" in told and "--weights-dir" in told
    assert envs.state(recipe) == "absent"


def test_a_making_that_was_killed_is_done_again(recipe: Recipe, tmp_path: Path) -> None:
    fake, pids = tmp_path / "fake" / "uv", tmp_path / "pids"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\necho $$ >> "{pids}"\n'
        f'[ "$1" = venv ] && {sys.executable} -m venv --without-pip "{recipe.folder}" && exit\nsleep 60\n'
    )
    fake.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from tests.unit.workers.test_envs import at, make\n"
        "make(at(Path(sys.argv[1]), Path(sys.argv[1], 'requirements.lock').read_text()))"
    )
    environment = os.environ | {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
    host = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=environment)
    try:
        end = time.monotonic() + 20
        while (not pids.exists() or len(pids.read_text().split()) < 2) and time.monotonic() < end:
            time.sleep(0.02)
        assert failure(recipe).endswith("is being made by another process: wait for it.")
    finally:
        host.kill()
        host.wait()
    assert gone([int(pid) for pid in pids.read_text().split()]), "uv goes on without us"
    assert recipe.interpreter.exists()
    assert "was not made to its end" in (envs.lacking(recipe) or "")
    make(recipe)
    assert contents.look(recipe).problems == ()


def test_an_environment_of_the_users_is_used_and_never_touched(recipe: Recipe) -> None:
    venv.create(recipe.folder, with_pip=False, symlinks=True)
    note = recipe.folder / "note"
    note.touch()
    assert (envs.state(recipe), envs.lacking(recipe)) == ("own", None)
    assert "was not made by talkbench" in failure(recipe)
    assert note.exists()
    assert set(contents.look(recipe).problems) >= {"warp 1.0 is not installed", "weft 2.0 is not installed"}


def test_a_receipt_that_is_damaged_is_named(recipe: Recipe) -> None:
    make(recipe)
    atomic.write_text(recipe.folder.with_name("env.json"), "{")
    with pytest.raises(TalkbenchError, match=r"env\.json.*Remove it"):
        envs.state(recipe)


def test_every_difference_from_the_lock_is_said(recipe: Recipe, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    make_wheel(wheels, "spool", "1.0", code="raise RuntimeError('no thread')")
    make_wheel(wheels, "weft", "2.0+cu124")
    make_wheel(wheels, "fray", "1.0", code="import os; os._exit(7)")
    make(at(tmp_path, "weft==2.0+cu124\nspool==1.0\nfray==1.0\n"))
    other = at(tmp_path, "weft==2.0\nwarp==1.0\nfray==2.0\n", imports=("weft", "spool", "nowhere", "fray", "warp"))
    problems = contents.look(other).problems
    assert "warp 1.0 is not installed" in problems
    assert "fray is 1.0, the lock says 2.0" in problems
    assert "spool: installed, but not in the lock" in problems
    assert "import spool fails: RuntimeError: no thread" in problems
    assert "import nowhere fails: ModuleNotFoundError: No module named 'nowhere'" in problems
    assert any(problem.startswith("import fray ended the interpreter: exit code 7") for problem in problems)
    assert not any("weft" in problem for problem in problems), "a build for CUDA is another version of it"
    assert any("Python 3.1 is needed" in problem for problem in contents.look(replace(other, python="3.1")).problems)


def test_an_interpreter_that_does_not_start_is_said(recipe: Recipe) -> None:
    recipe.interpreter.parent.mkdir(parents=True)
    recipe.interpreter.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    recipe.interpreter.chmod(0o755)
    with pytest.raises(PrerequisiteError, match="does not start: exit code 3, broken"):
        contents.look(recipe)


@pytest.mark.parametrize("line", ["warp", "warp>=1.0", "-r other.txt", "warp @ git+https://example.org/warp"])
def test_a_line_of_a_lock_that_pins_nothing_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(TalkbenchError, match=r"requirements\.lock, line 2: expected NAME==VERSION"):
        at(tmp_path, f"weft==2.0 \\\n{line}\n").pins()


def test_pins_are_read_whatever_surrounds_them(tmp_path: Path) -> None:
    lock = 'Warp.Core[fast]==1.0 ; python_version < "4"\n    --hash=sha256:00 \\\nweft==2.0+cu124 \\\n\n# end\n'
    assert at(tmp_path, lock).pins() == {"warp-core": "1.0", "weft": "2.0+cu124"}


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["Resolved 2", "error: disk: No space left on device (os error 28)"], "error: disk: No space left on device"),
        (
            ["  × No solution found", "  ╰─▶ Because a==1", "      depends on b"],
            "No solution found Because a==1 depends",
        ),
        (["something odd"], "something odd"),
        ([], "it said nothing."),
    ],
)
def test_uvs_account_of_a_failure_is_told_in_one_line(lines: list[str], told: str) -> None:
    assert told in uv.explanation(lines)
    assert len(uv.explanation(lines * 500)) < 1300
