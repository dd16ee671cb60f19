"""No sentence claims more than its number and outcome allow: a lexicon over every band, outcome, register and language."""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape

import pytest

from casework.config import Report
from casework.reasons import REASONS
from casework.report import describe, render, texts
from casework.report.describe import said_percent
from casework.report.stored import parse
from casework.report.summary import POLICY, STYLE, About, summarise, to_html, to_text
from casework.result import CaseResult, Finding, Outcome, Side, SideResult
from tests.conformance.studies import NOW, make

BASE = make(modalities=("MG", "MR", "US")).result
ABOUT = About("P-1", ["A-1"], ["20260105"], datetime(2026, 11, 20, 9, 30, tzinfo=UTC))
PROBABILITIES = (
    0.0,
    0.0004,
    0.03,
    0.0499,
    0.05,
    0.12,
    0.1999,
    0.2,
    0.3,
    0.44,
    0.4996,
    0.5,
    0.65,
    0.7996,
    0.8,
    0.95,
    0.9996,
    1.0,
)
THRESHOLDS = ((0.436, 0.15), (0.1, 0.02), (0.9, 0.7))
PAGES = list(itertools.product(texts.LANGUAGES, texts.REGISTERS))

# Sentences that deny something are taken out first: what is left of the words below is a claim.
DENIALS = (
    "this does not exclude metastasis", "not a negative result", "不等于阴性结果", "does not rule anything out", "Not a medical device, not for diagnosis",
    "it is not a diagnosis", "It is not a diagnosis", "the program did not mark this side", "Colour does not mean that something is wrong there",
    "no colour does not mean that all is well", "it is not your own risk", "says nothing about this side, neither good nor bad",
    "不能排除转移", "不能排除", "这不是阴性结果", "不等于阴性结果", "不可用于诊断", "不是诊断", "没有标记这一侧", "不表示该处有问题", "不表示一切都好", "不是您本人的风险",
    "positive at", "negative below", "indeterminate between", "为阳性", "为阴性", "positive speaks for metastasis", "正值支持转移",
    "AI probability of axillary nodal metastasis", "去除一种影像后AI评估的腋窝淋巴结转移概率", "腋窝淋巴结转移概率",
)  # fmt: skip
NEVER = (
    "confirm", "prove", "definite", "certain", "exclude", "rule", "healthy", "normal", "benign", "malignan", "cancer", "tumo", "free of", "clear",
    "nothing wrong", "all is well", "no metastas", "you have", "your risk", "diagnos", "no finding of", "safe", "negative", "recommend", "biopsy", "likely", "probabl", "strong",
    "确诊", "证实", "肯定", "排除", "健康", "正常", "良性", "恶性", "癌", "肿瘤", "无转移", "没有转移", "您患", "诊断", "安全", "阴性", "建议", "活检", "大概", "很可能", "明显",
)  # fmt: skip
ALARM = (
    "metasta",
    "suspicious",
    "danger",
    "urgent",
    "severe",
    "disease",
    "abnormal",
    "threat",
    "转移",
    "可疑",
    "危险",
    "紧急",
    "严重",
    "病变",
    "异常",
    "疾病",
)
Allowed = Callable[[Outcome, float], bool]
GRADED: dict[str, Allowed] = {
    "suspicious|above the model's threshold, |可疑|高于模型阈值|marked this side|标记了这一侧": lambda o, _: o is Outcome.POSITIVE,
    "no finding above|未见超过": lambda o, _: o is Outcome.NEGATIVE,
    "can't decide|could not decide|无法判定|无法对这一侧": lambda o, _: o is Outcome.INDETERMINATE,
    "metasta|转移": lambda o, _: o is Outcome.POSITIVE,
    r": high|：高（|at the upper end|最高一端|>99|more than 99|超过99": lambda _, p: p >= 0.7995,
    r": raised|：偏高|upper part|较高部分": lambda _, p: 0.4995 <= p < 0.8,
    r": middle|：中等|middle part|中间部分": lambda _, p: 0.1995 <= p < 0.5,
    r": low|：低（|lower part|较低部分": lambda _, p: 0.0495 <= p < 0.2,
    r": very low|：很低|lower end|最低一端": lambda _, p: p < 0.05,
    r"<1\b|less than 1\b|不到1(?!\d)": lambda _, p: p < 0.01,
}  # fmt: skip


