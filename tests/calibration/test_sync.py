"""Our sync metrics against the package syncnet-python on the same weights, crops, frames and sound.

`sync.json` holds what the package gave for inputs that can be made again from a few numbers. To renew it, in an
environment made from talkbench/calibrate/oracles/syncnet.lock:

    python -m tests.calibration.test_sync path/to/that/environment/bin/python [CLIP ...]

Clips, if given, also go through the whole official chain, and both results are printed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from talkbench.media import mfcc
from talkbench.media.clip import ClipFacts, Frames
from talkbench.metrics import networks
from talkbench.metrics.base import Context
from talkbench.metrics.faces import FaceFinder
from talkbench.metrics.lipsync import BATCH_WINDOWS, Agreement, Match, Sound
from talkbench.metrics.sync_official import OfficialParams, SyncOfficialRunner
from talkbench.nets.batches import Batch
from talkbench.nets.s3fd import S3FD
from talkbench.nets.syncnet import SyncNet
from talkbench.weights.catalog import WeightFile
from tests.fitted_s3fd import seeded_state, write_weights
from tests.support import ROOT

FILE = Path(__file__).with_name("sync.json")
ORACLE = ROOT / "talkbench" / "calibrate" / "oracles" / "syncnet.py"
FEATURE_TOLERANCE, SCORE_TOLERANCE, BOX_TOLERANCE_PX, MFCC_TOLERANCE = 1e-4, 1e-3, 0.05, 1e-6
NUM_CROPS, NUM_SAMPLES = 40, 40 * 640
KEPT_WINDOWS, KEPT_FEATURES, KEPT_COLUMNS = (0, 17, 34), 24, (0, 1, 80, 158)
SCALES = {
    "netcnnlip.0.weight": 1 / 130, "netcnnaud.0.weight": 1 / 15, "vgg.0.weight": 1 / 60, "conf.": 12.0, "loc.": 3.0,
}  # fmt: skip
"""Keep activations near 1 for pixels to 255 and MFCC of about 15; let some cells be sure of a face, others not."""


def seeded(net: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of the recipe: `tests.fitted_s3fd.seeded_state`, scaled."""
    state = seeded_state(net)
    for name, factor in SCALES.items():
        for own in state:
            if own.startswith(name) and state[own].is_floating_point():
                state[own] *= factor
    for name, scale in (("L2Norm3_3", 10.0), ("L2Norm4_3", 8.0), ("L2Norm5_3", 5.0)):
        if f"{name}.weight" in state:
            state[f"{name}.weight"].fill_(scale)
    return state


@cache
def crops() -> Frames:
    """Return 40 unrelated pictures of coarse noise, [40, 224, 224, 3]."""
    noise = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (NUM_CROPS, 14, 14, 3), dtype=np.uint8)
    return noise.repeat(16, axis=1).repeat(16, axis=2)


@cache
def samples() -> np.ndarray:
    """Return 1.6 s of noise whose loudness changes 25 times a second, int16."""
    rng = np.random.Generator(np.random.PCG64(2))
    loudness = rng.integers(20, 4000, NUM_CROPS).repeat(640)
    return (rng.integers(-4, 5, NUM_SAMPLES) * loudness).astype(np.int16)


