"""The self-check finds each seeded defect, one at a time, and names its rule; without a defect it is silent."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset

from casework.case import derive_uid
from casework.config import Report
from casework.errors import Defect
from casework.report import Rendered, check, render
from casework.result import CaseResult, Outcome, Side
from tests.conformance.studies import NOW, Case, make


@pytest.fixture(scope="module")
def case() -> Case:
    return make(modalities=("MG", "US"))


@pytest.fixture(scope="module")
def good(case: Case) -> list[Rendered]:
    return render(case.result, case.sources, Report(), NOW)


def items(ds: Dataset) -> list[Dataset]:
    found = []
    for child in ds.get("ContentSequence", []):
        found += [child, *items(child)]
    return found


def named(ds: Dataset, code: str) -> list[Dataset]:
    return [i for i in items(ds) if i.ConceptNameCodeSequence[0].CodeValue == code]


def group(ds: Dataset, template: str) -> Dataset:
    return next(g for g in named(ds, "125007") if g.ContentTemplateSequence[0].TemplateIdentifier == template)


def put(keyword: str, value: object) -> Callable[[Dataset], None]:
    """A defect that sets one attribute of the object."""
    return lambda ds: setattr(ds, keyword, value)


def drop(keyword: str) -> Callable[[Dataset], None]:
    """A defect that removes one attribute of the object."""
    return lambda ds: delattr(ds, keyword)


def swap_site(ds: Dataset) -> None:
    code = named(ds, "272741003")[0].ConceptCodeSequence[0]
    code.CodeValue, code.CodeMeaning = "7771000", "Left"


def probability(value: str) -> Callable[[Dataset], None]:
    def defect(ds: Dataset) -> None:
        named(ds, "122157")[0].MeasuredValueSequence[0].NumericValue = value

    return defect


def unit(ds: Dataset) -> None:
    named(ds, "122157")[0].MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue = "1"


def absent(ds: Dataset) -> None:
    code = named(ds, "111301")[0].ConceptCodeSequence[0]
    code.CodeValue, code.CodeMeaning = "272519000", "Absent"


def region_outside(ds: Dataset) -> None:
    outline = next(i for i in group(ds, "1410").ContentSequence if i.ValueType == "SCOORD")
    outline.GraphicData = [v + 500 for v in outline.GraphicData]


def region_open(ds: Dataset) -> None:
    outline = next(i for i in group(ds, "1410").ContentSequence if i.ValueType == "SCOORD")
    outline.GraphicData = list(outline.GraphicData)[:-2]


def region_on_other_side(ds: Dataset) -> None:
    """The right side's region is moved onto the left side's image."""
    right, left = (g for g in named(ds, "125007") if g.ContentTemplateSequence[0].TemplateIdentifier == "1501")
    assert right is group(ds, "1501")
    source = next(i for i in left.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "121112")
    outline = next(i for i in group(ds, "1410").ContentSequence if i.ValueType == "SCOORD")
    outline.ContentSequence[0].ReferencedSOPSequence = source.ReferencedSOPSequence


def foreign_evidence(ds: Dataset) -> None:
    reference = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    reference.ReferencedSOPInstanceUID = derive_uid("elsewhere")


def evidence_dropped(ds: Dataset) -> None:
    del ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]


def evidence_swapped(ds: Dataset) -> None:
    current, other = ds.CurrentRequestedProcedureEvidenceSequence, ds.PertinentOtherEvidenceSequence
    ds.CurrentRequestedProcedureEvidenceSequence, ds.PertinentOtherEvidenceSequence = other, current


def reference_class(ds: Dataset) -> None:
    named(ds, "121112")[0].ReferencedSOPSequence[0].ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"


def wrong_heat_map(ds: Dataset) -> None:
    first, second = named(ds, "121200")[:2]
    first.ReferencedSOPSequence, second.ReferencedSOPSequence = (
        second.ReferencedSOPSequence,
        first.ReferencedSOPSequence,
    )


def group_dropped(ds: Dataset) -> None:
    measurements = named(ds, "126010")[0]
    measurements.ContentSequence = measurements.ContentSequence[1:]


def group_doubled(ds: Dataset) -> None:
    measurements = named(ds, "126010")[0]
    measurements.ContentSequence = [*measurements.ContentSequence, measurements.ContentSequence[0]]


def number_without_coordinates(ds: Dataset) -> None:
    del named(ds, "122157")[0].ContentSequence


def nameless(ds: Dataset) -> None:
    image = next(i for i in items(ds) if i.ValueType == "IMAGE")
    del image.ConceptNameCodeSequence


def verified(ds: Dataset) -> None:
    ds.VerificationFlag = "VERIFIED"


def private(ds: Dataset) -> None:
    ds.private_block(0x0019, "SOMEONE", create=True).add_new(0x01, "LO", "x")


def private_in_tree(ds: Dataset) -> None:
    items(ds)[3].private_block(0x0019, "SOMEONE", create=True).add_new(0x01, "LO", "x")


def words_dropped(ds: Dataset) -> None:
    evaluations = named(ds, "C0034375")[0]
    evaluations.ContentSequence = evaluations.ContentSequence[:2]


def question_marks(ds: Dataset) -> None:
    ds.PatientName = "Wang^XiaoDong=?^??"


def cropped(ds: Dataset) -> None:
    ds.Rows = ds.Rows - 1


def other_view(ds: Dataset) -> None:
    code = ds.ViewCodeSequence[0]
    code.CodeValue, code.CodeMeaning = "399260004", "medio-lateral"


def mirrored_orientation(ds: Dataset) -> None:
    ds.PatientOrientation = ["A", "R"]


def foreign_source(ds: Dataset) -> None:
    ds.SourceImageSequence[0].ReferencedSOPInstanceUID = derive_uid("elsewhere")


def other_modifier(ds: Dataset) -> None:
    ds.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].CodeValue = "7771000"


def predecessor(ds: Dataset) -> None:
    ds.PredecessorDocumentsSequence = ds.PertinentOtherEvidenceSequence


SR: Sequence[tuple[str, Callable[[Dataset], None], str]] = [
    ("accession", put("AccessionNumber", "ACC-OTHER"), "study"),
    ("study date", put("StudyDate", "20260106"), "study"),
    ("study description", put("StudyDescription", "other"), "study"),
    ("study uid", put("StudyInstanceUID", derive_uid("other")), "study"),
    ("patient id", put("PatientID", "P-0002"), "patient"),
    ("issuer", put("IssuerOfPatientID", "HOSPITAL-B"), "patient"),
    ("birth date", put("PatientBirthDate", "19710214"), "patient"),
    ("sex", put("PatientSex", "M"), "patient"),
    ("name lost", question_marks, "patient"),
    ("issuer dropped", drop("IssuerOfPatientID"), "patient"),
    ("procedure code", drop("ProcedureCodeSequence"), "study"),
    ("side of a group", swap_site, "side"),
    ("probability out of range", probability("8125"), "probability"),
    ("probability of something else", probability("18.2"), "probability"),
    ("probability negative", probability("-1"), "probability"),
    ("unit", unit, "probability"),
    ("positive said absent", absent, "answer"),
    ("region outside", region_outside, "region"),
    ("region open", region_open, "region"),
    ("region on the other side", region_on_other_side, "side"),
    ("reference outside the case", foreign_evidence, "references"),
    ("reference not in the evidence", evidence_dropped, "references"),
    ("current for pertinent", evidence_swapped, "references"),
    ("class of a reference", reference_class, "references"),
    ("another image's heat-map", wrong_heat_map, "region"),
    ("side left out", group_dropped, "side"),
    ("side said twice", group_doubled, "side"),
    ("number without coordinates", number_without_coordinates, "sr tree"),
    ("item without a name", nameless, "sr tree"),
    ("words left out", words_dropped, "words"),
    ("verified", verified, "sr flags"),
    ("partial", put("CompletionFlag", "PARTIAL"), "sr flags"),
    ("final", put("PreliminaryFlag", "FINAL"), "sr flags"),
    ("private element", private, "private"),
    ("private element in the tree", private_in_tree, "private"),
    ("predecessor that is none", predecessor, "predecessors"),
    ("before the study", put("ContentDate", "20250101"), "date"),
    ("no software version", drop("SoftwareVersions"), "origin"),
    ("no contributing equipment", drop("ContributingEquipmentSequence"), "origin"),
    ("series number of a source", put("SeriesNumber", 1), "series"),
    ("modality of a source", put("Modality", "MG"), "series"),
]
CAPTURE: Sequence[tuple[str, Callable[[Dataset], None], str]] = [
    ("laterality", put("ImageLaterality", "L"), "side"),
    ("anatomic modifier", other_modifier, "side"),
    ("view", other_view, "view"),
    ("orientation", mirrored_orientation, "view"),
    ("size", cropped, "capture"),
    ("grey", put("PhotometricInterpretation", "MONOCHROME2"), "capture"),
    ("source outside the case", foreign_source, "references"),
    ("lossy history", put("LossyImageCompression", "01"), "capture"),
    ("burned-in claim", put("BurnedInAnnotation", "YES"), "capture"),
    ("accession", put("AccessionNumber", "ACC-OTHER"), "study"),
    ("patient id", put("PatientID", "P-0002"), "patient"),
    ("series time", put("SeriesTime", "000000"), "series"),
    ("instance number", put("InstanceNumber", 2), "references"),
]


def seeded(good: Sequence[Rendered], kind: str, defect: Callable[[Dataset], None]) -> list[Rendered]:
    """All objects, the first of its kind with the defect in it."""
    at = next(n for n, r in enumerate(good) if r.kind == kind)
    ds = dcmread(BytesIO(good[at].data))
    defect(ds)
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return [*good[:at], replace(good[at], data=buffer.getvalue()), *good[at + 1 :]]


def test_good_results_pass(case: Case, good: list[Rendered]) -> None:
    """Nothing is found where nothing is wrong, also after an object was written again by another library."""
    check(good, case.result, case.sources)
    for kind in ("sr", "capture"):
        check(seeded(good, kind, put("InstanceNumber", 1)), case.result, case.sources)


@pytest.mark.parametrize(("what", "defect", "rule"), SR, ids=[d[0] for d in SR])
def test_defects_in_a_report_are_found(
    case: Case, good: list[Rendered], what: str, defect: Callable[[Dataset], None], rule: str
) -> None:
    """Each defect in an SR stops the result, naming the rule."""
    with pytest.raises(Defect, match=rf"RESULT_SELF_CHECK.*\({rule}"):
        check(seeded(good, "sr", defect), case.result, case.sources)


@pytest.mark.parametrize(("what", "defect", "rule"), CAPTURE, ids=[d[0] for d in CAPTURE])
def test_defects_in_a_capture_are_found(
    case: Case, good: list[Rendered], what: str, defect: Callable[[Dataset], None], rule: str
) -> None:
    """Each defect in a heat-map stops the result, naming the rule."""
    with pytest.raises(Defect, match=rf"RESULT_SELF_CHECK.*\({rule}"):
        check(seeded(good, "capture", defect), case.result, case.sources)


def _envelopes(good: Sequence[Rendered], case: Case) -> dict[str, list[Rendered]]:
    first = good[0]
    cut = replace(first, data=first.data[: len(first.data) // 2])
    source = next(iter(case.sources.values()))
    capture = next(r for r in good if r.kind == "capture")
    return {
        "cut short": [cut, *good[1:]],
        "not DICOM": [replace(first, data=b"nothing"), *good[1:]],
        "report left out": list(good[1:]),
        "report twice": [first, *good],
        "series of a source": [replace(first, series_instance_uid=str(source.SeriesInstanceUID)), *good[1:]],
        "another study's envelope": [replace(first, study_instance_uid=good[1].study_instance_uid), *good[1:]],
        "character set relabelled": [replace(first, data=first.data.replace(b"ISO_IR 192", b"ISO_IR 100")), *good[1:]],
        "damaged words": [replace(first, data=first.data.replace(b"Right axilla:", b"Right axill\xff:")), *good[1:]],
        "capture left out": [r for r in good if r is not capture],
        "preview left out": [r for r in good if r.kind != "preview"],
        "JSON of another answer": [
            replace(r, data=r.data.replace(b'"positive"', b'"negative"')) if r.kind == "result-json" else r
            for r in good
        ],
    }


@pytest.mark.filterwarnings("ignore:Failed to decode")
@pytest.mark.parametrize(
    "what",
    [
        "cut short",
        "not DICOM",
        "report left out",
        "report twice",
        "series of a source",
        "another study's envelope",
        "character set relabelled",
        "damaged words",
        "capture left out",
        "preview left out",
        "JSON of another answer",
    ],
)
def test_defects_of_the_set_are_found(case: Case, good: list[Rendered], what: str) -> None:
    """Objects that are missing, doubled, cut or in another's envelope stop the result."""
    with pytest.raises(Defect, match="RESULT_SELF_CHECK"):
        check(_envelopes(good, case)[what], case.result, case.sources)