def too_strong(text: str, outcome: Outcome, probability: float, register: str) -> list[str]:
    """The claims of a text that this outcome and number don't allow."""
    for denial in DENIALS:
        text = text.replace(denial, "")
    wrong = [word for word in NEVER if word in text.lower()]
    wrong += [word for word in ALARM if register == "plain" and word in text.lower()]
    wrong += [
        m[0]
        for said, allowed in GRADED.items()
        for m in [re.search(said, text)]
        if m and not allowed(outcome, probability)
    ]
    return wrong + re.findall(r"(?<![\d.])(?:0|100)(?:\.0+)? ?(?:%|out of)", text)


def outcome_of(probability: float, positive_at: float, negative_below: float) -> Outcome:
    if probability >= positive_at:
        return Outcome.POSITIVE
    return Outcome.NEGATIVE if probability < negative_below else Outcome.INDETERMINATE


def result_of(
    outcome: Outcome, probability: float | None, thresholds: tuple[float, float] = THRESHOLDS[0]
) -> CaseResult:
    """A case whose one side says this."""
    silent = outcome is Outcome.INSUFFICIENT
    side = SideResult(Side.LEFT, outcome, probability, {}, ())
    if not silent and probability is not None:
        side = replace(side, evidence={"MG": 0.3}, modalities=("MG", "MR", "US"), without={"MG": probability})
        side = replace(side, spread=0.0, distance={"MG": 0.4}, cut=(thresholds[0] + 0.001, thresholds[1]))
    limits = dict(zip(("positive_at", "negative_below"), thresholds, strict=True))
    model = replace(BASE.model, training="Trained on synthetic phantoms only.", training_zh="仅用合成体模训练。")
    return replace(BASE, sides=(side,), images=(), findings=(), thresholds=limits, model=model)


def answers() -> Iterator[tuple[Outcome, float, tuple[float, float]]]:
    for probability, thresholds in itertools.product(PROBABILITIES, THRESHOLDS):
        yield outcome_of(probability, *thresholds), probability, thresholds


@pytest.mark.parametrize(("language", "register"), PAGES)
def test_never_stronger_than_the_number(language: str, register: str) -> None:
    """For every outcome x band x threshold the page makes no claim that the lexicon forbids, and never says 0 or 100 %."""
    for outcome, probability, thresholds in answers():
        page = to_text(summarise(result_of(outcome, probability, thresholds), ABOUT, language, register))
        assert too_strong(page, outcome, probability, register) == [], (outcome, probability, thresholds)
        assert texts.outcome(outcome, language, register) in page
        assert said_percent(probability, language, register) in page


@pytest.mark.parametrize(("language", "register"), PAGES)
def test_an_answer_that_is_held_back(language: str, register: str) -> None:
    """A high or low number without a decision is said as undecided: nothing of the outcome it might have been."""
    for probability in (0.01, 0.97):
        page = to_text(summarise(result_of(Outcome.INDETERMINATE, probability), ABOUT, language, register))
        assert too_strong(page, Outcome.INDETERMINATE, probability, register) == []


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_the_report_is_never_stronger_either(language: str) -> None:
    """The SR's and the API's words obey the same lexicon."""
    for outcome, probability, thresholds in answers():
        words = describe(result_of(outcome, probability, thresholds), language)
        assert too_strong(words, outcome, probability, "radiologist") == [], (outcome, probability)


