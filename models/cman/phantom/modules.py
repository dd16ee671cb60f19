"""DICOM modules that phantoms fill in (PS3.3): patient, study, series, equipment, mammography, MR, ultrasound. No I/O."""

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from models.cman.phantom.identity import Identity
from models.cman.phantom.magnetic import Dynamic
from models.cman.phantom.mammogram import Mammogram

IMPLEMENTATION = "2.25.147520317305284611302868014915212446105"


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    """One code sequence item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def start(identity: Identity, modality: str, sop_class: str, sop_uid: str, syntax: str) -> Dataset:
    """SOP Common, Patient, General Study and file meta information."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(sop_uid)
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.file_meta.ImplementationClassUID = UID(IMPLEMENTATION)
    ds.file_meta.ImplementationVersionName = "CASEWORK_PHANTOM"
    codes = identity.character_set
    ds.SpecificCharacterSet = codes if len(codes) > 1 else codes[0]
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, sop_uid
    ds.PatientName, ds.PatientID = identity.name, identity.patient_id
    ds.IssuerOfPatientID = identity.issuer
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = identity.birth_date, "F", identity.age
    ds.StudyInstanceUID = identity.uid("study", modality)
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = identity.day(modality)
    ds.StudyTime = "091500"
    ds.StudyID = f"S{identity.seed % 10**6:06d}"
    ds.AccessionNumber = identity.accession(modality)
    issuer = Dataset()
    issuer.LocalNamespaceEntityID = identity.issuer
    ds.IssuerOfAccessionNumberSequence = [issuer]
    ds.ReferringPhysicianName = ""
    ds.Modality = modality
    return ds


def series(ds: Dataset, identity: Identity, number: int, description: str, key: str = "") -> None:
    """General Series."""
    ds.SeriesInstanceUID = identity.uid("series", ds.Modality, number, key)
    ds.SeriesNumber, ds.SeriesDescription = number, description
    ds.SeriesTime = f"09{20 + number % 30:02d}00"


def equipment(ds: Dataset, manufacturer: str, model: str) -> None:
    """General and Enhanced General Equipment."""
    ds.Manufacturer, ds.ManufacturerModelName = manufacturer, model
    ds.InstitutionName = "Phantom Hospital"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "PH-1", "1"


def general_image(ds: Dataset, number: int, time: str, image_type: list[str]) -> None:
    """General Image."""
    ds.InstanceNumber, ds.ImageType = number, image_type
    ds.ContentTime = ds.AcquisitionTime = time
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"


_VIEW_CODES = {
    "CC": ("399162004", "SCT", "cranio-caudal"),
    "MLO": ("399368009", "SCT", "medio-lateral oblique"),
}


def mammography(ds: Dataset, image: Mammogram, thickness_mm: int) -> None:
    """DX Image, DX Detector, DX Positioning, Mammography Image, Acquisition Context (PS3.3 C.8.11)."""
    ds.BodyPartExamined = "BREAST"
    ds.AnatomicRegionSequence = [coded("76752008", "SCT", "Breast")]
    view = coded(*_VIEW_CODES[image.view])
    view.ViewModifierCodeSequence = []
    ds.ViewCodeSequence = [view]
    ds.PositionerType, ds.OrganExposed = "MAMMOGRAPHIC", "BREAST"
    ds.PositionerPrimaryAngle = 0 if image.view == "CC" else (45 if image.side == "L" else -45)
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = -1 if image.photometric == "MONOCHROME1" else 1
    ds.RescaleType = "US"
    ds.PresentationLUTShape = "INVERSE" if image.photometric == "MONOCHROME1" else "IDENTITY"
    ds.DetectorType, ds.DetectorConfiguration, ds.DetectorID = "DIRECT", "AREA", "PH-D1"
    ds.KVP, ds.BodyPartThickness, ds.CompressionForce = 29, thickness_mm, 98
    ds.ExposureInuAs, ds.ExposureTime, ds.XRayTubeCurrent = 78000, 900, 87
    ds.AnodeTargetMaterial, ds.FilterMaterial = "TUNGSTEN", "RHODIUM"
    ds.DistanceSourceToDetector, ds.DistanceSourceToPatient = 660, 640
    ds.EstimatedRadiographicMagnificationFactor = 1.03125
    ds.BreastImplantPresent, ds.QualityControlImage = "NO", "NO"
    ds.AcquisitionContextSequence = []


def magnetic_resonance(ds: Dataset, image: Dynamic, *, phase: int, plane: int, frame_of_reference: str) -> None:
    """MR Image, Image Plane, Frame of Reference, Contrast/Bolus of a classic slice (PS3.3 C.8.3.1)."""
    ds.BodyPartExamined, ds.PatientPosition = "BREAST", "HFP"
    ds.Laterality = ""  # both sides are in the field
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "GR", ["SP", "OSP"], "FS"
    ds.MRAcquisitionType, ds.SequenceName = "3D", "phdyn3d"
    ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = 4.6, 1.8, 1
    ds.FlipAngle, ds.MagneticFieldStrength = 10, image.field_t
    ds.SliceThickness = ds.SpacingBetweenSlices = round(image.spacing_mm[0], 4)
    ds.PixelSpacing = [round(image.spacing_mm[1], 6), round(image.spacing_mm[2], 6)]
    x, y, z = image.origin_mm
    ds.ImagePositionPatient = [round(x, 4), round(y, 4), round(z + plane * image.spacing_mm[0], 4)]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.SliceLocation = ds.ImagePositionPatient[2]
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = frame_of_reference, ""
    ds.AcquisitionNumber, ds.TemporalPositionIdentifier = phase + 1, phase + 1
    ds.NumberOfTemporalPositions = len(image.times_s)
    ds.TemporalResolution = round(1000 * (image.times_s[1] - image.times_s[0]), 1)
    ds.ContrastBolusAgent = "GADOBUTROL" if phase else ""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = image.stored.shape[2:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.WindowCenter, ds.WindowWidth = 300, 600
    ds.PatientOrientation = ["L", "P"]
    ds.PixelData = image.stored[phase, plane].astype("<i2").tobytes()


def ultrasound(ds: Dataset) -> None:
    """US Image (PS3.3 C.8.5.6): what `headers.describe_sonogram` leaves out."""
    ds.BodyPartExamined = "BREAST"
    ds.PatientOrientation = ""
    ds.TransducerType = "LINEAR"
    ds.AnatomicRegionSequence = [coded("76752008", "SCT", "Breast")]
