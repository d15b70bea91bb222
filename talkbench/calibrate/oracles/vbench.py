"""Scores clips with the official VBench code: what our runners of its dimensions are compared with.

Runs by itself in an environment of its own (`vbench.lock`, beside this file) and prints JSON:

    python vbench.py --weights FOLDER --work FOLDER --clip a.mp4 --clip b.mp4 [--dimension subject_consistency]

    {"values": {"subject_consistency": {"a.mp4": 0.97}, ...}, "versions": {...}, "dino_source": "...", "seconds": {...}}

The weight folder holds `dino_vitbase16_pretrain.pth`, `ViT-B-32.pt` and `amt-s.pth`, whichever the dimensions need.
Nothing is downloaded. Files are unpickled as the package does it, which can run code: use files you trust. The four
`compute_*` functions of the package are called as its command line calls them, on the CPU, one clip at a time, so that
a value never depends on other clips.

Which part is official: everything but where the DINO network comes from. VBench loads it by `torch.hub` from a clone of
facebookresearch/dino; give one with `--dino-repo`. Without it, the copy of DINO's `vision_transformer.py` that the
package `dreamsim` carries is used through a hub file written here.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

DIMENSIONS = ("subject_consistency", "background_consistency", "motion_smoothness", "temporal_flickering")
FILES = {
    "subject_consistency": "dino_vitbase16_pretrain.pth",
    "background_consistency": "ViT-B-32.pt",
    "motion_smoothness": "amt-s.pth",
}
PACKAGES = ("vbench", "torch", "torchvision", "numpy", "openai-clip", "decord", "opencv-python-headless", "dreamsim")
_kept_alive: list[Any] = []
HUB_FILE = '''
"""Stands for the hub file of facebookresearch/dino: the network of a file on disk, weights from the hub's cache."""
import importlib.util
import torch

def dino_vitb16(pretrained=True, **kwargs):
    spec = importlib.util.spec_from_file_location("dino_vision_transformer", {path!r})
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.vit_base(patch_size=16, num_classes=0, **kwargs)
    url = "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"
    net.load_state_dict(torch.hub.load_state_dict_from_url(url, map_location="cpu"), strict=True)
    return net
'''


def main() -> None:
    """Score the clips that the command line names."""
    parser = argparse.ArgumentParser(description="Score clips with the official VBench code.")
    parser.add_argument("--weights", type=Path, required=True, help="folder with the official weight files")
    parser.add_argument("--work", type=Path, required=True, help="folder for caches and work lists")
    parser.add_argument("--clip", type=Path, action="append", required=True, help="an .mp4 file; may be repeated")
    parser.add_argument("--dimension", action="append", choices=DIMENSIONS, help="may be repeated; default all")
    parser.add_argument("--dino-repo", type=Path, help="clone of facebookresearch/dino")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    asked = parser.parse_args()
    # This file has the name of the package that it calls, and a script's own folder is searched first.
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]
    dimensions = tuple(asked.dimension or DIMENSIONS)
    clips = [clip.resolve(strict=True) for clip in asked.clip]
    prepare(asked.weights.resolve(strict=True), asked.work.resolve(), dimensions)

    import torch

    torch.set_num_threads(asked.threads)
    declare_torchvision_operators()
    repo, source = dino_repository(asked.dino_repo, asked.work.resolve())
    values: dict[str, dict[str, float]] = {}
    seconds: dict[str, dict[str, float]] = {}
    with contextlib.redirect_stdout(sys.stderr):  # the package prints
        for dimension in dimensions:
            values[dimension], seconds[dimension] = {}, {}
            models = submodules(dimension, asked.weights.resolve(), repo)
            for clip in clips:
                started = time.monotonic()
                values[dimension][clip.name] = score(dimension, clip, models, asked.work.resolve())
                seconds[dimension][clip.name] = round(time.monotonic() - started, 2)
    versions = {name: version(name) for name in PACKAGES}
    found = {"values": values, "versions": versions, "dino_source": source, "seconds": seconds}
    json.dump(found, sys.stdout, indent=1)
    sys.stdout.write("\n")


def prepare(weights: Path, work: Path, dimensions: tuple[str, ...]) -> None:
    """Put weight files where the packages look for them. The variables must be set before anything is imported."""
    os.environ["TORCH_HOME"] = str(work / "torch")
    os.environ["VBENCH_CACHE_DIR"] = str(work / "vbench")
    # The package unpickles `amt-s.pth`, which holds training state besides tensors, and torch refuses that by default.
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    caches = {
        "subject_consistency": work / "torch" / "hub" / "checkpoints",
        "motion_smoothness": work / "vbench" / "amt_model",
    }
    for dimension, folder in caches.items():
        if dimension in dimensions:
            folder.mkdir(parents=True, exist_ok=True)
            link = folder / FILES[dimension]
            link.unlink(missing_ok=True)
            link.symlink_to((weights / FILES[dimension]).resolve(strict=True))


def declare_torchvision_operators() -> None:
    """Let torchvision's CUDA build be imported beside a CPU build of torch; none of its operators is used."""
    import torch

    if torch.version.cuda is None and "+cpu" in torch.__version__:
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        _kept_alive.append(library)
        for name in ("nms", "qnms"):
            library.define(  # type: ignore[no-untyped-call]
                f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )


def dino_repository(given: Path | None, work: Path) -> tuple[Path, str]:
    """Return a folder that `torch.hub` can load DINO from, and where its network comes from."""
    if given is not None:
        return given.resolve(strict=True), f"clone at {given.name}"
    found = importlib.util.find_spec("dreamsim")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("no DINO network: give --dino-repo, or install dreamsim (see vbench.lock)")
    network = Path(found.submodule_search_locations[0]) / "feature_extraction" / "vision_transformer.py"
    folder = work / "dino"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hubconf.py").write_text(HUB_FILE.format(path=str(network)), encoding="utf-8")
    return folder, f"vision_transformer.py in dreamsim {version('dreamsim')}"


def submodules(dimension: str, weights: Path, repo: Path) -> Any:
    """Return what the package's own `init_submodules` returns, with local files in place of addresses."""
    utils = importlib.import_module("vbench.utils")
    found = utils.init_submodules([dimension], local=False)[dimension]
    if dimension == "subject_consistency":
        return found | {"repo_or_dir": str(repo), "source": "local"}
    if dimension == "background_consistency":
        return [str(weights / FILES[dimension]), *found[1:]]
    return found


def score(dimension: str, clip: Path, models: Any, work: Path) -> float:
    """Return the official value of one clip."""
    module = importlib.import_module(f"vbench.{dimension}")
    listing = work / "work_list.json"
    listing.write_text(
        json.dumps([{"prompt_en": clip.stem, "dimension": [dimension], "video_list": [str(clip)]}]), encoding="utf-8"
    )
    overall, _ = getattr(module, f"compute_{dimension}")(str(listing), "cpu", models)
    return float(overall)


def version(name: str) -> str:
    """Return the version of an installed package, or say that it is absent."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    main()
