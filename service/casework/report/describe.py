"""The report in words, in paragraphs that the SR, the API and the demo share. Does no I/O."""

from collections.abc import Mapping

from casework.reasons import REASONS
from casework.report import texts
from casework.result import CaseResult, Finding, ModelIdentity, Outcome, Side, SideResult


def percent(probability: float) -> str:
    """A probability as the percentage that every document shows."""
    return f"{100 * probability:.1f}"


def describe(result: CaseResult, language: str) -> str:
    """The whole report as lines of text.

    Raises:
        ValueError: the language is not one of texts.LANGUAGES.
    """
    if language not in texts.LANGUAGES:
        raise ValueError(f"language: one of {', '.join(texts.LANGUAGES)}")
    lines = [texts.say("title", language), texts.say("research", language), ""]
    lines += [line for side in result.sides for line in side_lines(result, side, language)]
    return "\n".join([*lines, "", *limit_lines(result, language), "", *method_lines(result, language)])


def side_line(side: SideResult, language: str) -> str:
    """One side's answer; a side without a probability says that it was not analysed."""
    words = {"axilla": texts.axilla(side.side, language), "outcome": texts.outcome(side.outcome, language)}
    if side.outcome is Outcome.INSUFFICIENT or side.probability is None:
        return texts.say("side.silent", language, **words)
    return texts.say("side", language, probability=percent(side.probability), **words)


def side_lines(result: CaseResult, side: SideResult, language: str) -> list[str]:
    """One side's answer, its images and what each modality said."""
    axilla = texts.axilla(side.side, language)
    images = ", ".join(
        f"{texts.modality(i.modality, language)} {texts.view_mark(i.modality, i.view)}"
        for i in result.images
        if i.side is side.side
    )
    lines = [side_line(side, language)]
    lines.append(texts.say("used" if images else "used.none", language, axilla=axilla, images=images))
    if side.evidence and side.outcome is not Outcome.INSUFFICIENT:
        shares = ", ".join(f"{texts.modality(m, language)} {v:+.2f}" for m, v in side.evidence.items())
        lines.append(texts.say("evidence", language, axilla=axilla, shares=shares))
    return lines


def limit_lines(result: CaseResult, language: str) -> list[str]:
    """What was missing or left out, one line a reason, with what it is about."""
    grouped: dict[str, list[Finding]] = {}
    for finding in result.findings:
        grouped.setdefault(finding.code, []).append(finding)
    if not grouped:
        return [texts.say("limit.none", language)]
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


def training_line(model: ModelIdentity, language: str) -> str:
    """What the model was trained on, in its package's own words; English stays ASCII, to fit every character set."""
    stated = model.training_zh if language == "zh" else model.training
    words = " ".join(stated.split())
    if not words or (language == "en" and not words.isascii()):
        return texts.say("training.unknown", language)
    return words


def method_lines(result: CaseResult, language: str) -> list[str]:
    """How the answer was made: training, heat-maps, thresholds, model, engine, run."""
    model = result.model
    lines = [training_line(model, language), texts.say("heat", language)]
    if result.thresholds:
        parts = [_threshold(name, value, language) for name, value in result.thresholds.items()]
        lines.append(texts.say("thresholds", language, thresholds="; ".join(parts)))
    lines.append(
        texts.say(
            "model",
            language,
            name=model.name,
            version=model.version,
            sha=model.sha256[:12],
            engine=model.engine,
            digest=result.input_digest[:12],
        )
    )
    lines.append(texts.say("revision", language, case=result.case_id, revision=result.revision))
    return lines


def _threshold(name: str, value: float, language: str) -> str:
    key = f"threshold.{name}"
    if key in texts.sentences():
        return texts.say(key, language, value=percent(value))
    return texts.say("threshold", language, name=name, value=f"{value:g}")
