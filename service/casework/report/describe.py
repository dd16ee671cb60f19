"""The report in words, in paragraphs that the SR, the API and the demo share. Does no I/O."""

from collections.abc import Mapping
from dataclasses import replace

from casework.reasons import REASONS, reason
from casework.report import texts
from casework.result import CaseResult, Finding, HeatImage, ModelIdentity, Outcome, Side, SideResult

LIMIT = 0.01  # a share below it, or above 1 minus it, is said as "<1" or ">99": no model knows more
NEAR_POINTS = 3  # percentage points from a threshold within which a result says that it is close
BANDS = ((0.05, "very_low"), (0.2, "low"), (0.5, "middle"), (0.8, "raised"), (1.0, "high"))
"""Names of the probability, by their upper ends; the last one includes its end."""
_NO_ACTION = ("Nothing to do.", "Read the result with this limit in mind.")  # of a note: there is no result to read


def percent(probability: float) -> str:
    """A probability as the SR's number in percent: one decimal, never 0 and never 100."""
    return f"{min(max(100 * probability, 0.1), 99.9):.1f}"


def said_percent(probability: float, language: str, register: str = "radiologist") -> str:
    """A probability as a percentage in words; plain words know no decimals."""
    if probability < LIMIT:
        return texts.say("number.below", language, register, limit=f"{100 * LIMIT:.0f}")
    if probability > 1 - LIMIT:
        return texts.say("number.above", language, register, limit=f"{100 - 100 * LIMIT:.0f}")
    return f"{100 * probability:.0f}" if register == "plain" else f"{100 * probability:.1f}"


def band(probability: float) -> str:
    """The name of the band that a probability lies in, as it is shown: with one decimal of a percent."""
    return next((name for end, name in BANDS if round(probability, 3) < end), BANDS[-1][1])


def describe(result: CaseResult, language: str) -> str:
    """The whole report as lines of text.

    Raises:
        ValueError: the language is not one of texts.LANGUAGES.
    """
    if language not in texts.LANGUAGES:
        raise ValueError(f"language: one of {', '.join(texts.LANGUAGES)}")
    if result.stopped:
        sections = stopped_sections(result, language).values()
        return "\n".join([texts.say("title", language), *(line for lines in sections for line in ("", *lines))])
    lines = [texts.say("title", language), texts.say("research", language), ""]
    lines += [line for side in result.sides for line in side_lines(result, side, language)]
    return "\n".join([*lines, "", *limit_lines(result, language), "", *method_lines(result, language)])


def stopped_sections(result: CaseResult, language: str) -> Mapping[str, list[str]]:
    """What is said where nothing was analysed: what it means, why, what to do, who and when."""
    because = [reason(code) for code in result.stopped]
    zh = language == "zh"
    ran = any(s.outcome is not Outcome.INSUFFICIENT for s in result.sides)
    rest = [f for f in result.findings if f.code not in result.stopped]
    rows = dict.fromkeys([*because, *(reason(f.code) for f in rest)])
    causes = [texts.say("stopped.because", language, words=r.zh if zh else r.en, code=r.code) for r in because]
    return {
        "impression": [texts.say("stopped.elsewhere" if ran else "stopped", language), texts.say("research", language)],
        "finding": [*causes, *(limit_lines(replace(result, findings=tuple(rest)), language) if rest else [])],
        "recommendation": list(
            dict.fromkeys(r.next_zh if zh else r.next_en for r in rows if r.next_en not in _NO_ACTION)
        ),
        "comment": origin_lines(result, language),
    }


def side_line(side: SideResult, language: str, register: str = "radiologist") -> str:
    """One side's answer; a side without a probability says that it was not analysed."""
    outcome = side.outcome if side.probability is not None else Outcome.INSUFFICIENT
    words = {
        "axilla": texts.axilla(side.side, language, register),
        "outcome": texts.outcome(outcome, language, register),
    }
    if outcome is Outcome.INSUFFICIENT or side.probability is None:
        return texts.say("side.silent", language, register, **words)
    return texts.say(
        "side", language, register, probability=said_percent(side.probability, language, register), **words
    )


