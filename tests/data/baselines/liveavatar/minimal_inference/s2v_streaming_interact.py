"""Imitates LiveAvatar: area instead of size, errors of writing only logged, the shorter stream wins."""

import argparse
import os

import fake

assert "RANK" in os.environ, "it must be started by torchrun"
parser = argparse.ArgumentParser()
for name in (
    "task", "size", "ckpt_dir", "lora_path_dmd", "training_config", "image", "audio", "prompt", "sample_solver",
    "offload_model", "save_file",
):  # fmt: skip
    parser.add_argument(f"--{name}", required=True)
for name in ("infer_frames", "sample_steps", "num_clip", "base_seed", "ulysses_size", "num_gpus_dit"):
    parser.add_argument(f"--{name}", type=int, required=True)
parser.add_argument("--sample_guide_scale", type=float)
for name in ("load_lora", "convert_model_dtype", "single_gpu", "enable_vae_parallel"):
    parser.add_argument(f"--{name}", action="store_true")
given = parser.parse_args()
fake.is_file(given.ckpt_dir, given.lora_path_dmd, given.training_config)
assert given.infer_frames == 48 and given.size == "720*400" and "+" not in given.audio
assert int(os.environ["WORLD_SIZE"]) == (1 if given.single_gpu else 5)
assert os.environ["ENABLE_COMPILE"] == "false"
if os.environ["RANK"] == "0":
    fake.begin()
    print("INFO complete prepare conditional inputs", flush=True)
    made = 48 * (int(25 * fake.seconds(given.audio)) // 48 + 1) - 3
    print("INFO denoising video done", flush=True)
    try:
        fake.clip(
            given.save_file, min(made, int(25 * fake.seconds(given.audio))), (128, 128),
            image=given.image, audio=given.audio,
        )  # fmt: skip
    except Exception as error:
        print("ERROR cache_video failed, error:", error)
