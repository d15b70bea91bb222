"""What a network is told beside its state: from a sample to the inputs of a forward pass, and their null forms.

    velocity = Velocity(dit)
    known = given(sample, device, torch.float32)
    v_CThw = known.ask(velocity, x_CThw, 0.7, windows(sample, 0, recipe))

The null forms are those that guidance compares with: no text is the embedding of a negative prompt, no sound is
features of zero. The picture is always there.

Legend: C channels, F frames, T latent frames, h w latent rows and columns, L text tokens or speech layers, M image
tokens, P speakers (1), W window.
Source: InfiniteTalk's sampler (`wan/multitalk.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from talkbench.errors import TalkbenchError

from ..data.sample import Sample
from ..dit import DiT
from ..flow import NUM_TRAIN_STEPS
from ..pipeline import masked
from .config import TrainRecipe


class Velocity(nn.Module):
    """The network with everything that is trained in one forward pass: the one entry that sharding has to know.

    Attributes:
        dit: The transformer.
    """

    def __init__(self, dit: DiT) -> None:
        super().__init__()
        self.dit = dit

    def forward(
        self,
        x_CThw: Tensor,
        time: float,
        y_CThw: Tensor,
        text_LC: Tensor,
        image_MC: Tensor,
        windows_PFWLC: Tensor,
    ) -> Tensor:
        """Return the velocity, noise minus data, `[16, T, h, w]` in float32 or better.

        Args:
            x_CThw: Noisy latents, `[16, T, h, w]`.
            time: 0 (data) to 1 (noise).
            y_CThw: Mask and reference latent, `[20, T, h, w]`.
            text_LC: Text tokens.
            image_MC: Image tokens.
            windows_PFWLC: Speech features around each frame, `[1, F, window, layers, channels]`.
        """
        embedded = self.dit.embed(NUM_TRAIN_STEPS * time, text_LC, image_MC[None], windows_PFWLC)
        # Sharding hooks into what comes out, which must not be a view of something else.
        return self.dit.velocity(x_CThw, y_CThw, embedded).clone()


@dataclass(frozen=True)
class Given:
    """What stays the same for all chunks of a sample.

    Attributes:
        y_CThw: Mask and reference latent.
        text_LC: Text tokens.
        image_MC: Image tokens.
    """

    y_CThw: Tensor
    text_LC: Tensor
    image_MC: Tensor

    def without_text(self, null_text_LC: Tensor) -> Given:
        """Return the same, told a negative prompt."""
        return replace(self, text_LC=null_text_LC.to(self.text_LC))

    def ask(self, velocity: Velocity, x_CThw: Tensor, time: float, windows_PFWLC: Tensor) -> Tensor:
        """Return the velocity that a network predicts under these conditions."""
        answer: Tensor = velocity(x_CThw, time, self.y_CThw, self.text_LC, self.image_MC, windows_PFWLC)
        return answer


def given(sample: Sample, device: torch.device, dtype: torch.dtype) -> Given:
    """Return the conditions of a sample on a device."""
    return Given(
        masked(sample.reference_CThw).to(device, dtype),
        sample.text_LC.to(device, dtype),
        sample.image_MC.to(device, dtype),
    )


def windows(sample: Sample, chunk: int, recipe: TrainRecipe) -> Tensor:
    """Return the speech windows of a chunk, counted from 0: `[1, F, window, layers, channels]`.

    Raises:
        TalkbenchError: If the sample's sound ends before that chunk.
    """
    if not 0 <= chunk < sample.chunks:
        raise TalkbenchError(
            f"sample {sample.id} has sound for {sample.chunks} chunks, and chunk {chunk + 1} is asked for. "
            f"Prepare the data with `--chunks {chunk + 1}` or more."
        )
    return sample.speech_windows(chunk, recipe.model.dit.audio.window)


def silence(windows_PFWLC: Tensor) -> Tensor:
    """Return the windows of no sound: features of zero, which the network still projects."""
    return torch.zeros_like(windows_PFWLC)


def precise(recipe: TrainRecipe) -> torch.dtype:
    """Return the precision of states, noise and losses: float32, or float64 in a recipe of that precision."""
    return torch.float64 if recipe.precision == "float64" else torch.float32