def swapped_sides(result: CaseResult) -> CaseResult:
    turned = {Side.RIGHT: Side.LEFT, Side.LEFT: Side.RIGHT}
    return replace(result, images=tuple(replace(i, side=turned[i.side]) for i in result.images))


def test_a_result_with_swapped_sides_is_stopped(case: Case) -> None:
    """When the images' sides are swapped before rendering, the sources' laterality gives it away."""
    wrong = swapped_sides(case.result)
    with pytest.raises(Defect, match=r"\(side"):
        check(render(wrong, case.sources, Report(), NOW), wrong, case.sources)


def test_a_result_over_two_patients_is_stopped(case: Case) -> None:
    """Images of two patients in one result are found, whatever else is consistent."""
    sources = {u: dcmread(BytesIO(d), stop_before_pixels=True) for u, d in case.files.items()}
    next(iter(sources.values())).PatientID = "P-0002"
    with pytest.raises(Defect, match=r"\(patient"):
        check(render(case.result, sources, Report(), NOW), case.result, sources)


@pytest.mark.parametrize("outcome", [Outcome.POSITIVE, Outcome.NEGATIVE])
def test_an_answer_without_an_image_is_stopped(outcome: Outcome) -> None:
    """A side that no image shows can't be positive or negative: a unilateral study never answers for the other side."""
    case = make(modalities=("MG",), sides=("R",), outcomes={"R": (Outcome.POSITIVE, 0.9), "L": (outcome, 0.1)})
    with pytest.raises(Defect, match=r"\(side"):
        check(render(case.result, case.sources, Report(), NOW), case.result, case.sources)


