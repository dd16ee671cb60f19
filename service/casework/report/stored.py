"""A stored result read back from its JSON (document.py), without pictures: what the words need. Does no I/O."""

import json
from typing import Any

import numpy as np

from casework.report.document import SCHEMA
from casework.result import CaseResult, Check, Finding, HeatImage, ModelIdentity, Outcome, Side, SideResult


def parse(text: str) -> CaseResult:
    """The result of a stored document. Keys that came later may be absent; pictures and heat-maps are empty.

    Raises:
        ValueError: not a document of this schema, or one without an answer for a side it names.
    """
    try:
        document = json.loads(text)
        if document["schema"] != SCHEMA:
            raise ValueError("schema")
        return CaseResult(
            case_id=str(document.get("case_id", "")),
            revision=int(document.get("revision", 1)),
            model=_model(document["model"]),
            sides=tuple(_side(each) for each in document["sides"]),
            images=tuple(_image(each) for each in document.get("images", ())),
            findings=tuple(
                Finding(str(f["code"]), str(f["subject"]), str(f["detail"])) for f in document.get("findings", ())
            ),
            input_digest=str(document.get("input_digest", "")),
            thresholds={str(k): float(v) for k, v in document.get("thresholds", {}).items()},
            checks=tuple(Check(str(c["code"]), str(c["severity"]), str(c["value"])) for c in document.get("gate", ())),
            stopped=tuple(str(code) for code in document.get("stopped", ())),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"stored result: {error!r}") from error


def _model(model: dict[str, Any]) -> ModelIdentity:
    return ModelIdentity(
        name=str(model["name"]),
        version=str(model["version"]),
        sha256=str(model["sha256"]),
        engine=str(model["engine"]),
        device_uid=str(model["device_uid"]),
        training=str(model.get("training", "")),
        training_zh=str(model.get("training_zh", "")),
        passport=str(model.get("passport", "")),
    )


def _side(side: dict[str, Any]) -> SideResult:
    probability = side["probability"]
    return SideResult(
        Side(side["side"]),
        Outcome(side["outcome"]),
        None if probability is None else float(probability),
        {str(k): float(v) for k, v in side["evidence"].items()},
        tuple(str(m) for m in side["modalities"]),
        without={str(k): float(v) for k, v in side.get("without", {}).items()},
        spread=None if side.get("spread") is None else float(side["spread"]),
        distance={str(k): float(v) for k, v in side.get("distance", {}).items()},
        cut=_cut(side.get("thresholds")),
        held_back=tuple(str(c) for c in side.get("held_back", ())),
    )


def _cut(stated: dict[str, Any] | None) -> tuple[float, float] | None:
    return None if stated is None else (float(stated["positive_at"]), float(stated["negative_below"]))


def _image(image: dict[str, Any]) -> HeatImage:
    return HeatImage(
        side=Side(image["side"]),
        modality=str(image["modality"]),
        view=str(image["view"]),
        study_instance_uid=str(image["study_instance_uid"]),
        sources=tuple(str(uid) for uid in image["sources"]),
        frame_number=int(image["frame_number"]),
        picture=np.zeros((0, 0), np.uint8),
        heat=np.zeros((0, 0), np.float32),
        to_source=np.zeros((2, 3)),
        region=None,
        peak=None,
    )
