"""Clinical AI inference for breast imaging: DICOM in, CMAN, DICOM SR and heat-maps back in the PACS."""

__version__ = "0.1.0"
