"""The result as JSON: a stable schema for the API and for programs. Does no I/O."""

import json
from collections.abc import Mapping
from datetime import datetime

from casework.report import uid
from casework.report.describe import describe
from casework.report.header import PROGRAM_VERSION
from casework.result import CaseResult, Check, Choice, HeatImage, Outcome, SideResult

SCHEMA = "casework-result-1"
"""Keys are only ever added under this name."""


def to_json(result: CaseResult, key: str, numbers: Mapping[int, int], now: datetime) -> bytes:
    """The result as UTF-8 JSON. `key`: see uid.run_key; `numbers`: index of an image in the result -> Instance Number of its capture."""
    model = result.model
    document = {
        "schema": SCHEMA,
        "program": f"casework {PROGRAM_VERSION}",
        "rendered_at": now.isoformat(),
        "case_id": result.case_id,
        "revision": result.revision,
        "input_digest": result.input_digest,
        "research_only": True,
        "performed": not result.stopped,
        "stopped": list(result.stopped),
        "model": {
            "name": model.name,
            "version": model.version,
            "sha256": model.sha256,
            "engine": model.engine,
            "device_uid": model.device_uid,
            "training": model.training,
            "training_zh": model.training_zh,
            "passport": model.passport,
        },
        "thresholds": dict(result.thresholds),
        "sides": [_side(s) for s in result.sides],
        "images": [_image(key, i, numbers[n]) for n, i in enumerate(result.images)],
        "gate": [_check(c) for c in result.checks],
        "choices": [_choice(c) for c in result.choices],
        "findings": [{"code": f.code, "subject": f.subject, "detail": f.detail} for f in result.findings],
        "reports": [
            {
                "study_instance_uid": study,
                "series_instance_uid": uid.series_uid(key, study, "sr"),
                "sop_instance_uid": uid.instance_uid(key, study, "sr", 1),
            }
            for study in dict.fromkeys(i.study_instance_uid for i in result.images)
        ],
        "predecessors": [list(p) for p in result.predecessors],
        "words": {language: describe(result, language) for language in ("en", "zh")},
    }
    return json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False).encode("utf-8")


def _side(side: SideResult) -> dict[str, object]:
    silent = side.outcome is Outcome.INSUFFICIENT
    return {
        "side": side.side.value,
        "outcome": side.outcome.value,
        "probability": None if silent or side.probability is None else float(side.probability),
        "evidence": {m: float(v) for m, v in side.evidence.items()},
        "modalities": list(side.modalities),
        "without": {m: float(v) for m, v in side.without.items()},
        "spread": None if side.spread is None else float(side.spread),
        "distance": {m: float(v) for m, v in side.distance.items()},
        "thresholds": None if side.cut is None else dict(zip(("positive_at", "negative_below"), side.cut, strict=True)),
        "held_back": list(side.held_back),
    }


def _check(check: Check) -> dict[str, object]:
    found = [{"code": f.code, "subject": f.subject, "detail": f.detail} for f in check.findings]
    return {"code": check.code, "severity": check.severity, "value": check.value, "findings": found}


def _choice(choice: Choice) -> dict[str, object]:
    return {
        "modality": choice.modality,
        "series_instance_uid": choice.series_instance_uid,
        "code": choice.code,
        "detail": choice.detail,
        "instances": list(choice.instances),
    }


def _image(key: str, image: HeatImage, number: int) -> dict[str, object]:
    return {
        "side": image.side.value,
        "modality": image.modality,
        "view": image.view,
        "study_instance_uid": image.study_instance_uid,
        "sources": list(image.sources),
        "frame_number": image.frame_number,
        "capture_sop_instance_uid": uid.instance_uid(key, image.study_instance_uid, "capture", number),
        "strongest": float(image.heat.max()) if image.heat.size else 0.0,
        "region": None if image.region is None else [[float(r), float(c)] for r, c in image.region],
        "peak": None if image.peak is None else [float(v) for v in image.peak],
    }
