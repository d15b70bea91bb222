"""LiveAvatar (Alibaba-Quark/LiveAvatar) as a system under test: its official command line, once per clip."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import common

NUM_CLIPS = "10000"
"""More than any sound needs; it stops at the end of the sound."""


def build(job, places):
    """Return how the clip of a job is made."""
    common.require("+" not in job.audio, f"{job.audio}: it takes a + in the path for a second speaker")
    common.require(places.gpus in (1, 5), f"it runs on 1 GPU or on 5, not on {places.gpus}")
    if places.gpus == 1:
        spread = ["--num_gpus_dit", "1", "--single_gpu", "--offload_model", "True"]
    else:
        spread = ["--num_gpus_dit", "4", "--enable_vae_parallel", "--offload_model", "False"]
    return common.Plan(
        argv=[
            *common.torchrun(places, f"--nproc_per_node={places.gpus}", f"--master_port={free_port()}"),
            "minimal_inference/s2v_streaming_interact.py", "--task", "s2v-14B", "--size", "720*400",
            "--ckpt_dir", common.path(places.weights, "Wan2.2-S2V-14B"),
            "--load_lora",
            # A file, as the name of a repository would be downloaded.
            "--lora_path_dmd", common.path(places.weights, "Live-Avatar", "liveavatar.safetensors"),
            "--training_config", "liveavatar/configs/s2v_causal_sft.yaml",
            "--image", job.image, "--audio", job.audio, "--prompt", job.prompt,
            "--infer_frames", "48", "--sample_steps", "4", "--sample_guide_scale", "0", "--sample_solver", "euler",
            "--num_clip", NUM_CLIPS, "--base_seed", str(job.seed), "--convert_model_dtype", "--ulysses_size", "1",
            *spread,
            "--save_file", common.path(job.scratch, "made", common.stem(job) + ".mp4"),
        ],
        env={"ENABLE_COMPILE": "false"},
        files={"made/.keep": ""},
        output=f"made/{common.stem(job)}.mp4",
        spare_frames=3,
        # One GPU decodes after that line, five decode beside the network, at most a block behind it.
        markers={
            "cond_end": r"complete prepare conditional inputs",
            "denoised" if places.gpus == 1 else "gen_end": r"denoising video done",
        },
        settings={"ENABLE_COMPILE": "false", "area": "720*400", "lead": "lips may be 3 frames ahead; not corrected"},
    )  # fmt: skip


def free_port():
    """Return a port that nobody listens on: the official scripts fix one, and two jobs of a machine would meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    common.main(build, ("torch", "transformers", "peft", "flash-attn", "numpy"))
