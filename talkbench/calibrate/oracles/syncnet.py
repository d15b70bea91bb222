"""Score cuts, frames and clips with the package syncnet-python: what our sync runners are compared with.

Runs by itself in an environment of its own (`syncnet.lock`, beside this file) and writes JSON:

    python syncnet.py --weights FOLDER --output answer.json [--cut cut.npz] [--frames frames.npz] [--scenes a.mkv ...]
        [--clip a.mp4 ...]

The weight folder holds `sfd_face.pth` and `syncnet_v2.model`. Every number comes from functions of the package, of
python_speech_features and of scenedetect, called on the CPU:

    cut     {"mfcc": [M][13], "lips": [n][D], "sounds": [n][D], "means": [31], "confidence": c, "distance": d,
             "offset_frames": o}
            of cut.npz: crops_THWC (uint8 RGB, 224x224) and samples_N (int16, 16 kHz)
    frames  [frame][face] = [left, top, right, bottom, probability], of frames.npz: frames_THWC (uint8 RGB)
    scenes  {name: {"pixels": sha256 of the RGB frames, "starts": [frame that begins a scene, but the first, ...],
             "changes": [score of each frame]}}
    clips   {name: {"offset_frames": [...], "confidence": [...], "distance": [...]}}, one number per track, through the
            whole pipeline of the package on one core; needs the ffmpeg program
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("syncnet-python", "torch", "numpy", "opencv-python-headless", "python_speech_features", "scenedetect")
MIN_SCORE, SCALE, MAX_SHIFT = 0.9, 0.25, 15


def declare_torchvision_operators() -> Any:
    """Let a CUDA build of torchvision be imported beside a CPU build of torch; returns what must stay alive."""
    import torch

    library: Any = torch.library
    if torch.version.cuda is not None:
        return None
    schemas = library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        schemas.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return schemas


def pipeline(weights: Path) -> Any:
    """Return the package's pipeline with the weights of a folder."""
    config = {
        "s3fd_weights": str(weights / "sfd_face.pth"),
        "syncnet_weights": str(weights / "syncnet_v2.model"),
    }
    return importlib.import_module("syncnet_python").SyncNetPipeline(config, device="cpu")


def score_cut(path: Path, weights: Path) -> dict[str, Any]:
    """Return MFCC, features and scores of crops and sound that are given as numbers."""
    import numpy as np
    import torch

    speech = importlib.import_module("python_speech_features")
    instances = importlib.import_module("syncnet_python.SyncNetInstance")
    net = importlib.import_module("syncnet_python.SyncNetModel").S(num_layers_in_fc_layers=1024)
    net.load_state_dict(torch.load(weights / "syncnet_v2.model", map_location="cpu", weights_only=True))
    net.eval()
    given = np.load(path)
    mfcc_MC = speech.mfcc(given["samples_N"], 16_000)
    frames_TCHW = torch.from_numpy(given["crops_THWC"][..., ::-1].transpose(0, 3, 1, 2).astype(np.float32))
    count = min(len(frames_TCHW), len(given["samples_N"]) // 640) - 5
    sound_MC = torch.from_numpy(mfcc_MC.astype(np.float32))
    with torch.no_grad():
        lips = torch.cat([net.forward_lip(frames_TCHW[i : i + 5].transpose(0, 1)[None]) for i in range(count)])
        sounds = torch.cat([net.forward_aud(sound_MC[4 * i : 4 * i + 20].T[None, None]) for i in range(count)])
        distances = instances.calc_pdist(lips, sounds, vshift=MAX_SHIFT)
        means = torch.mean(torch.stack(list(distances), 1), 1)
    return {
        "mfcc": mfcc_MC.tolist(),
        "lips": lips.tolist(),
        "sounds": sounds.tolist(),
        "means": means.flatten().tolist(),
        "confidence": float(means.median() - means.min()),
        "distance": float(means.min()),
        "offset_frames": MAX_SHIFT - int(means.argmin()),
    }


def find_faces(path: Path, whole: Any) -> list[list[list[float]]]:
    """Return the faces of each frame."""
    import numpy as np

    detector = next(value for value in vars(whole).values() if hasattr(value, "detect_faces"))
    return [
        np.asarray(detector.detect_faces(frame, conf_th=MIN_SCORE, scales=[SCALE])).tolist()
        for frame in np.load(path)["frames_THWC"]
    ]


def find_scenes(path: Path) -> dict[str, Any]:
    """Return where scenes begin in a file, found with the calls of the package's pipeline."""
    import cv2
    from scenedetect import ContentDetector, SceneManager, StatsManager
    from scenedetect.video_manager import VideoManager

    video, stats = VideoManager([str(path)]), StatsManager()
    manager = SceneManager(stats)
    manager.add_detector(ContentDetector())
    video.start()
    manager.detect_scenes(frame_source=video)
    scenes = manager.get_scene_list(video.get_base_timecode())
    pixels, count, reader = hashlib.sha256(), 0, cv2.VideoCapture(str(path))
    while (frame := reader.read()[1]) is not None:
        pixels.update(frame[..., ::-1].tobytes())
        count += 1
    # The first frame has nothing to be compared with.
    changes = [stats.get_metrics(number, ["content_val"])[0] or 0.0 for number in range(count)]
    return {
        "pixels": pixels.hexdigest(),
        "starts": [start.frame_num for start, _ in scenes[1:]],
        "changes": changes,
    }


def keep_to_one_core() -> None:
    """Make the package's numbers the same on every machine: its ffmpeg cuts pictures into as many slices as cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def score_clip(path: Path, whole: Any) -> dict[str, Any]:
    """Return what the whole pipeline says of a clip, per track."""
    offsets, confidences, distances, *_ = whole.inference(str(path))
    return {
        "offset_frames": [int(value) for value in offsets],
        "confidence": [float(value) for value in confidences],
        "distance": [float(value) for value in distances],
    }


def main() -> None:
    """Read the command line, score, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="folder with sfd_face.pth and syncnet_v2.model")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--cut", type=Path, help="npz with crops_THWC and samples_N")
    parser.add_argument("--frames", type=Path, help="npz with frames_THWC")
    parser.add_argument("--scenes", type=Path, action="append", default=[], help="file to look for scenes in")
    parser.add_argument("--clip", type=Path, action="append", default=[], help="clip for the whole pipeline")
    given = parser.parse_args()
    if given.clip:
        keep_to_one_core()
    kept_alive = declare_torchvision_operators()
    answer: dict[str, Any] = {"versions": {name: metadata.version(name) for name in PACKAGES}}
    # The package prints its progress.
    with contextlib.redirect_stdout(sys.stderr):
        if given.cut is not None:
            answer["cut"] = score_cut(given.cut, given.weights)
        answer["scenes"] = {path.name: find_scenes(path) for path in given.scenes}
        if given.frames is not None or given.clip:
            whole = pipeline(given.weights)
            if given.frames is not None:
                answer["frames"] = find_faces(given.frames, whole)
            answer["clips"] = {path.name: score_clip(path, whole) for path in given.clip}
    given.output.write_text(json.dumps(answer), encoding="utf-8")
    del kept_alive


if __name__ == "__main__":
    main()
