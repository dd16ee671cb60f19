"""What the structured report says: sides, regions, evidence, words, identity, sequence of revisions."""

import json
from dataclasses import replace
from io import BytesIO

import highdicom
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from casework.config import Report
from casework.report import Rendered, check, describe, render
from casework.result import Finding, Outcome
from tests.conformance.studies import NOW, Case, make, with_predecessor


def parse(item: Rendered) -> Dataset:
    return dcmread(BytesIO(item.data))


def reports(case: Case, **settings: str) -> list[Dataset]:
    rendered = render(case.result, case.sources, Report(**settings), NOW)
    check(rendered, case.result, case.sources)
    return [parse(r) for r in rendered if r.kind == "sr"]


def walk(item: Dataset) -> list[Dataset]:
    found = []
    for child in item.get("ContentSequence", []):
        found += [child, *walk(child)]
    return found


def name(item: Dataset) -> str:
    return item.ConceptNameCodeSequence[0].CodeValue


def groups(ds: Dataset, template: str) -> list[Dataset]:
    found = [i for i in walk(ds) if name(i) == "125007"]
    return [g for g in found if g.ContentTemplateSequence[0].TemplateIdentifier == template]


def side_of(group: Dataset) -> str:
    site = next(i for i in group.ContentSequence if name(i) == "363698007")
    return {"24028007": "R", "7771000": "L"}[site.ContentSequence[0].ConceptCodeSequence[0].CodeValue]


def answer(group: Dataset) -> str:
    return next(i.ConceptCodeSequence[0].CodeMeaning for i in group.ContentSequence if name(i) == "111301")


def test_each_study_gets_one_report_and_its_own_captures() -> None:
    """A case over three studies gives each one SR and one series of captures, in that study and in series of our own."""
    case = make()
    rendered = render(case.result, case.sources, Report(), NOW)
    check(rendered, case.result, case.sources)
    studies = {i.study_instance_uid for i in case.result.images}
    assert len(studies) == 3
    for study in studies:
        mine = [r for r in rendered if r.study_instance_uid == study]
        assert [r.kind for r in mine].count("sr") == 1
        captures = [r for r in mine if r.kind == "capture"]
        assert len(captures) == sum(i.study_instance_uid == study for i in case.result.images)
        assert len({r.series_instance_uid for r in captures}) == 1
    theirs = {s.SeriesInstanceUID for s in case.sources.values()}
    assert not theirs & {r.series_instance_uid for r in rendered}


def test_flags_say_that_no_physician_verified_it() -> None:
    """A report is COMPLETE, PRELIMINARY and UNVERIFIED, of TID 1500, and says AI in its series."""
    for ds in reports(make()):
        flags = (ds.CompletionFlag, ds.PreliminaryFlag, ds.VerificationFlag)
        assert flags == ("COMPLETE", "PRELIMINARY", "UNVERIFIED")
        assert (name(ds), ds.ContentTemplateSequence[0].TemplateIdentifier) == ("126000", "1500")
        assert ds.SeriesDescription.startswith("AI ")
        procedures = [(i.RelationshipType, i.ConceptCodeSequence[0].CodeValue) for i in walk(ds) if name(i) == "121058"]
        assert procedures in [[("HAS CONCEPT MOD", code)] for code in ("71651007", "241615005", "47079000")]
        assert ds.SeriesNumber == 9001


def test_probability_and_presence_are_the_results() -> None:
    """Every side's number and code in every study's report are those of the result."""
    for ds in reports(make()):
        said = {}
        for group in groups(ds, "1501"):
            number = next(i for i in group.ContentSequence if i.ValueType == "NUM")
            assert number.ContentSequence[0].ValueType == "SCOORD"  # without it OHIF drops the whole report
            said[side_of(group)] = (float(number.MeasuredValueSequence[0].NumericValue), answer(group))
        assert said == {"R": (81.2, "Present"), "L": (3.7, "Absent")}


def test_indeterminate_is_undetermined() -> None:
    """A probability between the thresholds is coded Undetermined, and the words say that the model can't decide."""
    case = make(outcomes={"R": (Outcome.INDETERMINATE, 0.4), "L": (Outcome.NEGATIVE, 0.1)})
    for ds in reports(case):
        assert {side_of(g): answer(g) for g in groups(ds, "1501")} == {"R": "Undetermined", "L": "Absent"}
    assert "indeterminate" in describe(case.result, "en")


def test_a_side_that_was_not_analysed_is_never_absent() -> None:
    """An INSUFFICIENT side has no number and no Absent anywhere; words and a code say that it was not analysed."""
    case = make(
        sides=("R",), modalities=("MG",), outcomes={"R": (Outcome.POSITIVE, 0.9), "L": (Outcome.INSUFFICIENT, None)}
    )
    (ds,) = reports(case)
    assert [side_of(g) for g in groups(ds, "1501")] == ["R"]
    evaluations = next(i for i in ds.ContentSequence if name(i) == "C0034375").ContentSequence
    coded = [i.ConceptCodeSequence[0].CodeMeaning for i in evaluations if i.ValueType == "CODE"]
    assert coded == ["Undetermined"]
    assert any("Left axilla: NOT ANALYSED" in i.TextValue for i in evaluations if i.ValueType == "TEXT")
    assert not any(i.ValueType == "CODE" and i.ConceptCodeSequence[0].CodeMeaning == "Absent" for i in walk(ds))