def certainty_lines(result: CaseResult, side: SideResult, language: str, register: str = "radiologist") -> list[str]:
    """How high a side's number is and what makes it uncertain; nothing for a side that was not analysed."""
    if side.outcome is Outcome.INSUFFICIENT or side.probability is None:
        return []
    axilla = texts.axilla(side.side, language, register)
    named = texts.say(f"band.{band(side.probability)}", language, register)
    lines = [texts.say("band", language, register, axilla=axilla, band=named)]
    borders = side.cut or [result.thresholds[n] for n in ("positive_at", "negative_below") if n in result.thresholds]
    if any(abs(side.probability - at) * 100 < NEAR_POINTS for at in borders):
        lines.append(texts.say("uncertain.near", language, register, axilla=axilla, points=NEAR_POINTS))
    without = [m for m in ("MG", "MR", "US") if m not in side.modalities and _missed(result, side, m)]
    if without:
        names = texts.say("and", language).join(texts.modality(m, language) for m in without)
        lines.append(texts.say("uncertain.fewer", language, register, axilla=axilla, modalities=names))
    return lines


def _missed(result: CaseResult, side: SideResult, modality: str) -> bool:
    """Whether the analysis noted that the model could have used this modality on this side."""
    return any(
        f.code == "MODALITY_MISSING" and f.subject == modality and f.detail in ("", side.side.value)
        for f in result.findings
    )


def side_lines(result: CaseResult, side: SideResult, language: str, register: str = "radiologist") -> list[str]:
    """One side's answer, how sure it is, its images and what each modality said."""
    axilla = texts.axilla(side.side, language, register)
    images = "; ".join(
        f"{texts.modality(m, language)} {', '.join(dict.fromkeys(_mark(i) for i in own))}"
        for m in dict.fromkeys(i.modality for i in result.images)
        if (own := [i for i in result.images if i.side is side.side and i.modality == m])
    )
    lines = [side_line(side, language, register), *certainty_lines(result, side, language, register)]
    lines.append(texts.say("used" if images else "used.none", language, register, axilla=axilla, images=images))
    if register != "plain":
        lines += doubt_lines(result, side, language)
    if side.evidence and side.outcome is not Outcome.INSUFFICIENT and register != "plain":
        shares = ", ".join(f"{texts.modality(m, language)} {v:+.2f}" for m, v in side.evidence.items())
        lines.append(texts.say("evidence", language, axilla=axilla, shares=shares))
    return lines


def _mark(image: HeatImage) -> str:
    """A view after its modality's name: the number alone for ultrasound."""
    return image.view if image.modality == "US" else texts.view_mark(image.modality, image.view)


def doubt_lines(result: CaseResult, side: SideResult, language: str) -> list[str]:
    """What each modality contributes, how far the answer hangs on one, and how far the images are from the training's."""
    if side.outcome is Outcome.INSUFFICIENT:
        return []
    axilla, lines = texts.axilla(side.side, language), []
    if side.cut is not None and side.cut != tuple(result.thresholds.get(k) for k in ("positive_at", "negative_below")):
        positive, negative = (percent(v) for v in side.cut)
        lines.append(texts.say("cut", language, axilla=axilla, positive=positive, negative=negative))
    if side.without and side.spread is not None:
        values = _listed({m: f"{said_percent(v, language)} %" for m, v in side.without.items()}, language)
        points = f"{100 * side.spread:.0f}"
        lines.append(texts.say("without", language, axilla=axilla, values=values, points=points))
    if side.distance:
        values = _listed({m: f"{v:.2f}" for m, v in side.distance.items()}, language)
        lines.append(texts.say("distance", language, axilla=axilla, values=values))
    elif side.cut is not None:
        lines.append(texts.say("distance.unknown", language, axilla=axilla))
    return lines


def _listed(values: Mapping[str, str], language: str) -> str:
    return ", ".join(f"{texts.modality(m, language)} {v}" for m, v in values.items())


