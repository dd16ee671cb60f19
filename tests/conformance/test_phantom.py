"""Phantom patients through the real preprocessing: what comes out is valid, self-checked, and in the right place."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from casework.config import Report
from casework.report import check, render
from casework.report.heat import LEGEND
from tests.conformance.phantoms import make_phantom
from tests.conformance.studies import NOW
from tests.conformance.test_validators import validate


@pytest.mark.parametrize(("character_set", "charset"), [("gb18030", "gb18030"), ("japanese", "ir87")])
def test_phantom_case_is_valid(tmp_path: Path, character_set: str, charset: str) -> None:
    """Mammograms, dynamic MRI and ultrasound of a phantom patient give results that the validators accept."""
    case = make_phantom(tmp_path / "phantom", 3, full_size=False, character_set=character_set)
    used = {u for image in case.result.images for u in image.sources}
    paths = [
        p for p in (tmp_path / "phantom").iterdir() if str(dcmread(p, stop_before_pixels=True).SOPInstanceUID) in used
    ]
    validate(case, tmp_path, charset, "en", paths)


def test_the_hottest_colour_lies_on_the_marked_side(tmp_path: Path) -> None:
    """On each heat-map of the positive side the hottest colours lie where the region says, through every map between."""
    case = make_phantom(tmp_path / "phantom", 5, full_size=False, character_set="utf8")
    rendered = render(case.result, case.sources, Report(), NOW)
    check(rendered, case.result, case.sources)
    looked_at = 0
    for item in (r for r in rendered if r.kind == "capture" and r.label.startswith("MG R")):
        pixels = dcmread(BytesIO(item.data)).pixel_array.astype(int)
        picture = pixels[100:-100, 40 : -18 - LEGEND]
        warmth = picture[..., 0] - picture[..., 2]
        row, col = np.unravel_index(int(warmth.argmax()), warmth.shape)
        image = next(i for i in case.result.images if f"MG R {i.view}" == item.label)
        assert image.peak is not None
        source = case.sources[image.sources[0]]
        assert row / picture.shape[0] == pytest.approx(image.peak[0] / source.Rows, abs=0.08)
        assert col / picture.shape[1] == pytest.approx(image.peak[1] / source.Columns, abs=0.08)
        looked_at += 1
    assert looked_at == 2
