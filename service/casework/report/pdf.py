"""A summary as PDF by ReportLab, fonts embedded: Bitstream Vera (in the library) and one that the site names. Owns nothing.

Imported only where a site has asked for PDF (`report.pdf_font`): the library is an extra.
"""

from functools import cache
from html import escape
from io import BytesIO
from itertools import groupby
from pathlib import Path

from reportlab.lib.colors import HexColor
from reportlab.lib.enums import TA_CENTER
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFError, TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate

from casework.errors import Defect
from casework.report.summary import Summary

_LATIN, _BROAD = "casework-latin", "casework-broad"
_AMBER = HexColor("#7a4b00")
_MARGIN = 18 * mm
_SCALES = (1.0, 0.9, 0.8, 0.72)  # of the letters: the smallest are 6.8 points


@cache
def _fonts(path: Path) -> tuple[TTFont, TTFont]:
    """Both fonts, registered.

    Raises:
        Defect: CONFIG_INVALID when the site's is not a TrueType font that can be embedded.
    """
    try:
        fonts = TTFont(_LATIN, "Vera.ttf"), TTFont(_BROAD, str(path))
    except (TTFError, OSError) as error:
        raise Defect("CONFIG_INVALID", f"report.pdf_font: {error}") from error
    for font in fonts:
        pdfmetrics.registerFont(font)
    return fonts


def check_font(path: Path) -> None:
    """Raise Defect CONFIG_INVALID unless the font can be read and has Chinese characters."""
    if not all(ord(character) in _fonts(path)[1].face.charToGlyph for character in "腋窝淋巴结"):
        raise Defect("CONFIG_INVALID", "report.pdf_font: no Chinese characters in it")


def to_pdf(page: Summary, font: Path) -> bytes:
    """The page on A4, in smaller letters where it would not be one; a character that neither font has is shown as "?".

    What is still longer has the mark on every page.

    Raises:
        Defect: CONFIG_INVALID when the font can't be used.
    """
    fonts = _fonts(font)
    for scale in _SCALES:
        data, pages = _laid_out(page, fonts, scale)
        if pages == 1:
            break
    return data


def _styles(page: Summary, scale: float) -> dict[str, ParagraphStyle]:
    base = ParagraphStyle(
        "base",
        fontName=_LATIN,
        bulletFontName=_LATIN,
        fontSize=9.5 * scale,
        leading=13.5 * scale,
        wordWrap="CJK" if page.language == "zh" else None,
    )
    mark = ParagraphStyle(
        "mark",
        base,
        alignment=TA_CENTER,
        textColor=_AMBER,
        borderColor=_AMBER,
        borderWidth=1,
        borderPadding=3,
        spaceBefore=8,
        spaceAfter=8,
    )
    return {
        "base": base,
        "mark": mark,
        "title": ParagraphStyle("title", base, fontSize=15 * scale, leading=20 * scale, spaceBefore=4),
        "head": ParagraphStyle("head", base, fontSize=11.5 * scale, leading=15 * scale, spaceBefore=8 * scale),
        "warning": ParagraphStyle("warning", base, leftIndent=8, textColor=_AMBER),
        "item": ParagraphStyle("item", base, leftIndent=10, bulletIndent=1),
    }


def _laid_out(page: Summary, fonts: tuple[TTFont, TTFont], scale: float) -> tuple[bytes, int]:
    """The document and how many pages it has."""
    styles = _styles(page, scale)

    def text(words: str, style: str, bullet: str | None = None) -> Flowable:
        return Paragraph(_markup(words, fonts), styles[style], bulletText=bullet)

    def mark_again(canvas: Canvas, document: SimpleDocTemplate) -> None:
        again = text(page.mark, "mark")
        again.wrapOn(canvas, document.width, _MARGIN)
        again.drawOn(canvas, document.leftMargin, A4[1] - 0.7 * _MARGIN)

    story = [text(page.mark, "mark"), text(page.title, "title"), text(page.patient, "base")]
    story += [text(line, "warning") for line in page.warnings]
    for block in page.blocks:
        story += [text(block.heading, "head")] if block.heading else []
        story += [text(line, "item", "-") for line in block.lines]
    story.append(text(page.mark, "mark"))
    out = BytesIO()
    document = SimpleDocTemplate(
        out, pagesize=A4, leftMargin=_MARGIN, rightMargin=_MARGIN, topMargin=_MARGIN, bottomMargin=_MARGIN,
        title=page.title, author="casework", lang="zh-CN" if page.language == "zh" else "en", initialFontName=_LATIN, invariant=1,
    )  # fmt: skip
    document.build(story, onLaterPages=mark_again)
    return out.getvalue(), int(document.page)


def _markup(words: str, fonts: tuple[TTFont, TTFont]) -> str:
    """Escaped text in runs of the font that has its characters."""

    def font_of(character: str) -> str:
        return next((f.fontName for f in fonts if ord(character) in f.face.charToGlyph), "")

    runs = ((name, "".join(run)) for name, run in groupby(" ".join(words.split()), font_of))
    return "".join(
        f'<font name="{name}">{escape(run)}</font>' if name else escape("?" * len(run)) for name, run in runs
    )
