"""One page on a case in words, made on demand from the stored result: two languages, two registers, several forms."""

from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Literal

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from casework.entrypoints.api.door import Door, add, language
from casework.entrypoints.api.problems import Language, words
from casework.entrypoints.api.routes_cases import CaseId
from casework.entrypoints.keyfile import Role
from casework.errors import Defect, Refused
from casework.ledger.types import CaseView
from casework.report import stored, summary

Register = Literal["radiologist", "plain"]
Form = Literal["html", "json", "text", "pdf"]


class SummaryRoutes:
    """Handlers over `ledger.read` and the table of sentences."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def get_summary(
        self,
        request: Request,
        case_id: CaseId,
        language: Language | None = None,
        register: Register = "radiologist",
        format: Form = "html",  # noqa: A002 - the contract's name
    ) -> Response:
        """One page on a case."""
        view = self._door.ledger.read.case_view(case_id)
        page = self._page(view, language or _asked(request), register)
        headers = {"Content-Language": page.language, "Cache-Control": "private, no-store"}
        match format:
            case "json":
                return JSONResponse(asdict(page), headers=headers)
            case "text":
                return Response(summary.to_text(page), headers=headers, media_type="text/plain")
            case "pdf":
                font = self._door.settings.report.pdf_font
                if not font:
                    raise Refused("PDF_NOT_CONFIGURED")
                headers["Content-Disposition"] = f'attachment; filename="casework-{view.case.id}.pdf"'
                return Response(_pdf().to_pdf(page, Path(font)), headers=headers, media_type="application/pdf")
            case "html":
                headers["Content-Security-Policy"] = summary.POLICY
                return Response(summary.to_html(page), headers=headers, media_type="text/html")

    def _page(self, view: CaseView, language: Language, register: str) -> summary.Summary:
        try:
            result = stored.parse(view.result_json) if view.result_json else None
        except ValueError as error:
            raise Defect("INTERNAL", "the stored result has another form") from error
        about = summary.About(
            patient=view.case.patient_id,
            accessions=sorted({study.accession_number for study in view.studies} - {""}),
            dates=sorted({study.study_date for study in view.studies} - {""}),
            made_at=self._door.now(),
            newest=view.newest_id == view.case.id,
            withdrawn=bool(view.case.retraction),
            reason=words(code, language)[0] if (code := view.case.retraction or view.case.reason) else "",
        )
        return summary.summarise(result, about, language, register)


def _pdf() -> ModuleType:
    """The PDF writer: its library is an extra, loaded only where a font is set."""
    try:
        return import_module("casework.report.pdf")
    except ModuleNotFoundError as error:
        raise Defect("CONFIG_INVALID", "report.pdf_font: the extra `pdf` is not installed") from error


def _asked(request: Request) -> Language:
    return language(request)


def add_routes(app: FastAPI, door: Door) -> None:
    """Add the routes of this module; a font that can't be used is refused now, not at the first page.

    Raises:
        Defect: CONFIG_INVALID.
    """
    if door.settings.report.pdf_font:
        _pdf().check_font(Path(door.settings.report.pdf_font))
    text, raw = {"schema": {"type": "string"}}, {"schema": {"type": "string", "format": "binary"}}
    page = {"schema": {"$ref": "#/components/schemas/Summary"}}
    add(
        app, "GET", "/v1/cases/{case_id}/summary", SummaryRoutes(door).get_summary,
        role=Role.VIEWER, tag="cases", failures=(400, 404, 406, 503), response_class=Response, response_model=None,
        responses={200: {"content": {"application/json": page, "application/pdf": raw, "text/html": text, "text/plain": text}}},
    )  # fmt: skip
