"""Prompt to text context: the umT5-xxl encoder, under the names of the official checkpoint.

encoder = text.load(config, path, tokenizer_folder, device=device)
text_LD = encoder.encode("A person is talking.")

Source: SoulX-FlashTalk at commit 688982e, `flash_talk/wan/modules/{t5,tokenizers}.py`. The network is transformers'
`UMT5EncoderModel`, which gives the same numbers.

Legend: B batch (1), L text tokens, D width.
"""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ftfy
import torch
from torch import nn
from transformers import AutoTokenizer, ByT5Tokenizer, UMT5Config, UMT5EncoderModel

from talkbench.errors import PrerequisiteError
from talkbench.weights import read

from ..config import TextConfig

_TOP = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}
_TIED = "encoder.embed_tokens.weight"
_IN_BLOCK = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}
_BLOCK = re.compile(r"(?:blocks|encoder\.block)\.(\d+)\.")

_logger = logging.getLogger(__name__)


class TextEncoder(nn.Module):
    """umT5 with its tokenizer.

    Args:
        config: Sizes.
        tokenizer: A transformers tokenizer, see `tokenizer`; None where nothing is encoded (writing weights).
    """

    def __init__(self, config: TextConfig, tokenizer: Any = None) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.net = UMT5EncoderModel(
            UMT5Config(
                vocab_size=config.vocab_size,
                d_model=config.dim,
                d_kv=config.attention_dim // config.num_heads,
                d_ff=config.ffn_dim,
                num_layers=config.num_layers,
                num_heads=config.num_heads,
                feed_forward_proj="gated-gelu",
                layer_norm_epsilon=1e-6,
                relative_attention_num_buckets=32,
                relative_attention_max_distance=128,
            )
        )

    @torch.no_grad()
    def encode(self, prompt: str) -> torch.Tensor:
        """Return the text context of a prompt.

        The prompt is padded to the full length, the padding masked as keys and its rows cut off afterwards, as in
        training; the DiT pads again, with zeros.

        Args:
            prompt: Any text; goes through `clean`. What exceeds `TextConfig.max_tokens` is ignored, with a log line.

        Returns:
            text_LD in the weights' dtype; L counts the end token and is at most `max_tokens`.
        """
        cleaned, limit = clean(prompt), self.config.max_tokens
        tokens = self.tokenizer(cleaned, max_length=limit, padding="max_length", truncation=True, return_tensors="pt")
        num_tokens = int(tokens["attention_mask"].sum())
        ids_BL, mask_BL = (tokens[name].to(self.net.device) for name in ("input_ids", "attention_mask"))
        if num_tokens == limit and (whole := len(self.tokenizer(cleaned)["input_ids"])) > limit:
            _logger.warning("the prompt has %d tokens; those after the first %d are ignored", whole, limit)
        states_BLD: torch.Tensor = self.net(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        return states_BLD[0, :num_tokens]


def load(
    config: TextConfig,
    path: Path,
    tokenizer_folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> TextEncoder:
    """Return the encoder of an official file, frozen.

    Args:
        config: Sizes; must be those of the file.
        path: `models_t5_umt5-xxl-enc-bf16.pth`.
        tokenizer_folder: See `tokenizer`.
        device: Where to.
        dtype: Of the weights; None keeps the file's.

    Raises:
        PrerequisiteError: If the tokenizer is absent.
        BadWeights: If the file is absent or damaged, or holds other tensors than the network; all are named.
    """
    with torch.device("meta"):
        encoder = TextEncoder(config, tokenizer(config, tokenizer_folder))
    state = read.state_dict(path)
    read.refuse_mismatch(
        "the umT5 encoder", official_shapes(encoder), {name: t.shape for name, t in state.items()}, path
    )
    encoder.load_state_dict(from_official(state), assign=True)
    # Assignment made two parameters of the tied embedding; on a GPU the second would take 2 GB of its own.
    encoder.net.encoder.embed_tokens.weight = encoder.net.shared.weight
    return encoder.to(device=device, dtype=dtype).requires_grad_(False).eval()


def tokenizer(config: TextConfig, folder: Path) -> Any:
    """Return the tokenizer of a configuration; never asks a network.

    Args:
        config: ``umt5`` reads files, ``bytes`` needs none.
        folder: `google/umt5-xxl` of the official checkpoint.

    Raises:
        PrerequisiteError: If the files are absent or unreadable; names the command that fetches them.
    """
    if config.tokenizer == "bytes":
        return ByT5Tokenizer()
    fetch = f"Fetch it: `hf download Soul-AILab/SoulX-FlashTalk-14B --local-dir {folder.parents[1]}`."
    if not folder.is_dir():
        raise PrerequisiteError(f"the text tokenizer {folder} is not there. {fetch}")
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        raise PrerequisiteError(
            f"the text tokenizer {folder} cannot be read ({type(error).__name__}: {error}). {fetch}"
        ) from error


def clean(prompt: str) -> str:
    """Return a prompt as training saw it: encoding mended, HTML entities resolved, single spaces."""
    text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", text).strip()


def official_shapes(encoder: TextEncoder) -> dict[str, torch.Size]:
    """Return names and shapes of the official file of an encoder's sizes."""
    return {name: tensor.shape for name, tensor in to_official(encoder.state_dict()).items()}


def to_official(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of `TextEncoder.state_dict()` by their names in the official file."""
    ours = {name.removeprefix("net."): tensor for name, tensor in state.items()}
    return {theirs: ours[name] for theirs, name in _names(ours).items()}


def from_official(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of the official file by their names in `TextEncoder.state_dict()`."""
    ours = {f"net.{name}": state[theirs] for theirs, name in _names(state).items()}
    return {**ours, f"net.{_TIED}": state["token_embedding.weight"]}


def _names(either: Iterable[str]) -> dict[str, str]:
    """Official name -> transformers' name, for as many blocks as names of either kind mention."""
    blocks = sorted({int(match[1]) for name in either if (match := _BLOCK.match(name))})
    return _TOP | {
        f"blocks.{i}.{theirs}.weight": f"encoder.block.{i}.{ours}.weight"
        for i in blocks
        for theirs, ours in _IN_BLOCK.items()
    }
