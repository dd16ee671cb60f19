"""All phases of a phantom's dynamic MRI as one Enhanced MR Image (PS3.3 A.36.2). Does no I/O."""

from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian

from models.cman.phantom import modules
from models.cman.phantom.identity import Identity
from models.cman.phantom.magnetic import Dynamic


def item(**values: object) -> Dataset:
    """A data set with these attributes."""
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def enhanced_mr(image: Dynamic, identity: Identity) -> Dataset:
    """The data set, frames by phase, then from inferior to superior."""
    ds = modules.start(identity, "MR", EnhancedMRImageStorage, identity.uid("MR", "enhanced"), ExplicitVRLittleEndian)
    modules.series(ds, identity, 10, "t1 fs dyn", "enhanced")
    modules.equipment(ds, image.manufacturer, "PHM 3" if image.field_t > 2 else "PHM 1")
    modules.general_image(ds, 1, "100500", ["ORIGINAL", "PRIMARY", "DYNAMIC", "NONE"])
    phases, planes, ds.Rows, ds.Columns = image.stored.shape
    ds.NumberOfFrames = phases * planes
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.PresentationLUTShape = "IDENTITY"
    ds.PixelData = image.stored.astype("<i2").tobytes()
    ds.PatientPosition = "HFP"
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = identity.uid("frame-of-reference"), ""
    _acquisition(ds, image)
    _dimensions(ds, identity)
    ds.SharedFunctionalGroupsSequence = [_shared(image)]
    started = f"{identity.day('MR')}1005"
    ds.PerFrameFunctionalGroupsSequence = [
        _frame(image, phase, plane, started) for phase in range(phases) for plane in range(planes)
    ]
    return ds


def _acquisition(ds: Dataset, image: Dynamic) -> None:
    ds.AcquisitionNumber, ds.AcquisitionDateTime = 1, f"{ds.AcquisitionDate}100500"
    del ds.AcquisitionDate, ds.AcquisitionTime
    ds.AcquisitionDuration = 1000.0 * image.times_s[-1] + 60000.0
    ds.PixelPresentation, ds.VolumetricProperties = "MONOCHROME", "VOLUME"
    ds.VolumeBasedCalculationTechnique = "NONE"
    ds.ComplexImageComponent, ds.AcquisitionContrast = "MAGNITUDE", "PERFUSION"
    ds.ContentQualification, ds.ResonantNucleus, ds.KSpaceFiltering = "RESEARCH", "1H", "NONE"
    ds.MagneticFieldStrength, ds.ApplicableSafetyStandardAgency = image.field_t, "IEC"
    ds.PulseSequenceName, ds.MRAcquisitionType = "phdyn3d", "3D"
    ds.EchoPulseSequence, ds.MultiPlanarExcitation = "GRADIENT", "NO"
    ds.PhaseContrast, ds.TimeOfFlightContrast = "NO", "NO"
    ds.SteadyStatePulseSequence, ds.EchoPlanarPulseSequence = "NONE", "NO"
    ds.SaturationRecovery, ds.SpectrallySelectedSuppression = "NO", "FAT"
    ds.OversamplingPhase, ds.GeometryOfKSpaceTraversal = "NONE", "RECTILINEAR"
    ds.RectilinearPhaseEncodeReordering, ds.SegmentedKSpaceTraversal = "LINEAR", "SINGLE"
    ds.CoverageOfKSpace, ds.NumberOfKSpaceTrajectories = "FULL", 1
    agent = modules.coded("425274003", "SCT", "Gadobutrol")
    agent.ContrastBolusAgentNumber = 1
    agent.ContrastBolusIngredientCodeSequence = []
    agent.ContrastBolusAdministrationRouteSequence = [modules.coded("47625008", "SCT", "Intravenous route")]
    agent.ContrastBolusVolume, agent.ContrastBolusIngredientConcentration = 7.0, 1.0
    agent.ContrastBolusIngredientOpaque = "NO"
    ds.ContrastBolusAgentSequence = [agent]
    ds.AcquisitionContextSequence = []


def _dimensions(ds: Dataset, identity: Identity) -> None:
    """Temporal position, then place in the stack."""
    uid = identity.uid("dimensions")
    ds.DimensionOrganizationSequence = [item(DimensionOrganizationUID=uid)]
    ds.DimensionIndexSequence = [
        item(DimensionIndexPointer=pointer, FunctionalGroupPointer=0x00209111, DimensionOrganizationUID=uid)
        for pointer in (0x00209128, 0x00209057)
    ]


