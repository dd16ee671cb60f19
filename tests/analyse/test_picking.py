"""Tomosynthesis, what is computed from it, screen copies and other MR series, told apart by what is coded; on real files too."""

import contextlib
import warnings
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from casework.errors import Refused
from casework.modelspec import SLOTS
from casework.preprocess.decode import open_header
from casework.preprocess.facts import InstanceFacts
from casework.preprocess.select import CHOSEN, choose
from casework.result import Side
from tests.analyse.dicoms import facts, plane

R, L = Side.RIGHT, Side.LEFT


def mg(uid: str, **known: Any) -> InstanceFacts:
    return facts(sop_instance_uid=uid, **known)


def test_a_full_field_image_is_preferred_to_one_computed_from_tomosynthesis() -> None:
    """Whatever is newer or larger: the full-field image is read, and the others say what they are and why not."""
    full = mg("full", rows=2048, columns=1664, content_s=1.0)
    computed = mg("computed", synthetic=True, rows=4096, columns=3328, content_s=9.0)
    volume = mg("volume", sop_class_uid="1.2.840.10008.5.1.4.1.1.13.1.3", frame_count=60)
    for synthetic in (False, True):
        plan = choose([computed, volume, full], synthetic=synthetic)
        assert plan.mammograms == {(R, "CC"): "full"}
        assert plan.reasons == {
            "full": CHOSEN,
            "computed": plan.reasons["computed"],
            "volume": "TOMOSYNTHESIS_NOT_USED",
        }
        assert plan.reasons["computed"] == "SYNTHETIC_NOT_USED"
        assert "rank 1 of 1, full field" in plan.details["full"]


def test_a_computed_image_alone_is_read_only_where_the_package_allows_it() -> None:
    """Without a full-field image: left out with a code that the report tells, or read with one."""
    computed = mg("computed", synthetic=True)
    refused = choose([computed])
    assert (refused.empty, refused.reasons) == (True, {"computed": "SYNTHETIC_ONLY"})
    allowed = choose([computed], synthetic=True)
    assert allowed.mammograms == {(R, "CC"): "computed"}
    assert "computed from tomosynthesis" in allowed.details["computed"]


def test_tomosynthesis_without_a_mammogram_of_its_view_is_told() -> None:
    """A view of which there is only the volume is not silently missing."""
    volume = mg("v", sop_class_uid="1.2.840.10008.5.1.4.1.1.13.1.3", frame_count=60, view="MLO")
    assert choose([mg("cc"), volume]).reasons["v"] == "SYNTHETIC_ONLY"
    assert choose([mg("cc"), mg("mlo", view="MLO"), volume]).reasons["v"] == "TOMOSYNTHESIS_NOT_USED"


