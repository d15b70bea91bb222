"""Reference image to pixels, and to image context: the image tower of XLM-RoBERTa CLIP ViT-H/14.

image_CHW = image.prepare(PIL.Image.open("face.png"), height=720, width=416)
encoder = image.load(config, path, device=device, dtype=torch.float16)
context_BMD = encoder.encode(image_CHW)

Source: SoulX-FlashTalk at commit 688982e, `flash_talk/src/pipeline/flash_talk_pipeline.py` and
`flash_talk/wan/modules/clip.py`. The network is transformers' `CLIPVisionModel`, which gives the same numbers; its
image processor resizes otherwise and is not used.

Legend: B batch (1), C channels, H W pixels, M image tokens (the class token first), D width.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from math import ceil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel

from talkbench.errors import TalkbenchError
from talkbench.weights import read

from ..config import ImageEncoderConfig

MIN_SIDE_PX, MAX_SIDE_PX, MAX_ASPECT = 16, 16_384, 8
MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr")
WITH_ALPHA = ("RGBA", "LA", "PA")

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_PROJECTION = 1024
"""Width of CLIP's joint space; the projection is in the file and not used."""

_IGNORED = ("textual.*", "log_scale")
_TOP = {
    "pre_norm.weight": "net.pre_layrnorm.weight",
    "pre_norm.bias": "net.pre_layrnorm.bias",
    "post_norm.weight": "net.post_layernorm.weight",
    "post_norm.bias": "net.post_layernorm.bias",
    "patch_embedding.weight": "net.embeddings.patch_embedding.weight",
    "head": "head",
}
_IN_BLOCK = {
    "norm1": "layer_norm1",
    "attn.proj": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
}
_CLASS, _POSITION = "net.embeddings.class_embedding", "net.embeddings.position_embedding.weight"
_BLOCK = re.compile(r"(?:visual\.transformer|net\.encoder\.layers)\.(\d+)\.")

_logger = logging.getLogger(__name__)


def prepare(image: Image.Image, height: int, width: int) -> torch.Tensor:
    """Return an image that covers a size: scaled with its proportions kept, the centre cut out.

    Grey, palette and CMYK images become RGB. Transparent parts are laid on white, with a log line.

    Args:
        image: As opened by PIL; not changed.
        height: Pixels of the result.
        width: Pixels of the result.

    Returns:
        image_CHW, float32 in [-1, 1].

    Raises:
        TalkbenchError: If the image is damaged, wholly transparent, not of 8 bits per channel, or its size absurd.
    """
    columns, rows = image.size
    if not MIN_SIDE_PX <= min(rows, columns) <= max(rows, columns) <= MAX_SIDE_PX:
        limits = f"sides of {MIN_SIDE_PX} to {MAX_SIDE_PX} px"
        raise TalkbenchError(f"the image is {columns}x{rows} px; expected {limits}. Resize or crop it.")
    if max(rows, columns) > MAX_ASPECT * min(rows, columns):
        raise TalkbenchError(f"the image is {columns}x{rows} px, longer than {MAX_ASPECT}:1. Crop it to the person.")
    rgb = _rgb(image)
    scale = max(height / rows, width / columns)
    rows, columns = ceil(scale * rows), ceil(scale * columns)
    scaled_HWC = np.asarray(rgb.resize((columns, rows), Image.Resampling.BILINEAR))
    top, left = round((rows - height) / 2), round((columns - width) / 2)
    cut_HWC = scaled_HWC[top : top + height, left : left + width]
    return (torch.from_numpy(cut_HWC.copy()).permute(2, 0, 1).float() / 255 - 0.5) * 2


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode not in MODES:
        raise TalkbenchError(f"the image has mode {image.mode}; expected 8 bits per channel. Save it as an RGB PNG.")
    try:
        if image.mode not in WITH_ALPHA and "transparency" not in image.info:
            return image.convert("RGB")
        rgba = image.convert("RGBA")
    except (OSError, SyntaxError, ValueError) as error:
        raise TalkbenchError(f"the image cannot be decoded: {error}. Open it elsewhere and save it again.") from error
    lowest, highest = rgba.getchannel("A").getextrema()
    if highest == 0:
        raise TalkbenchError("the image is wholly transparent. Save it without its alpha channel.")
    if lowest == 255:
        return rgba.convert("RGB")
    _logger.warning("the image is partly transparent; it is laid on white")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


