"""StableAvatar (Francis-Rings/StableAvatar) as a system under test: its official command line, once per clip."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import common

SIZES = ((512, 512), (480, 832), (832, 480))
SHORTEST_SECONDS = 3.5
"""Under 81 frames it decodes zeros, from 81 to 84 its loop never ends; silence is added, and cut off again."""


def build(job, places):
    """Return how the clip of a job is made."""
    bundle = common.path(places.weights, "StableAvatar")
    size = common.nearest(common.picture_size(job.image), SIZES)
    image, audio = common.stem(job) + ".png", common.stem(job) + ".wav"
    short = job.audio_seconds < SHORTEST_SECONDS
    prepare = [common.cropped(job.image, size, image)]
    if short:
        prepare.append(common.padded(job.audio, SHORTEST_SECONDS, audio))
    kind = "square" if size[0] == size[1] else "rec-vec"
    return common.Plan(
        argv=[
            places.python, "inference.py",
            "--config_path", "deepspeed_config/wan2.1/wan_civitai.yaml",
            "--pretrained_model_name_or_path", common.path(bundle, "Wan2.1-Fun-V1.1-1.3B-InP"),
            "--transformer_path", common.path(bundle, "StableAvatar-1.3B", f"transformer3d-{kind}.pt"),
            "--pretrained_wav2vec_path", common.path(bundle, "wav2vec2-base-960h"),
            "--validation_reference_path", common.path(job.scratch, image),
            "--validation_driven_audio_path", common.path(job.scratch, audio) if short else job.audio,
            # With `=`, a prompt may begin with a dash.
            f"--validation_prompts={job.prompt}",
            "--output_dir", common.path(job.scratch, "made"),
            "--seed", str(job.seed),
            "--sample_steps", "50", "--width", str(size[0]), "--height", str(size[1]),
            "--overlap_window_length", "5", "--clip_sample_n_frames", "81", "--motion_frame", "25",
            "--sample_text_guide_scale", "3", "--sample_audio_guide_scale", "5",
            "--GPU_memory_mode", "model_full_load", "--ulysses_degree", "1", "--ring_degree", "1",
        ],
        prepare=prepare,
        files={"made/.keep": ""},
        output="made/video_without_audio.mp4",
        size=size,
        markers={"cond_end": r"\b0/50 \["},
        errors=(("oom-gpu", r"CUDA out of memory.*(decode|vae)"),),
        settings={"padded_to_seconds": SHORTEST_SECONDS if short else None, "reference": "cropped to the output"},
    )  # fmt: skip


if __name__ == "__main__":
    common.main(build, ("torch", "diffusers", "transformers", "numpy", "moviepy"))
