"""The face of the reference picture in a clip: found and as large, or said not to be looked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from talkbench.systems import face_check
from talkbench.systems.face_check import FaceCheck, FaceFacts, begin, facts
from talkbench.workers.accept import RefusedClipError


def find(frames_THWC: np.ndarray) -> list[np.ndarray]:
    """Find a face where pixels are white: their bounding box."""
    found = []
    for frame_HWC in frames_THWC:
        rows, columns = np.nonzero(frame_HWC[..., 0] > 250)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if rows.size else []
        found.append(np.array(box, np.float64).reshape(-1, 4))
    return found


def picture(height: int, width: int, side: int) -> np.ndarray:
    picture_HWC = np.full((height, width, 3), 90, np.uint8)
    picture_HWC[10 : 10 + side, 20 : 20 + side] = 255
    return picture_HWC


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """A picture of 400x200 with a face of 100 pixels."""
    Image.fromarray(picture(200, 400, 100)).save(tmp_path / "reference.png")
    return tmp_path / "reference.png"


def checked(reference: Path, frames: list[np.ndarray], *, refuse: bool = True) -> FaceFacts:
    check = FaceCheck(find, reference)
    for frame_HWC in frames:
        check.see(frame_HWC)
    return check.finish(refuse=refuse)


def test_sizes_are_compared_after_the_systems_crop(reference: Path) -> None:
    # 400x200 covers 100x100 at half its size: a face of 50 pixels is the reference's.
    found = checked(reference, [picture(100, 100, side) for side in (50, 25, 99 - 20)])
    assert (found.checked, found.num_frames, found.num_found, found.num_fitting) == (True, 3, 3, 3)
    assert found.sizes == pytest.approx((0.5, 1.0, 1.58), abs=0.01)
    assert facts(found)["num_fitting"] == 3


def test_one_frame_in_ten_may_miss_it(reference: Path) -> None:
    good, none, tiny = picture(200, 400, 100), picture(200, 400, 0), picture(200, 400, 30)
    assert checked(reference, [good] * 9 + [none]).num_found == 9
    with pytest.raises(RefusedClipError, match=r"8 of 10 sampled frames show a face, 90% expected \[no-face\]"):
        checked(reference, [good] * 8 + [none] * 2)
    with pytest.raises(RefusedClipError, match=r"the median is 0.30 times \[face-size\]"):
        checked(reference, [good] * 2 + [tiny] * 8)
    found = checked(reference, [tiny] * 10, refuse=False)
    assert (found.num_found, found.num_fitting) == (10, 0)


def test_a_reference_without_a_face_cannot_be_missed(tmp_path: Path) -> None:
    Image.fromarray(picture(200, 400, 0)).save(tmp_path / "empty.png")
    found = checked(tmp_path / "empty.png", [picture(200, 400, 0)] * 10)
    assert facts(found) == {"checked": "not checked: no face was found in the reference picture"}


def test_without_weights_nothing_is_checked_and_the_record_says_so(reference: Path, tmp_path: Path) -> None:
    check = begin(reference, tmp_path)
    check.see(picture(200, 400, 0))
    assert facts(check.finish(refuse=True)) == {
        "checked": "not checked: no sfd_face.pth (talkbench weights fetch s3fd)"
    }


def test_the_detector_itself_is_run_where_its_weights_are(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from talkbench.nets.s3fd import S3FD

    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save(S3FD().state_dict(), folder / "sfd_face.pth")
    # Its priors are of no use without training: it must run on a picture and on frames of any size, and find nothing.
    Image.fromarray(picture(90, 120, 40)).save(tmp_path / "reference.png")
    try:
        check = begin(tmp_path / "reference.png", folder)
        check.see(picture(64, 80, 20))
        assert facts(check.finish(refuse=True))["checked"] == "not checked: no face was found in the reference picture"
    finally:
        face_check._finder.cache_clear()