@cache
def frames() -> Frames:
    """Return 3 frames of blocks of several sizes, [3, 160, 208, 3]."""
    rng = np.random.Generator(np.random.PCG64(3))
    shots = []
    for side in (4, 16, 32):
        coarse = rng.integers(0, 256, (160 // side, -(-208 // side), 3), dtype=np.uint8)
        shots.append(coarse.repeat(side, axis=0).repeat(side, axis=1)[:, :208])
    return np.stack(shots)


@cache
def ours() -> tuple[Agreement, np.ndarray, np.ndarray]:
    """Return our result for the cut, and its lip and audio features."""
    net = SyncNet().eval()
    net.load_state_dict(seeded(net))
    lips: list[np.ndarray] = []
    batch = Batch(BATCH_WINDOWS)
    sound = Sound(net, batch)
    sound.hear(samples().astype(np.float32) / np.float32(32768))
    sound.close()
    match = Match(net, sound, 0, batch)
    look = net.lip_features
    net.lip_features = lambda crops_TCHW: lips.append(look(crops_TCHW)) or lips[-1]  # type: ignore[method-assign]
    for crop_HWC in crops():
        match.push(crop_HWC)
    match.end()
    found = match.result()
    heard = np.stack([sound.feature(i) for i in range(found.num_windows)])
    return found, torch.cat(lips).numpy()[: found.num_windows], heard


def our_faces(monkeypatch: pytest.MonkeyPatch | None = None) -> list[np.ndarray]:
    net = S3FD().eval()
    net.load_state_dict(seeded(net))
    patch = monkeypatch or pytest.MonkeyPatch()
    patch.setattr("talkbench.metrics.faces.load_s3fd", lambda _context: net)
    found = FaceFinder(Context()).find(frames())
    if monkeypatch is None:
        patch.undo()
    return found


@pytest.fixture(scope="module")
def official() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def test_mfcc_are_the_packages(official: dict[str, Any]) -> None:
    columns = mfcc.mfcc(samples().astype(np.float32) / np.float32(32768))
    assert len(columns) == official["num_columns"]
    np.testing.assert_allclose(columns[list(KEPT_COLUMNS)], official["mfcc"], rtol=MFCC_TOLERANCE, atol=MFCC_TOLERANCE)


def test_features_are_the_packages(official: dict[str, Any]) -> None:
    found, lips, sounds = ours()
    assert found.num_windows == official["num_windows"]
    for kept, mine in ((official["lips"], lips), (official["sounds"], sounds)):
        part = mine[list(KEPT_WINDOWS), :KEPT_FEATURES]
        np.testing.assert_allclose(part, kept, rtol=0, atol=FEATURE_TOLERANCE)
        assert np.abs(kept).max() > 0.2


def test_scores_are_the_packages(official: dict[str, Any]) -> None:
    found, _, _ = ours()
    np.testing.assert_allclose(found.means_K, official["means"], atol=SCORE_TOLERANCE)
    assert found.confidence == pytest.approx(official["confidence"], abs=SCORE_TOLERANCE)
    assert found.distance == pytest.approx(official["distance"], abs=SCORE_TOLERANCE)
    assert found.offset_frames == official["offset_frames"]


def test_faces_are_the_packages(official: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found = our_faces(monkeypatch)
    assert [len(boxes) for boxes in found] == [len(boxes) for boxes in official["frames"]]
    assert sum(map(len, found)) >= 6
    for mine, theirs in zip(found, official["frames"], strict=True):
        np.testing.assert_allclose(mine, np.array(theirs)[:, :4], atol=BOX_TOLERANCE_PX)


def ask(python: str, folder: Path, *arguments: object) -> dict[str, Any]:
    command = [python, ORACLE, "--weights", folder, "--output", folder / "answer.json", *arguments]
    subprocess.run([str(part) for part in command], check=True)
    return json.loads((folder / "answer.json").read_text())


def renew(python: str) -> None:
    """Write `sync.json`, after comparing every number and not only those that are kept."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(seeded(S3FD()), folder / "sfd_face.pth")
        torch.save(seeded(SyncNet()), folder / "syncnet_v2.model")
        np.savez(folder / "cut.npz", crops_THWC=crops(), samples_N=samples())
        np.savez(folder / "frames.npz", frames_THWC=frames())
        answer = ask(python, folder, "--cut", folder / "cut.npz", "--frames", folder / "frames.npz")
    cut, (found, lips, sounds) = answer["cut"], ours()
    worst = {
        "mfcc": np.abs(mfcc.mfcc(samples().astype(np.float32) / 32768) / np.array(cut["mfcc"]) - 1).max(),
        "lips": np.abs(lips - cut["lips"]).max(),
        "sounds": np.abs(sounds - cut["sounds"]).max(),
        "means": np.abs(found.means_K - cut["means"]).max(),
        "boxes_px": max(
            (
                np.abs(mine - np.array(theirs)[:, :4]).max()
                for mine, theirs in zip(our_faces(), answer["frames"], strict=True)
                if theirs
            ),
            default=0.0,
        ),
    }
    print({key: float(value) for key, value in worst.items()})
    print(
        "runner-up of the least mean:", np.diff(np.sort(cut["means"])[:2]), [len(found) for found in answer["frames"]]
    )
    kept = {
        "versions": answer["versions"],
        "worst": {key: float(f"{value:.1e}") for key, value in worst.items()},
        "num_columns": len(cut["mfcc"]),
        "mfcc": [cut["mfcc"][i] for i in KEPT_COLUMNS],
        "num_windows": len(cut["lips"]),
        "lips": [cut["lips"][i][:KEPT_FEATURES] for i in KEPT_WINDOWS],
        "sounds": [cut["sounds"][i][:KEPT_FEATURES] for i in KEPT_WINDOWS],
        **{key: cut[key] for key in ("means", "confidence", "distance", "offset_frames")},
        "frames": [[[round(value, 4) for value in face] for face in faces] for faces in answer["frames"]],
    }
    rounded = json.loads(json.dumps(kept), parse_float=lambda text: float(f"{float(text):.9g}"))
    lines = ",\n ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in rounded.items())
    FILE.write_text(f"{{{lines}}}\n")


def chain(python: str, clips: list[Path]) -> None:
    """Print what both sides say of clips through the whole chain, syncnet-python's variant of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_weights(folder, clips)
        answer = ask(python, folder, *[part for clip in clips for part in ("--clip", clip)])
        weights = {
            key: WeightFile(key, folder / file, "0" * 64, "unverified")
            for key, file in (("s3fd", "sfd_face.pth"), ("syncnet", "syncnet_v2.model"))
        }
        for clip in clips:
            runner = SyncOfficialRunner(
                OfficialParams(min_track_frames=50, original_sound=True), Context(weights=weights)
            )
            runner.start(ClipFacts(0, 0, 25, has_audio=True, path=clip))  # type: ignore[arg-type]
            print(clip, answer["clips"][clip.name], runner.finish().values)
    networks._loaded.clear()


if __name__ == "__main__":
    renew(sys.argv[1])
    if sys.argv[2:]:
        chain(sys.argv[1], [Path(name) for name in sys.argv[2:]])
