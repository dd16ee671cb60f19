"""DICOM on the wire: header reading, listener with its guard, senders, DICOMweb. The only owner of pynetdicom."""
