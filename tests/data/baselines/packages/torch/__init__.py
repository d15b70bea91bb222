"""Stands in for torch in a simulated environment."""

seeds = []


def manual_seed(seed):
    seeds.append(seed)
