"""InfiniteTalk with a step-distillation LoRA (MeiGen-AI/InfiniteTalk) as a system under test, once per clip."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import common

SHORTEST_SECONDS = 3.5
"""It needs more than 81 frames of sound; silence is added, and cut off again."""
LORAS = {
    "infinitetalk": ("FusionX", "Wan2.1_I2V_14B_FusionX_LoRA.safetensors", 8),
    "infinitetalk-lightx2v": ("lightx2v", "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors", 4),
}


def build(job, places):
    """Return how the clip of a job is made."""
    folder, lora, steps = LORAS[places.system]
    seconds = max(job.audio_seconds, SHORTEST_SECONDS)
    short = seconds > job.audio_seconds
    name, bar = common.stem(job), rf"\b0/{steps} \["
    image, audio = (common.path(job.scratch, name + suffix) for suffix in (".png", ".wav"))
    asked = {"prompt": job.prompt, "cond_video": image, "cond_audio": {"person1": audio}}
    if places.gpus == 1:
        start, spread = [places.python], ["--offload_model", "False"]
    else:
        start = common.torchrun(places, "--standalone", f"--nproc_per_node={places.gpus}")
        spread = ["--dit_fsdp", "--t5_fsdp", "--ulysses_size", str(places.gpus)]
    return common.Plan(
        argv=[
            *start, "generate_infinitetalk.py",
            "--ckpt_dir", common.path(places.weights, "Wan2.1-I2V-14B-480P"),
            "--wav2vec_dir", common.path(places.weights, "chinese-wav2vec2-base"),
            "--infinitetalk_dir", common.path(places.weights, "InfiniteTalk", "single", "infinitetalk.safetensors"),
            "--lora_dir", common.path(places.weights, folder, lora), "--lora_scale", "1.0",
            "--input_json", common.path(job.scratch, "input.json"),
            "--size", "infinitetalk-480", "--mode", "streaming", "--motion_frame", "9", "--frame_num", "81",
            # The default stops after 40 s.
            "--max_frame_num", str(math.ceil(common.FRAME_RATE * seconds) + 81),
            "--sample_steps", str(steps), "--sample_shift", "2",
            "--sample_text_guide_scale", "1", "--sample_audio_guide_scale", "2",
            "--base_seed", str(job.seed), *spread,
            "--audio_save_dir", common.path(job.scratch, "features"),
            "--save_file", common.path(job.scratch, "made", name),
        ],
        files={"input.json": json.dumps(asked, indent=1), "made/.keep": "", "features/.keep": ""},
        copies={name + ".png": job.image, **({} if short else {name + ".wav": job.audio})},
        prepare=[common.padded(job.audio, seconds, name + ".wav")] if short else [],
        output=f"made/{name}.mp4",
        spare_frames=1,
        markers={
            "import_end": r"Creating infinitetalk pipeline",
            "load_end": r"Generating video",
            "cond_end": bar,
            "encode_end": r"Saving generated video",
        },
        # One progress bar per window of 81 frames, of which 9 were in the one before.
        cycles=common.Cycles(bar, first_frames=81, later_frames=72),
        errors=(("audio-too-short", r"[Aa]udio.*(too short|exceed|longer)|AssertionError.*audio"),),
        settings={"lora": lora, "steps": steps, "padded_to_seconds": seconds if short else None},
    )  # fmt: skip


if __name__ == "__main__":
    common.main(build, ("torch", "diffusers", "transformers", "xformers", "flash-attn", "xfuser", "numpy"))
