"""Ditto (antgroup/ditto-talkinghead) as a system under test: its official command line, seeded, once per clip."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import common


def build(job, places):
    """Return how the clip of a job is made."""
    models = common.path(places.weights, "ditto-talkinghead")
    return common.Plan(
        # The official script seeds nothing, and its threads wait for ever after an error.
        argv=[
            places.python, common.path(common.HERE, "seeded.py"), str(job.seed), "inference.py",
            "--data_root", common.path(models, "ditto_pytorch"),
            # The online configuration with this script gives five frames and exit code 0.
            "--cfg_pkl", common.path(models, "ditto_cfg", "v0.4_hubert_cfg_pytorch.pkl"),
            "--audio_path", job.audio,
            "--source_path", job.image,
            "--output_path", common.path(job.scratch, "made", common.stem(job) + ".mp4"),
        ],
        files={"made/.keep": ""},
        output=f"made/{common.stem(job)}.mp4",
        spare_frames=1,
        errors=(
            ("no-face", r"cannot unpack non-iterable NoneType"),
            ("wrong-engine", r"deserialize.*engine|TensorRT.*[Ee]rror"),
        ),
        settings={"config": "offline, PyTorch", "sampling_steps": 50, "seed": job.seed},
    )  # fmt: skip


if __name__ == "__main__":
    common.main(build, ("torch", "numpy", "librosa", "opencv-python-headless"))
