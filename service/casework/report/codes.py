"""The coded concepts that results use (PS3.16, SNOMED CT, UCUM), each with the meaning that viewers show. Does no I/O."""

from functools import cache

from highdicom.sr import CodedConcept
from pydicom.sr.coding import Code

from casework.result import Outcome, Side


@cache
def concept(code: Code) -> CodedConcept:
    """The concept as an item of a code sequence: one object for all its uses, never to be changed."""
    return CodedConcept.from_code(code)


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


def _sct(value: str, meaning: str) -> Code:
    return Code(value, "SCT", meaning)


# Document structure, TID 1500 and its parts.
REPORT_TITLE = _dcm("126000", "Imaging Measurement Report")
DEVICE = _dcm("121007", "Device")
IMAGE_LIBRARY = _dcm("111028", "Image Library")
IMAGE_LIBRARY_GROUP = _dcm("126200", "Image Library Group")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
ILLUSTRATION = _dcm("121200", "Illustration of ROI")
COMMENT = _dcm("121106", "Comment")

# Image library entries, TID 1602.
MODALITY = _dcm("121139", "Modality")
STUDY_DATE = _dcm("111060", "Study Date")
ROWS = _dcm("110910", "Pixel Data Rows")
COLUMNS = _dcm("110911", "Pixel Data Columns")
IMAGE_LATERALITY = _dcm("111027", "Image Laterality")
IMAGE_VIEW = _dcm("111031", "Image View")
PIXELS = Code("{pixels}", "UCUM", "Pixels")

# What the model says.
AXILLARY_NODE = _sct("68171009", "Axillary lymph node")
AXILLA = _sct("91470000", "Axilla")
BREAST = _sct("76752008", "Breast")
NODAL_METASTASES = _dcm("111301", "Axillary nodal metastases")
# Of the finding, an axillary node: "Probability of cancer" (111047) beside a breast reads as one of the breast.
PROBABILITY = _dcm("122157", "Probability")
PERCENT = Code("%", "UCUM", "Percent")
CLASS_ACTIVATION = _dcm("130402", "Class activation")
SPATIAL_CONCEPT = _sct("309825002", "Spatial and Relational Concept")
NO_UNITS = Code("1", "UCUM", "no units")
OF_INTEREST = _dcm("113000", "Of Interest")
KEY_OBJECT_DESCRIPTION = _dcm("113012", "Key Object Description")

# What is said where nothing was analysed: CID 6042, TID 2000's headings.
NOT_ATTEMPTED = _dcm("111225", "Not Attempted")
REPORT = Code("18748-4", "LN", "Diagnostic Imaging Report")  # CID 7000
IMPRESSIONS, IMPRESSION = _dcm("121072", "Impressions"), _dcm("121073", "Impression")
FINDINGS, FINDING = _dcm("121070", "Findings"), _dcm("121071", "Finding")
RECOMMENDATIONS, RECOMMENDATION = _dcm("121074", "Recommendations"), _dcm("121075", "Recommendation")
PROCEDURES_DONE, DESCRIPTION = (
    _dcm("121064", "Current Procedure Descriptions"),
    _dcm("121065", "Procedure Description"),
)
CONCLUSION = _dcm("121077", "Conclusion")
REPORTED = _dcm("121058", "Procedure reported")
FINDING_SHOWN = _dcm("121080", "Best illustration of finding")
OWN_SCHEME = "99CASEWORK"  # the rows of casework.reasons

# Who says it.
ARTIFICIAL_INTELLIGENCE = _dcm("123110", "Artificial Intelligence")
PROCESSING_EQUIPMENT = _dcm("109102", "Processing Equipment")
SOURCE_FOR_PROCESSING = _dcm("121322", "Source image for image processing operation")

LANGUAGES = {
    "en": Code("en-US", "RFC5646", "English (United States)"),
    "zh": Code("zh-CN", "RFC5646", "Chinese (S)"),
}
SIDES = {Side.RIGHT: _sct("24028007", "Right"), Side.LEFT: _sct("7771000", "Left")}
BOTH_SIDES = _sct("51440002", "Right and left")
PRESENCE = {
    Outcome.POSITIVE: _sct("52101004", "Present"),
    Outcome.NEGATIVE: _sct("272519000", "Absent"),
    Outcome.INDETERMINATE: _sct("373068000", "Undetermined"),
    Outcome.INSUFFICIENT: _sct("373068000", "Undetermined"),
}
MODALITIES = {
    "MG": _dcm("MG", "Mammography"),
    "MR": _dcm("MR", "Magnetic Resonance"),
    "US": _dcm("US", "Ultrasound"),
}
PROCEDURES = {
    "MG": _sct("71651007", "Mammography"),
    "MR": _sct("241615005", "Magnetic resonance imaging of breast"),
    "US": _sct("47079000", "Ultrasonography of breast"),
}
VIEWS = {
    "CC": _sct("399162004", "cranio-caudal"),
    "MLO": _sct("399368009", "medio-lateral oblique"),
    "ML": _sct("399260004", "medial-lateral"),
    "LM": _sct("399352003", "latero-medial"),
}
SOURCE = _sct("260753009", "Source")
