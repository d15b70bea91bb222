"""How all positions of one picture correlate with all of the other, looked up around where a flow points (AMT).

Four levels; at level l positions of the other picture are averages over 2^l x 2^l. They are made from averaged
features, which equals averaging the correlations and costs a fraction. Volumes of large pictures are not kept but made
again for every lookup, some rows at a time: at 1920x1080 the two finest alone would take 8 GB per pair.

Legend: B pairs, C channels, H rows, W columns, Q = H * W positions asked from, P positions of the other picture,
K = 49 offsets, L levels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LEVELS = 4
WINDOW = 7
"""Side of the window around a position, in positions of its level."""
MAX_VOLUME_BYTES = 1 << 30
"""Per pair and direction, finest level; above it volumes are not kept."""
ROWS_BYTES = 1 << 28
"""Of a volume made in passing."""


class Correlation:
    """The correlation of two pictures' features, both ways.

    Args:
        first_BCHW: Features of picture 0 at 1/8.
        second_BCHW: Features of picture 1 at 1/8.
    """

    def __init__(self, first_BCHW: Tensor, second_BCHW: Tensor) -> None:
        self._forward = OneWay(first_BCHW, second_BCHW)
        self._backward = OneWay(second_BCHW, first_BCHW)

    def lookup(self, flows_B4HW: Tensor) -> Tensor:
        """Return 2 * 4 * 49 correlations per position, [B, 392, H, W].

        Args:
            flows_B4HW: From the middle to picture 0, then to picture 1 (x, y each), in pixels at 1/8. Seen from one
                picture the other is twice as far away as from the middle.
        """
        to_first, to_second = (2 * flows_B4HW.float()).chunk(2, dim=1)
        return torch.cat([self._forward.lookup(to_second), self._backward.lookup(to_first)], dim=1)


class OneWay:
    """Correlations of every position of one picture with all of another."""

    def __init__(self, asking_BCHW: Tensor, asked_BCHW: Tensor) -> None:
        self._asking_BQC = asking_BCHW.flatten(2).transpose(1, 2) / asking_BCHW.shape[1] ** 0.5
        self._asked = [asked_BCHW]
        for _ in range(LEVELS - 1):
            self._asked.append(functional.avg_pool2d(self._asked[-1], 2))
        num_asking, num_asked = self._asking_BQC.shape[1], self._asked[0][0, 0].numel()
        keep = 4 * num_asking * num_asked <= MAX_VOLUME_BYTES
        self._num_rows = num_asking if keep else max(1, ROWS_BYTES // (4 * num_asked * len(asking_BCHW)))
        self._volumes = [self._volume(level, 0, num_asking) for level in range(LEVELS)] if keep else None

    def _volume(self, level: int, start: int, stop: int) -> Tensor:
        """Return correlations of some positions with all positions of a level, [B * Q, 1, H, W]."""
        asked_BCHW = self._asked[level]
        volume_BQP: Tensor = self._asking_BQC[:, start:stop] @ asked_BCHW.flatten(2)
        return volume_BQP.reshape(-1, 1, *asked_BCHW.shape[-2:])

    def lookup(self, flow_B2HW: Tensor) -> Tensor:
        """Return 4 * 49 correlations around where each position's flow points: level by level, x slower than y."""
        height, width = flow_B2HW.shape[-2:]
        device = flow_B2HW.device
        x_W, y_H = torch.arange(width, device=device), torch.arange(height, device=device)
        grid_2HW = torch.stack(torch.meshgrid(x_W, y_H, indexing="xy"))
        at_BQ2 = (flow_B2HW + grid_2HW).flatten(2).transpose(1, 2)
        step_W = torch.arange(WINDOW, device=device, dtype=at_BQ2.dtype) - WINDOW // 2
        offsets_WW2 = torch.stack(torch.meshgrid(step_W, step_W, indexing="ij"), dim=-1)
        parts = [
            torch.cat([self._sampled(level, start, at_BQ2, offsets_WW2) for level in range(LEVELS)], dim=-1)
            for start in range(0, at_BQ2.shape[1], self._num_rows)
        ]
        found_BQK = torch.cat(parts, dim=1)
        return found_BQK.view(len(found_BQK), height, width, -1).permute(0, 3, 1, 2)

    def _sampled(self, level: int, start: int, at_BQ2: Tensor, offsets_WW2: Tensor) -> Tensor:
        """Return one level's correlations of some positions, [B, Q, K]."""
        at_BQ2 = at_BQ2[:, start : start + self._num_rows]
        num_pairs, num_rows = at_BQ2.shape[:2]
        volume = self._volumes[level] if self._volumes is not None else self._volume(level, start, start + num_rows)
        x_NWW, y_NWW = (at_BQ2 / 2**level)[:, :, None, None].add(offsets_WW2).flatten(0, 1).unbind(dim=-1)
        last_row, last_column = volume.shape[-2] - 1, volume.shape[-1] - 1
        share_NWW2 = torch.stack([2 * x_NWW / last_column - 1, 2 * y_NWW / last_row - 1], dim=-1)
        found = functional.grid_sample(volume, share_NWW2.to(volume.dtype), align_corners=True)
        return found.view(num_pairs, num_rows, WINDOW**2)
