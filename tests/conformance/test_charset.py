"""Names survive: byte for byte where the source's character set is kept, decoded the same where it can't be."""

from dataclasses import replace
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from casework.config import Report
from casework.errors import Defect
from casework.report import check, render
from casework.report.charset import Charset, choose
from tests.conformance.studies import NAMES, NOW, Case, make

KEPT = ("utf8", "gb18030", "gbk", "ir87", "latin1", "none", "mislabelled", "unlabelled gbk", "unlabelled escapes")


def rendered(case: Case, language: str) -> list[bytes]:
    objects = render(case.result, case.sources, Report(language=language), NOW)
    check(objects, case.result, case.sources)
    return [r.data for r in objects if r.media_type == "application/dicom"]


def raw(data: bytes, tag: int) -> bytes:
    element = dcmread(BytesIO(data), stop_before_pixels=True).get_item(tag)
    assert element is not None
    return bytes(element.value).rstrip(b" ")


@pytest.mark.parametrize("touched", [False, True], ids=["raw", "decoded"])
@pytest.mark.filterwarnings("ignore:Found unknown escape sequence")  # pydicom says so of the unlabelled ones
@pytest.mark.parametrize("charset", KEPT)
def test_names_survive_byte_for_byte(charset: str, touched: bool) -> None:
    """Patient name and study description are the source's bytes, even when mislabelled, even when someone read them."""
    case = make(charset, modalities=("MG",), sides=("R",))
    if touched and charset != "unlabelled escapes":  # what a reader makes of those can't be turned back
        for source in case.sources.values():
            assert str(source.PatientName)
            assert str(source.StudyDescription)
    rendered(case, "en")  # neither rendering nor checking may change what the next rendering carries
    for data in rendered(case, "en"):
        assert raw(data, 0x00100010) == NAMES[charset].name.rstrip(b" ")
        assert raw(data, 0x00081030) == NAMES[charset].description.rstrip(b" ")


@pytest.mark.parametrize("touched", [False, True], ids=["raw", "decoded"])
def test_iso_2022_ir_58_becomes_utf8(touched: bool) -> None:
    """Text with code extensions that common readers garble is rewritten in UTF-8 without its escape sequences."""
    case = make("ir58", modalities=("MG",), sides=("R",))
    if touched:
        for source in case.sources.values():
            assert str(source.PatientName)
            assert str(source.StudyDescription)
    for data in [*rendered(case, "en"), *rendered(case, "zh")]:
        ds = dcmread(BytesIO(data), stop_before_pixels=True)
        assert ds.SpecificCharacterSet == "ISO_IR 192"
        assert str(ds.PatientName) == "Zhang^XiaoDong=张^小东"
        assert ds.StudyDescription == "乳腺"


@pytest.mark.parametrize(
    ("charset", "language", "terms"),
    [
        ("utf8", "zh", "ISO_IR 192"),
        ("gb18030", "zh", "GB18030"),
        ("gbk", "zh", "GBK"),
        ("none", "zh", "ISO_IR 192"),  # pure ASCII: UTF-8 changes no byte
        ("ir87", "en", "ISO 2022 IR 87"),
        ("ir87", "zh", "ISO_IR 192"),
        ("mislabelled", "zh", "ISO_IR 100"),  # the label can't be trusted: kept, and the words stay English
    ],
)
def test_own_words_choose_the_set(charset: str, language: str, terms: str) -> None:
    """The source's set is kept unless our words need UTF-8 and the source's label can be trusted."""
    case = make(charset, modalities=("MG",), sides=("R",))
    ds = dcmread(BytesIO(rendered(case, language)[0]))
    declared = ds.get("SpecificCharacterSet", "")
    assert (declared if isinstance(declared, str) else declared[-1]) == terms
    chinese = language == "zh" and charset != "mislabelled"
    assert ds.ContentSequence[0].ConceptCodeSequence[0].CodeValue == ("zh-CN" if chinese else "en-US")


def test_japanese_name_in_utf8_when_chinese_words_need_it() -> None:
    """A Japanese name reads the same after it had to be rewritten."""
    case = make("ir87", modalities=("MG",), sides=("R",))
    ds = dcmread(BytesIO(rendered(case, "zh")[0]))
    assert str(ds.PatientName) == str(dcmread(BytesIO(next(iter(case.files.values())))).PatientName)
    assert "山田" in str(ds.PatientName)


def test_unencodable_text_is_an_error() -> None:
    """A character that a set does not have raises; it never becomes a question mark."""
    for terms in ((), ("ISO_IR 100",), ("", "ISO 2022 IR 87")):
        with pytest.raises(ValueError, match=r"fit|codec"):
            Charset(terms, terms).encode("腋窝")


def test_a_model_name_that_does_not_fit_stops_the_report() -> None:
    """A name of our own that the source's set can't say is an error of the whole rendering, never written as '?'."""
    case = make("mislabelled", modalities=("MG",), sides=("R",))
    result = replace(case.result, model=replace(case.result.model, name="模型"))
    with pytest.raises(Defect, match="RESULT_SELF_CHECK"):
        render(result, case.sources, Report(), NOW)


def test_an_institution_that_does_not_fit_is_left_out() -> None:
    """A Chinese institution name with a source that can't say it is left out; nothing is replaced in it."""
    case = make("mislabelled", modalities=("MG",), sides=("R",))
    settings = Report(institution="测试医院", manufacturer="制造商")
    for item in render(case.result, case.sources, settings, NOW):
        if item.media_type == "application/dicom":
            ds = dcmread(BytesIO(item.data))
            assert "InstitutionName" not in ds
            assert ds.Manufacturer == "casework"


def test_the_default_repertoire_is_not_relabelled_when_bytes_are_unknown() -> None:
    """Unlabelled 8-bit text is carried as it is: no set is declared for it."""
    for name, terms in ((b"Doe^Jane", ("ISO_IR 192",)), ("王^小东".encode("gbk"), ())):
        source = Dataset()
        source[0x00100010] = RawDataElement(
            Tag(0x00100010), "PN", len(name), name, 0, is_implicit_VR=False, is_little_endian=True
        )
        assert choose(source, ["腋窝"]).terms == terms
