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
LANGUAGE = _dcm("121049", "Language of Content Item and Descendants")
OBSERVER_TYPE = _dcm("121005", "Observer Type")
DEVICE = _dcm("121007", "Device")
DEVICE_UID = _dcm("121012", "Device Observer UID")
DEVICE_NAME = _dcm("121013", "Device Observer Name")
DEVICE_MANUFACTURER = _dcm("121014", "Device Observer Manufacturer")
DEVICE_MODEL = _dcm("121015", "Device Observer Model Name")
DEVICE_SERIAL = _dcm("121016", "Device Observer Serial Number")
PROCEDURE_REPORTED = _dcm("121058", "Procedure reported")
IMAGE_LIBRARY = _dcm("111028", "Image Library")
IMAGE_LIBRARY_GROUP = _dcm("126200", "Image Library Group")
IMAGING_MEASUREMENTS = _dcm("126010", "Imaging Measurements")
MEASUREMENT_GROUP = _dcm("125007", "Measurement Group")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
TRACKING_IDENTIFIER = _dcm("112039", "Tracking Identifier")
TRACKING_UID = _dcm("112040", "Tracking Unique Identifier")
FINDING = _dcm("121071", "Finding")
FINDING_SITE = _sct("363698007", "Finding Site")
LATERALITY = _sct("272741003", "Laterality")
IMAGE_REGION = _dcm("111030", "Image Region")
ILLUSTRATION = _dcm("121200", "Illustration of ROI")
SOURCE_OF_MEASUREMENT = _dcm("121112", "Source of Measurement")
COMMENT = _dcm("121106", "Comment")
IMPRESSION = _dcm("121073", "Impression")

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
PROBABILITY = _dcm("111047", "Probability of cancer")
PERCENT = Code("%", "UCUM", "Percent")
CLASS_ACTIVATION = _dcm("130402", "Class activation")

# Who says it, TID 4019.
ALGORITHM_FAMILY = _dcm("111000", "Algorithm Family")
ALGORITHM_NAME = _dcm("111001", "Algorithm Name")
ALGORITHM_PARAMETERS = _dcm("111002", "Algorithm Parameters")
ALGORITHM_VERSION = _dcm("111003", "Algorithm Version")
ALGORITHM_MANUFACTURER = _dcm("122405", "Algorithm Manufacturer")
ARTIFICIAL_INTELLIGENCE = _dcm("123110", "Artificial Intelligence")
PROCESSING_EQUIPMENT = _dcm("109102", "Processing Equipment")
SOURCE_FOR_PROCESSING = _dcm("121322", "Source image for image processing operation")

LANGUAGES = {
    "en": Code("en-US", "RFC5646", "English (United States)"),
    "zh": Code("zh-CN", "RFC5646", "Chinese (S)"),
}
SIDES = {Side.RIGHT: _sct("24028007", "Right"), Side.LEFT: _sct("7771000", "Left")}
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
    "ML": _sct("399260004", "medio-lateral"),
    "LM": _sct("399352003", "latero-medial"),
}
SOURCE = _sct("260753009", "Source")
