"""Which words and codes are the breast: vendors write Body Part Examined as they like."""

import pytest

from casework.anatomy import elsewhere, of_breast, word_begins
from casework.config import Fetch

BREAST = (
    "BREAST",
    "LBREAST",
    "BREAST_L",
    "MAMMA",
    "Brust",
    "SEIN",
    "AXILLA",
    "AXILLARY",
    "\u4e73\u817a",
    "\u53cc\u4e73\u817a",
    "T-04000",
)
ELSEWHERE = ("MAXILLA", "SUBMAXILLARY", "AXILLARYARTERY", "TSPINE", "LEG", "THYROID", "\u4e73\u7a81", "LIVER")
UNSAID = ("", "CHEST", "THORAX", "BRUSTKORB", "BRUSTWIRBELSAEULE", "WHOLE BODY", "OTHER")


@pytest.mark.parametrize(("parts", "breast"), [(BREAST, True), (ELSEWHERE, False), (UNSAID, None)])
def test_body_part_examined(parts: tuple[str, ...], breast: bool | None) -> None:
    """The jaw, an artery and the mastoid are no breast, though their names hold its letters."""
    assert {part: of_breast(part, ()) for part in parts} == dict.fromkeys(parts, breast)


def test_a_coded_region_counts_too() -> None:
    """One breast by its code is the breast; another region is another part; chest is neither."""
    assert of_breast("", {"80248007"}) is True
    assert elsewhere({"AnatomicRegionCode": "10200004"})
    assert not elsewhere({"AnatomicRegionCode": "51185008"})
    assert not elsewhere({})


@pytest.mark.parametrize(
    ("text", "found"),
    [("MRT Mamma bds.", True), ("\u53cc\u4fa7\u4e73\u817a\u589e\u5f3a", True), ("BreastMatrix 16", True), ("MR Maxilla", False), ("t1_axilla", True)],
)  # fmt: skip
def test_words_of_descriptions_begin_where_words_do(text: str, found: bool) -> None:
    """The site's list of beginnings, against free text."""
    assert word_begins(Fetch().breast_words, text) is found
