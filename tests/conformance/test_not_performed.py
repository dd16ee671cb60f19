"""Documents that say "AI not performed": valid in every character set, never a result, nothing of another study."""

import re
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset

from casework.checks import CHECKS
from casework.config import Report
from casework.errors import Defect
from casework.reasons import REASONS
from casework.report import Instance, Rendered, Silent, check_not_performed, describe, render_not_performed
from casework.result import CaseResult, Finding, Outcome, Side, SideResult
from tests.conformance.studies import NOW, Case, make
from tests.conformance.test_validators import CHARSETS, complaints, readable, tool

# A private coding scheme is never one of dciodvfy's terms; it is identified in the document (PS3.3 C.12.1).
OWN_SCHEME = (
    r"CodingScheme(Designator|UID)\(0008,010[2c]\)\[1\]> - Unrecognized defined term = <(99CASEWORK|2\.25\.\d+)>"
)
SILENT = tuple(SideResult(s, Outcome.INSUFFICIENT, None, {}, ()) for s in (Side.RIGHT, Side.LEFT))


def stopped(case: Case, *codes: str) -> CaseResult:
    """The case's verdict, with a finding on one image of each study and one on the case."""
    findings = [Finding("LATERALITY_UNKNOWN", studies[0].instances[0].uid) for studies in zip(silent(case))]
    return replace(
        case.result, stopped=codes, sides=SILENT, images=(), findings=(*findings, Finding("MODALITY_MISSING", "MR"))
    )


def silent(case: Case) -> list[Silent]:
    """The case's studies with all their instances."""
    found = []
    for study in dict.fromkeys(str(s.StudyInstanceUID) for s in case.sources.values()):
        own = [s for s in case.sources.values() if s.StudyInstanceUID == study]
        known = [Instance(study, str(s.SeriesInstanceUID), str(s.SOPClassUID), str(s.SOPInstanceUID), 1) for s in own]
        found.append(Silent(study, str(own[0].Modality), own[0], tuple(known)))
    return found


def made(case: Case, language: str = "en", *codes: str) -> tuple[CaseResult, list[Rendered]]:
    """The self-checked documents."""
    result = stopped(case, *(codes or ("PATIENT_IDENTITY_CONFLICT", "NO_USABLE_IMAGE")))
    rendered = render_not_performed(result, silent(case), Report(language=language, institution="General"), NOW)
    check_not_performed(rendered, result, silent(case))
    return result, rendered


@pytest.mark.parametrize(
    ("charset", "language"), [*((c, "en") for c in CHARSETS), *((c, "zh") for c in ("utf8", "gb18030", "ir87", "none"))]
)
def test_independent_validators_find_nothing(tmp_path: Path, charset: str, language: str) -> None:
    """dciodvfy, dsrdump and dcentvfy over the documents and their sources, in each character set and language."""
    case = make(charset, modalities=("MG", "US"))
    (tmp_path / "out").mkdir()
    paths = []
    for n, item in enumerate(made(case, language)[1]):
        paths.append(tmp_path / "out" / f"no{n}.dcm")
        paths[-1].write_bytes(item.data)
    for path in readable(paths, charset, tmp_path / "readable") if charset.startswith("gb") else paths:
        done = tool("dciodvfy", "-new", path)
        assert [line for line in complaints(done.stderr + done.stdout) if not re.search(OWN_SCHEME, line)] == []
        assert tool("dsrdump", path).returncode == 0
    both = readable([*paths, *case.write(tmp_path / "sources")], charset, tmp_path / "both")
    done = tool("dcentvfy", *both)
    errors = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("Error")]
    assert [line for line in errors if "/no" in line] == []


def texts(ds: Dataset) -> list[str]:
    """Every text of the tree."""
    found = []
    for child in ds.get("ContentSequence", []):
        found += [str(child.TextValue)] if child.ValueType == "TEXT" else []
        found += texts(child)
    return found