@pytest.mark.parametrize(
    ("text", "outcome", "probability", "register"),
    [
        ("Left axilla: metastasis confirmed.", Outcome.POSITIVE, 0.99, "radiologist"),
        ("Left axilla: suspicious for lymph node metastasis.", Outcome.INDETERMINATE, 0.3, "radiologist"),
        ("Left axilla, band of the AI probability: high (80 % or above).", Outcome.POSITIVE, 0.6, "radiologist"),
        ("Left axilla, band of the AI probability: very low (below 5 %).", Outcome.NEGATIVE, 0.1, "radiologist"),
        ("AI probability 100.0 %.", Outcome.POSITIVE, 1.0, "radiologist"),
        ("No metastases.", Outcome.NEGATIVE, 0.01, "radiologist"),
        ("左侧腋窝：阴性。", Outcome.NEGATIVE, 0.01, "radiologist"),
        ("Your left side looks healthy.", Outcome.NEGATIVE, 0.01, "plain"),
        ("This may be metastatic.", Outcome.POSITIVE, 0.9, "plain"),
        ("左侧有可疑病变。", Outcome.POSITIVE, 0.9, "plain"),
        ("可以排除。", Outcome.NEGATIVE, 0.01, "plain"),
        ("Metastasis is likely.", Outcome.POSITIVE, 0.9, "radiologist"),
    ],
)
def test_the_lexicon_bites(text: str, outcome: Outcome, probability: float, register: str) -> None:
    """Sentences that are too strong for their number, outcome or reader are found."""
    assert too_strong(text, outcome, probability, register)


@pytest.mark.parametrize(("language", "register"), PAGES)
def test_silence_is_never_a_negative(language: str, register: str) -> None:
    """A side that was not analysed, and a case without a result, say so and deny being negative; no number, no band."""
    denial = {
        ("en", "radiologist"): "not a negative result", ("zh", "radiologist"): "阴性结果",
        ("en", "plain"): "neither good nor bad", ("zh", "plain"): "既非好也非坏",
    }[language, register]  # fmt: skip
    silent = result_of(Outcome.INSUFFICIENT, None)
    for page in (summarise(silent, ABOUT, language, register), summarise(None, ABOUT, language, register)):
        answer = "\n".join(page.blocks[0].lines)
        assert denial in answer
        assert "%" not in answer
        assert not any(
            texts.say(f"band.{name}", language, register) in answer for name in ("very_low", "low", "middle")
        )
        assert too_strong(answer, Outcome.INSUFFICIENT, 0.5, register) == []


@pytest.mark.parametrize(("language", "register"), PAGES)
@pytest.mark.parametrize("outcome", list(Outcome))
def test_what_every_page_says(outcome: Outcome, language: str, register: str) -> None:
    """Unverified, research use, what the model was trained on and what to do next stand on every page with a result."""
    probability = None if outcome is Outcome.INSUFFICIENT else 0.3
    page = summarise(result_of(outcome, probability), ABOUT, language, register)
    for shown in (to_text(page), unescape(to_html(page))):
        for key in ("research", "unverified", "summary.next", "heat", "summary.unreviewed"):
            assert texts.say(key, language, register) in shown
        assert {"en": "synthetic phantoms only", "zh": "仅用合成体模训练"}[language] in shown


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_uncertainty_is_said(language: str) -> None:
    """A number close to a threshold and a side without a modality that the model can use are told; others are not."""
    near, far = result_of(Outcome.NEGATIVE, 0.14), result_of(Outcome.INDETERMINATE, 0.3)
    for register in texts.REGISTERS:
        axilla = texts.axilla(Side.LEFT, language, register)
        said = texts.say("uncertain.near", language, register, axilla=axilla, points=3)
        assert said in to_text(summarise(near, ABOUT, language, register))
        assert said not in to_text(summarise(far, ABOUT, language, register))
        fewer = replace(far.sides[0], modalities=("MG",))
        names = texts.say("and", language).join(texts.modality(m, language) for m in ("MR", "US"))
        missing = tuple(Finding("MODALITY_MISSING", m, side) for m, side in (("MR", ""), ("US", "L")))
        page = to_text(summarise(replace(far, sides=(fewer,), findings=missing), ABOUT, language, register))
        assert texts.say("uncertain.fewer", language, register, axilla=axilla, modalities=names) in page
        other = tuple(replace(f, detail="R") for f in missing)
        assert names not in to_text(summarise(replace(far, sides=(fewer,), findings=other), ABOUT, language, register))


