"""The status page in a real browser: it shows what the API says, in two languages, by keyboard, and runs nothing else."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Locator, Page, Request, expect

from casework import ledger as ledger_room
from casework.case import CandidateState, CaseState, DeliveryState, JobState, NoticeState, OrderState, Verdict
from casework.config import Webhook
from casework.entrypoints.api import page as page_module
from casework.result import Finding
from tests.api.browser import chromium
from tests.api.conftest import Api, run_server
from tests.api.samples import case_of, finish, mammogram, store
from tests.api.test_cases_http import RESULT
from tests.api.test_notices_http import undelivered

STATIC = Path(page_module.__file__).parent / "static"
EVIL = ("<img src=x onerror=hit()>", '"><script>hit()</script>', "javascript:hit()", "'-hit()-'", "<svg/onload=hit()>")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser, api: Api) -> Iterator[Page]:
    """A fresh tab that notes every script error, dialog and request to elsewhere, and fails the test for them."""
    context = browser.new_context(viewport={"width": 1300, "height": 900}, locale="en-GB")
    tab = context.new_page()
    wrong: list[str] = []

    def on_dialog(dialog: Dialog) -> None:
        wrong.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def on_console(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            wrong.append(message.text)

    def on_request(request: Request) -> None:
        if not request.url.startswith((api.base_url, "blob:")):
            wrong.append(request.url)

    tab.add_init_script("window.hits = 0; window.hit = () => { window.hits += 1; };")
    tab.on("pageerror", lambda error: wrong.append(f"error {error}"))
    tab.on("dialog", on_dialog)
    tab.on("console", on_console)
    tab.on("request", on_request)
    tab.goto(api.base_url + "/")
    yield tab
    assert tab.evaluate("window.hits") == 0
    context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def case_id(api: Api) -> str:
    """A finished case."""
    store(
        api,
        mammogram(AccessionNumber="PAGE-1", PatientID="PAGE-P"),
        mammogram(AccessionNumber="PAGE-1", PatientID="PAGE-P"),
    )
    found = case_of(api, "PAGE-1")
    finish(api, found, json.dumps(RESULT))
    return found


def enter(page: Page, api: Api, role: str = "admin") -> None:
    """Sign in."""
    page.fill("#key", api.keys[role])
    page.keyboard.press("Enter")
    page.wait_for_selector("#tabs a")


def test_sign_in(page: Page, api: Api) -> None:
    """A wrong key is refused in words; a right one opens the page, lives in the tab only, and can be given back."""
    page.fill("#key", "cw_wrong")
    page.keyboard.press("Enter")
    expect(page.locator(".wrong")).to_have_text("This key is not known.")
    enter(page, api)
    assert page.evaluate("sessionStorage.length") == 1
    assert api.keys["admin"] not in page.evaluate("JSON.stringify({...localStorage})")
    assert api.keys["admin"] not in page.url
    page.reload()
    page.wait_for_selector("#tabs a")
    page.click("#leave")
    expect(page.locator("#key")).to_be_focused()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_case_with_its_result(page: Page, api: Api, case_id: str) -> None:
    """Both sides are shown with outcome, probability and the warning on each; previews load; the timeline is in words."""
    enter(page, api)
    page.click(f'.row[data-id="{case_id}"]')
    sides = page.locator(".side")
    expect(sides).to_have_count(2)
    expect(sides.nth(0)).to_contain_text("Right axilla")
    expect(sides.nth(0)).to_contain_text("Suspicious, above the threshold")
    expect(sides.nth(0)).to_contain_text("83.0 %")
    expect(sides.nth(0)).to_contain_text("high (80 % or above)")
    expect(sides.nth(1)).to_contain_text("Not analysed; not a negative result")
    for n in range(2):
        expect(sides.nth(n)).to_contain_text("AI research output, unverified. Not for diagnosis.")
    pictures = page.locator(".hanging img:not(.underlay)")
    expect(pictures).to_have_count(2)
    for n in range(2):
        expect(pictures.nth(n)).to_have_js_property("naturalWidth", 200)
    expect(page.locator(".timeline").first).to_contain_text("Case opened")
    expect(page.locator("#notice")).to_have_text("AI research, unverified, not for diagnosis")
    page.locator(".picture").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    expect(page.locator("#viewer")).to_contain_text("unverified")
    shown = page.locator("#viewer").get_attribute("aria-label")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#viewer")).not_to_have_attribute("aria-label", str(shown))
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#viewer")).to_have_attribute("aria-label", str(shown))
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator(".picture").first).to_be_focused()


@pytest.mark.parametrize(("language", "words"), [("en", ("Heat-map", "Opacity")), ("zh", ("显示热力图", "不透明度"))])
def test_heat_fades_and_goes(page: Page, api: Api, case_id: str, language: str, words: tuple[str, str]) -> None:
    """By keyboard alone, in both languages, the heat gets fainter and goes, in the list and enlarged, and the grey picture stays."""
    heat, opacity = words
    enter(page, api)
    page.goto(f"{api.base_url}/#/cases/{case_id}")
    page.click(f"[data-language={language}]")
    picture = page.locator(".hanging .layers").first
    expect(picture.locator("img")).to_have_count(2)
    seen = [colour(picture)]
    dial, box = page.locator(".panel").get_by_label(opacity), page.locator(".panel").get_by_label(heat, exact=True)
    dial.focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    expect(dial).to_have_attribute("aria-valuetext", "50 %")
    seen.append(colour(picture))
    box.focus()
    page.keyboard.press("Space")
    expect(dial).to_be_disabled()
    seen.append(colour(picture))
    assert [share > least for share, least in zip(seen, (60, 20, 3), strict=True)] == [True, True, False]
    assert seen[1] < 0.7 * seen[0]
    page.locator(".picture").first.click()
    large = page.locator("#viewer .layers")
    assert colour(large) <= 3
    page.locator("#viewer").get_by_label(heat, exact=True).press("Space")
    assert colour(large) > 20
    shown = page.locator("#viewer").get_attribute("aria-label")
    page.locator("#viewer").get_by_label(opacity).press("ArrowRight")  # moves the dial, not to the next picture
    expect(page.locator("#viewer")).to_have_attribute("aria-label", str(shown))
    page.keyboard.press("Escape")
    assert dial.input_value() == "55"


def colour(picture: Locator) -> int:
    """The most that red exceeds blue anywhere in a picture, once loaded, as the browser draws it."""
    for n in range(2):
        expect(picture.locator("img").nth(n)).to_have_js_property("naturalWidth", 200)
    with Image.open(io.BytesIO(picture.screenshot())) as shown:
        pixels = np.asarray(shown.convert("RGB"), int)
    return int((pixels[..., 0] - pixels[..., 2]).max())


def test_hung_as_it_is_read(page: Page, api: Api, case_id: str) -> None:
    """The right breast's heat-map stands at the left of the left breast's, both on one line; a side without says so."""
    enter(page, api)
    page.goto(f"{api.base_url}/#/cases/{case_id}")
    right, left = (page.locator(f".hanging .picture[aria-label='Enlarge: {side} CC']").bounding_box() for side in "RL")
    assert right is not None
    assert left is not None
    assert right["x"] + right["width"] <= left["x"]
    assert right["y"] == left["y"]


def test_words_for_two_readers(page: Page, api: Api, case_id: str) -> None:
    """The case in words is there for the radiologist and in plain words, in both languages, and can be saved as a page."""
    enter(page, api)
    page.goto(f"{api.base_url}/#/cases/{case_id}")
    words = page.locator(".summary")
    expect(words).to_contain_text("UNVERIFIED AI RESEARCH OUTPUT")
    expect(words).to_contain_text("NOT ANALYSED")
    words.get_by_role("button", name="Plain words").click()
    expect(words).to_contain_text("neither good nor bad")
    expect(words).not_to_contain_text("metastasis")
    page.click("[data-language=zh]")
    expect(words).to_contain_text("既非好也非坏")
    with page.expect_download() as waiting:
        words.get_by_role("button", name="保存为网页").click()
    assert waiting.value.suggested_filename == f"casework-{case_id}.html"
    assert "既非好也非坏" in Path(waiting.value.path()).read_text("utf-8")
    words.get_by_role("button", name="放射科医师").click()
    expect(words).to_contain_text("高于模型阈值")


def test_nobody_is_shut_out(page: Page, api: Api, case_id: str) -> None:
    """No section breaks WCAG 2.1 A or AA as axe sees it (contrast, names, roles, order), with everything unfolded."""
    breaks = {"sign in": broken(page)}
    enter(page, api)
    sections = {
        "cases": ".row",
        f"cases/{case_id}": ".summary .sentences",
        "receipts": "table",
        "associations": "table",
    }
    for address, sign in sections.items():
        page.goto(f"{api.base_url}/#/{address}")
        page.locator(f"main {sign}").first.wait_for()
        for summary in page.locator("summary").all():
            summary.click()
        breaks[address] = broken(page)
    page.goto(f"{api.base_url}/#/cases/{case_id}")
    page.locator(".picture").first.click()
    breaks["viewer"] = broken(page)
    assert not {name: found for name, found in breaks.items() if found}


def broken(page: Page) -> list[str]:
    """What axe finds, by rule and element."""
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
    return [f"{rule['id']}: {node['target']}" for rule in found.response["violations"] for node in rule["nodes"]]


def test_downloads_have_our_names(page: Page, api: Api, case_id: str) -> None:
    """A file is saved under our own identifier with the bytes that the API serves."""
    enter(page, api)
    page.goto(f"{api.base_url}/#/cases/{case_id}")
    page.click("summary:has-text('Files')")
    with page.expect_download() as waiting:
        page.locator("button:has-text('Download')").first.click()
    assert re.fullmatch(r"casework-\d+\.dcm", waiting.value.suggested_filename)
    assert Path(waiting.value.path()).read_bytes()[128:132] == b"DICM"


def test_two_languages(page: Page, api: Api, case_id: str) -> None:
    """Chinese is one press away, for the page's words and the service's reasons, and is remembered."""
    enter(page, api)
    page.goto(f"{api.base_url}/#/cases/{case_id}")
    page.click("[data-language=zh]")
    expect(page.locator(".side").first).to_contain_text("可疑，高于阈值")
    expect(page.locator(".side").first).to_contain_text("未经核实")
    expect(page.locator(".reason").first).to_contain_text("结果正在发送")
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    page.reload()
    expect(page.locator("#tabs a").first).to_have_text("病例")


def test_every_word_exists_in_both_languages() -> None:
    """The two tables have the same keys, and every state, verdict and outcome has its words."""
    text = (STATIC / "texts.js").read_text("utf-8")
    english, chinese = text.split("\n  zh: {")
    keys = [set(re.findall(r'(?:^|[{,])\s*"?([\w.\-]+)"?: "', part, re.MULTILINE)) for part in (english, chinese)]
    assert keys[0] == keys[1]
    needed = {state.value for state in CaseState} | {f"d_{state}" for state in DeliveryState}
    needed |= {f"j_{state}" for state in JobState} | {f"verdict_{verdict}" for verdict in Verdict}
    needed |= {f"n_{state}" for state in NoticeState} | {f"f_{state}" for state in (*OrderState, *CandidateState)}
    of_no_case = ("commitment.", "engine.", "association.", "model.", "audit.")
    ledger = "".join(path.read_text("utf-8") for path in Path(ledger_room.__file__).parent.glob("*.py"))
    events = set(re.findall(r'\.audit\(\s*"([a-z]+\.[a-z_]+)"', ledger))
    assert len(events) > 20
    needed |= {f"e_{event}" for event in events if not event.startswith(of_no_case)}
    assert needed | {"positive", "negative", "indeterminate", "insufficient"} <= keys[0]


def test_why(page: Page, api: Api, case_id: str) -> None:
    """The question box answers by accession number, says so when nothing is known, and keeps the term out of the address."""
    enter(page, api)
    page.keyboard.press("/")
    expect(page.locator("#term")).to_be_focused()
    page.fill("#term", "PAGE-1")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_contain_text("The results are being sent.")
    assert "PAGE-1" not in page.url
    page.fill("#term", "NEVER-SENT")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_contain_text("Nothing is known of this.")
    page.click("text=Ask the PACS")
    expect(page.locator("main")).to_contain_text("Nothing is known of this.")
    page.fill("#term", "PAGE-1")
    page.keyboard.press("Enter")
    expect(page.locator("main .timeline")).to_contain_text("Images were taken.")
    expect(page.locator("main")).to_contain_text("Stands at: sending")
    assert not broken(page)
    page.click("text=Open the case")
    expect(page).to_have_url(f"{api.base_url}/#/cases/{case_id}")


def test_by_keyboard(page: Page, api: Api, case_id: str) -> None:
    """The list is walked with the arrow keys and a case is opened with Enter, without a mouse."""
    store(api, mammogram(AccessionNumber="PAGE-2", PatientID="PAGE-Q"))
    enter(page, api)
    page.locator(".row").first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".row").nth(1)).to_be_focused()
    who = page.locator(".row:focus .who").inner_text()
    page.keyboard.press("Enter")
    expect(page.locator("main h2").nth(1)).to_have_text(who)
    page.wait_for_timeout(3500)
    expect(page.locator(".row").nth(1)).to_be_focused()


def test_actions_follow_the_role(page: Page, api: Api, case_id: str) -> None:
    """An operator starts a waiting case from the page; a viewer sees no buttons and no association log."""
    store(api, mammogram(AccessionNumber="PAGE-3", PatientID="PAGE-R"))
    waiting = case_of(api, "PAGE-3")
    enter(page, api, "viewer")
    page.goto(f"{api.base_url}/#/cases/{waiting}")
    expect(page.locator("main h2").nth(1)).to_have_text("PAGE-R")
    expect(page.locator(".actions")).to_have_count(0)
    expect(page.locator("#tabs a")).to_have_count(3)
    page.click("#leave")
    enter(page, api, "operator")
    page.goto(f"{api.base_url}/#/cases/{waiting}")
    page.click("text=Start now")
    expect(page.locator("#toast")).to_have_text("Done.")
    assert api.ledger.read.case(waiting).requested_at is not None


def test_events_that_no_webhook_took(browser: Browser, own_api: Api) -> None:
    """Given-up events stand on the page with their reason, in both languages, until an operator sends them again."""
    case_id = undelivered(own_api)
    hooks = (Webhook("ris", "https://ris.example/hook", "key"),)
    door = replace(own_api.door, settings=replace(own_api.door.settings, webhook=hooks))
    with run_server(door) as port:
        api = Api(door, f"http://127.0.0.1:{port}", own_api.keys)
        tab = browser.new_context().new_page()
        tab.goto(api.base_url + "/")
        enter(tab, api, "operator")
        tab.click("#tabs a[data-key=deliveries]")
        line = tab.locator("[data-webhook=ris]")
        expect(line).to_contain_text("ris 1 events were given up")
        expect(line).to_contain_text("WEBHOOK_GONE")
        tab.click("[data-language=zh]")
        expect(line).to_contain_text("1个事件已放弃发送")
        line.get_by_role("button").click()
        expect(line).to_have_count(0)
        tab.goto(f"{api.base_url}/#/cases/{case_id}")
        expect(tab.locator(".timeline").first).to_contain_text("Webhook ris：重新发送")
        tab.context.close()


def test_it_keeps_up(page: Page, api: Api) -> None:
    """What arrives while the page is open appears without a reload, and a change of state is shown."""
    enter(page, api)
    store(api, mammogram(AccessionNumber="PAGE-4", PatientID="PAGE-S"))
    expect(page.locator(".row", has_text="PAGE-4")).to_be_visible(timeout=8000)
    found = case_of(api, "PAGE-4")
    api.ledger.move_case(found, CaseState.RECEIVING, CaseState.REJECTED, "NO_USABLE_IMAGE", "test", datetime.now(UTC))
    expect(page.locator(".row", has_text="PAGE-4")).to_contain_text("Not performed", timeout=8000)


def test_a_long_timeline_is_short(page: Page, api: Api, case_id: str) -> None:
    """Steps of one kind that follow each other are one line with their sum; all of them are one press away."""
    for _ in range(5):
        store(api, mammogram(AccessionNumber="PAGE-9", PatientID="PAGE-T", StudyInstanceUID="1.2.9"))
    enter(page, api)
    page.goto(f"{api.base_url}/#/cases/{case_of(api, 'PAGE-9')}")
    lines = page.locator(".timeline").first.locator("li")
    expect(lines.filter(has_text="Images accepted: 5")).to_have_count(1)
    page.click("summary:has-text('steps')")
    expect(page.locator("details .timeline li", has_text="Images accepted: 1")).to_have_count(5)


@pytest.mark.parametrize("width", [390, 800, 1300])
def test_no_sideways_scroll(width: int, page: Page, api: Api, case_id: str) -> None:
    """From a telephone to a desk, no section is wider than the window."""
    page.set_viewport_size({"width": width, "height": 900})
    enter(page, api)
    sections = {"cases": ".row", f"cases/{case_id}": ".timeline", "receipts": "table", "deliveries": "table"}
    for address, sign in sections.items():
        page.goto(f"{api.base_url}/#/{address}")
        page.locator(f"main {sign}").first.wait_for()
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), address


def test_hostile_values_are_only_text(page: Page, api: Api) -> None:
    """Markup and scripts in identifiers, names, AE titles, labels, findings and results are shown as text; none runs."""
    now = datetime.now(UTC)
    for n, evil in enumerate(EVIL):
        short = evil[:16]
        names = {"PatientID": evil, "PatientName": evil, "AccessionNumber": short, "StudyInstanceUID": f"1.2.66.{n}"}
        store(api, mammogram(SpecificCharacterSet="ISO_IR 192", IssuerOfPatientID=evil, StudyDescription=evil, **names))
        api.ledger.open_association(f"evil-{n}", evil, evil, evil, now)
        api.ledger.close_association(f"evil-{n}", evil, "TRUNCATED", {evil: 1}, now)
        found = api.ledger.read.list_cases(q=evil).items[0].case.id
        api.ledger.add_findings(found, [Finding("PIXELS_UNDECODABLE", evil, evil)], "test", now)
        result = json.loads(json.dumps(RESULT))
        result["model"]["name"] = result["words"]["en"] = result["sides"][0]["modalities"][0] = evil
        result["sides"][0]["evidence"] = {evil: 1.0}
        finish(api, found, json.dumps(result), (evil, evil))
    enter(page, api)
    for evil in EVIL:
        page.goto(f"{api.base_url}/#/cases/{api.ledger.read.list_cases(q=evil).items[0].case.id}")
        page.wait_for_selector(".hanging img[src]")
        expect(page.locator("main h2").nth(1)).to_have_text(evil)
        for summary in page.locator("summary").all():
            summary.click()
        page.fill("#term", evil)
        page.keyboard.press("Enter")
        expect(page.locator("main h2").last).to_contain_text(evil)
    for section in ("receipts", "deliveries", "associations"):
        page.goto(f"{api.base_url}/#/{section}")
        page.wait_for_selector("main table")
    assert page.locator("main script, main svg, main img[src=x], main iframe").count() == 0


def test_the_source_never_parses_html() -> None:
    """No script of the page turns text into markup or code, and no file names another host."""
    files = sorted(STATIC.iterdir())
    assert {file.suffix for file in files} == {".html", ".css", ".js", ".svg"}
    for file in files:
        text = file.read_text("utf-8")
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "srcdoc",
            "DOMParser",
        ):
            assert word not in text, f"{file.name}: {word}"
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), file.name
        assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=", text), file.name