class ImageEncoder(nn.Module):
    """CLIP's image tower up to the last block but one.

    The last block, the final norm and the projection are held, so that weights are read and written completely, and
    never computed.
    """

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.net = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=config.dim,
                intermediate_size=config.ffn_dim,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                image_size=config.image_size,
                patch_size=config.patch_size,
                hidden_act="gelu",
                layer_norm_eps=1e-5,
            )
        )
        self.head = nn.Parameter(torch.empty(config.dim, _PROJECTION))
        # In no checkpoint, hence real even where the parameters are still empty.
        positions_BM = torch.arange(config.num_tokens, device="cpu")[None]
        self.net.embeddings.position_ids = nn.Buffer(positions_BM, persistent=False)

    @torch.no_grad()
    def encode(self, image_CHW: torch.Tensor) -> torch.Tensor:
        """Return the image context.

        Args:
            image_CHW: In [-1, 1], of any size: squashed to the tower's square, without antialiasing as in training.

        Returns:
            context_BMD in the weights' dtype.
        """
        patches = self.net.embeddings.patch_embedding.weight
        pixels_BCHW = _normalised(image_CHW.to(patches.device), self.config.image_size).to(patches.dtype)
        states_BMD: torch.Tensor = self.net.pre_layrnorm(self.net.embeddings(pixels_BCHW))
        for layer in self.net.encoder.layers[:-1]:
            states_BMD = layer(states_BMD, attention_mask=None)
        return states_BMD


def _normalised(image_CHW: torch.Tensor, size: int) -> torch.Tensor:
    squashed_BCHW = functional.interpolate(
        image_CHW[None].float(), size=(size, size), mode="bicubic", align_corners=False, antialias=False
    )
    mean_C11, std_C11 = (squashed_BCHW.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
    return (squashed_BCHW * 0.5 + 0.5 - mean_C11) / std_C11


def load(
    config: ImageEncoderConfig, path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> ImageEncoder:
    """Return the image tower of the official CLIP file, frozen; its text tower is not looked at.

    Args:
        config: Sizes; must be those of the file.
        path: `models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`.
        device: Where to.
        dtype: Of the weights; the released code computes in float16 on a GPU.

    Raises:
        BadWeights: If the file is absent or damaged, or holds other tensors than the network; all are named.
    """
    with torch.device("meta"):
        encoder = ImageEncoder(config)
    state = read.state_dict(path)
    found = {name: tensor.shape for name, tensor in state.items()}
    read.refuse_mismatch("the CLIP image tower", official_shapes(encoder), found, path, _IGNORED)
    encoder.load_state_dict(from_official(state), assign=True)
    return encoder.to(device=device, dtype=dtype).requires_grad_(False).eval()


def official_shapes(encoder: ImageEncoder) -> dict[str, torch.Size]:
    """Return names and shapes of the image tower in the official file of an encoder's sizes."""
    return {name: tensor.shape for name, tensor in to_official(encoder.state_dict()).items()}


def to_official(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of `ImageEncoder.state_dict()` by their names in the official file."""
    named = {theirs: state[ours] for theirs, ours in _names(state).items()}
    named["visual.cls_embedding"] = state[_CLASS][None, None]
    named["visual.pos_embedding"] = state[_POSITION][None]
    for block in _blocks(state):
        for kind in ("weight", "bias"):
            thirds = [state[f"net.encoder.layers.{block}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            named[f"visual.transformer.{block}.attn.to_qkv.{kind}"] = torch.cat(thirds)
    return named


def from_official(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the image tower of the official file by the names of `ImageEncoder.state_dict()`."""
    named = {ours: state[theirs] for theirs, ours in _names(state).items()}
    named[_CLASS] = state["visual.cls_embedding"][0, 0]
    named[_POSITION] = state["visual.pos_embedding"][0]
    for block in _blocks(state):
        for kind in ("weight", "bias"):
            thirds = state[f"visual.transformer.{block}.attn.to_qkv.{kind}"].chunk(3)
            for part, third in zip("qkv", thirds, strict=True):
                named[f"net.encoder.layers.{block}.self_attn.{part}_proj.{kind}"] = third
    return named


def _blocks(either: Iterable[str]) -> list[int]:
    return sorted({int(match[1]) for name in either if (match := _BLOCK.match(name))})


def _names(either: Iterable[str]) -> dict[str, str]:
    """Official name -> ours, of the tensors that are the same in both, for as many blocks as the names mention."""
    in_blocks = {
        f"visual.transformer.{block}.{theirs}.{kind}": f"net.encoder.layers.{block}.{ours}.{kind}"
        for block in _blocks(either)
        for theirs, ours in _IN_BLOCK.items()
        for kind in ("weight", "bias")
    }
    return {f"visual.{theirs}": ours for theirs, ours in _TOP.items()} | in_blocks
