"""Face tracks: the same from a stream as from the official passes over a whole scene; crops and cuts."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import medfilt

from talkbench.metrics.crops import CROP_PX, Square, crop, quarter, resize
from talkbench.metrics.cuts import CutParams, Cuts, hue_saturation_value
from talkbench.metrics.faces import FACE_OVERLAP, choose, overlaps, strongest
from talkbench.metrics.tracks import Track, Tracker

RNG = np.random.default_rng(11)


def official_passes(faces: list[np.ndarray], max_gap: int) -> list[list[tuple[int, tuple[float, ...]]]]:
    """Pass after pass over the scene, removing from the list that is being iterated, as the official code does."""
    scene = [[(t, tuple(box)) for box in boxes] for t, boxes in enumerate(faces)]
    tracks = []
    while True:
        track: list[tuple[int, tuple[float, ...]]] = []
        for frame_faces in scene:
            for face in frame_faces:
                if not track:
                    track.append(face)
                    frame_faces.remove(face)
                elif face[0] - track[-1][0] <= max_gap:
                    if overlaps(np.array(track[-1][1]), np.array([face[1]]))[0] > 0.5:
                        track.append(face)
                        frame_faces.remove(face)
                        continue
                else:
                    break
        if not track:
            return tracks
        tracks.append(track)


def streamed(faces: list[np.ndarray], max_gap: int) -> list[list[tuple[int, tuple[float, ...]]]]:
    tracker, found = Tracker(max_gap), {}
    for frame, boxes in enumerate(faces):
        for track in tracker.step(frame, boxes)[0]:
            found.setdefault(id(track), (track, []))[1].append((frame, tuple(track.box_4)))
    return [members for _, members in found.values()]


@st.composite
def scenes(draw: st.DrawFn) -> list[np.ndarray]:
    """A few faces that jitter, vanish, come back, meet and change their order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_faces, num_frames = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    jitter, presence = draw(st.floats(0, 12)), draw(st.floats(0.2, 1.0))
    places = rng.uniform(0, 90, (num_faces, 2))
    scene = []
    for _ in range(num_frames):
        places = places + rng.normal(0, jitter, places.shape)
        shown = places[rng.permutation(num_faces)][rng.random(num_faces) < presence]
        boxes = np.concatenate([shown, shown + rng.uniform(25, 45, (len(shown), 1))], axis=1)
        scene.append(boxes[strongest(boxes, FACE_OVERLAP)])
    return scene


@settings(max_examples=300, deadline=None)
@given(scenes(), st.integers(1, 6))
def test_a_stream_gives_the_tracks_of_the_official_passes(scene: list[np.ndarray], max_gap: int) -> None:
    assert streamed(scene, max_gap) == official_passes(scene, max_gap)


def test_a_track_survives_25_frames_and_no_more() -> None:
    box = np.array([[0.0, 0.0, 10.0, 10.0]])
    for gap, num_tracks in ((25, 1), (26, 2)):
        scene = [box] + [box[:0]] * (gap - 1) + [box]
        assert len(streamed(scene, 25)) == num_tracks


def test_squares_come_six_frames_late_with_gaps_filled_and_the_official_median() -> None:
    frames = [0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 16, 17, 18, 19, 20]
    boxes = np.array([50, 60, 150, 170]) + np.cumsum(RNG.normal(0, 3, (len(frames), 4)), axis=0)
    track, found = Track.begin(0, boxes[0]), []
    for frame, box in zip(frames[1:], boxes[1:], strict=True):
        track.take(frame, box)
        found += track.squares()
        assert all(at <= frame - 6 for at, _ in found)
    found += track.squares(ended=True)
    filled = np.stack([np.interp(np.arange(21), frames, boxes[:, i]) for i in range(4)], axis=1)
    half = np.maximum(filled[:, 2] - filled[:, 0], filled[:, 3] - filled[:, 1]) / 2
    expected = [medfilt(v, 13) for v in (filled[:, [0, 2]].mean(1), filled[:, [1, 3]].mean(1), half)]
    assert [at for at, _ in found] == list(range(21))
    np.testing.assert_allclose([(s.x, s.y, s.half_px) for _, s in found], np.stack(expected, axis=1), rtol=1e-12)
    assert track.num_faces == 16
    sides = filled[:, 2:] - filled[:, :2]
    assert track.face_px == pytest.approx(sides.mean(axis=0).max())


