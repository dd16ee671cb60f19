"""Negative controls: a swapped side, accession, code meaning, region or probability in any kind of object is not sent.

A control that a kind of object can't have is listed in NOT_THERE with the reason.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset

from casework.config import OBJECTS, Report
from casework.errors import Defect
from casework.report import Rendered, check, render
from tests.conformance.phantoms import make_phantom
from tests.conformance.studies import NOW, Case, make

Swap = Callable[[Dataset, Case], None]
CONTROLS = ("side", "accession", "code meaning", "region", "probability")


@pytest.fixture(scope="module")
def case() -> Case:
    return make(us_frames=(2, 3))


@pytest.fixture(scope="module")
def good(case: Case) -> list[Rendered]:
    return render(case.result, case.sources, Report(), NOW, frozenset(OBJECTS))


def items(ds: Dataset) -> list[Dataset]:
    found = []
    for child in ds.get("ContentSequence", []):
        found += [child, *items(child)]
    return found


def named(ds: Dataset, code: str) -> list[Dataset]:
    return [i for i in items(ds) if i.get("ConceptNameCodeSequence") and i.ConceptNameCodeSequence[0].CodeValue == code]


def other_side(code: Dataset) -> None:
    assert code.CodeValue == "24028007"
    code.CodeValue, code.CodeMeaning = "7771000", "Left"


def accession(ds: Dataset, _: Case) -> None:
    ds.AccessionNumber = "ACC-OTHER"


def meaning(ds: Dataset, _: Case) -> None:
    """The meaning of one of our own codes, one that the object's content rests on where it has any."""
    code = ds.SeriesDescriptionCodeSequence[0]
    if "SegmentSequence" in ds:
        code = ds.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    elif "SharedFunctionalGroupsSequence" in ds:
        mapping = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
        code = mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0]
    elif named(ds, "111301"):
        code = named(ds, "111301")[0].ConceptCodeSequence[0]
    code.CodeMeaning = "Absent" if code.CodeMeaning == "Present" else "Malignant"


def report_side(ds: Dataset, _: Case) -> None:
    other_side(named(ds, "272741003")[0].ConceptCodeSequence[0])


def report_region(ds: Dataset, _: Case) -> None:
    """Moved inside its image."""
    outline = next(i for i in named(ds, "111030"))
    outline.GraphicData = [v + 9 for v in outline.GraphicData]


def report_probability(ds: Dataset, _: Case) -> None:
    first, second = (i.MeasuredValueSequence[0] for i in named(ds, "122157"))
    first.NumericValue, second.NumericValue = second.NumericValue, first.NumericValue


def picture_side(ds: Dataset, _: Case) -> None:
    other_side(ds.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0])


def picture_region(ds: Dataset, case: Case) -> None:
    """The capture is said to be of the other view."""
    mine = ds.SourceImageSequence[0].ReferencedSOPInstanceUID
    other = next(i.sources[0] for i in case.result.images if i.modality == "MG" and i.sources[0] != mine)
    ds.SourceImageSequence[0].ReferencedSOPInstanceUID = other


def cine_region(ds: Dataset, _: Case) -> None:
    """Heat of other frames than those that were analysed."""
    ds.SourceImageSequence[0].ReferencedFrameNumber = [1, 2]
    ds.FrameLabelVector = ["frame 1", "frame 2"]


def slices_side(ds: Dataset, _: Case) -> None:
    """Slices show both breasts: one side would be a lie."""
    code = ds.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0]
    code.CodeValue, code.CodeMeaning = "7771000", "Left"


def slices_region(ds: Dataset, case: Case) -> None:
    """Another slice than the one behind the hottest place."""
    slices = [uid for uid, source in case.sources.items() if source.Modality == "MR"]
    ds.SourceImageSequence[0].ReferencedSOPInstanceUID = slices[1]


def map_side(ds: Dataset, _: Case) -> None:
    ds.SharedFunctionalGroupsSequence[0].FrameAnatomySequence[0].FrameLaterality = "R"


def map_values(ds: Dataset) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    shape = (int(ds.NumberOfFrames), int(ds.Rows), int(ds.Columns))
    return np.frombuffer(ds.FloatPixelData, "<f4").reshape(shape)


def map_region(ds: Dataset, _: Case) -> None:
    ds.FloatPixelData = np.ascontiguousarray(map_values(ds)[:, ::-1, ::-1]).tobytes()


def map_probability(ds: Dataset, _: Case) -> None:
    ds.FloatPixelData = (map_values(ds) * np.float32(1.5)).tobytes()


def segment_side(ds: Dataset, _: Case) -> None:
    other_side(ds.SegmentSequence[0].AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0])


def segment_region(ds: Dataset, _: Case) -> None:
    ds.PixelData = ds.PixelData[::-1]


def outline_side(ds: Dataset, _: Case) -> None:
    text = ds.GraphicAnnotationSequence[0].TextObjectSequence[0]
    text.UnformattedTextValue = text.UnformattedTextValue.replace("side R", "side L")