def _shared(image: Dynamic) -> Dataset:
    """The functional groups that all frames share."""
    rows, columns = image.stored.shape[2:]
    anatomy = item(FrameLaterality="B", AnatomicRegionSequence=[modules.coded("76752008", "SCT", "Breast")])
    return item(
        PixelMeasuresSequence=[
            item(
                PixelSpacing=[round(image.spacing_mm[1], 6), round(image.spacing_mm[2], 6)],
                SliceThickness=round(image.spacing_mm[0], 4),
                SpacingBetweenSlices=round(image.spacing_mm[0], 4),
            )
        ],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        FrameAnatomySequence=[anatomy],
        PixelValueTransformationSequence=[item(RescaleIntercept=0, RescaleSlope=1, RescaleType="US")],
        FrameVOILUTSequence=[item(WindowCenter=300, WindowWidth=600)],
        MRImageFrameTypeSequence=[
            item(
                FrameType=["ORIGINAL", "PRIMARY", "DYNAMIC", "NONE"],
                PixelPresentation="MONOCHROME",
                VolumetricProperties="VOLUME",
                VolumeBasedCalculationTechnique="NONE",
                ComplexImageComponent="MAGNITUDE",
                AcquisitionContrast="PERFUSION",
            )
        ],
        **_scan(rows, columns),
    )


def _scan(rows: int, columns: int) -> dict[str, object]:
    """How the scanner measured: timing, geometry, echo, modifiers, coils (PS3.3 C.8.13.5)."""
    coil = item(
        ReceiveCoilName="PH BREAST",
        ReceiveCoilManufacturerName="Phantom",
        ReceiveCoilType="MULTICOIL",
        QuadratureReceiveCoil="NO",
        MultiCoilDefinitionSequence=[item(MultiCoilElementName="1", MultiCoilElementUsed="YES")],
    )
    timing = item(
        RepetitionTime=4.6,
        FlipAngle=10,
        EchoTrainLength=1,
        RFEchoTrainLength=0,
        GradientEchoTrainLength=1,
        SpecificAbsorptionRateSequence=[
            item(SpecificAbsorptionRateDefinition="IEC_WHOLE_BODY", SpecificAbsorptionRateValue=1.0)
        ],
        GradientOutputType="DB_DT",
        GradientOutput=10.0,
        OperatingModeSequence=[
            item(OperatingModeType=kind, OperatingMode="IEC_NORMAL") for kind in ("STATIC FIELD", "RF", "GRADIENT")
        ],
    )
    geometry = item(
        InPlanePhaseEncodingDirection="ROW",
        MRAcquisitionFrequencyEncodingSteps=columns,
        MRAcquisitionPhaseEncodingStepsInPlane=rows,
        MRAcquisitionPhaseEncodingStepsOutOfPlane=60,
        PercentSampling=100,
        PercentPhaseFieldOfView=100,
    )
    modifier = item(
        InversionRecovery="NO",
        FlowCompensation="NONE",
        Spoiling="RF",
        T2Preparation="NO",
        SpectrallySelectedExcitation="NONE",
        SpatialPresaturation="NONE",
        PartialFourier="NO",
        ParallelAcquisition="NO",
    )
    imaging = item(
        MagnetizationTransfer="NONE",
        BloodSignalNulling="NO",
        Tagging="NONE",
        TransmitterFrequency=123.2,
        PixelBandwidth=500,
    )
    transmit = item(TransmitCoilName="BODY", TransmitCoilManufacturerName="Phantom", TransmitCoilType="BODY")
    return {
        "MRTimingAndRelatedParametersSequence": [timing],
        "MRFOVGeometrySequence": [geometry],
        "MREchoSequence": [item(EffectiveEchoTime=1.8)],
        "MRModifierSequence": [modifier],
        "MRImagingModifierSequence": [imaging],
        "MRReceiveCoilSequence": [coil],
        "MRTransmitCoilSequence": [transmit],
        "MRAveragesSequence": [item(NumberOfAverages=1)],
    }


def _frame(image: Dynamic, phase: int, plane: int, started: str) -> Dataset:
    """What differs: time, place, contrast."""
    x, y, z = image.origin_mm
    after = image.times_s[phase]
    begun = f"{started[:8]}10{5 + int(after // 60):02d}{after % 60:09.6f}"
    content = item(
        FrameAcquisitionNumber=1,
        FrameAcquisitionDateTime=begun,
        FrameReferenceDateTime=begun,
        FrameAcquisitionDuration=60000.0,
        StackID="1",
        InStackPositionNumber=plane + 1,
        TemporalPositionIndex=phase + 1,
        DimensionIndexValues=[phase + 1, plane + 1],
    )
    usage = item(
        ContrastBolusAgentNumber=1,
        ContrastBolusAgentAdministered="YES" if phase else "NO",
        ContrastBolusAgentDetected="YES" if phase else "NO",
        ContrastBolusAgentPhase="POST_CONTRAST" if phase else "PRE_CONTRAST",
    )
    place = [round(x, 4), round(y, 4), round(z + plane * image.spacing_mm[0], 4)]
    return item(
        FrameContentSequence=[content],
        PlanePositionSequence=[item(ImagePositionPatient=place)],
        ContrastBolusUsageSequence=[usage],
        TemporalPositionSequence=[item(TemporalPositionTimeOffset=after)],
    )
