"""Score pictures with the official Q-Align code that pyiqa carries, in an environment of its own (`pyiqa.lock`).

    python pyiqa.py --weights one-align/ --output scores.json [--dtype float32] frame1.png frame2.png ...

Runs `pyiqa.create_metric("qalign")` unchanged; arranged around it are:
* its weights: it loads them by hub name only, so the folder is presented as a hub cache of that name, offline;
* its logits: it returns a score, and hooks on its modules read the prompt's ids and the logits behind it;
* float32: the metric computes in float16 only. Its network is converted after loading (`module.float()`) and called
  with the ids of its own prompt and with the float32 pixels of its own `expand2square` and `image_processor`.

Output: `{"versions": {...}, "dtype": d, "pictures": {name: {task: {"ids": [...], "logits": [5], "score": x}}}}`, logits
in the order excellent, good, fair, poor, bad; the image slot has id -200. In float32 there is no score, but the sha256
of the network's input.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

HUB_NAME = "models--q-future--one-align"
LEVELS = ["excellent", "good", "fair", "poor", "bad"]
TASKS = ["quality", "aesthetics"]


def as_hub_cache(weights: Path, home: Path) -> None:
    """Make `home` a hub cache that holds `weights` under the released name."""
    commit = "0" * 40
    repository = home / "hub" / HUB_NAME
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / commit).symlink_to(weights.resolve(), target_is_directory=True)


def declare_torchvision_operators() -> Any:
    """Let a CUDA build of torchvision be imported beside a CPU build of torch; returns what must stay alive."""
    import torch

    if torch.version.cuda is not None:
        return None
    library: Any = torch.library
    schemas = library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        schemas.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return schemas


def in_float16(metric: Any, picture: Path, device: str) -> dict[str, Any]:
    """Return what the metric itself computes: ids of the prompt, logits and score of each question."""
    import numpy as np
    import torch

    pixels_1CHW = torch.from_numpy(np.array(opened(picture))).permute(2, 0, 1)[None].to(device) / 255
    model, ids = metric.net.model, level_ids(metric)
    prompts: list[Any] = []
    outputs: list[Any] = []
    hooks = [
        model.register_forward_pre_hook(lambda _module, inputs: prompts.append(inputs[0])),
        model.lm_head.register_forward_hook(lambda _module, _inputs, output: outputs.append(output)),
    ]
    found = {}
    for task in TASKS:
        value = float(metric(pixels_1CHW, task_=task))
        logits = outputs.pop()[0, -1, ids].float().tolist()
        found[task] = {"ids": prompts.pop()[0].tolist(), "logits": logits, "score": value}
    for hook in hooks:
        hook.remove()
    return found


def in_float32(metric: Any, picture: Path, device: str, prompts: dict[str, list[int]]) -> dict[str, Any]:
    """Return the logits of the float32 network on float32 pixels of the official preprocessing."""
    import torch

    model, ids = metric.net.model, level_ids(metric)
    square = import_module("pyiqa.archs.qalign_arch").expand2square(opened(picture))
    pixels_1CHW = model.image_processor.preprocess(square, return_tensors="pt")["pixel_values"].to(device)
    found = {}
    for task, prompt in prompts.items():
        with torch.no_grad():
            output = model(torch.tensor([prompt], device=device), images=pixels_1CHW)
        digest = hashlib.sha256(pixels_1CHW.cpu().numpy().tobytes()).hexdigest()
        found[task] = {"ids": prompt, "logits": output.logits[0, -1, ids].tolist(), "pixels": digest}
    return found


def opened(picture: Path) -> Any:
    """Return a picture as RGB."""
    from PIL import Image

    return Image.open(picture).convert("RGB")


def level_ids(metric: Any) -> list[int]:
    """Return the token ids of the five words."""
    return [ids[-1] for ids in metric.net.model.tokenizer(LEVELS)["input_ids"]]


def score(pictures: list[Path], device: str, dtype: str) -> dict[str, Any]:
    """Return what the official code finds in each picture."""
    metric = import_module("pyiqa").create_metric("qalign", device=device)
    if dtype == "float16":
        return {picture.name: in_float16(metric, picture, device) for picture in pictures}
    prompts = {task: found["ids"] for task, found in in_float16(metric, pictures[0], device).items()}
    metric.net.float()
    return {picture.name: in_float32(metric, picture, device, prompts) for picture in pictures}


def main() -> None:
    """Read the command line, score, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="folder of one-align")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("pictures", type=Path, nargs="+")
    options = parser.parse_args()
    # This file bears the package's name: what lies beside a script is searched first.
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    with tempfile.TemporaryDirectory() as home:
        as_hub_cache(options.weights, Path(home))
        os.environ.update(HF_HOME=home, HF_HUB_OFFLINE="1")
        alive = declare_torchvision_operators()
        result = {
            "versions": {name: version(name) for name in ("pyiqa", "transformers", "torch", "pillow")},
            "dtype": options.dtype,
            "pictures": score(options.pictures, options.device, options.dtype),
        }
        del alive
    options.output.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
