"""The "AI not performed" page: the document's words as a Secondary Capture, for destinations that show pictures only.

Words are drawn in the report's language where a font for it is at hand: Chinese needs `report.pdf_font`, or it is said in
English. They also stand in Image Comments, where they can be read back. Owns nothing; reads the site's font.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby

from PIL import Image, ImageDraw, ImageFont

from casework.report import capture, header, heat, texts, uid
from casework.report.describe import stopped_sections
from casework.report.encode import to_file
from casework.report.header import PROGRAM_VERSION, Context
from casework.report.rendering import Rendered

KIND = "not-performed-page"
_SIZE, _MARGIN = (1024, 1024), 48
_FURTHER = 16  # lines beside the reasons
_WHITE, _GREY, _AMBER = (240, 240, 240), (170, 170, 170), (255, 190, 60)
_PROBE = "腋窝淋巴结"
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Line = tuple[str, int, tuple[int, int, int]]  # words, size, colour


def render(ctx: Context, about: Sequence[str]) -> Rendered:
    """The page of one study. It was made from no image; it refers to those that it is about (PS3.3 C.12.4).

    Raises:
        ValueError: a text can't be written.
    """
    chinese = ctx.language == "zh" and _broad(ctx.settings.pdf_font, 20) is not None
    lines = list(_lines(ctx, "zh" if chinese else "en"))
    picture = _draw(lines, ctx.settings.pdf_font if chinese else "")
    ds = header.silent_object(ctx, KIND, uid.SC_CLASS, modality="OT", number=uid.NOT_PERFORMED_PAGE_SERIES_NUMBER)
    ds.InstanceNumber = 1
    ds.Laterality = ds.PatientOrientation = None
    ds.ImageType, ds.ConversionType = ["DERIVED", "SECONDARY"], "WSD"
    ds.DerivationDescription = "A page of text: no image was analysed"
    ds.ImageComments = ctx.say("\r\n".join(words for words, *_ in lines))
    ds.ReferencedImageSequence = [header.reference(ctx.instances[name]) for name in about]
    ds.update(capture.referenced_series(ctx, about))
    ds.BurnedInAnnotation, ds.RecognizableVisualFeatures, ds.LossyImageCompression = "NO", "NO", "00"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.Rows, ds.Columns = picture.height, picture.width
    ds.add_new("PixelData", "OB", picture.tobytes())  # an even number of bytes: the width is even
    label = f"AI not performed: {ctx.result.stopped[0]}"
    data = to_file(ds, ctx.charset, f"CASEWORK_{PROGRAM_VERSION}")
    names = (ctx.study, str(ds.SeriesInstanceUID), uid.SC_CLASS, str(ds.SOPInstanceUID))
    return Rendered(KIND, "application/dicom", *names, label, data)


def _lines(ctx: Context, language: str) -> Iterator[Line]:
    """The document's words, in its order; of many further findings only so many as a page can hold."""
    words = stopped_sections(ctx.result, language)
    causes = len(ctx.result.stopped)
    further = [*words["finding"][causes:], *words["recommendation"]]
    cut = [f"(+ {len(further) - _FURTHER})"] if len(further) > _FURTHER else []
    yield texts.say("stopped.title", language), 52, _AMBER
    yield from ((line, 24, _WHITE) for line in words["impression"])
    yield from ((line, 22, _WHITE) for line in (*words["finding"][:causes], *further[:_FURTHER], *cut))
    yield from ((line, 18, _GREY) for line in words["comment"])
    yield texts.say("stopped.replaced", language, when=f"{ctx.local:%Y-%m-%d %H:%M}"), 20, _AMBER


def _draw(lines: Sequence[Line], font_path: str) -> Image.Image:
    """The lines below each other; smaller where they would not fit, then on a longer page, so that none is cut."""
    width, height = _SIZE
    for shrink, length in ((1.0, 1), (0.8, 1), (0.64, 1), (0.5, 1), (0.5, 2), (0.4, 3)):
        canvas = Image.new("RGB", (width, height * length), (0, 0, 0))
        draw, y = ImageDraw.Draw(canvas), _MARGIN
        for words, full, colour in lines:
            size = max(round(full * shrink), 9)
            for line in _wrapped(words, font_path, size):
                y += round(1.35 * size)
                x = float(_MARGIN)
                for run, font in _runs(line, font_path, size):
                    draw.text((x, y), run, font=font, fill=colour, anchor="ls")
                    x += font.getlength(run)
            y += round(10 * shrink)
        if y <= canvas.height - _MARGIN:
            return canvas
    raise ValueError("the page's words don't fit")


def _runs(line: str, font_path: str, size: int) -> Iterator[tuple[str, Font]]:
    """Pieces of a line with their fonts: a font of Chinese characters may have no others."""
    for ascii_, letters in groupby(line, str.isascii):
        broad = None if ascii_ or not font_path else _broad(font_path, size)
        yield "".join(letters), broad or heat.font(size)


def _wrapped(words: str, font_path: str, size: int) -> Iterator[str]:
    """Lines that have room, broken before a word or a Chinese character."""
    room, line = _SIZE[0] - 2 * _MARGIN, ""
    for part in re.findall(r"[\x21-\x7e]+ ?|.", words):
        if line and sum(font.getlength(run) for run, font in _runs(line + part, font_path, size)) > room:
            yield line
            line = ""
        line += part
    yield line


@lru_cache(maxsize=32)
def _broad(path: str, size: int) -> ImageFont.FreeTypeFont | None:
    """The site's font, None when there is none or it lacks Chinese characters."""
    try:
        font = ImageFont.truetype(path, size) if path else None
    except OSError:
        return None
    missing = font and bytes(font.getmask("\U0010fffd"))
    return font if font and all(bytes(font.getmask(c)) != missing for c in _PROBE) else None
