"""Neighbours of the service that tests and the demo run for real: a PACS of our own, and Orthanc."""
