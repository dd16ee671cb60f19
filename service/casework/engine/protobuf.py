"""Just enough protobuf to see that an ONNX graph keeps all its weights inside. Does no I/O.

ONNX Runtime would open files that a graph names as external data; a model package must be whole and digested, so such
graphs are refused before they reach it. Only the path to tensors is walked (onnx.proto3, field numbers below).
"""

from collections.abc import Iterator

_TENSOR, _SPARSE, _ATTRIBUTE, _NODE, _GRAPH, _FUNCTION, _MODEL = range(7)
_CHILDREN: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH, 25: _FUNCTION},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_MAX_DEPTH = 32


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("varint too long")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of one message: bytes for length-delimited fields, else a number."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                value, at = _varint(data, at)
                yield tag >> 3, value
            case 2:
                length, at = _varint(data, at)
                if at + length > len(data):
                    raise ValueError("field beyond its message")
                yield tag >> 3, data[at : at + length]
                at += length
            case 1 | 5 as kind:
                at += 8 if kind == 1 else 4
            case kind:
                raise ValueError(f"wire type {kind}")


def _external(kind: int, data: memoryview, depth: int) -> bool:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    for number, value in _fields(data):
        if kind == _TENSOR and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
            return True
        child = _CHILDREN[kind].get(number)
        if child is not None and isinstance(value, memoryview) and _external(child, value, depth + 1):
            return True
    return False


def has_external_data(model: bytes) -> bool:
    """Whether any tensor of a serialised ONNX ModelProto lies in another file.

    Raises:
        ValueError: the bytes are not a readable protobuf message.
    """
    try:
        return _external(_MODEL, memoryview(model), 0)
    except IndexError as error:
        raise ValueError("message ends early") from error
