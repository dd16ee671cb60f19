"""Data sets to Part 10 files by pydicom, carried text as it is. Does no I/O."""

from collections.abc import Callable, Hashable, Sequence
from io import BytesIO
from typing import TypeVar, cast

from pydicom import dcmwrite
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from casework.case import derive_uid
from casework.report.charset import Charset

T = TypeVar("T", bound=Sequence[Dataset])
_EXPLICIT = (False, True)  # not implicit VR, little endian
IMPLEMENTATION_CLASS_UID = derive_uid("implementation", "casework")


def to_file(ds: Dataset, charset: Charset, version_name: str) -> bytes:
    """The data set as a Part 10 file in Explicit VR Little Endian (PS3.10 7.1).

    pydicom writes elements that are still bytes as they are only where a data set says that this is its own encoding,
    and looks at whole subtrees again at every level where it does not say so: hence the marks on all of them.

    Raises:
        ValueError: pydicom refuses the data set.
    """
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = version_name[:16]
    ds.file_meta = meta
    _mark(ds)
    ds.set_original_encoding(*_EXPLICIT, _encodings(charset))
    file = BytesIO()
    try:
        dcmwrite(file, ds, enforce_file_format=True)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(f"can't be written: {type(error).__name__}") from error  # its words may quote a patient's
    return file.getvalue()


def frozen(ds: Dataset, charset: Charset) -> Dataset:
    """The same data set with all its elements as bytes, to go into many objects at the cost of one.

    Without Specific Character Set: that is each object's own.
    """
    _mark(ds)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = _EXPLICIT
    write_dataset(buffer, ds, _encodings(charset))
    return read_dataset(BytesIO(buffer.getvalue()), *_EXPLICIT)


class Shared:
    """Items that several reports or groups say alike, built once and encoded once."""

    def __init__(self) -> None:
        self._made: dict[Hashable, tuple[Sequence[Dataset], Charset]] = {}
        self._again: set[Hashable] = set()

    def once(self, key: Hashable, make: Callable[[], T], charset: Charset) -> T:
        """What `make` gives, a sequence of items, or what it gave before. Their text is in `charset`."""
        full = (key, charset)
        if full in self._made:
            self._again.add(full)
        else:
            self._made[full] = (make(), charset)
        return cast("T", self._made[full][0])

    def freeze(self) -> None:
        """Turn the elements of all items that are used again into bytes, in place. To be called when the trees are built."""
        for items, charset in (self._made[key] for key in self._again):
            for item in items:
                item.update(frozen(item, charset))


def _encodings(charset: Charset) -> str | list[str]:
    return convert_encodings(list(charset.terms)) if charset.terms else default_encoding


def _mark(ds: Dataset) -> None:
    ds.set_original_encoding(*_EXPLICIT, default_encoding)
    for tag in ds.keys():  # noqa: SIM118 - iterating a Dataset converts every raw element
        element = ds.get_item(tag)
        if isinstance(element, DataElement) and element.VR == "SQ":
            for item in element.value:
                if item.original_encoding != _EXPLICIT:
                    _mark(item)
