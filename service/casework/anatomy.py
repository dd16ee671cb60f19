"""Whether a header's words and codes name the breast, another part of the body, or neither. Does no I/O.

Body Part Examined (PS3.3 C.7.3.1) is filled freely: vendors' words for the breast count beside the defined term. Chest says
nothing, since breast MRI is often labelled so.
"""

import re
from collections.abc import Collection, Iterable, Mapping

SIDES = {"80248007": "L", "T-04030": "L", "73056007": "R", "T-04020": "R", "63762007": "B", "T-04080": "B"}
"""Codes of one breast or of both -> side."""
_CODES = frozenset({"76752008", "T-04000", "91470000", "T-D8104", *SIDES})  # breast and axilla (PS3.16 CID 4)
_WORDS = re.compile(
    r"BREAST|(?<![A-Z])MAMM(?!ILLARY B)|(?<![A-Z])AXILLA(RY)?(?![A-Z])"
    "|(?<![A-Z])BRUST(?!WIRBEL|KORB|BEIN|RAUM)|\u4e73\u817a|\u4e73\u623f|\u814b"
)
_NAMES = frozenset({"SEIN", "SEINS", "MAMA", "MAMAS", "SENO", "\u4e73"})  # words that say more than this elsewhere
_CHEST = frozenset({"CHEST", "THORAX", "CHESTABDOMEN", "43799004", "T-D3000", "51185008", "816094009"})
_UNSAID = frozenset({"", "OTHER", "UNKNOWN", "WHOLEBODY", "BODY", "SMALLPART", "SMALLPARTS", "SUPERFICIAL"})


def names_breast(words: str) -> bool:
    """Whether words name breast or axilla, in English, German, French, Spanish, Italian or Chinese."""
    return words.strip().upper() in _NAMES or _WORDS.search(words.upper()) is not None


def of_breast(part: str, regions: Collection[str]) -> bool | None:
    """What Body Part Examined and the codes of the anatomic region say; None: neither the breast nor another part."""
    if not _CODES.isdisjoint(regions) or part.strip().upper() in _CODES or names_breast(part):
        return True
    plain = re.sub(r"[\s_]", "", part).upper()
    return False if {plain, *regions} - _UNSAID - _CHEST and not plain.startswith("BRUST") else None


def word_begins(words: Iterable[str], text: str) -> bool:
    """Whether a word of the text begins with one of these; Chinese has no borders between words."""
    lower = text.casefold()
    return any(
        re.search(rf"(?<![^\W\d_]){re.escape(w)}", lower) if w.isascii() else w in lower
        for w in map(str.casefold, words)
    )


def elsewhere(stated: Mapping[str, str]) -> bool:
    """Whether an ultrasound or MR image's header (`case.Header.attributes`) names another part of the body."""
    return of_breast(stated.get("BodyPartExamined", ""), {stated.get("AnatomicRegionCode", "")} - {""}) is False
