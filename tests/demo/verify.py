"""Whether what arrived in the PACS is what should have: right study, right patient, right side, once."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from pydicom import Dataset

IDENTITY = ["PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "AccessionNumber"]
IDENTITY += ["StudyInstanceUID", "StudyDate", "StudyID", "ReferringPhysicianName"]


def problems(sources: Mapping[str, Dataset], found: Mapping[str, Sequence[Dataset]]) -> Iterator[str]:
    """Each thing that is wrong, in words.

    sources: SOP Instance UID -> header of every image that was sent. found: study -> result objects in the PACS.
    """
    studies = {str(ds.StudyInstanceUID): ds for ds in sources.values()}
    for study, source in studies.items():
        results = found.get(study, [])
        kinds = Counter(str(ds.Modality) for ds in results)
        if kinds["SR"] != 1:
            yield f"{source.Modality} study: {kinds['SR']} SRs instead of one"
        if kinds["OT"] < 1:
            yield f"{source.Modality} study: no heat-map capture"
        uids = Counter(str(ds.SOPInstanceUID) for ds in results)
        if uids and max(uids.values()) > 1:
            yield f"{source.Modality} study: duplicates"
        for ds in results:
            yield from _object(ds, source, sources)


def _object(ds: Dataset, source: Dataset, sources: Mapping[str, Dataset]) -> Iterator[str]:
    name = f"{source.Modality} study, {ds.Modality} {ds.get('InstanceNumber', '')}"
    for keyword in IDENTITY:
        if str(ds.get(keyword, "") or "") != str(source.get(keyword, "") or ""):
            yield f"{name}: {keyword} differs from the study's"
    if ds.Modality == "SR":
        if ds.VerificationFlag != "UNVERIFIED":
            yield f"{name}: not marked unverified"
        return
    references = [str(item.ReferencedSOPInstanceUID) for item in ds.get("SourceImageSequence", [])]
    if not references or any(uid not in sources for uid in references):
        yield f"{name}: names no source image of this case"
        return
    origin = sources[references[0]]
    for keyword in ("ImageLaterality", "ViewPosition"):
        if origin.get(keyword) and ds.get(keyword) and ds.get(keyword) != origin.get(keyword):
            yield f"{name}: {keyword} {ds.get(keyword)} from an image with {origin.get(keyword)}"