@pytest.mark.parametrize("shape", [(281, 281), (37, 90), (448, 448), (416, 720), (225, 223)])
def test_resizing_equals_opencv_in_every_pixel(shape: tuple[int, int]) -> None:
    image = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize(image, 224, 224), cv2.resize(image, (224, 224)))
    np.testing.assert_array_equal(quarter(image), cv2.resize(image, (0, 0), fx=0.25, fy=0.25))


@pytest.mark.parametrize(("x", "y", "s"), [(100.3, 80.7, 40.2), (5.5, 3.2, 30.9), (155.0, 118.0, 33.3), (80, 60, 100)])
def test_a_crop_is_the_official_slice_of_the_padded_frame(x: float, y: float, s: float) -> None:
    frame = RNG.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    pad = int(s * 1.8)
    padded = np.pad(frame, ((pad, pad), (pad, pad), (0, 0)), constant_values=110)
    my, mx = y + pad, x + pad
    cut = padded[int(my - s) : int(my + s * 1.8), int(mx - s * 1.4) : int(mx + s * 1.4)]
    np.testing.assert_array_equal(crop(frame, Square(x, y, s), 0.4), cv2.resize(cut, (224, 224)))


def test_a_face_outside_the_frame_is_grey() -> None:
    frame = np.zeros((50, 50, 3), np.uint8)
    for place in (Square(-900, 10, 20), Square(25, 25, 0.0)):
        found = crop(frame, place, 0.4)
        assert found.shape == (CROP_PX, CROP_PX, 3)
        assert (found == 110).all()


def test_the_best_of_overlapping_faces_stays_and_doubtful_ones_go() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [40, 40, 50, 50], [48, 40, 58, 50], [70, 70, 80, 80]], float)
    found = choose(np.array([0.95, 0.99, 0.97, 0.96, 0.9]), boxes, 0.9)
    assert found.tolist() == [[1, 1, 11, 11], [40, 40, 50, 50]]
    assert choose(np.zeros(5), boxes, 0.9).shape == (0, 4)


def test_two_rounds_of_suppression_are_not_one() -> None:
    chain = np.array([[0, 0, 10, 10], [7, 0, 17, 10], [11, 0, 21, 10]], float)
    assert len(choose(np.array([0.99, 0.98, 0.97]), chain, 0.9)) == 1
    assert len(strongest(chain, FACE_OVERLAP)) == 2


def test_colours_are_opencvs() -> None:
    image = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image[:5] = image[:5, :, :1]
    image[5:9] = image[5:9] // 32 * 36
    assert np.array_equal(hue_saturation_value(image), cv2.cvtColor(image, cv2.COLOR_RGB2HSV))


def found_cuts(order: list[int], least_frames: int = 15) -> list[tuple[int, int]]:
    """Return the frames that begin a scene and when each is known, for a film of two rooms."""
    rooms = np.random.default_rng(3).integers(0, 256, (2, 64, 90, 3), dtype=np.uint8)
    cuts = Cuts(CutParams(min_scene_frames=least_frames))
    found = [(cuts.look(rooms[room]), now) for now, room in enumerate(order)]
    return [(start, now) for start, now in found if start is not None]


def test_a_cut_needs_a_change_of_picture_and_a_scene_behind_it() -> None:
    assert found_cuts([0] * 20 + [1] * 20 + [0] * 15 + [1] * 20) == [(20, 20), (40, 40), (55, 55)]
    assert found_cuts([0] * 14 + [1] * 40) == []


def test_a_burst_of_changes_is_one_cut_at_its_last_and_known_when_it_is_over() -> None:
    burst = [0] * 20 + [1] * 5 + [0] * 8 + [1] * 8
    assert found_cuts([*burst, *[0] * 16]) == [(20, 20), (41, 56)]
    assert found_cuts([*burst, *[0] * 15]) == [(20, 20)]


def test_a_flash_after_a_cut_delays_the_next_cut_and_is_none() -> None:
    flash = [0] * 20 + [1] * 5 + [0] + [1] * 60
    assert found_cuts(flash) == [(20, 20)]
    assert found_cuts([*flash, *[0] * 30]) == [(20, 20), (86, 101)]


def test_without_a_least_length_every_change_is_a_cut() -> None:
    assert found_cuts([0, 1, 1, 0, 1], least_frames=0) == [(1, 1), (3, 3), (4, 4)]


def test_motion_of_a_face_is_no_cut() -> None:
    frames = np.full((30, 64, 80, 3), 90, np.uint8)
    for t in range(30):
        frames[t, 20:44, 10 + t : 34 + t] = (220, 180, 160)
    cuts = Cuts()
    assert not any(cuts.look(frame) for frame in frames)
