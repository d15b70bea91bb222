"""Trains the tiny networks beside the transformer and writes them as released ones are: `python -m model.tiny.make`.

    python -m model.tiny.make --out model/weights/tiny

The transformer is trained by `model.train` afterwards; `model/README.md` has all commands.

Text and image encoder keep their seeded random weights: there is one prompt, and the picture's latent says more than
random image features. Everything is stored in half precision. About 25 minutes on one core.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from talkbench import atomic
from talkbench.progress import Logged

from .. import checkpoint, initial
from ..conditioning import audio
from ..recipes import recipe
from . import autoencoder, speech, world


def halved(net: nn.Module) -> dict[str, Tensor]:
    """Return a network's state in half precision."""
    return {name: tensor.half().contiguous() for name, tensor in net.state_dict().items()}


def save(state: dict[str, Tensor], path: Path) -> None:
    """Write tensors in torch's format; the file appears whole or not at all."""
    packed = io.BytesIO()
    torch.save(state, packed)
    atomic.write_bytes(path, packed.getvalue())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, laid out as the released weights")
    parser.add_argument("--clips", type=int, default=300, help="people to draw, 3 s each")
    parser.add_argument("--drawers", type=int, default=2, help="processes that draw")
    parser.add_argument("--picture-steps", type=int, default=3000, help="of the autoencoder, on single frames")
    parser.add_argument("--video-steps", type=int, default=700, help="of the autoencoder, on nine frames")
    parser.add_argument("--speech-steps", type=int, default=1200, help="of the speech encoder")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(1)  # the same numbers on any machine
    wanted, progress = recipe("tiny"), Logged()
    seeds = range(world.FIRST_SEED, world.FIRST_SEED + asked.clips)
    clips = list(world.draw_all(seeds, seconds=3.0, num_processes=asked.drawers))
    initial.write(wanted, asked.out, seed=0)
    files = checkpoint.Files.below(asked.out)
    heard = speech.train(
        wanted.speech, clips, steps=asked.speech_steps, loudness_lufs=wanted.stream.loudness_lufs, progress=progress
    )
    save(audio.to_official(halved(heard)), files.speech / "pytorch_model.bin")
    seen = autoencoder.train(
        wanted.vae, clips, picture_steps=asked.picture_steps, video_steps=asked.video_steps, progress=progress
    )
    save(halved(seen), files.vae)


if __name__ == "__main__":
    main()
