"""The table of sentences: whole in both languages, ASCII in English, and never stronger than the number."""

import re
from dataclasses import replace

import pytest

from casework.reasons import REASONS
from casework.report import texts
from casework.report.charset import Charset
from casework.report.describe import describe, side_line
from casework.result import Outcome, Side, SideResult
from tests.conformance.studies import make

WHOLE = '["a.b"]\nen = "{n} of {m}"\nzh = "{m}之{n}"\nplain_en = "{n}"\nplain_zh = "{n}"\nreviewed = ""\n'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('zh = "{m}之{n}"\n', ""),
        ('plain_en = "{n}"\n', ""),
        ('reviewed = ""\n', ""),
        ('zh = "{m}之{n}"', 'zh = "{n}"'),
        ('plain_zh = "{n}"', 'plain_zh = "{k}"'),
        ('en = "{n} of {m}"', 'en = "{n} \u2264 {m}"'),
        ('zh = "{m}之{n}"', 'zh = " "'),
        ('plain_en = "{n}"', 'plain = "same"'),
        ('reviewed = ""', "reviewed = false"),
    ],
)
def test_a_row_that_is_not_whole_is_refused(old: str, new: str) -> None:
    """A missing column, other blanks, an empty text or English that is not ASCII: the table is not read at all."""
    assert len(texts.parse(WHOLE)) == 1
    with pytest.raises(ValueError, match=r"^a\.b: "):
        texts.parse(WHOLE.replace(old, new, 1))


def test_english_fits_every_character_set() -> None:
    """What a report says in English can be written in the smallest character set there is."""
    charset = Charset(("ISO_IR 13",), ("ISO_IR 13",))
    assert all(charset.fits(row.words["radiologist", "en"]) for row in texts._ROWS.values())


def test_who_reviewed_is_not_made_up() -> None:
    """A row counts as reviewed only with a name and a date; the count of the others is told."""
    for key, row in texts._ROWS.items():
        assert not row.reviewed or re.fullmatch(r".{3,}, \d{4}-\d\d-\d\d", row.reviewed), key
    assert set(texts.unreviewed()) == {key for key, row in texts._ROWS.items() if not row.reviewed}


def test_reasons_in_english_are_ascii() -> None:
    """What the reason catalogue says in English can stand in a report of any character set."""
    assert [r.code for r in REASONS.values() if not r.en.isascii()] == []


@pytest.mark.parametrize("language", texts.LANGUAGES)
@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_words(outcome: Outcome, language: str) -> None:
    """Each outcome is said in words, with its probability unless nothing was analysed."""
    probability = None if outcome is Outcome.INSUFFICIENT else 0.456
    line = side_line(SideResult(Side.LEFT, outcome, probability, {}, ()), language)
    assert ("45.6 %" in line) == (probability is not None)
    assert texts.axilla(Side.LEFT, language) in line


def test_not_analysed_reads_unlike_negative() -> None:
    """The sentence of a side without analysis says that it is no negative result, in both languages."""
    assert "not a negative result" in texts.outcome(Outcome.INSUFFICIENT, "en")
    assert "不是阴性" in texts.outcome(Outcome.INSUFFICIENT, "zh")


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_the_report_says_what_it_is_not(language: str) -> None:
    """Research use, no diagnosis and what heat-maps are not stand in every report."""
    words = describe(make(modalities=("MG",)).result, language)
    for key in ("research", "heat"):
        assert texts.say(key, language) in words


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_the_package_says_what_the_model_was_trained_on(language: str) -> None:
    """The package's own sentence stands in the report in its language; without one the report says that there is none."""
    result = make(modalities=("MG",)).result
    unknown = texts.say("training.unknown", language)
    assert unknown in describe(result, language)
    model = replace(result.model, training="Trained on\nphantoms only.", training_zh="仅用体模训练。")
    words = describe(replace(result, model=model), language)
    assert {"en": "Trained on phantoms only.", "zh": "仅用体模训练。"}[language] in words.splitlines()
    assert unknown not in words


def test_an_english_sentence_that_is_not_ascii_is_not_said() -> None:
    """English has to fit every character set: a sentence that may not is replaced, so that no report fails over it."""
    result = make(modalities=("MG",)).result
    model = replace(result.model, training="Trained on Müller's phantoms.")
    assert texts.say("training.unknown", "en") in describe(replace(result, model=model), "en")