def test_all_sides_insufficient_still_gives_a_report() -> None:
    """When no side could be analysed the report says so, without numbers and without heat on the captures."""
    case = make(modalities=("US",), outcomes=dict.fromkeys("RL", (Outcome.INSUFFICIENT, None)))
    (ds,) = reports(case)
    assert not any(i.ValueType == "NUM" and name(i) == "122157" for i in walk(ds))
    assert {answer(g) for g in groups(ds, "1501")} == {"Undetermined"}


def test_regions_lead_to_their_heat_maps_and_negative_sides_have_none() -> None:
    """Each outlined image of the positive side has one region group with its heat-map; the negative side has none."""
    case = make()
    rendered = render(case.result, case.sources, Report(), NOW)
    captures = {r.sop_instance_uid: parse(r) for r in rendered if r.kind == "capture"}
    regions = 0
    for ds in (parse(r) for r in rendered if r.kind == "sr"):
        for group in groups(ds, "1410"):
            regions += 1
            assert side_of(group) == "R"
            outline = next(i for i in group.ContentSequence if i.ValueType == "SCOORD")
            shown = next(i for i in group.ContentSequence if name(i) == "121200")
            capture = captures[shown.ReferencedSOPSequence[0].ReferencedSOPInstanceUID]
            where = outline.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == where
    assert regions == sum(i.region is not None and i.side.value == "R" for i in case.result.images) == 3


def test_region_points_are_columns_and_rows_from_the_corner() -> None:
    """A pixel centre (row, col) becomes (col + 0.5, row + 0.5): SR coordinates start at the first pixel's corner."""
    case = make(modalities=("MG",))
    (ds,) = reports(case)
    image = next(i for i in case.result.images if i.view == "CC")
    outline = next(i for i in groups(ds, "1410")[0].ContentSequence if i.ValueType == "SCOORD")
    assert image.region is not None
    assert outline.GraphicData[0] == pytest.approx(image.region[0][1] + 0.5, abs=1e-3)
    assert outline.GraphicData[1] == pytest.approx(image.region[0][0] + 0.5, abs=1e-3)


def test_a_cine_frame_is_named() -> None:
    """A finding on an ultrasound cine names the frame that was analysed."""
    ds = reports(make(modalities=("US",)))[0]
    outline = next(i for i in groups(ds, "1410")[0].ContentSequence if i.ValueType == "SCOORD")
    assert outline.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber == 2


def test_evidence_is_split_by_study() -> None:
    """Current evidence is this study's; the other studies' images and reports are pertinent other evidence."""
    case = make()
    for ds in reports(case):
        current = {s.StudyInstanceUID for s in ds.CurrentRequestedProcedureEvidenceSequence}
        other = {s.StudyInstanceUID for s in ds.PertinentOtherEvidenceSequence}
        assert current == {ds.StudyInstanceUID}
        assert other == {i.study_instance_uid for i in case.result.images} - current
        classes = [
            r.ReferencedSOPClassUID
            for s in ds.PertinentOtherEvidenceSequence
            for series in s.ReferencedSeriesSequence
            for r in series.ReferencedSOPSequence
        ]
        assert classes.count("1.2.840.10008.5.1.4.1.1.88.34") == 2


def test_the_same_result_gives_the_same_identifiers_and_bytes() -> None:
    """Rendering again at the same time gives the same bytes; tracking UIDs stay when the input changes."""
    case = make(modalities=("MG", "US"))
    first, second = (render(case.result, case.sources, Report(), NOW) for _ in range(2))
    assert [r.data for r in first] == [r.data for r in second]
    again = replace(case.result, input_digest="f" * 64, revision=2)
    third = render(again, case.sources, Report(), NOW)
    assert not {r.sop_instance_uid for r in first if r.kind != "result-json"} & {r.sop_instance_uid for r in third}
    tracking = [
        [i.UID for i in walk(parse(r)) if name(i) == "112040"] for run in (first, third) for r in run if r.kind == "sr"
    ]
    assert tracking[:2] == tracking[2:]


@pytest.mark.parametrize("setting", ["language", "institution", "manufacturer", "serial_number"])
def test_other_settings_give_other_identifiers(setting: str) -> None:
    """A setting that changes what a document says changes its UIDs: one UID never stands for two objects."""
    case = make(modalities=("MG",))
    other = {"language": "zh", "institution": "General Hospital", "manufacturer": "Maker", "serial_number": "2"}[
        setting
    ]
    first = render(case.result, case.sources, Report(), NOW)
    second = render(case.result, case.sources, replace(Report(), **{setting: other}), NOW)
    check(second, case.result, case.sources)
    uids = [{u for r in run for u in (r.sop_instance_uid, r.series_instance_uid) if u} for run in (first, second)]
    assert not uids[0] & uids[1]


