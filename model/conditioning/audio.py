"""Speech to features: wav2vec 2.0 at the video's rate, windows of neighbouring frames.

features_FLC = encoder.features(heard_N)            # of the last seconds; all frames change with every chunk
windows_PFWLC = windows(features_FLC, first=167, count=33, window=5)

Source: SoulX-FlashTalk at commit 688982e, `flash_talk/infinite_talk/audio_analysis/wav2vec2.py` and
`flash_talk/src/pipeline/flash_talk_pipeline.py`. The network is transformers' `Wav2Vec2Model`, its parts called one by
one: between convolutions and projection the vectors are brought to the video's rate.

Legend: N samples, F video frames, L layers, C channels, W window, P speakers (1), B batch (1), S vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import Wav2Vec2Config, Wav2Vec2Model

from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.weights import read

from ..config import SpeechConfig

RATE_HZ = 16_000
MIN_SAMPLES = 400
"""What one vector of the convolutions hears."""

_PREFIX = "wav2vec2."
_HEADS = ("quantizer.*", "project_q.*", "project_hid.*")
"""Of the pre-training; in the file beside the encoder and not used."""

_CONV = "encoder.pos_conv_embed.conv."
_NORMED = {f"{_CONV}weight_g": f"{_CONV}parametrizations.weight.original0",
           f"{_CONV}weight_v": f"{_CONV}parametrizations.weight.original1"}  # fmt: skip


class SpeechEncoder(nn.Module):
    """wav2vec 2.0 with the features of every layer, one per video frame; meant for float32."""

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        self.config = config
        self.net = Wav2Vec2Model(
            Wav2Vec2Config(
                hidden_size=config.dim,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                intermediate_size=config.ffn_dim,
                conv_dim=(config.conv_channels,) * len(config.conv_kernels),
                conv_kernel=config.conv_kernels,
                conv_stride=config.conv_strides,
                conv_bias=False,
                feat_extract_norm="group",
                feat_proj_dropout=0.0,
                do_stable_layer_norm=False,
                num_conv_pos_embeddings=config.position_kernel,
                num_conv_pos_embedding_groups=config.position_groups,
                layer_norm_eps=1e-5,
                hidden_act="gelu",
            )
        )

    def features(self, samples_N: np.ndarray, frame_rate: Fraction = Fraction(25)) -> torch.Tensor:
        """Return the output of every layer for every video frame.

        Args:
            samples_N: At 16 kHz, in [-1, 1], of the loudness of the training (see `loudness`); not normalised here.
            frame_rate: Video frames per second.

        Returns:
            features_FLC; F is ``int(N / 16000 * frame_rate)`` computed in floating point as the released code does:
            exact for the 8 s of a stream, one frame short for some other lengths.

        Raises:
            TalkbenchError: If the sound is shorter than a video frame, not one channel, or not finite.
        """
        checked_N = _checked(samples_N)
        num_frames = int(len(checked_N) / RATE_HZ * float(frame_rate))
        if num_frames < 1 or len(checked_N) < MIN_SAMPLES:
            needed = max(MIN_SAMPLES, ceil(RATE_HZ / frame_rate))
            raise TalkbenchError(f"the sound has {len(checked_N)} samples; one video frame needs at least {needed}.")
        weights = self.net.feature_projection.projection.weight
        host_N = torch.tensor(checked_N, dtype=weights.dtype)
        # Pinned, so that the copy does not wait for what the device is doing.
        pinned_N = torch.empty_like(host_N, pin_memory=weights.is_cuda).copy_(host_N)
        heard_BN = pinned_N.to(weights.device, non_blocking=True)[None]
        vectors_BCS = self.net.feature_extractor(heard_BN)
        at_frames_BFC = interpolate(vectors_BCS, num_frames).transpose(1, 2)
        return self._layers(at_frames_BFC)

    @property
    def _reach(self) -> int:
        """Samples that one vector of the convolutions sees (400)."""
        reach = 1
        for kernel, stride in zip(reversed(self.config.conv_kernels), reversed(self.config.conv_strides), strict=True):
            reach = (reach - 1) * stride + kernel
        return reach

    def _layers(self, vectors_BFC: torch.Tensor) -> torch.Tensor:
        encoder = self.net.encoder
        states_BFC, _ = self.net.feature_projection(vectors_BFC)
        states_BFC = encoder.layer_norm(states_BFC + encoder.pos_conv_embed(states_BFC))
        outputs = []
        for layer in encoder.layers:
            states_BFC = layer(states_BFC)
            outputs.append(states_BFC[0])
        return torch.stack(outputs, dim=1)


def _checked(samples_N: np.ndarray) -> np.ndarray:
    if samples_N.ndim != 1:
        raise TalkbenchError(f"sound of shape {samples_N.shape}; expected one channel of samples. Mix it to mono.")
    if num_bad := np.count_nonzero(~np.isfinite(samples_N)):
        raise TalkbenchError(f"{num_bad} of {len(samples_N)} audio samples are not finite numbers. Decode it again.")
    return samples_N


def interpolate(vectors_BCS: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Return as many vectors as frames: output i reads position ``i * (S - 1) / (num_frames - 1)``, linearly."""
    return functional.interpolate(vectors_BCS, size=num_frames, mode="linear", align_corners=True)


