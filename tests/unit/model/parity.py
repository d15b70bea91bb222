"""What the parity tests share: our network with given weights, inputs, and mistakes on the plain side."""

from __future__ import annotations

import inspect
from types import ModuleType

import torch
from torch import Tensor

from model.config import AudioTokensConfig, DiTConfig
from model.dit import DiT
from tests.plain import dit as plain_dit

Sizes = dict[str, int]
NAMES = ("dim", "num_heads", "num_layers", "ffn_dim", "freq_dim", "text_len", "text_dim", "image_dim")
AUDIO_NAMES = {"num_layers": "layers", "channels": "channels", "hidden": "hidden", "tokens": "tokens", "dim": "dim"}


def config_of(sizes: Sizes) -> DiTConfig:
    """Return our configuration of a network of these sizes."""
    return DiTConfig(
        **{name: sizes[name] for name in NAMES},
        audio=AudioTokensConfig(**{ours: sizes[f"audio_{name}"] for ours, name in AUDIO_NAMES.items()}),
    )


def sizes_of(config: DiTConfig) -> Sizes:
    """Return the sizes of our configuration."""
    sizes = {name: getattr(config, name) for name in NAMES}
    return sizes | {f"audio_{name}": getattr(config.audio, ours) for ours, name in AUDIO_NAMES.items()}


class PlainKernel:
    """Attention by the plain code, so that nothing but the rest of the network is compared in bfloat16."""

    name = "plain"

    def __call__(self, q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor) -> Tensor:
        samples = zip(q_BNAd, k_BMAd, v_BMAd, strict=True)
        return torch.stack([plain_dit.attention(q, k, v, q.dtype).reshape(q.shape) for q, k, v in samples])


def network(sizes: Sizes, state: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> DiT:
    """Return our network with a state of the official names, strictly loaded."""
    net = DiT(config_of(sizes)).eval().requires_grad_(False)
    net.load_state_dict(state, strict=True)
    return net.to(dtype)


def dit_inputs(
    sizes: Sizes, grid: tuple[int, int, int], *, seed: int = 0, text: int = 5, time: float = 937.5
) -> dict[str, Tensor | float]:
    """Return the arguments of the plain forward, for a grid of latent frames, token rows and token columns."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    frames, rows, columns = grid
    return {
        "x_CThw": normal(16, frames, 2 * rows, 2 * columns),
        "time": time,
        "text_LD": normal(text, sizes["text_dim"]),
        "image_1LD": normal(1, 7, sizes["image_dim"]),
        "y_CThw": normal(20, frames, 2 * rows, 2 * columns),
        "audio_PF5LC": normal(1, 4 * frames - 3, 5, sizes["audio_layers"], sizes["audio_channels"]),
    }


def run(
    net: DiT, x_CThw: Tensor, time: float, text_LD: Tensor, image_1LD: Tensor, y_CThw: Tensor, audio_PF5LC: Tensor
) -> Tensor:
    """Return our network's velocity for the arguments of the plain forward."""
    context = net.encode_context(text_LD.to(net.dtype), image_1LD.to(net.dtype))
    return net(x_CThw, net.encode_time(time), y_CThw, context, net.encode_audio(audio_PF5LC.to(net.dtype)))


def mutant(module: ModuleType, right: str, wrong: str) -> ModuleType:
    """Return a copy of a plain module with one mistake in it; `right` must occur exactly once."""
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{right!r} occurs {source.count(right)} times"
    copy = ModuleType(module.__name__)
    exec(compile(source.replace(right, wrong), "<mistaken>", "exec"), copy.__dict__)
    return copy


def relative(ours: Tensor, expected: Tensor) -> float:
    """Return |ours - expected| / |expected|."""
    return float((ours - expected).norm() / expected.norm())