@pytest.mark.parametrize("language", ["en", "zh"])
def test_it_says_why_what_to_do_who_and_when(language: str) -> None:
    """Each reason in words and as a code, its next action, the images concerned, model, case and time."""
    case = make(modalities=("MG", "US"))
    result, rendered = made(case, language)
    assert [r.study_instance_uid for r in rendered] == [s.study for s in silent(case)]
    for item, study in zip(rendered, silent(case), strict=True):
        ds = dcmread(BytesIO(item.data))
        said = texts(ds)
        for code in result.stopped:
            row = REASONS[code]
            assert any((row.zh if language == "zh" else row.en) in t for t in said)
            assert (row.next_zh if language == "zh" else row.next_en) in said
        assert not any("Nothing to do" in t or "with this limit" in t for t in said)
        assert any(("不是阴性结果" if language == "zh" else "not a negative result") in t for t in said)
        assert any(result.model.version in t for t in said)
        assert (ds.ContentDate, ds.AccessionNumber) == ("20261120", study.reference.AccessionNumber)
        assert ds.SeriesDescription.startswith("AI NOT PERFORMED: PATIENT_IDENTITY")
        pictured = [i for c in ds.ContentSequence for i in c.get("ContentSequence", []) if i.ValueType == "IMAGE"]
        assert [i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in pictured] == [study.instances[0].uid]
    assert "NO_USABLE_IMAGE" in describe(result, language)


def test_no_document_names_another_study() -> None:
    """A case may be stopped because its studies are of two people: no identifier of one is in the other's document."""
    case = make(modalities=("MG", "US"))
    _, rendered = made(case)
    for item in rendered:
        for other in silent(case):
            if other.study != item.study_instance_uid:
                for name in (other.study, other.reference.AccessionNumber, *(i.uid for i in other.instances)):
                    assert name.encode() not in item.data


def test_another_reason_is_another_document_and_the_same_one_is_the_same() -> None:
    """The identifiers follow from the verdict: a retry that ends the same way makes no second document."""
    case = make(modalities=("US",))
    uids = [
        made(case, "en", code)[1][0].sop_instance_uid for code in ("NO_USABLE_IMAGE", "NO_USABLE_IMAGE", "INTERNAL")
    ]
    assert uids[0] == uids[1] != uids[2]


def item_of(ds: Dataset, name: str) -> Dataset:
    """The first item with a concept name, anywhere."""
    for child in ds.get("ContentSequence", []):
        if child.ConceptNameCodeSequence[0].CodeValue == name:
            return child
        found = item_of(child, name) if "ContentSequence" in child else Dataset()
        if found:
            return found
    return Dataset()


def says_absent(ds: Dataset) -> None:
    code = item_of(ds, "121072").ContentSequence[0].ConceptCodeSequence[0]
    code.CodeValue, code.CodeMeaning, code.CodingSchemeDesignator = "272519000", "Absent", "SCT"


def softened(ds: Dataset) -> None:
    for child in ds.ContentSequence:
        for text in child.get("ContentSequence", []):
            if text.ValueType == "TEXT":
                text.TextValue = text.TextValue.replace("not a negative result", "all right")


def other_reason(ds: Dataset) -> None:
    code = item_of(ds, "121070").ContentSequence[0].ConceptCodeSequence[0]
    code.LongCodeValue = "LATERALITY_CONFLICT"


def foreign(ds: Dataset) -> None:
    found = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    found.ReferencedSOPInstanceUID = "1.2.3.4.5"


def status_means_done(ds: Dataset) -> None:
    """The right code under words that say the contrary: viewers show the words."""
    item_of(ds, "121077").ConceptCodeSequence[0].CodeMeaning = "Completed"


def reason_means_another(ds: Dataset) -> None:
    item_of(ds, "121070").ContentSequence[0].ConceptCodeSequence[0].CodeMeaning = "Absent"


