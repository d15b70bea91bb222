"""Frames: deterministic, independent of each other, any size, and true to their ground truth."""

import dataclasses
from itertools import islice

import numpy as np
import pytest

from talkbench.mini.identity import BACKGROUNDS, FEMININE_HAIR, GARMENTS, MASCULINE_HAIR, sample_identity
from talkbench.mini.mouth import Shape
from talkbench.mini.pose import REST, poses
from talkbench.mini.scene import Stage, mouth_box, render
from talkbench.mini.speech import Visemes, sample_speech, visemes

CLOSED = Shape(0.0, 0.45, 0.0, 0.0, 0.0)
OPEN = Shape(1.0, 0.45, 0.0, 0.0, 0.0)


def talk(seed, seconds, **size):
    person = sample_identity(seed)
    mouth = visemes(sample_speech(seed, seconds, person), round(seconds * 25), 25.0)
    return render(person, mouth, frame_rate=25.0, seed=seed, **size)


def changed(a, b):
    return np.any(a != b, axis=-1)


def test_the_same_seed_draws_the_same_bytes():
    first, second = (list(islice(talk(3, 2.0, height=160, width=160), 8)) for _ in range(2))
    assert [frame.tobytes() for frame in first] == [frame.tobytes() for frame in second]


def test_another_seed_draws_another_person():
    a, b = (next(talk(seed, 1.0, height=128, width=128)) for seed in (1, 2))
    assert changed(a, b).mean() > 0.9


def test_a_frame_does_not_depend_on_the_frames_before_it_or_after_it():
    short, long = talk(7, 5.0, height=128, width=128), talk(7, 10.0, height=128, width=128)
    for _ in range(10):
        assert next(short).tobytes() == next(long).tobytes()
    person = sample_identity(7)
    mouth = visemes(sample_speech(7, 5.0, person), 125, 25.0)
    pose = poses(person, 125, 25.0, seed=7)[40]
    alone = Stage(person, 128, 128).frame(
        Shape(*(float(getattr(mouth, f.name)[40]) for f in dataclasses.fields(Visemes))), pose
    )
    in_turn = next(islice(talk(7, 5.0, height=128, width=128), 40, None))
    assert alone.tobytes() == in_turn.tobytes()


def test_the_first_frame_of_hours_comes_at_once():
    still = np.zeros(10**6, dtype=np.float32)
    mouth = Visemes(still, still, still, still, still)
    frames = render(sample_identity(1), mouth, height=128, width=128, frame_rate=25.0, seed=1)
    assert next(frames).shape == (128, 128, 3)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (129, 201), (240, 136), (144, 256), (400, 128), (128, 400)])
def test_any_size_is_drawn_in_every_framing(height, width):
    for framing in ("close", "medium", "wide"):
        person = dataclasses.replace(sample_identity(height + width), framing=framing)
        stage = Stage(person, height, width)
        frame = stage.frame(OPEN, REST)
        assert frame.shape == (height, width, 3)
        assert frame.dtype == np.uint8
        assert changed(frame, stage.frame(CLOSED, REST)).sum() > 10


def test_every_hair_style_garment_and_room_can_be_drawn():
    styles = (*FEMININE_HAIR, *MASCULINE_HAIR)
    for seed, style in enumerate(styles):
        person = dataclasses.replace(
            sample_identity(seed),
            feminine=seed < len(FEMININE_HAIR),
            hair_style=style,
            garment=GARMENTS[seed % len(GARMENTS)],
            background=BACKGROUNDS[seed % len(BACKGROUNDS)],
            framing=("close", "medium", "wide")[seed % 3],
        )
        assert Stage(person, 96, 96).frame(CLOSED, REST).std() > 10


def test_only_the_mouth_box_changes_when_only_the_mouth_opens():
    extremes = [
        REST,
        dataclasses.replace(REST, roll=5.5, yaw=0.95, pitch=0.9, x=0.05, y=-0.02, brow=1.0),
        dataclasses.replace(REST, roll=-5.5, yaw=-0.95, pitch=-0.9, x=-0.05, y=0.02),
    ]
    for seed in range(6):
        person = sample_identity(seed)
        moving = poses(person, 400, 25.0, seed)
        stage = Stage(person, 200, 180)
        for pose in (*extremes, moving[100], moving[399]):
            x0, y0, x1, y1 = mouth_box(person, pose, 200, 180)
            difference = changed(stage.frame(CLOSED, pose), stage.frame(OPEN, pose))
            inside = difference[y0:y1, x0:x1]
            assert inside.mean() > 0.08
            assert inside.sum() == difference.sum()