def outline_region(ds: Dataset, _: Case) -> None:
    graphic = ds.GraphicAnnotationSequence[0].GraphicObjectSequence[0]
    graphic.GraphicData = [v + 9 for v in graphic.GraphicData]


def outline_probability(ds: Dataset, _: Case) -> None:
    text = ds.GraphicAnnotationSequence[0].TextObjectSequence[0]
    assert "81.2 %" in text.UnformattedTextValue
    text.UnformattedTextValue = text.UnformattedTextValue.replace("81.2 %", "18.2 %")


def key_image_of_the_other_side(ds: Dataset, case: Case) -> None:
    """The first key image and its evidence become a mammogram of the side without a finding."""
    other = next(i.sources[0] for i in case.result.images if i.modality == "MG" and i.side.value == "L")
    image = next(i for i in ds.ContentSequence if i.ValueType == "IMAGE").ReferencedSOPSequence[0]
    for series in ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence:
        for reference in series.ReferencedSOPSequence:
            if reference.ReferencedSOPInstanceUID == image.ReferencedSOPInstanceUID:
                reference.ReferencedSOPInstanceUID = other
    image.ReferencedSOPInstanceUID = other


REPORT: Mapping[str, Swap] = {"side": report_side, "region": report_region, "probability": report_probability}
SWAPS: Mapping[str, Mapping[str, Swap]] = {
    "sr": REPORT,
    "sr-comprehensive": REPORT,
    "capture": {"side": picture_side, "region": picture_region},
    "cine": {"side": picture_side, "region": cine_region},
    "slices": {"side": slices_side, "region": slices_region},
    "parametric-map": {"side": map_side, "region": map_region, "probability": map_probability},
    "segmentation": {"side": segment_side, "region": segment_region},
    "segmentation-planar": {"side": segment_side, "region": segment_region},
    "outline": {"side": outline_side, "region": outline_region, "probability": outline_probability},
    "key-object": {"side": key_image_of_the_other_side},
}
NOT_THERE = {
    ("capture", "probability"): "drawn, not an attribute; the picture is not read back",
    ("cine", "probability"): "drawn, not an attribute; the picture is not read back",
    ("slices", "probability"): "drawn, not an attribute; the picture is not read back",
    ("segmentation", "probability"): "a mask has none",
    ("segmentation-planar", "probability"): "a mask has none",
    ("key-object", "probability"): "a selection has none",
    ("key-object", "region"): "a selection has none; the other side's image is the control above",
}
EVERYWHERE: Mapping[str, Swap] = {"accession": accession, "code meaning": meaning}
TABLE = [
    (kind, control, {**EVERYWHERE, **SWAPS[kind]}[control])
    for kind in OBJECTS
    for control in CONTROLS
    if (kind, control) not in NOT_THERE
]


def seeded(good: Sequence[Rendered], kind: str, swap: Swap, case: Case, at: int | None = None) -> list[Rendered]:
    """All objects, the first of its kind (or the one `at`) changed."""
    at = next(n for n, r in enumerate(good) if r.kind == kind) if at is None else at
    ds = dcmread(BytesIO(good[at].data))
    swap(ds, case)
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return [*good[:at], replace(good[at], data=buffer.getvalue()), *good[at + 1 :]]


def test_nothing_is_found_where_nothing_is_swapped(case: Case, good: list[Rendered]) -> None:
    """All kinds pass, also when another library has written them again; every kind is in the table."""
    assert {r.kind for r in good} >= set(OBJECTS) == set(SWAPS)
    check(good, case.result, case.sources)
    for kind in OBJECTS:
        check(seeded(good, kind, lambda *_: None, case), case.result, case.sources)


@pytest.mark.parametrize(("kind", "control", "swap"), TABLE, ids=[f"{k} {c}" for k, c, _ in TABLE])
def test_a_swap_is_refused(case: Case, good: list[Rendered], kind: str, control: str, swap: Swap) -> None:
    """Each swap stops the result before anything is sent, and the refusal names the object."""
    with pytest.raises(Defect, match=rf"RESULT_SELF_CHECK.*\[{kind} "):
        check(seeded(good, kind, swap, case), case.result, case.sources)


@pytest.mark.parametrize("swap", ["side", "outside"])
def test_a_number_on_another_heat_map_is_refused(case: Case, good: list[Rendered], swap: str) -> None:
    """An MRI's number is said on a projection's heat-map: one of the other side, or a place beyond it, is not sent."""
    right, left = (
        [r.sop_instance_uid for r in good if r.kind == "capture" and r.label.startswith(f"MR {side}")] for side in "RL"
    )

    def change(ds: Dataset, _: Case) -> None:
        for item in items(ds):
            if item.ValueType == "SCOORD" and named(item, "260753009"):
                on = item.ContentSequence[0].ReferencedSOPSequence[0]
                if swap == "outside":
                    item.GraphicData = [v * 2 for v in item.GraphicData]
                else:
                    on.ReferencedSOPInstanceUID = left[0] if on.ReferencedSOPInstanceUID in right else right[0]

    report = next(r for r in good if r.kind == "sr" and right[0].encode() in r.data)
    others = [r for r in good if r is not report]
    with pytest.raises(Defect, match=r"RESULT_SELF_CHECK.*(side|region): "):
        check([*others, *seeded([report], "sr", change, case)], case.result, case.sources)


