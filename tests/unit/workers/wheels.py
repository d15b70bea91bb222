"""Tiny wheels in a folder, which uv takes for all the packages there are."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def make_wheel(folder: Path, name: str, version: str, *, needs: tuple[str, ...] = (), code: str = "") -> Path:
    """Write a wheel with one module of the package's name."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {each}\n" for each in needs),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for inside, text in files.items():
            wheel.writestr(inside, text)
    return path


def use_only(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let uv see the wheels of a folder and nothing else: no index, no network, no cache of the user's."""
    folder.mkdir(parents=True, exist_ok=True)
    for variable, value in {
        "UV_NO_INDEX": "1", "UV_OFFLINE": "1", "UV_FIND_LINKS": str(folder), "UV_CACHE_DIR": str(cache),
        "UV_PYTHON_DOWNLOADS": "never", "UV_NO_CONFIG": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