def test_a_wider_opening_shows_more_of_the_mouth():
    stage = Stage(dataclasses.replace(sample_identity(4), framing="close"), 256, 256)
    closed = stage.frame(CLOSED, REST).astype(int)
    moved = [
        np.abs(stage.frame(dataclasses.replace(CLOSED, opening=o), REST) - closed).sum() for o in (0.1, 0.3, 0.6, 1.0)
    ]
    assert moved == sorted(moved)
    assert moved[0] > 0


@pytest.mark.parametrize("field", ["width", "rounding", "teeth", "tongue"])
def test_every_viseme_channel_is_visible_in_the_mouth_box(field):
    person = dataclasses.replace(sample_identity(12), framing="medium")
    stage = Stage(person, 192, 192)
    base = Shape(0.4, 0.3, 0.2, 0.2, 0.2)
    a, b = stage.frame(base, REST), stage.frame(dataclasses.replace(base, **{field: 0.9}), REST)
    x0, y0, x1, y1 = mouth_box(person, REST, 192, 192)
    assert np.abs(a[y0:y1, x0:x1].astype(int) - b[y0:y1, x0:x1]).max() > 40
    assert changed(a, b).sum() == changed(a, b)[y0:y1, x0:x1].sum()


def test_a_blink_changes_the_eyes_and_nothing_near_the_mouth():
    person = dataclasses.replace(sample_identity(7), framing="close")
    stage = Stage(person, 256, 256)
    difference = changed(stage.frame(CLOSED, REST), stage.frame(CLOSED, dataclasses.replace(REST, blink=1.0)))
    y0 = mouth_box(person, REST, 256, 256)[1]
    assert difference[:y0].sum() > 150
    assert not difference[y0:].any()


def test_hands_are_seen_but_never_cover_the_mouth():
    for seed in (2, 3, 8):
        person = dataclasses.replace(sample_identity(seed), framing="wide")
        stage = Stage(person, 160, 160)
        rest = stage.frame(CLOSED, REST)
        x0, y0, x1, y1 = mouth_box(person, dataclasses.replace(REST, y=0.03), 160, 160)
        for lift in (0.5, 0.8, 1.0):
            for sweep in (-1.0, 0.0, 1.0):
                raised = dict.fromkeys(("left_lift", "right_lift"), lift) | dict.fromkeys(
                    ("left_sweep", "right_sweep"), sweep
                )
                difference = changed(rest, stage.frame(CLOSED, dataclasses.replace(REST, **raised)))
                assert difference.sum() > 300
                assert not difference[y0:y1, x0 - 2 : x1 + 2].any()


def test_the_room_does_not_move():
    frames = list(islice(talk(6, 4.0, height=160, width=240), 0, 60, 12))
    for frame in frames[1:]:
        assert np.array_equal(frame[:, :20], frames[0][:, :20])
        assert not np.array_equal(frame, frames[0])


def test_a_pose_moves_the_mouth_box_with_the_head():
    person = sample_identity(3)
    rest = mouth_box(person, REST, 256, 256)
    right = mouth_box(person, dataclasses.replace(REST, x=0.05), 256, 256)
    assert right[0] > rest[0]
    assert right[1] == rest[1]


def test_an_off_the_shelf_detector_finds_the_faces():
    cv2 = pytest.importorskip("cv2")
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_alt2.xml")
    found = []
    for seed in range(12):
        person = dataclasses.replace(sample_identity(seed), framing=("close", "medium", "wide")[seed % 3])
        frame = Stage(person, 256, 256).frame(Shape(0.3, 0.5, 0.1, 0.3, 0.1), poses(person, 60, 25.0, seed)[50])
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        found.append(len(cascade.detectMultiScale(grey, 1.1, 3, minSize=(48, 48))) > 0)
    assert np.mean(found) >= 0.9


def test_a_tiny_picture_is_refused():
    with pytest.raises(ValueError, match="32 x 256"):
        next(talk(1, 1.0, height=32, width=256))