@pytest.mark.parametrize("probability", [0.99996, 0.00001])
def test_a_number_next_to_certain_is_shown_and_checked_alike(case: Case, probability: float) -> None:
    """The outline's words round as the report does, never to 0 or 100 %, and pass the check."""
    sides = tuple(replace(s, probability=probability) for s in case.result.sides)
    result = replace(case.result, sides=sides)
    check(render(result, case.sources, Report(), NOW, frozenset(OBJECTS)), result, case.sources)


def words(swap: Callable[[str], str]) -> Swap:
    def change(ds: Dataset, _: Case) -> None:
        before = [i.TextValue for i in named(ds, "121106")]
        for item in named(ds, "121106"):
            item.TextValue = swap(item.TextValue)
        assert before != [i.TextValue for i in named(ds, "121106")]

    return change


WORDS: dict[str, Callable[[str], str]] = {
    "sides": lambda t: t.replace("Right", "#").replace("Left", "Right").replace("#", "Left"),
    "numbers": lambda t: re.sub(r"\d+\.\d %", "50.0 %", t),
    "outcome": lambda t: t.replace("above the model's threshold, suspicious for", "below the threshold, no sign of"),
    "images": lambda t: t.replace("MLO", "ML"),
}


@pytest.mark.parametrize("swap", WORDS)
def test_words_that_are_not_the_results_are_refused(case: Case, good: list[Rendered], swap: str) -> None:
    """Many viewers show nothing of a report but its sentences: one that says another side, number or answer is not sent."""
    with pytest.raises(Defect, match=r"RESULT_SELF_CHECK.*words: .*\[sr "):
        check(seeded(good, "sr", words(WORDS[swap]), case), case.result, case.sources)


def drawn(ds: Dataset) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.frombuffer(ds.PixelData, np.uint8, ds.Rows * ds.Columns * 3).reshape(ds.Rows, ds.Columns, 3)


def put(ds: Dataset, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    ds["PixelData"].VR = "OB"
    ds.PixelData = np.ascontiguousarray(pixels).tobytes()


def grey(ds: Dataset) -> None:
    put(ds, np.repeat(drawn(ds)[..., 1:2], 3, axis=2))


PICTURES: dict[str, Callable[[Dataset], None]] = {
    "mirrored": lambda ds: put(ds, drawn(ds)[:, ::-1]),
    "upside down": lambda ds: put(ds, drawn(ds)[::-1]),
    "black": lambda ds: put(ds, np.zeros_like(drawn(ds))),
    "without its heat": grey,
    "of another size": lambda ds: setattr(ds, "Rows", ds.Rows - 2),
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, list[Rendered]]:
    phantom = make_phantom(tmp_path_factory.mktemp("shown"), 61, full_size=False, character_set="utf8")
    return phantom, render(phantom.result, phantom.sources, Report(), NOW)


@pytest.mark.parametrize("change", PICTURES)
@pytest.mark.parametrize("label", ["MG R CC", "MG R MLO", "MR R AX", "MR R SAG", "US R US 1"])
def test_a_heat_map_that_shows_something_else_is_refused(
    shown: tuple[Case, list[Rendered]], label: str, change: str
) -> None:
    """A capture that is mirrored, black, without heat or of another size is not sent, and the refusal names it."""
    case, good = shown
    at = next(n for n, r in enumerate(good) if r.kind == "capture" and r.label.startswith(label))
    with pytest.raises(Defect, match=rf"RESULT_SELF_CHECK.*(picture|capture): .*\[capture {label}"):
        check(seeded(good, "capture", lambda ds, _: PICTURES[change](ds), case, at), case.result, case.sources)


def test_every_capture_shows_no_other_image(shown: tuple[Case, list[Rendered]]) -> None:
    """The pixels of any two captures of one size exchanged: none of them is sent."""
    case, good = shown
    captures = [(n, dcmread(BytesIO(r.data))) for n, r in enumerate(good) if r.kind == "capture"]
    pairs = [
        (at, other)
        for at, ds in captures
        for n, other in captures
        if n != at and (other.Rows, other.Columns) == (ds.Rows, ds.Columns)
    ]
    assert len(pairs) > 20
    for at, other in pairs:
        pixels = drawn(other)
        with pytest.raises(Defect, match=r"RESULT_SELF_CHECK.*picture: "):
            check(exchanged(good, case, at, pixels), case.result, case.sources)


def exchanged(
    good: Sequence[Rendered], case: Case, at: int, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> list[Rendered]:
    return seeded(good, "capture", lambda ds, _: put(ds, pixels), case, at)
