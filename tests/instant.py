"""A system that takes no time, for tests of what is around it: it copies a clip, and leaves children that outlive it.

`adapter` describes it. Its words: `children` leaves a process in the group and one that left it; `crash` ends every
third attempt by SIGSEGV.
"""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from talkbench.ids import sha256_file
from talkbench.schema import Item
from tests.support import RATE_HZ

WORKER = """
import os, shutil, signal, subprocess, sys
from talkbench_shim import serve

clip, words, count = sys.argv[1], sys.argv[2:], [0]

def make(job, report):
    count[0] += 1
    if "children" in words:
        for new in (False, True):
            subprocess.Popen(["sleep", "600"], start_new_session=new)
    if "crash" in words and count[0] % 3 == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
    report.frames(FRAMES)
    shutil.copy(clip, job.output)
    return {"pid": os.getpid(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}

serve(make, name="instant", device="nothing", versions={})
"""


def adapter(folder: Path, clip: Path, names: dict[str, dict[str, Any]], *words: str, frames: int = 25) -> Path:
    """Write an adapter of instant systems; `names` maps each to the fields in which it differs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "worker.py").write_text(WORKER.replace("FRAMES", str(frames)))
    shared = {
        "version": 1,
        "description": "an instant fake",
        "launch": ["{python}", "{shim}", "{here}/worker.py", str(clip), *words],
        "patience": {"start_seconds": 30, "silence_seconds": 30, "job_seconds": 30},
    }
    systems = {name: shared | changes for name, changes in names.items()}
    path = folder / "adapter.yaml"
    path.write_text(
        yaml.safe_dump({"title": "Instant", "licence": "MIT", "source": {"repo": "a/b"}, "systems": systems})
    )
    return path


def suite(folder: Path, number: int, seconds: float = 1.0) -> Path:
    """Write a manifest of items that share a grey picture and a silent sound."""
    image, sound = folder / "face.png", folder / "speech.wav"
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), (128, 128, 128)).save(image)
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(np.zeros(round(seconds * RATE_HZ), "<i2").tobytes())
    given = {
        "image": {"path": "face.png", "sha256": sha256_file(image)},
        "audio": {"path": "speech.wav", "sha256": sha256_file(sound)},
    }
    items = [
        Item(id=f"item-{n:03d}", tier="short", identity=str(n), duration_seconds=seconds, seed=n, **given)
        for n in range(number)
    ]
    path = folder / "instant.v1.jsonl"
    path.write_text("".join(item.to_json() + "\n" for item in items))
    return path