@pytest.mark.parametrize(("language", "register"), PAGES)
def test_a_case_that_was_not_performed(language: str, register: str) -> None:
    """The page of a case that was stopped says why and what to do (in plain words: that there is no answer), never more."""
    sides = tuple(SideResult(side, Outcome.INSUFFICIENT, None, {}, ()) for side in Side)
    stopped = replace(BASE, sides=sides, images=(), findings=(), stopped=("NO_USABLE_IMAGE",))
    page = summarise(stopped, replace(ABOUT, reason="-"), language, register)
    answer = "\n".join(page.blocks[0].lines)
    row = REASONS["NO_USABLE_IMAGE"]
    assert (row.zh if language == "zh" else row.en) in answer or register == "plain"
    assert {"en": "not a negative result", "zh": "不是阴性结果"}[language] in answer or register == "plain"
    assert register == "radiologist" or texts.say("summary.none", language, "plain") in answer
    assert too_strong(answer, Outcome.INSUFFICIENT, 0.5, register) == []


@pytest.mark.parametrize(("language", "register"), PAGES)
def test_a_withdrawn_result_is_not_said_again(language: str, register: str) -> None:
    """The page of a withdrawn result says that and why; neither outcome nor number is on it."""
    page = to_text(
        summarise(result_of(Outcome.POSITIVE, 0.83), replace(ABOUT, withdrawn=True, reason="-"), language, register)
    )
    assert texts.say("summary.withdrawn", language, register, reason="-") in page
    assert "83" not in page
    assert texts.outcome(Outcome.POSITIVE, language, register) not in page


def test_an_older_revision_says_that_it_was_replaced() -> None:
    """The page of a superseded case sends the reader to the newer one."""
    page = summarise(result_of(Outcome.NEGATIVE, 0.1), replace(ABOUT, newest=False), "en", "radiologist")
    assert any(line.startswith("REPLACED") for line in page.warnings)


def test_a_page_of_the_stored_result() -> None:
    """The page made from the stored JSON is the page made from the result itself."""
    case = make(modalities=("MG", "US"))
    stored = next(r.data for r in render(case.result, case.sources, Report(), NOW) if r.kind == "result-json").decode()
    for language, register in PAGES:
        assert summarise(parse(stored), ABOUT, language, register) == summarise(case.result, ABOUT, language, register)


@pytest.mark.parametrize(
    "text", ["{}", "[]", "null", "nonsense", '{"schema": "casework-result-2"}', '{"schema": "casework-result-1"}']
)
def test_a_stored_result_of_another_form_is_refused(text: str) -> None:
    """What is not a result of this schema is an error, never an empty page."""
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_markup_stays_text() -> None:
    """Identifiers, findings and the model's own words are escaped; the page has one style sheet, named in its policy."""
    evil = "<script>alert(1)</script>\"'&"
    result = result_of(Outcome.NEGATIVE, 0.1)
    result = replace(
        result,
        case_id=evil,
        findings=(Finding(evil, evil, evil),),
        model=replace(result.model, training=evil, name=evil),
    )
    for language, register in PAGES:
        html = to_html(summarise(result, About(evil, [evil], [evil], ABOUT.made_at, reason=evil), language, register))
        assert "<script" not in html
        assert html.count("<style>") == 1
        assert "&lt;script&gt;" in html
    assert "<" not in STYLE
    assert "default-src 'none'" in POLICY
    assert "sandbox" in POLICY
