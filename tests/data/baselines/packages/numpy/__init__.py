"""Stands in for numpy in a simulated environment."""

from types import SimpleNamespace

_seeds = []
random = SimpleNamespace(seeds=_seeds, seed=_seeds.append)
