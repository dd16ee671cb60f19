"""The page on a case in words, as the API gives it."""

import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import httpx
import pytest
import reportlab

from casework.errors import Defect
from casework.report import texts
from casework.report.pdf import check_font, to_pdf
from casework.report.stored import parse
from casework.report.summary import POLICY, About, summarise
from casework.result import Outcome
from tests.api.conftest import Api
from tests.api.samples import case_of, finish, mammogram, store
from tests.api.test_cases_http import RESULT, finished, valid

FONT = Path("/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf")


def page(client: httpx.Client, case_id: str, **parameters: str) -> httpx.Response:
    answer = client.get(f"/v1/cases/{case_id}/summary", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("register", texts.REGISTERS)
@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_every_form_says_the_same(language: str, register: str, own_api: Api) -> None:
    """HTML, JSON and text hold the same sentences in the language and register that were asked for, and no more rights."""
    case_id = finished(own_api)
    with own_api.client("viewer") as client:
        asked = {"language": language, "register": register}
        said = valid(page(client, case_id, format="json", **asked).json(), "Summary")
        html, text = page(client, case_id, **asked), page(client, case_id, format="text", **asked)
    assert (said["language"], said["register"], said["reviewed"]) == (language, register, False)
    lines = [said["mark"], said["title"], said["patient"], *said["warnings"]]
    lines += [line for block in said["blocks"] for line in block["lines"]]
    for line in lines:
        assert line in text.text
        assert line in unescape(html.text)
    assert texts.outcome(Outcome.INSUFFICIENT, language, register) in text.text
    assert html.headers["content-security-policy"] == POLICY
    assert html.headers["content-type"].startswith("text/html")
    assert html.headers["content-language"] == language
    assert "no-store" in html.headers["cache-control"]


def test_the_language_of_the_request(own_api: Api) -> None:
    """Without `language` the page is in the caller's; an unknown one, register or form is refused."""
    case_id = finished(own_api)
    with own_api.client("viewer", **{"Accept-Language": "zh"}) as client:
        assert page(client, case_id).headers["content-language"] == "zh"
        for wrong in ({"language": "fr"}, {"register": "doctor"}, {"format": "pdf2"}):
            assert client.get(f"/v1/cases/{case_id}/summary", params=wrong).status_code == 400


def test_no_result_is_no_negative(own_api: Api) -> None:
    """A case that has no result yet has a page that says so, with the reason, and denies being a negative result."""
    store(own_api, mammogram(AccessionNumber="NONE-1"))
    with own_api.client("viewer") as client:
        text = page(client, case_of(own_api, "NONE-1"), format="text", language="en").text
    assert "NO AI RESULT" in text
    assert "not a negative result" in text


def test_a_result_of_another_form_is_not_shown_as_none(own_api: Api) -> None:
    """A stored result that this version can't read is a failure, not a page that says there is no result."""
    store(own_api, mammogram(AccessionNumber="NEWER-1"))
    case_id = case_of(own_api, "NEWER-1")
    finish(own_api, case_id, json.dumps(RESULT | {"schema": "casework-result-9"}))
    with own_api.client("viewer") as client:
        answer = client.get(f"/v1/cases/{case_id}/summary")
    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")


def test_markup_in_identifiers_stays_text(own_api: Api) -> None:
    """Identifiers with markup are shown as text."""
    evil = "<svg/onload=hit()>"
    store(own_api, mammogram(AccessionNumber=evil[:16], PatientID=evil))
    with own_api.client("viewer") as client:
        html = page(client, case_of(own_api, evil)).text
    assert "<svg" not in html
    assert "&lt;svg" in html


def test_a_withdrawn_result_is_not_said_again(own_api: Api) -> None:
    """After a retraction the page says that and why, and neither outcome nor number."""
    case_id = finished(own_api)
    with own_api.client("admin") as client:
        assert client.post(f"/v1/cases/{case_id}/retract", json={"reason": "RETRACTED_SAFETY"}).status_code == 202
        text = page(client, case_id, format="text", language="en").text
    assert "WITHDRAWN" in text
    assert "patient safety" in text
    assert "83.0" not in text
    assert "suspicious" not in text


def test_pdf_is_off_until_a_font_is_named(own_api: Api) -> None:
    """Without `report.pdf_font` a PDF is refused with its reason."""
    case_id = finished(own_api)
    with own_api.client("viewer") as client:
        answer = client.get(f"/v1/cases/{case_id}/summary", params={"format": "pdf"})
    assert (answer.status_code, answer.json()["code"]) == (406, "PDF_NOT_CONFIGURED")


@pytest.mark.parametrize("register", texts.REGISTERS)
@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_the_pdf_says_what_the_page_says(language: str, register: str, tmp_path: Path) -> None:
    """Every sentence of the page is in the PDF, in embedded fonts, on one sheet of A4."""
    about = About("P-1", ["A-1"], ["20260105"], datetime(2026, 11, 20, tzinfo=UTC))
    made = summarise(parse(json.dumps(RESULT)), about, language, register)
    file = tmp_path / "page.pdf"
    file.write_bytes(to_pdf(made, FONT))
    shown = subprocess.run(["pdftotext", "-layout", file, "-"], capture_output=True, text=True, check=True).stdout
    squeezed = "".join(shown.split())
    for line in [made.mark, made.title, made.patient, *made.warnings, *(x for b in made.blocks for x in b.lines)]:
        assert "".join(line.split()) in squeezed
    fonts = subprocess.run(["pdffonts", file], capture_output=True, text=True, check=True).stdout.splitlines()[2:]
    assert fonts
    assert all(line.split()[-5] == "yes" for line in fonts)
    assert shown.count("\f") == 1


@pytest.mark.parametrize(("remarks", "pages"), [(14, 1), (90, 3)])
def test_a_long_pdf_is_one_page_or_marked_on_each(remarks: int, pages: int, tmp_path: Path) -> None:
    """Fourteen remarks still are one page, in smaller letters; where one can't hold them all, each says what it is."""
    about = About("P-1", ["A-1"], ["20260105"], datetime(2026, 11, 20, tzinfo=UTC))
    made = summarise(parse(json.dumps(RESULT)), about, "en", "radiologist")
    more = replace(
        made.blocks[-1], lines=("A remark that is long enough to fill a line of the page and some more.",) * remarks
    )
    file = tmp_path / "page.pdf"
    file.write_bytes(to_pdf(replace(made, blocks=(*made.blocks, more)), FONT))
    shown = subprocess.run(["pdftotext", "-layout", file, "-"], capture_output=True, text=True, check=True).stdout
    sheets = shown.split("\f")[:-1]
    assert len(sheets) <= pages
    assert all(made.mark in sheet for sheet in sheets)


def test_a_font_that_can_not_serve_is_refused_at_start(tmp_path: Path) -> None:
    """A file that is no font, and a font without Chinese characters, stop the start with CONFIG_INVALID."""
    broken = tmp_path / "no.ttf"
    broken.write_bytes(b"no font")
    for path in (broken, Path(reportlab.__file__).parent / "fonts" / "VeraBd.ttf"):
        with pytest.raises(Defect, match="CONFIG_INVALID"):
            check_font(path)
    check_font(FONT)


def test_markup_stays_text_in_a_pdf() -> None:
    """What looks like ReportLab's markup is shown, not obeyed, and a page with it can be made."""
    evil = "<font size=99>x</font>&<img src='/etc/passwd'/>"
    about = About(evil, [evil], [evil], datetime(2026, 11, 20, tzinfo=UTC), reason=evil)
    assert to_pdf(summarise(None, about, "en", "radiologist"), FONT).startswith(b"%PDF")
