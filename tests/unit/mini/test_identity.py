"""Who is drawn: a pure function of the seed, with variety where a benchmark needs it."""

import dataclasses
from collections import Counter
from itertools import pairwise

import numpy as np

from talkbench.mini.identity import BACKGROUNDS, FRAMINGS, sample_identity


def test_the_same_seed_is_the_same_person():
    assert sample_identity(123) == sample_identity(123)


def test_neighbouring_seeds_differ_in_hair_room_clothes_and_skin():
    people = [sample_identity(seed) for seed in range(300)]
    for a, b in pairwise(people):
        assert a.background != b.background
        assert a.garment_colour != b.garment_colour
        assert np.abs(np.subtract(a.skin, b.skin)).max() > 0.05
        differing = sum(getattr(a, field.name) != getattr(b, field.name) for field in dataclasses.fields(a))
        assert differing > 25


def test_a_few_hundred_people_cover_every_framing_room_and_kind():
    people = [sample_identity(seed) for seed in range(400)]
    framings, rooms = Counter(p.framing for p in people), Counter(p.background for p in people)
    assert set(framings) == set(FRAMINGS)
    assert min(framings.values()) > 100
    assert set(rooms) == set(BACKGROUNDS)
    assert 160 < sum(p.feminine for p in people) < 240
    brightness = np.array([np.mean(p.skin) for p in people])
    assert brightness.min() < 0.35
    assert brightness.max() > 0.8
    assert {p.beard for p in people} == {"none", "stubble", "full", "goatee", "moustache"}
    assert {p.glasses for p in people} == {"none", "round", "square", "half"}


def test_colours_and_voices_stay_in_range_for_any_seed():
    for seed in (0, 1, -5, 2**31, 2**63 - 1, 2**70):
        person = sample_identity(seed)
        for colour in (person.skin, person.hair, person.iris, person.lips, person.room):
            assert all(0.0 <= channel <= 1.0 for channel in colour)
        assert 80.0 < person.f0_hz < 260.0
        assert 0.0 <= person.age <= 1.0
