"""Ask for an analysis: which images, how urgent, and once only."""

import hashlib
import json
from typing import Annotated

from fastapi import FastAPI, Header, Path
from starlette.requests import Request

from casework.case import STAT_PRIORITY
from casework.entrypoints.api import schemas, views
from casework.entrypoints.api.door import Door, add, language, principal
from casework.entrypoints.api.routes_cases import actor
from casework.entrypoints.keyfile import Role
from casework.ledger.types import Selector

AnalysisId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
IdempotencyKey = Annotated[str, Header(alias="Idempotency-Key", pattern=r"^[A-Za-z0-9._:-]{1,128}$")]


class AnalysisRoutes:
    """Handlers over the ledger's requests."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._ledger = door.ledger

    def create_analysis(
        self, request: Request, wish: schemas.AnalysisRequest, idempotency_key: IdempotencyKey
    ) -> schemas.Analysis:
        """Start the analysis of what is here now; the same key and body again start nothing."""
        analysis_id = analysis_id_of(principal(request).name, idempotency_key)
        requested = self._ledger.request_analysis(
            analysis_id,
            request_hash(wish),
            selector(wish),
            actor(request),
            self._door.now(),
            priority=STAT_PRIORITY if wish.priority is schemas.Priority.STAT else 0,
        )
        return self._answer(request, analysis_id, requested.case_ids)

    def get_analysis(self, request: Request, analysis_id: AnalysisId) -> schemas.Analysis:
        """The request's cases as they stand now."""
        return self._answer(request, analysis_id, self._ledger.read.requested(analysis_id))

    def _answer(self, request: Request, analysis_id: str, case_ids: tuple[str, ...]) -> schemas.Analysis:
        cases = [views.case_summary(self._ledger.read.case_view(case_id), language(request)) for case_id in case_ids]
        return schemas.Analysis(id=analysis_id, cases=cases)


def analysis_id_of(owner: str, idempotency_key: str) -> str:
    """One request's id: the same for the same key of the same owner, and nobody else's."""
    return hashlib.sha256(f"{owner}\n{idempotency_key}".encode()).hexdigest()[:32]


def request_hash(wish: schemas.AnalysisRequest) -> str:
    """What makes two requests the same: their meaning, not their spelling."""
    meaning = wish.model_dump(mode="json")
    if wish.study_instance_uids is not None:
        meaning["study_instance_uids"] = sorted(set(wish.study_instance_uids))
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def selector(wish: schemas.AnalysisRequest) -> Selector:
    """The request in the ledger's words."""
    return Selector(
        study_uids=tuple(wish.study_instance_uids or ()),
        accession_number=wish.accession_number or "",
        patient_id=wish.patient_id or "",
        issuer_of_patient_id=wish.issuer_of_patient_id or "",
    )


def add_routes(app: FastAPI, door: Door) -> None:
    """Add the routes of this module."""
    routes = AnalysisRoutes(door)
    failures = (400, 404, 409, 413, 503)
    add(
        app, "POST", "/v1/analyses", routes.create_analysis,
        role=Role.OPERATOR, tag="analyses", status=202, failures=failures,
    )  # fmt: skip
    add(
        app, "GET", "/v1/analyses/{analysis_id}", routes.get_analysis,
        role=Role.VIEWER, tag="analyses", failures=(400, 404, 503),
    )  # fmt: skip