def check_lines(result: CaseResult, language: str) -> list[str]:
    """How many input checks passed, found something or could not be made, and which."""
    if not result.checks:
        return []
    found = [c.code for c in result.checks if c.severity in ("warn", "stop")]
    unknown = [c.code for c in result.checks if c.severity == "not_available"]
    return [
        texts.say(
            "checks",
            language,
            passed=len(result.checks) - len(found) - len(unknown),
            found=", ".join(found) or "-",
            unknown=", ".join(unknown) or "-",
        )
    ]


def limit_lines(result: CaseResult, language: str, register: str = "radiologist") -> list[str]:
    """What was missing or left out, one line a reason, with what it is about; plain words only say that there are notes."""
    grouped: dict[str, list[Finding]] = {}
    for finding in result.findings:
        grouped.setdefault(finding.code, []).append(finding)
    if not grouped:
        return [texts.say("limit.none", language, register)]
    if register == "plain":
        return [texts.say("limit.some", language, register, count=len(grouped))]
    names = _subjects(result, language)
    return [_limit(code, found, names, language) for code, found in grouped.items()]


def _limit(code: str, found: list[Finding], names: Mapping[str, str], language: str) -> str:
    reason = REASONS.get(code)
    words = code if reason is None else reason.zh if language == "zh" else reason.en
    about = list(dict.fromkeys(_about(f, names) for f in found if f.subject))
    shown = ", ".join(about[:8]) + (f", +{len(about) - 8}" if len(about) > 8 else "")
    return texts.say("limit", language, words=words, code=code, subjects=f": {shown}" if shown else "")


def _about(finding: Finding, names: Mapping[str, str]) -> str:
    """What a finding is about; a UID that no used image has is shortened to its end."""
    if finding.subject in names:
        return names[finding.subject]
    return f"...{finding.subject[-12:]}" if len(finding.subject) > 24 else finding.subject


def _subjects(result: CaseResult, language: str) -> dict[str, str]:
    """Readable names of what findings may be about: used images, sides, modalities."""
    names = {m: texts.modality(m, language) for m in ("MG", "MR", "US")}
    names |= {side.value: texts.say(f"side.{side.value}", language) for side in Side}
    for image in result.images:
        label = f"{image.modality} {image.side.value} {texts.view_mark(image.modality, image.view)}"
        names |= dict.fromkeys(image.sources, label)
    return names


def training_line(model: ModelIdentity, language: str, register: str = "radiologist") -> str:
    """What the model was trained on, in its package's own words; English stays ASCII, to fit every character set."""
    stated = model.training_zh if language == "zh" else model.training
    words = " ".join(stated.split())
    if not words or (language == "en" and not words.isascii()):
        return texts.say("training.unknown", language, register)
    return texts.say("training.stated", language, register, statement=words)


def method_lines(result: CaseResult, language: str) -> list[str]:
    """How the answer was made: training, heat-maps, thresholds, model, engine, run."""
    model = result.model
    lines = [training_line(model, language), texts.say("heat", language)]
    if result.thresholds:
        parts = [_threshold(name, value, language) for name, value in result.thresholds.items()]
        lines.append(texts.say("thresholds", language, thresholds="; ".join(parts)))
    return [*lines, *check_lines(result, language), *origin_lines(result, language)]


def origin_lines(result: CaseResult, language: str) -> list[str]:
    """Who says it: model, engine, run, case."""
    model = result.model
    return [
        texts.say(
            "model",
            language,
            name=model.name,
            version=model.version,
            sha=model.sha256[:12],
            engine=model.engine,
            digest=result.input_digest[:12],
        ),
        texts.say("revision", language, case=result.case_id, revision=result.revision),
    ]


def _threshold(name: str, value: float, language: str) -> str:
    key = f"threshold.{name}"
    if key in texts.sentences():
        return texts.say(key, language, value=percent(value))
    return texts.say("threshold", language, name=name, value=f"{value:g}")
