"""What is installed, and what importing costs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from tests.support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def is_script(path: Path) -> bool:
    """Return whether a file is run by path in an environment of its own, and belongs to no package."""
    return path.parent.name == "oracles"


def test_every_folder_with_code_is_in_the_package_list() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    mapped = PROJECT["tool"]["setuptools"]["package-dir"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "talkbench").rglob("*.py")
        if not is_script(path)
    }
    for new, old in mapped.items():
        found |= {".".join((new, *p.parent.relative_to(ROOT / old).parts)) for p in (ROOT / old).rglob("*.py")}
    assert listed == found


def test_every_data_file_is_matched_by_a_package_data_glob() -> None:
    globs = PROJECT["tool"]["setuptools"]["package-data"]
    for package, folder in (("talkbench", "talkbench"), ("talkbench_model", "model"), ("talkbench_reports", "reports")):
        given = {p for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix not in {".pyc", ".md"}}
        given -= {p for p in given if p.parts[-3] == "published" and p.parts[-2] != "paper"}  # results are for reading
        data = {p for p in given if p.suffix != ".py" or is_script(p)}
        shipped = {match for pattern in globs[package] for match in (ROOT / folder).glob(pattern)}
        assert data == shipped, f"{package}: {sorted(map(str, data ^ shipped))}"


def test_importing_talkbench_and_its_help_load_nothing_heavy() -> None:
    code = (
        "import sys, talkbench, talkbench.cli.app as a; a._mount_commands(); "
        "heavy = {'torch', 'av', 'numpy', 'pandas', 'scipy', 'matplotlib', 'pydantic'} & set(sys.modules); "
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_exist() -> None:
    import talkbench

    for name in talkbench.__all__:
        assert getattr(talkbench, name) is not None