def windows(features_FLC: torch.Tensor, first: int, count: int, window: int) -> torch.Tensor:
    """Return the features around each frame; beyond either end the outermost feature repeats.

    Args:
        features_FLC: Of `SpeechEncoder.features`.
        first: Frame of the first window, counted in features.
        count: Frames.
        window: Neighbours per frame, itself included; odd.

    Returns:
        windows_PFWLC ``[1, count, window, L, C]``.

    Raises:
        ValueError: If the window is even, or a frame lies outside the features.
    """
    if window % 2 != 1 or not 0 <= first < first + count <= len(features_FLC):
        raise ValueError(f"frames {first} to {first + count - 1}, window {window}, of {len(features_FLC)} features")
    offsets_W = torch.arange(window, device=features_FLC.device) - window // 2
    frames_F = torch.arange(first, first + count, device=features_FLC.device)
    index_FW = (frames_F[:, None] + offsets_W).clamp(0, len(features_FLC) - 1)
    return features_FLC[index_FW][None]


def load(config: SpeechConfig, folder: Path, *, device: torch.device | str = "cpu") -> SpeechEncoder:
    """Return the encoder of an official folder in float32, frozen; the heads of the pre-training are not looked at.

    Args:
        config: Sizes; must be those of the file.
        folder: chinese-wav2vec2-base: `model.safetensors` or `pytorch_model.bin`.
        device: Where to.

    Raises:
        PrerequisiteError: If neither is there; names the command that fetches them.
        BadWeights: If it is damaged, or holds other tensors than the network; all are named.
    """
    paths = [folder / name for name in ("model.safetensors", "pytorch_model.bin")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        fetch = f"hf download TencentGameMate/chinese-wav2vec2-base --local-dir {folder}"
        raise PrerequisiteError(f"{folder} holds no {' or '.join(p.name for p in paths)}. Fetch it: `{fetch}`.")
    with torch.device("meta"):
        encoder = SpeechEncoder(config)
    state = _old_names(read.state_dict(path))
    found = {name: tensor.shape for name, tensor in state.items()}
    read.refuse_mismatch("the wav2vec 2.0 encoder", official_shapes(encoder), found, path, _HEADS)
    encoder.load_state_dict(from_official(state), assign=True)
    return encoder.to(device=device, dtype=torch.float32).requires_grad_(False).eval()


def official_shapes(encoder: SpeechEncoder) -> dict[str, torch.Size]:
    """Return names and shapes of the encoder in the official file of its sizes."""
    return {name: tensor.shape for name, tensor in to_official(encoder.state_dict()).items()}


def to_official(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of `SpeechEncoder.state_dict()` by their names in the official file."""
    return _old_names({_PREFIX + name.removeprefix("net."): tensor for name, tensor in state.items()})


def from_official(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the encoder of the official file by the names of `SpeechEncoder.state_dict()`."""
    plain = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
    return {f"net.{_NORMED.get(name, name)}": tensor for name, tensor in plain.items()}


def _old_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state with the weight norm's names of older libraries, as the official file has them."""
    older = {f"{_PREFIX}{new}": f"{_PREFIX}{old}" for old, new in _NORMED.items()}
    return {older.get(name, name): tensor for name, tensor in state.items()}
