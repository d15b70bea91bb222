"""The worker's side by itself: one file, old Pythons, nothing of ours."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from talkbench.workers import protocol
from talkbench.workers.host import SHIM
from tests.unit.workers.fakes import FAKES, job

WORKER = """
import sys
from talkbench_shim import serve
print("arguments", sys.argv[1:], __name__)
assert not any(path.endswith("workers") for path in sys.path), sys.path
import queue, protocol_of_nobody  # the shim's neighbours must not be importable
"""


def say(command: list[str], *messages: protocol.Message, env: dict[str, str] | None = None) -> tuple[list[dict], str]:
    """Run a worker on a fixed conversation; return what it said and what it printed."""
    done = subprocess.run(
        command, input=b"".join(map(protocol.to_line, messages)), capture_output=True, timeout=30, env=env, check=False
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def old_python() -> str:
    """Return a Python 3.8 or 3.9 of this machine."""
    for version in ("3.8", "3.9"):
        for path in (shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")):
            if path and subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:
                return str(path)
    pytest.skip("no Python 3.8 or 3.9 here")


def test_the_shim_is_python_3_8_and_imports_the_standard_library_only() -> None:
    tree = ast.parse(SHIM.read_text(encoding="utf-8"), feature_version=(3, 8))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= sys.stdlib_module_names
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module.split(".")[0] in sys.stdlib_module_names


def test_it_speaks_under_the_oldest_python_here(tmp_path: Path) -> None:
    clip = tmp_path / "clip"
    clip.write_text("x")
    said, printed = say([old_python(), str(SHIM), str(FAKES / "fake.py"), "print", str(clip)], job(tmp_path))
    assert [message["type"] for message in said] == ["hello", "progress", "progress", "done", "bye"]
    assert "straight to the descriptor" in printed
    assert (tmp_path / "one.mp4").read_text() == "x"


def test_both_sides_agree_on_the_version_and_on_every_message(tmp_path: Path) -> None:
    clip = tmp_path / "clip"
    clip.write_text("x")
    command = [sys.executable, str(SHIM), str(FAKES / "fake.py"), "error", str(clip)]
    said, _ = say(command, job(tmp_path), job(tmp_path, seed=13), protocol.Bye())
    parsed = [protocol.parse(json.dumps(message).encode()) for message in said]
    assert [type(message).__name__ for message in parsed] == [
        "Hello", "Progress", "Progress", "Done", "Progress", "Error", "Bye",
    ]  # fmt: skip
    assert parsed[0].protocol == protocol.PROTOCOL


def test_a_worker_is_run_as_a_script_that_sees_its_arguments_and_none_of_our_folders(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(WORKER)
    for python in (sys.executable, old_python()):
        said, printed = say([python, str(SHIM), str(path), "--recipe", "tiny"])
        assert said[-1]["fatal"] is True
        assert said[-1]["message"].startswith("ModuleNotFoundError: No module named 'protocol_of_nobody'")
        assert "arguments ['--recipe', 'tiny'] __main__" in printed


def test_a_worker_may_be_a_module(tmp_path: Path) -> None:
    (tmp_path / "mymodule.py").write_text(
        "import sys\nfrom talkbench_shim import serve\nprint(sys.argv[1:], __name__)\n"
    )
    said, printed = say(
        [sys.executable, str(SHIM), "-m", "mymodule", "a"], env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    assert (said, printed) == ([], "['a'] __main__\n")


def test_an_error_of_a_second_process_on_the_same_pipe_arrives_whole(tmp_path: Path) -> None:
    """Under torchrun all processes share the pipe: lines up to PIPE_BUF never mix."""
    path = tmp_path / "dies.py"
    path.write_text("raise ValueError('\\u00e9' * 100_000)")
    said, _ = say([sys.executable, str(SHIM), str(path)])
    assert len(json.dumps(said[0])) < 4096
    assert said[0]["job"] is None
    assert said[0]["fatal"] is True


def test_without_a_worker_it_says_how_it_is_used() -> None:
    for arguments in ([], ["-m"]):
        done = subprocess.run([sys.executable, str(SHIM), *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "usage: shim.py WORKER.py" in done.stderr