def test_a_region_outside_its_image_is_not_rendered(case: Case) -> None:
    """A region beyond its source is a defect before any object exists."""
    image = case.result.images[0]
    assert image.region is not None
    wrong = replace(case.result, images=(replace(image, region=image.region + 1000), *case.result.images[1:]))
    with pytest.raises(Defect, match="RESULT_SELF_CHECK"):
        render(wrong, case.sources, Report(), NOW)


def test_heat_that_is_no_number_is_not_rendered(case: Case) -> None:
    """A heat-map with NaN is a result that failed its check, not a crash of the worker."""
    images = tuple(replace(i, heat=np.full_like(i.heat, np.nan)) for i in case.result.images)
    with pytest.raises(Defect, match="RESULT_SELF_CHECK"):
        render(replace(case.result, images=images), case.sources, Report(), NOW)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1)])
def test_the_smallest_pictures_give_captures(case: Case, shape: tuple[int, int]) -> None:
    """A picture of one pixel, or one pixel wide, is drawn, framed and passes the check."""
    images = tuple(
        replace(i, picture=np.full(shape, 80, np.uint8), heat=np.full(shape, 0.5, np.float32), to_source=np.eye(2, 3))
        for i in case.result.images
    )
    result = replace(case.result, images=images)
    check(render(result, case.sources, Report(), NOW), result, case.sources)


def test_a_projection_shown_the_wrong_way_round_is_stopped() -> None:
    """An MR projection whose directions are not those of its plane is found."""
    case = make(modalities=("MR",))
    good = render(case.result, case.sources, Report(), NOW)
    check(good, case.result, case.sources)
    for wrong in (["R", "P"], ["P", "F"], None):
        with pytest.raises(Defect, match=r"\(view"):
            check(seeded(good, "capture", put("PatientOrientation", wrong)), case.result, case.sources)
