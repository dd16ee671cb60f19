"""IHE AI Results, point by point: A1 to A12, over a case of three studies with every kind of object."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from casework.case import derive_uid
from casework.config import OBJECTS, Report
from casework.report import Rendered, check, render
from casework.result import CaseResult, Outcome
from tests.conformance.studies import MODEL, NOW, Case, make

EVERYTHING = frozenset(OBJECTS)


@pytest.fixture(scope="module")
def case() -> Case:
    return make(us_frames=(2, 3))


@pytest.fixture(scope="module")
def rendered(case: Case) -> list[Rendered]:
    made = render(case.result, case.sources, Report(), NOW, EVERYTHING)
    check(made, case.result, case.sources)
    return made


@pytest.fixture(scope="module")
def objects(rendered: Sequence[Rendered]) -> dict[str, list[Dataset]]:
    found: dict[str, list[Dataset]] = defaultdict(list)
    for item in rendered:
        if item.media_type == "application/dicom":
            found[item.kind].append(dcmread(BytesIO(item.data)))
    assert set(found) == EVERYTHING
    return found


def walk(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        yield child
        yield from walk(child)


def name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue)


def groups(ds: Dataset) -> list[Dataset]:
    return [i for i in walk(ds) if name(i) == "125007"]


def template(item: Dataset) -> str:
    return str(item.ContentTemplateSequence[0].TemplateIdentifier)


def tracking(ds: Dataset) -> list[str]:
    return sorted(str(i.UID) for g in groups(ds) for i in g.ContentSequence if name(i) == "112040")


def evidence(ds: Dataset, keyword: str) -> list[tuple[str, str, str]]:
    return [
        (str(study.StudyInstanceUID), str(series.SeriesInstanceUID), str(r.ReferencedSOPInstanceUID))
        for study in ds.get(keyword, [])
        for series in study.ReferencedSeriesSequence
        for r in series.ReferencedSOPSequence
    ]


def test_a1_the_result_is_a_comprehensive_3d_sr_of_tid_1500(objects: dict[str, list[Dataset]]) -> None:
    """A1: a Comprehensive 3D SR whose root is an Imaging Measurement Report of TID 1500, with the prediction in it."""
    for ds in objects["sr"]:
        assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
        assert (name(ds), ds.ContentTemplateSequence[0].MappingResource, template(ds)) == ("126000", "DCMR", "1500")
        assert [name(i) for i in walk(ds)].count("111301") == 2  # the qualitative finding, of each side
        assert [name(i) for i in walk(ds)].count("122157") == 2


def test_a2_procedures_reported_are_the_imaging_procedures(objects: dict[str, list[Dataset]]) -> None:
    """A2: Procedure Reported names the study's imaging procedure, never the algorithm; a case's reports name all of them."""
    own = {"MG": "71651007", "MR": "241615005", "US": "47079000"}
    named = []
    for ds in objects["sr"]:
        said = [i.ConceptCodeSequence[0].CodeValue for i in ds.ContentSequence if name(i) == "121058"]
        library = next(i for i in ds.ContentSequence if name(i) == "111028").ContentSequence[0]
        modality = next(i.ConceptCodeSequence[0].CodeValue for i in library.ContentSequence if name(i) == "121139")
        assert said == [own[modality]] == [ds.PerformedProcedureCodeSequence[0].CodeValue]
        named += said
    assert sorted(named) == sorted(own.values())  # one report a study, so one procedure for each modality used


def test_a3_regions_are_on_the_source_image(case: Case, objects: dict[str, list[Dataset]]) -> None:
    """A3: regions are SCOORD Image Regions on a source image in TID 1410 groups; answers for a side are TID 1501."""
    seen = 0
    for ds in objects["sr"]:
        for group in groups(ds):
            regions = [i for i in group.ContentSequence if name(i) == "111030"]
            assert template(group) == ("1410" if regions else "1501")
            for region in regions:
                assert region.ValueType == "SCOORD"
                (image,) = region.ContentSequence
                assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID in case.sources
                seen += 1
    assert seen == 4  # mammograms and ultrasound frames of the positive side


def test_a3_a_projections_number_is_said_on_its_heat_map(case: Case, objects: dict[str, list[Dataset]]) -> None:
    """A3: an MRI's number comes from all slices, so its place is the projection on the heat-map of its side.

    OHIF hangs on a place on a slice when all phases are one series, and shows this.
    """
    ds = next(
        d
        for d in objects["sr"]
        if any(i.modality == "MR" and d.StudyInstanceUID == i.study_instance_uid for i in case.result.images)
    )
    captures = {d.SOPInstanceUID: d for d in objects["capture"] if d.StudyInstanceUID == ds.StudyInstanceUID}
    sides = []
    for group in groups(ds):
        for place in (i for i in walk(group) if i.ValueType == "SCOORD"):
            shown = captures[place.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID]
            x, y = place.GraphicData[0::2], place.GraphicData[1::2]
            box = shown.pixel_array[int(min(y)) : int(max(y)), int(min(x)) : int(max(x))]
            assert box.shape[:2] == (640, 640)  # the whole picture, without the frame of words
            assert box[[0, -1]].mean() > 10
            sides.append(
                (
                    place.ContentSequence[0].ValueType,
                    shown.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].CodeValue,
                )
            )
    assert sorted(sides) == [("IMAGE", "24028007"), ("IMAGE", "7771000")]


def test_a4_tracking_is_the_same_after_a_second_run(case: Case, objects: dict[str, list[Dataset]]) -> None:
    """A4: each group is tracked, and another run over the same case, with another model, tracks the same things."""
    other = replace(case.result, revision=2, model=replace(MODEL, version="9"), input_digest="f" * 64)
    again = [r for r in render(other, case.sources, Report(), NOW) if r.kind == "sr"]
    for ds, item in zip(objects["sr"], again, strict=True):
        second = dcmread(BytesIO(item.data))
        assert tracking(second) == tracking(ds)
        assert len(tracking(ds)) == len(groups(ds)) == len(set(tracking(ds)))
        assert second.SOPInstanceUID != ds.SOPInstanceUID


def test_a5_segmentations_are_automatic_objects_of_their_own(objects: dict[str, list[Dataset]]) -> None:
    """A5: regions are also Segmentations, each its own object, AUTOMATIC, naming the algorithm and tracked as in the SR."""
    tracked = {uid for ds in objects["sr"] for uid in tracking(ds)}
    for ds in (*objects["segmentation"], *objects["segmentation-planar"]):
        for segment in ds.SegmentSequence:
            assert segment.SegmentAlgorithmType == "AUTOMATIC"
            assert segment.SegmentAlgorithmName == MODEL.name
            assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == MODEL.version
            assert segment.TrackingUID in tracked


def test_a6_a_map_or_segmentation_stands_beside_captures(case: Case, rendered: Sequence[Rendered]) -> None:
    """A6: a study with captures of a suspected side also has the same activation as numbers or as a mask."""
    for study in {i.study_instance_uid for i in case.result.images}:
        kinds = {r.kind for r in rendered if r.study_instance_uid == study}
        assert "capture" in kinds
        assert kinds & {"parametric-map", "segmentation", "segmentation-planar"}


def test_a6_a_negative_sides_answer_is_machine_readable_in_the_report(case: Case) -> None:
    """A6: what a capture of a negative side illustrates stands in the SR as a code and a number.

    A map would need a Frame of Reference, a mask would look like a lesion.
    """
    made = make(modalities=("MG", "US"), outcomes=dict.fromkeys("RL", (Outcome.NEGATIVE, 0.02)))
    found = render(made.result, made.sources, Report(), NOW, EVERYTHING)
    check(found, made.result, made.sources)
    assert not {r.kind for r in found} & {"parametric-map", "segmentation", "segmentation-planar"}
    for item in (r for r in found if r.kind == "sr"):
        ds = dcmread(BytesIO(item.data))
        said = [i for i in walk(ds) if name(i) == "111301"]
        assert [i.ConceptCodeSequence[0].CodeValue for i in said] == ["272519000"] * 2  # Absent, of each side
        numbers = [i.MeasuredValueSequence[0].NumericValue for i in walk(ds) if name(i) == "122157"]
        assert [float(n) for n in numbers] == [2.0, 2.0]


def test_a7_each_object_names_the_algorithm_and_its_device(case: Case, objects: dict[str, list[Dataset]]) -> None:
    """A7: Contributing Equipment has maker, model, versions and a Device UID that another engine changes."""
    for ds in (d for kind in objects.values() for d in kind):
        (equipment,) = ds.ContributingEquipmentSequence
        assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert equipment.Manufacturer == "casework"
        assert equipment.ManufacturerModelName == MODEL.name
        assert f"{MODEL.name} {MODEL.version}" in equipment.SoftwareVersions
        assert equipment.DeviceUID == MODEL.device_uid
    other = replace(case.result, model=replace(MODEL, device_uid=derive_uid("device", "other engine")))
    for item in render(other, case.sources, Report(), NOW, EVERYTHING):
        if item.media_type == "application/dicom":
            (equipment,) = dcmread(BytesIO(item.data)).ContributingEquipmentSequence
            assert equipment.DeviceUID != MODEL.device_uid


def test_a8_results_lie_in_the_study_that_they_describe(case: Case, objects: dict[str, list[Dataset]]) -> None:
    """A8: the study, patient, accession and referring physician of the source, in a series of our own."""
    studies = {str(s.StudyInstanceUID): s for s in case.sources.values()}
    theirs = {str(s.SeriesInstanceUID) for s in case.sources.values()}
    for ds in (d for kind in objects.values() for d in kind):
        source = studies[str(ds.StudyInstanceUID)]
        for keyword in ("PatientID", "PatientName", "AccessionNumber", "ReferringPhysicianName", "StudyID"):
            assert ds[keyword].value == source[keyword].value
        assert ds.SeriesInstanceUID not in theirs
        assert ds.SeriesDescription.startswith("AI ")
    series = {(str(d.SeriesInstanceUID), kind) for kind, found in objects.items() for d in found}
    assert len(series) == len({uid for uid, _ in series})


def test_a9_reports_are_unverified_complete_and_list_their_evidence(objects: dict[str, list[Dataset]]) -> None:
    """A9: COMPLETE and UNVERIFIED; every object that the tree names is in the evidence, by study and series."""
    for ds in (*objects["sr"], *objects["sr-comprehensive"]):
        assert (ds.CompletionFlag, ds.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
        current = evidence(ds, "CurrentRequestedProcedureEvidenceSequence")
        other = evidence(ds, "PertinentOtherEvidenceSequence")
        assert {e[0] for e in current} == {ds.StudyInstanceUID}
        assert ds.StudyInstanceUID not in {e[0] for e in other}
        named = {r.ReferencedSOPInstanceUID for i in walk(ds) for r in i.get("ReferencedSOPSequence", [])}
        assert named <= {e[2] for e in (*current, *other)}


def test_a10_the_keys_of_a_query_for_results_are_filled(objects: dict[str, list[Dataset]]) -> None:
    """A10: what an archive is asked for results by: series code, laterality, structure, segments, quantity, title."""
    for ds in (d for kind in objects.values() for d in kind):
        assert ds.SeriesDescriptionCodeSequence[0].CodeValue
    for ds in (*objects["capture"], *objects["cine"], *objects["slices"]):
        assert ds.PrimaryAnatomicStructureSequence[0].CodeValue == "68171009"
        assert ds.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].CodeValue in {
            "24028007",
            "7771000",
            "51440002",
        }
    assert {d.get("ImageLaterality") for d in objects["capture"] if d.get("ViewCodeSequence")} == {"R", "L"}
    assert all(d.SegmentSequence for d in (*objects["segmentation"], *objects["segmentation-planar"]))
    for ds in objects["parametric-map"]:
        mapping = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
        assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "130402"


def test_a11_the_report_leads_to_every_other_object(objects: dict[str, list[Dataset]]) -> None:
    """A11: from the root report to all: images of ours are items of its tree, other objects are in its evidence."""
    for ds in objects["sr"]:
        here = {
            kind: {d.SOPInstanceUID for d in found if d.StudyInstanceUID == ds.StudyInstanceUID}
            for kind, found in objects.items()
        }
        listed = {e[2] for e in evidence(ds, "CurrentRequestedProcedureEvidenceSequence")}
        named = {r.ReferencedSOPInstanceUID for i in walk(ds) for r in i.get("ReferencedSOPSequence", [])}
        images = ("capture", "cine", "slices", "segmentation", "segmentation-planar", "parametric-map")
        assert set().union(*(here[kind] for kind in images)) <= named
        assert here["outline"] | here["key-object"] <= listed


def test_a12_each_study_has_its_report_and_they_know_of_each_other(
    case: Case, objects: dict[str, list[Dataset]]
) -> None:
    """A12: a case over three studies is one report a study, each with the others and their images as other evidence."""
    reports = {str(d.SOPInstanceUID): d for d in objects["sr"]}
    assert len({d.StudyInstanceUID for d in reports.values()}) == 3
    for uid, ds in reports.items():
        other = {e[2] for e in evidence(ds, "PertinentOtherEvidenceSequence")}
        assert set(reports) - {uid} <= other
        elsewhere = {i.sources[0] for i in case.result.images if i.study_instance_uid != ds.StudyInstanceUID}
        assert elsewhere <= other
        assert "IdenticalDocumentsSequence" not in ds  # they are not: each is about its own study's images


def test_nothing_is_drawn_as_a_region_on_a_side_below_the_threshold(case: Case) -> None:
    """A case whose sides are all negative has a map of numbers, but no segment, outline or key image."""
    result: CaseResult = replace(
        case.result,
        planes={},
        sides=tuple(replace(s, outcome=Outcome.NEGATIVE, probability=0.02) for s in case.result.sides),
    )
    made = render(result, case.sources, Report(), NOW, EVERYTHING)
    check(made, result, case.sources)
    kinds = {r.kind for r in made}
    assert "parametric-map" in kinds
    assert not kinds & {"slices", "segmentation", "segmentation-planar", "outline", "key-object"}