def test_a_revision_names_its_predecessor_in_its_study_only() -> None:
    """The report of the study that had an older one names it; the others name none."""
    case = with_predecessor(make(modalities=("MG", "US")))
    for ds in reports(case):
        older = [p for p in case.result.predecessors if p[0] == ds.StudyInstanceUID]
        named = [
            (s.StudyInstanceUID, series.SeriesInstanceUID, r.ReferencedSOPClassUID, r.ReferencedSOPInstanceUID)
            for s in ds.get("PredecessorDocumentsSequence", [])
            for series in s.ReferencedSeriesSequence
            for r in series.ReferencedSOPSequence
        ]
        assert named == older


def test_findings_are_said_with_their_reason() -> None:
    """What was missing stands in the report in words, in either language, with its code."""
    case = make(modalities=("MG",))
    assert "A modality that the model can use was not there. [MODALITY_MISSING]: MRI, ultrasound" in describe(
        case.result, "en"
    )
    assert "缺少模型可使用的一种影像。 [MODALITY_MISSING]：磁共振、超声" in describe(case.result, "zh").replace(
        ": ", "："
    ).replace(", ", "、")
    (ds,) = reports(case)
    assert any("MODALITY_MISSING" in i.TextValue for i in walk(ds) if i.ValueType == "TEXT")


def test_an_unknown_finding_is_said_by_its_code() -> None:
    """A code that the catalogue lacks is not hidden."""
    case = make(modalities=("MG",))
    assert "BRAND_NEW" in describe(replace(case.result, findings=(Finding("BRAND_NEW"),)), "en")


def test_chinese_report() -> None:
    """With language zh the report is Chinese where the character set can say it, and says which language it is in."""
    for ds in reports(make("gb18030"), language="zh"):
        texts = " ".join(i.TextValue for i in walk(ds) if i.ValueType == "TEXT")
        assert "右侧腋窝：高于模型阈值，可疑淋巴结转移" in texts
        assert ds.ContentSequence[0].ConceptCodeSequence[0].CodeValue == "zh-CN"
        assert ds.SpecificCharacterSet == "GB18030"


def test_json_holds_the_result() -> None:
    """The JSON says what the result says, with null for a side that was not analysed."""
    case = make(outcomes={"R": (Outcome.POSITIVE, 0.8125), "L": (Outcome.INSUFFICIENT, None)})
    rendered = render(case.result, case.sources, Report(), NOW)
    check(rendered, case.result, case.sources)
    document = json.loads(next(r.data for r in rendered if r.kind == "result-json"))
    assert document["schema"] == "casework-result-1"
    assert [(s["side"], s["outcome"], s["probability"]) for s in document["sides"]] == [
        ("R", "positive", 0.8125),
        ("L", "insufficient", None),
    ]
    captures = {r.sop_instance_uid for r in rendered if r.kind == "capture"}
    assert {i["capture_sop_instance_uid"] for i in document["images"]} == captures
    assert document["words"]["zh"] == describe(case.result, "zh")


def test_describe_refuses_other_languages() -> None:
    """A language without a table is an error, not a silent choice."""
    with pytest.raises(ValueError, match="language"):
        describe(make(modalities=("MG",)).result, "fr")


def test_time_zone_follows_the_source() -> None:
    """Content time is in the study's time zone where it states one."""
    case = make(modalities=("MG",), timezone="+0800")
    (ds,) = reports(case)
    assert (ds.ContentDate, ds.ContentTime, ds.TimezoneOffsetFromUTC) == ("20261120", "173015", "+0800")


def test_a_missing_source_is_a_defect() -> None:
    """A result over images that are not at hand is not rendered."""
    case = make(modalities=("MG",))
    with pytest.raises(Exception, match="RESULT_SELF_CHECK"):
        render(case.result, {}, Report(), NOW)


def test_the_order_is_named() -> None:
    """The report refers to the request with the study's accession number."""
    for ds in reports(make()):
        assert ds.ReferencedRequestSequence[0].AccessionNumber == ds.AccessionNumber


def test_the_measurements_can_be_read_back() -> None:
    """highdicom, reading the bytes back, finds the same groups, sides, numbers and regions in the tree."""
    case = make(modalities=("MG",))
    (data,) = [r.data for r in render(case.result, case.sources, Report(), NOW) if r.kind == "sr"]
    content = highdicom.sr.srread(BytesIO(data)).content
    whole = content.get_image_measurement_groups()
    assert [g.get_measurements()[0].value for g in whole] == [81.2, 3.7]
    assert [g.finding_sites[0].laterality.meaning for g in whole] == ["Right", "Left"]
    regions = content.get_planar_roi_measurement_groups()
    assert [g.finding_type.value for g in regions] == ["130402", "130402"]
    assert [g.finding_sites[0].value.meaning for g in regions] == ["Breast", "Breast"]
    assert regions[0].roi.graphic_type.value == "POLYLINE"
    assert regions[0].roi.value[0] == pytest.approx([198.5, 80.5])
