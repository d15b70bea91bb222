"""Simulated systems for tests: environments and checkouts that look like those of `baselines/`, and misbehave.

`python -m tests.data.baselines.support` writes the golden files anew.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import struct
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from talkbench.mini.suite import mini_suite
from talkbench.schema import Encode
from talkbench.systems.adapter import Station
from talkbench.systems.machine import Machine
from talkbench.systems.spec import SystemSpec, read
from talkbench.systems.task import Task

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
GOLDEN = HERE / "golden"
SPECS = {spec.name: spec for path in sorted((ROOT / "baselines").glob("*/adapter.yaml")) for spec in read(path)}
SHORT_SECONDS, LONG_SECONDS, SEED = 4.2, 300.0, 20251230


def install(spec: SystemSpec, weights: Path, words: str = "") -> None:
    """Put everything that a system needs in place: its interpreter, its checkout, empty files for its weights."""
    recipe, checkout = spec.recipe(weights), spec.checkout(weights)
    if not recipe.folder.exists():
        _environment(recipe.folder)
    if not checkout.folder.exists():
        shutil.copytree(HERE / spec.path.parent.name, checkout.folder)
        shutil.copy(HERE / "fake.py", checkout.folder)
        (checkout.folder / "behaviour.txt").write_text(words)
    for group in spec.needs.weights:
        for name in group.files:
            path = weights / group.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (weights / "ditto-talkinghead" / "ditto_pytorch").mkdir(parents=True, exist_ok=True)


def _environment(folder: Path) -> None:
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    shutil.copytree(HERE / "packages", packages, dirs_exist_ok=True)
    (packages / "torch-2.9.9.dist-info").mkdir()
    (packages / "torch-2.9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.9.9\n")


@dataclass
class Bench:
    """A place where a simulated system runs."""

    spec: SystemSpec
    station: Station
    folder: Path

    def task(self, seconds: float, encode: Encode = "native") -> Task:
        (item,) = mini_suite(num_short=1, num_long=0, height=256, width=256).items or ()
        item = item.model_copy(update={"id": "short-0001", "duration_seconds": seconds})
        return Task(self.spec.name, item, self.folder / "clips" / "short-0001.mp4", "key", encode=encode)


def bench(name: str, folder: Path, words: str = "", silence: float = 30.0) -> Bench:
    """Install a simulated system and return where it runs."""
    spec = SPECS[name]
    patience = spec.patience.model_copy(update={"start_seconds": 30.0, "silence_seconds": silence})
    spec = spec.model_copy(update={"patience": patience})
    install(spec, folder / "weights", words)
    gpus = tuple(str(number) for number in range(spec.needs.gpus))
    machine = Machine(folder / "weights", gpus)
    return Bench(spec, Station(spec, machine, gpus, log=folder / "worker.log", assets=None), folder)


def plan(name: str, folder: Path, *, seconds: float, size: tuple[int, int] = (720, 1280), **changes):
    """Return what an adapter would do for an item, as its worker plans it."""
    spec = SPECS[name]
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "image.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", *size))
    given = {
        "id": "item-0001", "image": str(image), "audio": str(folder / "audio.wav"), "audio_seconds": seconds,
        "seed": SEED, "prompt": spec.prompt, "scratch": str(folder), "output": str(folder / "clip.mp4"),
    }  # fmt: skip
    path, known = list(sys.path), sys.modules.pop("common", None)
    try:
        worker = runpy.run_path(str(spec.path.parent / "worker.py"))
        places = worker["common"].Places("{python}", "{source}", "{weights}", spec.needs.gpus, spec.name)
        return worker["build"](SimpleNamespace(**(given | changes)), places)
    finally:
        sys.path[:] = path
        sys.modules.pop("common", None)
        if known is not None:
            sys.modules["common"] = known


def commands(name: str, folder: Path) -> dict[str, object]:
    """Return all that an adapter does for a short item in portrait and a long one in landscape."""
    spec = SPECS[name]
    found: dict[str, object] = {
        "launch": spec.command(python="{python}", shim="{shim}", weights="{weights}", gpus=spec.needs.gpus)
    }
    for kind, seconds, size in (("short", SHORT_SECONDS, (720, 1280)), ("long", LONG_SECONDS, (1280, 720))):
        fields = plan(name, folder, seconds=seconds, size=size, id=f"{kind}-0001")._asdict()
        found[kind] = {field: value for field, value in fields.items() if value not in ((), {}, None, [])}
    return json.loads(_plain(json.dumps(found), folder))


def _plain(text: str, folder: Path) -> str:
    text = text.replace(str(folder), "{scratch}").replace(str(ROOT / "baselines"), "{baselines}")
    return re.sub(r"--master_port=\d+", "--master_port={port}", text)


def write_golden(folder: Path) -> None:
    """Write the golden files."""
    for name in SPECS:
        (GOLDEN / f"{name}.json").write_text(json.dumps(commands(name, folder), indent=1) + "\n")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        write_golden(Path(name))