def heading_means_another(ds: Dataset) -> None:
    item_of(ds, "121072").ConceptNameCodeSequence[0].CodeMeaning = "No findings"


@pytest.mark.parametrize(
    ("defect", "rule"),
    [
        (status_means_done, "code"),
        (reason_means_another, "code"),
        (heading_means_another, "code"),
        (says_absent, "answer"),
        (softened, "answer"),
        (other_reason, "answer"),
        (foreign, "references"),
        (lambda ds: setattr(ds, "AccessionNumber", "OTHER"), "study"),
        (lambda ds: setattr(ds, "PatientID", "P-0002"), "patient"),
        (lambda ds: setattr(ds, "PatientName", "Someone^Else"), "patient"),
        (lambda ds: setattr(ds, "StudyInstanceUID", "1.2.3"), "study"),
        (lambda ds: setattr(ds, "CompletionFlag", "PARTIAL"), "sr flags"),
        (lambda ds: setattr(ds, "VerificationFlag", "VERIFIED"), "sr flags"),
        (lambda ds: setattr(ds, "SeriesDescription", "AI report"), "series"),
        (lambda ds: setattr(ds, "SeriesNumber", 1), "series"),
        (lambda ds: delattr(ds, "ContributingEquipmentSequence"), "origin"),
        (lambda ds: delattr(ds, "ContentSequence"), "answer"),
    ],
)
def test_the_self_check_finds_each_seeded_defect(defect: Callable[[Dataset], None], rule: str) -> None:
    """One defect at a time; the check names its rule and nothing is sent."""
    case = make(modalities=("US",))
    result, (good,) = made(case)
    ds = dcmread(BytesIO(good.data))
    defect(ds)
    buffer = BytesIO()
    dcmwrite(buffer, ds)
    bad = replace(good, data=buffer.getvalue())
    with pytest.raises(Defect, match=rule):
        check_not_performed([bad], result, silent(case))


# --- the same as a picture -------------------------------------------------------------------------------------------

FONT = "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf"


def paged(case: Case, language: str = "en", font: str = "") -> tuple[CaseResult, list[Rendered]]:
    """The self-checked pages."""
    result = stopped(case, "PATIENT_IDENTITY_CONFLICT", "NO_USABLE_IMAGE")
    rendered = render_not_performed(result, silent(case), Report(language=language, pdf_font=font), NOW, pages=True)
    check_not_performed(rendered, result, silent(case), pages=True)
    return result, [r for r in rendered if r.kind == "not-performed-page"]


@pytest.mark.parametrize(("charset", "language"), [("none", "en"), ("ir58", "en"), ("utf8", "zh"), ("gb18030", "zh")])
def test_a_page_is_a_valid_capture_with_the_same_words(tmp_path: Path, charset: str, language: str) -> None:
    """One page a study, for destinations that show pictures only; dciodvfy finds nothing; nothing is cut off."""
    case = make(charset, modalities=("MG", "US"))
    _, pages = paged(case, language, FONT)
    assert [p.study_instance_uid for p in pages] == [s.study for s in silent(case)]
    for page in pages:
        ds = dcmread(BytesIO(page.data))
        for code in ("PATIENT_IDENTITY_CONFLICT", "NO_USABLE_IMAGE"):
            row = REASONS[code]
            assert (row.zh if language == "zh" else row.en) in ds.ImageComments
        assert ("未进行AI分析" if language == "zh" else "AI NOT PERFORMED") in ds.ImageComments
        pixels = ds.pixel_array
        assert pixels[-24:].max() == pixels[:, :24].max() == pixels[:, -24:].max() == 0 < pixels.max()
        (folder := tmp_path / page.study_instance_uid).mkdir()
        (folder / "page.dcm").write_bytes(page.data)
        (study,) = [s for s in silent(case) if s.study == page.study_instance_uid]
        named = [r.ReferencedSOPInstanceUID for r in ds.ReferencedImageSequence]
        assert named == [study.instances[0].uid]  # the one that a finding is about
        (path,) = readable([folder / "page.dcm"], charset, folder / "readable")
        done = tool("dciodvfy", "-new", path)
        assert complaints(done.stderr + done.stdout) == []