@pytest.mark.parametrize(
    ("image_type", "source", "synthetic"),
    [
        (["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "GENERATED_2D"], "", True),
        (["DERIVED", "PRIMARY", "C_VIEW"], "", True),
        (["DERIVED", "PRIMARY", "S_VIEW"], "", True),
        (["DERIVED", "PRIMARY", "TOMO_2D"], "", True),
        (["DERIVED", "PRIMARY"], "1.2.840.10008.5.1.4.1.1.13.1.3", True),
        (["DERIVED", "PRIMARY"], "1.2.840.10008.5.1.4.1.1.1.2.1", False),
        (["ORIGINAL", "PRIMARY", ""], "", False),
        (["DERIVED", "PRIMARY", "POST_PROCESSED"], "", False),
    ],
)
def test_what_was_computed_is_known_by_its_type_or_its_source(
    image_type: list[str],
    source: str,
    synthetic: bool,
) -> None:
    """Image Type or the class of the source, never the description: "C-View" there says nothing."""
    ds = Dataset()
    ds.SOPClassUID, ds.Modality, ds.ImageType = "1.2.840.10008.5.1.4.1.1.1.2", "MG", image_type
    ds.SeriesDescription = "R CC C-View Tomosynthesis 2D"
    if source:
        item = Dataset()
        item.ReferencedSOPClassUID = source
        ds.SourceImageSequence = [item]
    assert InstanceFacts.from_dataset(ds).synthetic is synthetic


def test_a_screen_copy_is_no_mammogram() -> None:
    """Secondary captures with burned-in annotation or in colour are screen copies; a digitised film is read."""
    capture = "1.2.840.10008.5.1.4.1.1.7"
    copies = [mg("a", sop_class_uid=capture, burned_in="YES"), mg("b", sop_class_uid=capture, samples=3)]
    plan = choose([*copies, mg("film", sop_class_uid=capture)])
    assert plan.reasons == {"a": "SCREEN_COPY", "b": "SCREEN_COPY", "film": CHOSEN}


def test_two_views_on_one_image_are_said_as_such() -> None:
    """A conflict of views is another thing than no view."""
    assert choose([mg("a", view="", view_conflict=True)]).reasons == {"a": "VIEW_CONFLICT"}


@pytest.mark.parametrize(
    ("known", "detail"),
    [
        ({"image_type": ("DERIVED", "PRIMARY")}, "image type DERIVED"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "image type LOCALIZER"),
        ({"frames": (plane(0.0, b_value=800.0),)}, "diffusion, b 800"),
        ({"scanning_sequence": ("EP",)}, "echo planar"),
        ({"echo_time_ms": 90.0}, "echo time 90 ms"),
        ({"frames": ()}, "no plane"),
    ],
)
def test_an_mr_image_of_another_kind_says_which(known: dict[str, Any], detail: str) -> None:
    """Diffusion, T2, localisers and subtractions are no contrast phases, and the case keeps what they are instead."""
    values: dict[str, Any] = {"modality": "MR", "view": "", "frames": (plane(0.0),), "echo_time_ms": 2.0} | known
    plan = choose([facts(sop_instance_uid="x", **values)])
    assert (plan.reasons["x"], plan.details["x"]) == ("MR_NOT_DYNAMIC", detail)


def real(folder: Path, name: str) -> InstanceFacts:
    """The facts of a real file; skips nothing: without the folder the test is not collected."""
    return InstanceFacts.from_dataset(open_header(folder / name))


def test_real_files_are_told_apart(shared: Path) -> None:
    """Hologic tomosynthesis and scout, GE and digitised mammograms, MR of four vendors: each has its fate and its reason."""
    if not (shared / "dbt_hologic_bto_4frame_j2k.dcm").exists():
        found = choose([InstanceFacts.from_dataset(open_header(f)) for f in sorted(shared.rglob("*.dcm"))[:4]])
        assert set(found.reasons.values()) <= {CHOSEN, "IMAGE_NOT_CHOSEN"}
        return
    names = {
        "volume": "dbt_hologic_bto_4frame_j2k.dcm", "scout": "mg_hologic_scout_mono1.dcm",
        "right": "mg_ge_rcc_jpegll.dcm", "left": "mg_ge_lcc_large_jpegll.dcm",
    }  # fmt: skip
    of = {key: real(shared, name) for key, name in names.items()}
    alone = choose([of["volume"], of["scout"]])
    assert alone.empty
    assert alone.reasons[of["volume"].sop_instance_uid] == "SYNTHETIC_ONLY"
    assert alone.reasons[of["scout"].sop_instance_uid] == "IMAGE_KIND_NOT_USED"
    assert "STEREO_SCOUT" in alone.details[of["scout"].sop_instance_uid]
    together = choose(list(of.values()), dict.fromkeys((), "PIXELS_UNDECODABLE"))
    assert together.reasons[of["volume"].sop_instance_uid] == "TOMOSYNTHESIS_NOT_USED"
    assert together.mammograms[R, "CC"] == of["right"].sop_instance_uid
    assert together.mammograms[L, "CC"] == of["left"].sop_instance_uid
    films = [real(shared, f"mg_case_sfm_malign_{s}.dcm") for s in ("LCC", "LMLO", "RCC", "RMLO")]
    assert len(choose(films).mammograms) == len(SLOTS["MG"]) * 2
    assert not any(f.synthetic for f in (*of.values(), *films))


def test_no_real_mr_without_contrast_phases_passes_for_one(shared: Path) -> None:
    """Field maps, functional and single-phase series of real scanners: nothing is read, every instance has a reason."""
    files = sorted(shared.glob("mr_*.dcm")) + sorted((shared / "mr_series_ge_t1").glob("*.dcm"))
    known = []
    for file in files:
        # Real UIDs are sometimes too long; pydicom warns.
        with warnings.catch_warnings(), contextlib.suppress(Refused):
            warnings.simplefilter("ignore")
            known.append(InstanceFacts.from_dataset(open_header(file)))
    plan = choose(known)
    assert plan.mri is None
    assert {plan.reasons[f.sop_instance_uid] for f in known if f.modality == "MR"} <= {
        "MR_NOT_DYNAMIC",
        "PHASES_INCOMPLETE",
        "BODY_PART_OTHER",
    }
