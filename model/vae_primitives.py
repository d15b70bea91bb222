"""What the layers of the video autoencoder are made of: memory of past frames, borders, convolutions in one layout.

Two small objects keep streaming and splitting out of the arithmetic. A convolution asks `History` for the frames before
those it was given, and `Borders` for the rows and columns around them. With a fresh `History` and the plain `Borders`
both are zeros, as in a network run on the whole video at once.

Tensors are channels-last in memory (B F H W C): a video reads as a batch of pictures without a copy, norms reduce over
neighbours, and convolutions need no change of layout.

Legend: B batch, C channels, F frames, H W rows and columns of the stage at hand, N = B*F pictures, M positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Borders:
    """What lies around the rows and columns at hand: nothing, for they are the whole picture.

    `parallel/bands.py` replaces it where each process holds a band of the picture.

    Attributes:
        padding: By how many zero rows and columns a 3x3 convolution pads its input itself.
    """

    padding: tuple[int, int] = (1, 1)

    def around(self, x_NCHW: Tensor) -> Tensor:
        """Return pictures or video with what a 3x3 convolution needs and does not pad; the last two axes are H, W."""
        return x_NCHW

    def after(self, x_NCHW: Tensor) -> Tensor:
        """Return pictures with one row more below and one column more to the right."""
        return functional.pad(x_NCHW, (0, 1, 0, 1))

    def everywhere(self, x_NMC: Tensor) -> Tensor:
        """Return the positions of the whole picture, in any order that is the same at every call."""
        return x_NMC


class History:
    """Frames that the causal layers remember from one call to the next on the same video.

    Layers come by in the same order at every call, so the frames are a plain list: it goes in at the start of a call
    and the next one comes out as `after`.

    Args:
        before: `after` of the previous call; None if the first frame of the video is in this one.
    """

    def __init__(self, before: Sequence[Tensor] | None) -> None:
        self._before = before
        self.after: list[Tensor] = []

    @property
    def first(self) -> bool:
        """Whether this call starts the video."""
        return self._before is None

    def prepend(self, x_BCFHW: Tensor, num_frames: int) -> Tensor:
        """Return the video with the frames before it in front, zeros at the start, and remember its last ones."""
        if self._before is None:
            batch, channels, _, height, width = x_BCFHW.shape
            before_BCFHW = x_BCFHW.new_zeros(()).expand(batch, channels, num_frames, height, width)
        else:
            before_BCFHW = self._before[len(self.after)]
        joined_BCFHW = join([before_BCFHW, x_BCFHW], 2)
        self.remember(joined_BCFHW, num_frames)
        return joined_BCFHW

    def remember(self, x_BCFHW: Tensor, num_frames: int) -> None:
        """Keep the last frames for the next call."""
        self.after.append(_last_frames(x_BCFHW, num_frames))


@torch.library.custom_op("talkbench::last_frames", mutates_args=(), schema="(Tensor x, int num_frames) -> Tensor")
def _last_frames(x_BCFHW: Tensor, num_frames: int) -> Tensor:
    """Copy the last frames, channels-last.

    An operator of its own because Inductor takes a clone for a view, and the views would keep every activation of the
    network alive until the next call.
    """
    return x_BCFHW[:, :, -num_frames:].movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)


@_last_frames.register_fake
def _(x_BCFHW: Tensor, num_frames: int) -> Tensor:
    batch, channels, _, height, width = x_BCFHW.shape
    return x_BCFHW.new_empty(batch, num_frames, height, width, channels).movedim(-1, 1)


def _note_frames(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:  # noqa: ARG001
    ctx.shape, ctx.num_frames = inputs[0].shape, inputs[1]


def _last_frames_backward(ctx: Any, grad_BCFHW: Tensor) -> tuple[Tensor, None]:
    whole_BCFHW = grad_BCFHW.new_zeros(ctx.shape)
    whole_BCFHW[:, :, -ctx.num_frames :] = grad_BCFHW
    return whole_BCFHW, None


_last_frames.register_autograd(_last_frames_backward, setup_context=_note_frames)


def join(parts_BCFHW: Sequence[Tensor], dim: int) -> Tensor:
    """Return one video or picture of several along an axis after the channels, channels-last.

    Joined in memory order: `torch.cat` guesses the layout from strides, which say nothing where an axis has size one.
    """
    return torch.cat([part_BCFHW.movedim(1, -1) for part_BCFHW in parts_BCFHW], dim - 1).movedim(-1, 1)


def as_pictures(x_BCFHW: Tensor) -> Tensor:
    """Return a video as a batch of pictures `[B*F, C, H, W]`; no copy in channels-last."""
    return x_BCFHW.movedim(1, -1).flatten(0, 1).movedim(-1, 1)


def as_video(x_NCHW: Tensor, batch: int) -> Tensor:
    """Return pictures as a video again: the inverse of `as_pictures`."""
    x_BFHWC: Tensor = x_NCHW.movedim(1, -1).unflatten(0, (batch, -1))
    return x_BFHWC.movedim(-1, 1)


@torch.library.custom_op(
    "talkbench::convolution",
    mutates_args=(),
    schema="(Tensor x, Tensor w, Tensor b, int[] stride, int[] pad) -> Tensor",
)
def _convolution(x_NCHW: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """Convolve channels-last.

    An operator of its own because the layout must survive compilation: Inductor lays the inputs of 3-D convolutions out
    as it thinks best, which for the views used here is channels-first, and copies them there.
    """
    y_NCHW: Tensor
    if x_NCHW.dim() == 4:
        y_NCHW = functional.conv2d(x_NCHW, weight, bias, stride, padding)
    elif x_NCHW.device.type == "cpu" and x_NCHW.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        # For small inputs, and on one thread, torch would choose a loop ten times slower.
        y_NCHW = torch.mkldnn_convolution(x_NCHW, weight, bias, padding, stride, [1, 1, 1], 1)
    else:
        y_NCHW = functional.conv3d(x_NCHW, weight, bias, stride, padding)
    return y_NCHW.movedim(1, -1).contiguous().movedim(-1, 1)


@_convolution.register_fake
def _(x_NCHW: Tensor, weight: Tensor, _bias: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    sizes = zip(x_NCHW.shape[2:], weight.shape[2:], stride, padding, strict=True)
    spatial = [(size + 2 * pad - kernel) // step + 1 for size, kernel, step, pad in sizes]
    return x_NCHW.new_empty(x_NCHW.shape[0], *spatial, weight.shape[0]).movedim(-1, 1)


def _note_convolution(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    x_NCHW, weight, _, ctx.stride, ctx.padding = inputs
    ctx.save_for_backward(x_NCHW, weight)


def _convolution_backward(ctx: Any, grad_NCHW: Tensor) -> tuple[Tensor | None, ...]:
    x_NCHW, weight = ctx.saved_tensors
    axes = x_NCHW.dim() - 2
    grads = torch.ops.aten.convolution_backward(
        grad_NCHW, x_NCHW, weight, [weight.shape[0]], ctx.stride, ctx.padding, [1] * axes, False, [0] * axes, 1,
        ctx.needs_input_grad[:3],
    )  # fmt: skip
    return (*grads, None, None)


_convolution.register_autograd(_convolution_backward, setup_context=_note_convolution)


def convolve(x_NCHW: Tensor, weight: Tensor, conv: nn.Conv2d | nn.Conv3d, padding: Sequence[int]) -> Tensor:
    """Convolve pictures, or video, channels-last in and out.

    Args:
        x_NCHW: `[N, C, H, W]` or `[B, C, F, H, W]`.
        weight: Of `conv`, or a part of it; as many axes as `x_NCHW`.
        conv: Has bias and stride.
        padding: Zeros on either side of the axes after the channels.
    """
    assert conv.bias is not None  # noqa: S101 - an invariant of the released network
    y_NCHW: Tensor = _convolution(x_NCHW, weight, conv.bias, conv.stride[-len(padding) :], padding)
    return y_NCHW


def pointwise(x_NCHW: Tensor, conv: nn.Conv2d | nn.Conv3d) -> Tensor:
    """Apply a convolution with a kernel of one pixel as the matrix product that it is in channels-last."""
    y_NHWC: Tensor = functional.linear(x_NCHW.movedim(1, -1), conv.weight.flatten(1), conv.bias)
    return y_NHWC.movedim(-1, 1)
