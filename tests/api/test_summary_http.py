"""The page on a case in words, as the API gives it."""

import json
from html import unescape

import httpx
import pytest

from casework.report import texts
from casework.report.summary import POLICY
from casework.result import Outcome
from tests.api.conftest import Api
from tests.api.samples import case_of, finish, mammogram, store
from tests.api.test_cases_http import RESULT, finished, valid


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
