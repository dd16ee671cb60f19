"""Tests of the DICOM door over real sockets, with the real spool and ledger."""
