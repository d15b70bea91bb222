"""OmniAvatar 14B (Omni-Avatar/OmniAvatar) as a system under test: its official command line, once per clip."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import common

LEAD_SECONDS, LEAD_FRAMES = "0.32", 9
"""It puts silence before the sound and a frame before the picture: 0.32 s and 1/25 s are nine whole frames."""


CHUNK = r"^\[\d+/\d+\]"
"""Printed when a chunk begins."""
CHUNK_FRAMES = {(400, 720): (105, 92), (720, 400): (105, 92), (720, 720): (57, 44)}
"""Frames of the first chunk and new frames of later ones at each size, for 30000 tokens and 13 frames of overlap:
derived, not measured."""


def build(job, places):
    """Return how the clip of a job is made."""
    for text in (job.prompt, job.scratch):
        common.require("@@" not in text and "\n" not in text, f"{text!r} holds @@ or a line break")
    common.require(
        re.fullmatch(r"[A-Za-z0-9/._-]+", job.scratch) is not None,
        f"its shell commands are not quoted: {job.scratch} must hold letters, digits and ._- only",
    )
    name = common.stem(job)
    size = common.nearest(common.picture_size(job.image), tuple(CHUNK_FRAMES))
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
        markers={"cond_end": CHUNK},
        cycles=common.Cycles(CHUNK, *CHUNK_FRAMES[size]),
        settings={"silence_duration_s": LEAD_SECONDS},
    )  # fmt: skip


if __name__ == "__main__":
    common.main(build, ("torch", "transformers", "peft", "xfuser", "librosa", "numpy"))
