"""The straight path between data and noise: x_t = (1 - t) x0 + t e, with velocity v = e - x0.

Tensors may have any shape. t is 0 at the data and 1 at the noise: one for all, or a tensor that broadcasts.
"""

from __future__ import annotations

from torch import Tensor

Time = float | Tensor


def between(x0: Tensor, noise: Tensor, time: Time) -> Tensor:
    """Return the point of the path at a time."""
    return (1 - time) * x0 + time * noise


def data_at(x: Tensor, velocity: Tensor, time: Time) -> Tensor:
    """Return where the path through `x` with this velocity starts."""
    return x - time * velocity


def flow_loss(velocity: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
    """Return the mean squared error of a predicted velocity."""
    return (velocity - (noise - x0)).square().mean()
