"""Hair brushes: ribbons of strands between two guide lines, curls, and a cap that follows the skull."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from talkbench.mini.canvas import Canvas, Mask, Points, ellipse, line
from talkbench.mini.identity import Colour, Identity, mix

Guide = Sequence[tuple[float, float]]
_STRAND = 0.0065


def flipped(guide: Guide) -> list[tuple[float, float]]:
    """Return the mirror image of a guide line."""
    return [(-x, y) for x, y in guide]


class Brush:
    """Paints hair of one person on one canvas.

    Args:
        canvas: Where to paint.
        identity: Whose hair: its colour, the side of the light, and the seed of its strands.
        label: Tells apart layers of the same person, so that their strands differ.
    """

    def __init__(self, canvas: Canvas, identity: Identity, label: int) -> None:
        self.canvas = canvas
        self.light = identity.light
        self.base = identity.hair
        self.dark = mix(identity.hair, (0.10, 0.05, 0.03), 0.52 - 0.22 * max(identity.hair))
        self.pale = mix(identity.hair, (1.0, 0.90, 0.76), 0.20 + 0.16 * max(identity.hair))
        self.rng = np.random.default_rng([identity.seed % 2**63, label])

    def ribbon(self, a: Guide, b: Guide, *, gloss: float = 0.35, shade: float = 1.0, density: float = 1.0) -> None:
        """Paint the hair that flows between two guide lines, root first.

        Args:
            a: One edge, control points of a smooth curve.
            b: The other edge, as many points.
            gloss: Place of the band of light along the strands, 0 root to 1 tip.
            shade: Strength of the dark strands.
            density: Strands per width, 1 is typical.
        """
        left, right = line(a), line(b)
        area = self.canvas.fill(np.concatenate((left, right[::-1])))
        self._comb(area, left, right, gloss, shade, density)
        edge = self.canvas.strokes([left, right], 2.2 * _STRAND, blur=0.008)
        self.canvas.tint(edge * area, self.dark, 0.60)

    def mass(self, outline: ArrayLike, a: Guide, b: Guide, *, gloss: float = 0.35) -> None:
        """Paint hair that fills an outline, combed along lines between two guides that may reach beyond it."""
        area = self.canvas.fill(np.asarray(outline, dtype=np.float64))
        self._comb(area, line(a), line(b), gloss, 1.0, 1.3)
        loose = self._between(line(a), line(b), 90)
        fringe = self.canvas.fill(np.asarray(outline, dtype=np.float64), blur=0.010).minus(area)
        self.canvas.paint(self.canvas.strokes(loose, 0.7 * _STRAND) * fringe, self.base, 0.9)
        inner = self.canvas.fill(np.asarray(outline, dtype=np.float64), blur=0.022)
        self.canvas.shade(area.minus(inner), (0.62, 0.58, 0.58), 0.9)

    def _comb(self, area: Mask, left: Points, right: Points, gloss: float, shade: float, density: float) -> None:
        self.canvas.paint(area, self.base)
        width = float(np.max(np.linalg.norm(left - right, axis=1)))
        num = max(6, round(width / _STRAND * 0.9 * density))
        lines = self._between(left, right, num)
        third = num // 3
        self.canvas.tint(self.canvas.strokes(lines[:third], _STRAND) * area, self.dark, 0.55 * shade)
        self.canvas.tint(self.canvas.strokes(lines[third : 2 * third], _STRAND) * area, self.pale, 0.30)
        self._gloss(lines[third:], area, gloss)

    def _between(self, left: Points, right: Points, num: int) -> list[Points]:
        places = self.rng.permutation(np.linspace(0.0, 1.0, num))
        drift = self.rng.normal(0.0, 0.6 / num, size=num)
        along = np.linspace(0.0, 1.0, len(left))[:, None]
        return [left + (p + d * along) * (right - left) for p, d in zip(places, drift, strict=True)]

    def _gloss(self, lines: list[Points], area: Mask, place: float) -> None:
        """Light the strands where the ribbon turns towards the light, feathered strand by strand."""
        pieces = []
        for strand in lines:
            middle = (place + self.rng.normal(0.0, 0.05)) * len(strand)
            half = len(strand) * self.rng.uniform(0.05, 0.13)
            piece = strand[max(0, int(middle - half)) : max(2, int(middle + half))]
            if len(piece) >= 2:
                pieces.append(piece)
        self.canvas.tint(self.canvas.strokes(pieces, 1.5 * _STRAND, blur=0.004) * area, self.pale, 0.60)

    def curls(self, area: ArrayLike, radius: float, spacing: float) -> None:
        """Fill an outline with small curls, back to front, each a lit ball with a few turns of strand."""
        outline = np.asarray(area, dtype=np.float64)
        mask = self.canvas.fill(outline)
        self.canvas.paint(self.canvas.fill(outline + 0.06 * (outline.mean(axis=0) - outline)), self.dark)
        centres = self._scatter(mask, spacing)
        for group in np.array_split(centres, max(1, len(centres) // 40)):
            self._curl_group(group, radius)

    def _curl_group(self, centres: Points, radius: float) -> None:
        sizes = radius * self.rng.uniform(0.75, 1.25, size=len(centres))
        sx, sy = 0.30 * self.light, -0.34
        placed = [(float(x), float(y), float(r)) for (x, y), r in zip(centres, sizes, strict=True)]
        balls = [ellipse(x, y, r, r) for x, y, r in placed]
        cores = [ellipse(x + sx * r, y + sy * r, 0.55 * r, 0.50 * r) for x, y, r in placed]
        self.canvas.paint(self.canvas.union(balls), self.dark, 0.9)
        self.canvas.paint(self.canvas.union([e * 0.90 + 0.10 * e.mean(axis=0) for e in balls], 0.004), self.base)
        self.canvas.tint(self.canvas.union(cores, 0.35 * radius), self.pale, 0.55)
        arcs = []
        for x, y, r in placed:
            start = self.rng.uniform(0, 2 * np.pi)
            angle = start + np.linspace(0.0, 3.6, 10)
            reach = r * np.linspace(0.75, 0.35, 10)
            arcs.append(np.stack((x + reach * np.cos(angle), y + reach * np.sin(angle)), axis=1))
        self.canvas.tint(self.canvas.strokes(arcs, 0.005), self.dark, 0.45)

    def _scatter(self, mask: Mask, spacing: float) -> Points:
        """Centres on a jittered grid inside the mask, in random order."""
        scale, box = self.canvas.scale, self.canvas.box
        h, w = mask.alpha.shape
        x0, y0 = mask.left / scale + box[0], mask.top / scale + box[1]
        xs, ys = np.meshgrid(np.arange(x0, x0 + w / scale, spacing), np.arange(y0, y0 + h / scale, spacing))
        points = np.stack((xs.ravel(), ys.ravel()), axis=1)
        points += self.rng.uniform(-0.4, 0.4, size=points.shape) * spacing
        column = np.clip(((points[:, 0] - x0) * scale).astype(int), 0, w - 1)
        row = np.clip(((points[:, 1] - y0) * scale).astype(int), 0, h - 1)
        inside = points[mask.alpha[row, column] > 0.5]
        return self.rng.permutation(inside)

    def nap(self, outline: Points, length: float, num: int, colour: Colour | None = None) -> None:
        """Paint very short hair: a flat tone with fine strokes growing from the crown."""
        area = self.canvas.fill(outline, blur=0.006)
        self.canvas.paint(area, colour or self.base, 0.93)
        low, high = outline.min(axis=0), outline.max(axis=0)
        roots = self.rng.uniform(low, high, size=(num, 2))
        flow = roots - (0.0, -0.62)
        flow /= np.linalg.norm(flow, axis=1, keepdims=True) + 1e-9
        lines = list(np.stack((roots, roots + flow * length), axis=1))
        self.canvas.tint(self.canvas.strokes(lines[::2], 0.005) * area, self.dark, 0.5 - 0.25 * max(self.base))
        self.canvas.tint(self.canvas.strokes(lines[1::2], 0.005) * area, self.pale, 0.30)
        top = self.canvas.glow(0.10 * self.light, -0.46, 0.16, 0.08)
        self.canvas.tint(top * area, self.pale, 0.30)
