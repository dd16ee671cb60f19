"""The table of sentences (texts.toml): read once and checked whole; a row that lacks a column stops the program at import.

Registers: "radiologist" (the SR, the page, the summary) and "plain" (for the patient, without alarm).
"""

import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from casework.result import Outcome, Side

LANGUAGES = ("en", "zh")
REGISTERS = ("radiologist", "plain")
_UNSAID = "unsaid"


@dataclass(frozen=True, slots=True)
class Row:
    """One sentence: (register, language) -> template; who reviewed it, "" when nobody has."""

    words: Mapping[tuple[str, str], str]
    reviewed: str


def parse(text: str) -> dict[str, Row]:
    """The table of a TOML document.

    Raises:
        ValueError: naming the row that lacks a column, has one too many, or other blanks than its English.
    """
    return {key: _row(key, columns) for key, columns in tomllib.loads(text).items()}


def _row(key: str, columns: Mapping[str, Any]) -> Row:
    plain = columns.get("plain")
    if plain not in (None, "same", _UNSAID):
        raise ValueError(f"{key}: plain is one of same, {_UNSAID}")
    wanted = {"en", "zh", "reviewed"} | ({"plain_en", "plain_zh"} if plain is None else {"plain"})
    if set(columns) != wanted or not all(isinstance(v, str) for v in columns.values()):
        raise ValueError(f"{key}: needs exactly the texts {', '.join(sorted(wanted))}")
    words = {("radiologist", language): columns[language] for language in LANGUAGES}
    if plain != _UNSAID:
        words |= {("plain", name): columns[name if plain else f"plain_{name}"] for name in LANGUAGES}
    blanks = _blanks(columns["en"])
    for (register, language), template in words.items():
        if not template.strip() or (language == "en" and not template.isascii()):
            raise ValueError(f"{key}: {register} {language} is empty, or English that is not ASCII")
        # Plain words may leave a number or a reason out, never add one.
        if _blanks(template) != blanks and (register != "plain" or not _blanks(template) <= blanks):
            raise ValueError(f"{key}: {register} {language} has other blanks than the English")
    return Row(words, columns["reviewed"].strip())


def _blanks(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


_ROWS = parse(files(__package__).joinpath("texts.toml").read_text("utf-8"))

# The views of an MR breast that the model reads, as marks on a picture.
VIEWS: Mapping[tuple[str, str], str] = {
    ("MR", "AX"): "AX MIP",
    ("MR", "SAG"): "SAG MIP",
    ("MR", "AX_SUP"): "AX MIP sup.",
    ("MR", "AX_INF"): "AX MIP inf.",
}


def say(key: str, language: str, register: str = "radiologist", **values: object) -> str:
    """One sentence in one language and register.

    Raises:
        KeyError: no such sentence, language or register, or one that is not said in plain words: a programming error.
    """
    return _ROWS[key].words[register, language].format(**values)


def sentences() -> tuple[str, ...]:
    """All sentences, for the test that proves the table whole."""
    return tuple(_ROWS)


def unreviewed() -> tuple[str, ...]:
    """The sentences that no clinician has approved yet."""
    return tuple(key for key, row in _ROWS.items() if not row.reviewed)


def axilla(side: Side, language: str, register: str = "radiologist") -> str:
    """The axilla of a side in words."""
    return say(f"axilla.{side.value}", language, register)


def outcome(value: Outcome, language: str, register: str = "radiologist") -> str:
    """An outcome in words."""
    return say(f"outcome.{value.value}", language, register)


def modality(name: str, language: str) -> str:
    """A modality in words; unknown ones stay as they are."""
    return say(f"modality.{name}", language) if f"modality.{name}" in _ROWS else name


def view_mark(modality_name: str, view: str) -> str:
    """A view as it is marked on a picture, e.g. "MLO", "AX MIP", "frame 3"."""
    if modality_name == "US":
        return f"US {view}"
    return VIEWS.get((modality_name, view), view)
