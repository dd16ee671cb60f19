"""Character sets of results (PS3.3 C.12.1.1.2, PS3.5 6.1): keep the source's, byte for byte, wherever that is right.

Does no I/O. Rules, learned on real archives:
- The source's set is kept and its text is carried as bytes, so that mislabelled text still matches the PACS.
- UTF-8 is chosen when our own words don't fit the source's set, and for the sets of ISO 2022 whose escape sequences
  common readers leave in the text (IR 58, IR 149); never when the label can't be trusted (no set, or a single-byte
  one, with bytes above 7F).
- Text that can't be written is an error, never a question mark.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydicom.charset import convert_encodings, decode_bytes, encode_string, python_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName

UTF8 = "ISO_IR 192"
_REENCODED = frozenset({"ISO 2022 IR 58", "ISO 2022 IR 149"})
_STRAY_ESCAPES = ("\x1b$)A", "\x1b$)C")
_MULTI_BYTE = frozenset({UTF8, "GB18030", "GBK"})
_DELIMITERS = {0x0D, 0x0A, 0x09, 0x0C, 0x5C, 0x5E, 0x3D}


@dataclass(frozen=True, slots=True)
class Charset:
    """The set that a result is written in. `terms` as declared in (0008,0005); empty: the default repertoire.

    `source` are the terms of the data set that text is carried from; where they differ, text is decoded and encoded.
    """

    terms: tuple[str, ...] = ()
    source: tuple[str, ...] = ()

    def encode(self, text: str) -> bytes:
        """Our own text as bytes.

        Raises:
            ValueError: the set has no such character.
        """
        if text.isascii() and not (self.terms and "IR 13" in self.terms[0] and ("\\" in text or "~" in text)):
            return text.encode("ascii")
        if len(self.terms) == 1 and self.terms[0] in python_encoding and "2022" not in self.terms[0]:
            return text.encode(python_encoding[self.terms[0]], "strict")
        raise ValueError(f"text does not fit the character set {'/'.join(self.terms) or 'default'}")

    def fits(self, text: str) -> bool:
        """Whether `encode` would succeed."""
        try:
            self.encode(text)
        except ValueError:
            return False
        return True

    def carried(self, element: RawDataElement | DataElement) -> bytes:
        """A source's text element as bytes of this set: untouched while the set is the source's.

        Raises:
            ValueError: it can't be written, or would not be read back as it was.
        """
        encodings = convert_encodings(list(self.source) or ["ISO_IR 6"])
        if isinstance(element, RawDataElement):
            raw = element.value or b""
            if self.terms == self.source or (raw.isascii() and b"\x1b" not in raw):
                return raw
            return self._clean(decode_bytes(raw, encodings, _DELIMITERS))
        values = element.value if isinstance(element.value, MultiValue | list | tuple) else [element.value]
        return b"\\".join([self._value(v, encodings) for v in values])

    def _value(self, value: object, encodings: list[str]) -> bytes:
        """One value that the reader has already decoded."""
        original = getattr(value, "original_string", None)
        if isinstance(value, PersonName) and isinstance(original, bytes):
            text = decode_bytes(original, encodings, _DELIMITERS)
            return original if self.terms == self.source else self._clean(text)
        text = "" if value is None else str(value)
        if self.terms != self.source:
            return self._clean(text)
        if text.isascii():
            return text.encode("ascii")
        data = encode_string(text, encodings)
        if decode_bytes(data, encodings, _DELIMITERS) != text:
            raise ValueError("a source's text can't be written in its own character set")
        return data

    def _clean(self, text: str) -> bytes:
        for escape in _STRAY_ESCAPES:
            text = text.replace(escape, "")
        if "\ufffd" in text:
            raise ValueError("a source's text is damaged")
        return text.encode(python_encoding[self.terms[0]], "strict")


def declared(source: Dataset) -> tuple[str, ...]:
    """The terms of a data set's Specific Character Set, without the empty first one's ambiguity."""
    value = source.get("SpecificCharacterSet")
    if value is None or value == "":
        return ()
    return tuple(str(v) for v in value) if isinstance(value, MultiValue | list | tuple) else (str(value),)


def choose(source: Dataset, words: Iterable[str]) -> Charset:
    """The set for a result of this source that says `words`.

    Where `words` don't fit and UTF-8 would be a guess about the source's text, the source's set is kept: the caller
    then says the same in ASCII (see Charset.fits).
    """
    terms = declared(source)
    if any(t in _REENCODED for t in terms):
        return Charset((UTF8,), terms)
    kept = Charset(terms, terms)
    if all(kept.fits(w) for w in words) or not _trusted(source, terms):
        return kept
    return Charset((UTF8,), terms)


def _trusted(source: Dataset, terms: tuple[str, ...]) -> bool:
    """Whether the label says how the source's text is to be read: multi-byte sets, code extensions, or pure ASCII."""
    if any(t in _MULTI_BYTE or "2022" in t for t in terms):
        return True
    return all(data.isascii() for data in _text_bytes(source))


def _text_bytes(source: Dataset) -> Iterator[bytes]:
    """The bytes of all text elements of the top level, as far as they are known."""
    for tag in source.keys():  # noqa: SIM118 - iterating a Dataset itself converts every raw element
        element = source.get_item(tag)
        if isinstance(element, RawDataElement):
            if element.VR in (None, "PN", "LO", "SH", "ST", "LT", "UT", "UC") and isinstance(element.value, bytes):
                yield element.value
        elif element is not None and element.VR in ("PN", "LO", "SH", "ST", "LT", "UT", "UC"):
            yield str(element.value).encode("utf-8", "surrogateescape")
