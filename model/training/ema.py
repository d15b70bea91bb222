"""A running average of a network's weights: every process averages its own part, so nothing is gathered.

Source: Self-Forcing, `utils/distributed.py`, which gathers whole weights instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..parallel.shard import local


class Ema:
    """Weights averaged over updates: average <- decay * average + (1 - decay) * weight.

    Attributes:
        decay: Share of the average that an update leaves.
        averages: By the network's names, in its precision and sharded as it is.

    Raises:
        ValueError: If the decay is not in [0, 1).
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay is {decay}; expected 0 or more, and less than 1")
        self.decay = decay
        self.averages: dict[str, Tensor] = {name: each.detach().clone() for name, each in net.named_parameters()}

    def update(self, net: nn.Module) -> None:
        """Take the network's weights into the average."""
        averages = [local(each) for each in self.averages.values()]
        weights = [local(each.detach()) for each in net.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - self.decay)

    @contextmanager
    def applied(self, net: nn.Module) -> Iterator[None]:
        """Have a network carry the averages for a moment: to export or to test them."""
        self._swap(net)
        try:
            yield
        finally:
            self._swap(net)

    @torch.no_grad()
    def _swap(self, net: nn.Module) -> None:
        for name, weight in net.named_parameters():
            mine, its = local(self.averages[name]), local(weight)
            kept = mine.clone()
            mine.copy_(its)
            its.copy_(kept)
