"""Results as DICOM objects, pictures and words. The only owner of highdicom."""
