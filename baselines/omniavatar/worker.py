"""OmniAvatar 14B (Omni-Avatar/OmniAvatar) as a system under test: its official command line, once per clip."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import common

LEAD_SECONDS, LEAD_FRAMES = "0.32", 9
"""It puts silence before the sound and a frame before the picture: 0.32 s and 1/25 s are nine whole frames."""


def build(job, places):
    """Return how the clip of a job is made."""
    for text in (job.prompt, job.scratch):
        common.require("@@" not in text and "\n" not in text, f"{text!r} holds @@ or a line break")
    common.require(
        re.fullmatch(r"[A-Za-z0-9/._-]+", job.scratch) is not None,
        f"its shell commands are not quoted: {job.scratch} must hold letters, digits and ._- only",
    )
    name = common.stem(job)
    image, audio = (common.path(job.scratch, name + suffix) for suffix in (".png", ".wav"))
    choices = {
        "sp_size": places.gpus, "num_steps": 50, "guidance_scale": 4.5, "overlap_frame": 13, "max_tokens": 30000,
        "seed": job.seed, "tea_cache_l1_thresh": 0, "silence_duration_s": LEAD_SECONDS, "max_hw": 720,
    }  # fmt: skip
    return common.Plan(
        argv=[
            *common.torchrun(places, "--standalone", f"--nproc_per_node={places.gpus}"),
            "scripts/inference.py", "--config", "configs/inference.yaml",
            "--input_file", common.path(job.scratch, "list.txt"),
            "--hp=" + ",".join(f"{name}={value}" for name, value in choices.items()),
        ],
        files={"list.txt": "@@".join((job.prompt, image, audio)) + "\n"},
        copies={name + ".png": job.image, name + ".wav": job.audio},
        links={
            "pretrained_models/" + name: common.path(places.weights, name)
            for name in ("Wan2.1-T2V-14B", "OmniAvatar-14B", "wav2vec2-base-960h")
        },
        output="work/demo_out/*/res_*/result_*_wav.mp4",
        lead_frames=LEAD_FRAMES,
        spare_frames=1,
        markers={"first_chunk": r"^\[1/\d+\]|^\[0/\d+\]"},
        settings={"silence_duration_s": LEAD_SECONDS},
    )  # fmt: skip


if __name__ == "__main__":
    common.main(build, ("torch", "transformers", "peft", "xfuser", "librosa", "numpy"))