def test_without_a_font_for_it_a_page_is_in_english() -> None:
    """Boxes in place of characters say nothing; the report beside it stays in the site's language."""
    case = make("utf8", modalities=("MG",))
    with_font, without = paged(case, "zh", FONT)[1][0], paged(case, "zh", str(Path(__file__)))[1][0]
    assert "不是阴性结果" in dcmread(BytesIO(with_font.data)).ImageComments
    assert dcmread(BytesIO(without.data)).ImageComments.isascii()


def test_many_words_get_smaller_and_are_never_cut() -> None:
    """Every check stops and every refusal was seen: all reasons and the last line are on the page, the rest is counted."""
    case = make(modalities=("MG",))
    refusals = [Finding(code) for code, row in REASONS.items() if row.family == "refused"]
    result = replace(stopped(case, *CHECKS), findings=tuple(refusals))
    rendered = render_not_performed(result, silent(case), Report(), NOW, pages=True)
    check_not_performed(rendered, result, silent(case), pages=True)
    ds = dcmread(BytesIO(rendered[1].data))
    assert ds.pixel_array[-24:].max() == 0
    assert len(ds.ImageComments) <= 10240
    assert "(+ " in ds.ImageComments
    assert ds.ImageComments.endswith("replaces this page.")


def says_fine(ds: Dataset) -> None:
    ds.ImageComments = ds.ImageComments.replace("not a negative result", "fine")


def about_another(ds: Dataset) -> None:
    """An image of another study, in both places."""
    ds.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"
    ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def blank(ds: Dataset) -> None:
    ds.PixelData = bytes(len(ds.PixelData))


@pytest.mark.parametrize(
    ("defect", "rule"),
    [
        (says_fine, "answer"),
        (blank, "page"),
        (lambda ds: setattr(ds, "ImageComments", ds.ImageComments.replace("[NO_USABLE_IMAGE]", "")), "answer"),
        (lambda ds: setattr(ds, "AccessionNumber", "OTHER"), "study"),
        (lambda ds: setattr(ds, "PatientID", "P-0002"), "patient"),
        (lambda ds: setattr(ds, "StudyInstanceUID", "1.2.3"), "study"),
        (lambda ds: setattr(ds.SeriesDescriptionCodeSequence[0], "CodeMeaning", "Normal"), "code"),
        (lambda ds: setattr(ds, "SeriesDescription", "AI report"), "series"),
        (lambda ds: setattr(ds, "SourceImageSequence", []), "references"),
        (lambda ds: delattr(ds, "ReferencedImageSequence"), "file"),
        (about_another, "references"),
    ],
)
def test_the_self_check_finds_each_defect_of_a_page(defect: Callable[[Dataset], None], rule: str) -> None:
    """One defect at a time; the check names its rule and nothing is sent."""
    case = make(modalities=("US",))
    result, (page,) = paged(case)
    report = made(case)[1][0]
    ds = dcmread(BytesIO(page.data))
    defect(ds)
    buffer = BytesIO()
    dcmwrite(buffer, ds)
    with pytest.raises(Defect, match=rule):
        check_not_performed([report, replace(page, data=buffer.getvalue())], result, silent(case), pages=True)


def test_a_study_without_a_document_is_found() -> None:
    """Every study that has to be told is counted."""
    case = make(modalities=("MG", "US"))
    result, rendered = made(case)
    with pytest.raises(Defect, match="count"):
        check_not_performed(rendered[:1], result, silent(case))
    with pytest.raises(Defect, match="count"):
        check_not_performed(rendered, result, silent(case), pages=True)
