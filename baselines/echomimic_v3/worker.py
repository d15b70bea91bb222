"""EchoMimic-V3 (antgroup/echomimic_v3) as a system under test: its two models, once per clip."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import common


def build(job, places):
    """Return how the clip of a job is made."""
    return flash(job, places) if places.system == "echomimic_v3-flash" else preview(job, places)


def preview(job, places):
    """Return how the preview model makes a clip: its script has no command line, `drive.py` sets what it reads."""
    name, weights = common.stem(job), places.weights
    config = {
        "model_name": common.path(weights, "Wan2.1-Fun-V1.1-1.3B-InP"),
        "transformer_path": common.path(weights, "EchoMimicV3", "transformer", "diffusion_pytorch_model.safetensors"),
        "wav2vec_model_dir": common.path(weights, "wav2vec2-base-960h"),
        "base_dir": common.path(job.scratch, "in") + "/",
        "test_name_list": [name],
        "save_path": common.path(job.scratch, "made"),
        "num_inference_steps": 25, "guidance_scale": 4, "audio_guidance_scale": 2.9,
        "partial_video_length": 113, "overlap_video_length": 8, "use_longvideo_cfg": False,
        "sample_size": [768, 768], "seed": job.seed, "fps": common.FRAME_RATE, "enable_teacache": False,
    }  # fmt: skip
    return common.Plan(
        argv=[places.python, common.path(common.HERE, "echomimic_v3", "drive.py"),
              common.path(job.scratch, "config.json")],
        # TensorFlow, which finds the face, takes the whole GPU otherwise.
        env={"TF_FORCE_GPU_ALLOW_GROWTH": "true"},
        files={"config.json": json.dumps(config, indent=1), f"in/prompts/{name}.txt": job.prompt, "made/.keep": ""},
        copies={f"in/imgs/{name}.png": job.image, f"in/audios/{name}.wav": job.audio},
        output=f"made/*/{name}_audio.mp4",
        # One progress bar per window of 113 frames, of which 8 were in the one before.
        markers={"import_end": r"^talkbench: import_end", "cond_end": r"\b0/25 \["},
        cycles=common.Cycles(r"\b0/25 \[", first_frames=113, later_frames=105),
        settings={
            "seed": job.seed,
            "face_box": "its own (RetinaFace)",
            "colour_transfer": "its default: every frame to the first",
        },
    )  # fmt: skip


def flash(job, places):
    """Return how flash-pro makes a clip: one window, as long as the sound."""
    name, weights = common.stem(job), places.weights
    length = -(-common.num_frames(job.audio_seconds) // 4) * 4 + 1
    return common.Plan(
        argv=[
            places.python, "infer_flash.py",
            "--image_path", common.path(job.scratch, name + ".png"), "--audio_path", job.audio,
            f"--prompt={job.prompt}",
            # The script's default is a file that the repository does not have.
            "--config_path", "config/config.yaml",
            "--model_name", common.path(weights, "Wan2.1-Fun-V1.1-1.3B-InP"),
            "--transformer_path",
            common.path(weights, "EchoMimicV3", "echomimicv3-flash-pro", "diffusion_pytorch_model.safetensors"),
            "--wav2vec_model_dir", common.path(weights, "chinese-wav2vec2-base"),
            "--save_path", common.path(job.scratch, "made"),
            "--video_length", str(length),
            "--num_inference_steps", "8", "--guidance_scale", "6", "--audio_guidance_scale", "3",
            "--sample_size", "768", "768", "--seed", str(job.seed),
        ],
        # It cuts the picture's name at its first dot, and leaves an output that exists as it is.
        copies={name + ".png": job.image},
        files={"made/.keep": ""},
        output=f"made/{name}_output.mp4",
        markers={"cond_end": r"\b0/8 \["},
        settings={"teacache": "on, for good", "colour_transfer": "its default: every frame to the first"},
    )  # fmt: skip


if __name__ == "__main__":
    common.main(build, ("torch", "diffusers", "transformers", "tensorflow", "moviepy", "numpy"))
