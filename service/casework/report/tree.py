"""Content items of structured reports (PS3.3 C.17.3), encoded. Does no I/O.

Each function gives the bytes of one item; children are given as items. Every item has a concept name: viewers drop a
whole report over one that has none.
"""

from collections.abc import Sequence
from datetime import date

import numpy as np

from casework.report.charset import Charset
from casework.report.codes import SOURCE, Code, code_item
from casework.report.wire import Block, flat_item

CONTAINS = "CONTAINS"
OBSERVED = "HAS OBS CONTEXT"
ACQUIRED = "HAS ACQ CONTEXT"
MODIFIED = "HAS CONCEPT MOD"
INFERRED = "INFERRED FROM"
SELECTED = "SELECTED FROM"

Pairs = tuple[tuple[str, str], ...]


def _start(relation: str, kind: str, name: Code, children: Sequence[bytes]) -> Block:
    block = Block(Charset(), RelationshipType=relation, ValueType=kind)
    block.put("ConceptNameCodeSequence", code_item(name))
    if children:
        block.put("ContentSequence", children)
    return block


def container(relation: str, name: Code, children: Sequence[bytes], template: str = "") -> bytes:
    """A container; `template` names its TID of the DICOM content mapping resource."""
    block = _start(relation, "CONTAINER", name, children)
    block.put("ContinuityOfContent", "SEPARATE")
    if template:
        block.put("ContentTemplateSequence", template_item(template))
    return block.item()


def template_item(template: str) -> bytes:
    """The identification of a template (PS3.3 C.18.8)."""
    return Block(Charset(), MappingResource="DCMR", TemplateIdentifier=template).item()


def text(relation: str, name: Code, value: str, charset: Charset) -> bytes:
    """Text in the document's character set. Raises ValueError when the set can't say it."""
    block = _start(relation, "TEXT", name, ())
    block.charset = charset
    block.put("TextValue", value)
    return block.item()


def coded(relation: str, name: Code, value: Code, children: Sequence[bytes] = ()) -> bytes:
    """A coded answer."""
    block = _start(relation, "CODE", name, children)
    block.put("ConceptCodeSequence", code_item(value))
    return block.item()


def uid_reference(relation: str, name: Code, value: str) -> bytes:
    """A UID."""
    block = _start(relation, "UIDREF", name, ())
    block.put("UID", value)
    return block.item()


def day(relation: str, name: Code, value: date) -> bytes:
    """A date."""
    block = _start(relation, "DATE", name, ())
    block.put("Date", f"{value:%Y%m%d}")
    return block.item()


def number(relation: str, name: Code, value: str, unit: Code, children: Sequence[bytes] = ()) -> bytes:
    """A measurement; `value` is written as given (DS)."""
    block = _start(relation, "NUM", name, children)
    measured = Block(Charset(), NumericValue=value, MeasurementUnitsCodeSequence=code_item(unit))
    block.put("MeasuredValueSequence", measured.item())
    return block.item()


def image(relation: str, pairs: Pairs, name: Code = SOURCE, children: Sequence[bytes] = ()) -> bytes:
    """A reference to an image; `pairs` as header.reference gives them."""
    block = _start(relation, "IMAGE", name, children)
    block.put("ReferencedSOPSequence", flat_item(pairs))
    return block.item()


def outline(relation: str, points: Sequence[tuple[float, float]], pairs: Pairs, name: Code = SOURCE) -> bytes:
    """A closed polyline of (column, row) points on one image."""
    block = _start(relation, "SCOORD", name, [image(SELECTED, pairs)])
    block.put("GraphicType", "POLYLINE")
    block.put("GraphicData", np.asarray(points, "<f4").tobytes())
    return block.item()
