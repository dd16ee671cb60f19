"""The service itself: who am I, is it alive, can it work, and its metrics."""

from collections.abc import Iterator, Mapping
from datetime import datetime

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse

from casework import __version__
from casework.entrypoints.api import schemas
from casework.entrypoints.api.door import Door, add, principal
from casework.entrypoints.keyfile import Role
from casework.errors import CaseworkError


class ServiceRoutes:
    """Handlers over the service's own state."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def get_session(self, request: Request) -> schemas.Session:
        """The owner of the key."""
        owner = principal(request)
        return schemas.Session(name=owner.name, role=owner.role, version=__version__)

    async def live(self) -> schemas.Live:
        """The process answers; it asks nobody."""
        return schemas.Live(status="alive")

    def ready(self) -> JSONResponse:
        """Whether images can be taken and questions answered."""
        checks = [self._ledger(), self._intake()]
        state = schemas.Ready(ready=all(check.ok for check in checks), checks=checks, engines=self._engines())
        return JSONResponse(state.model_dump(mode="json"), 200 if state.ready else 503)

    def metrics(self) -> PlainTextResponse:
        """This process's metrics and the ledger's counts."""
        ours = CollectorRegistry(auto_describe=False)
        ours.register(LedgerCollector(self._door))
        text = generate_latest() + generate_latest(ours)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    def _ledger(self) -> schemas.Check:
        try:
            self._door.ledger.read.next_due()
        except CaseworkError as error:
            return schemas.Check(name="ledger", ok=False, code=error.code)
        return schemas.Check(name="ledger", ok=True, code="")

    def _engines(self) -> list[schemas.Engine]:
        try:
            rows = [row for row in self._door.ledger.read.processes() if row.engine]
        except CaseworkError:  # the ledger's own check says so
            return []
        return [
            schemas.Engine(
                engine=row.engine.get("engine", ""),
                passport=row.engine.get("passport", ""),
                sha256=row.engine.get("sha256", ""),
                fallback="passed_over" in row.engine,
                alive=row.alive(self._door.now()),
            )
            for row in rows
        ]

    def _intake(self) -> schemas.Check:
        intake = self._door.intake
        if intake.failure:
            intake.probe()
        code = intake.admit()
        return schemas.Check(name="intake", ok=not code, code=code)


class LedgerCollector(Collector):
    """The ledger's counts as gauges, asked when they are scraped."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def collect(self) -> Iterator[Metric]:
        """Yield one family a question."""
        found, now = self._door.ledger.read.metrics(), self._door.now()
        yield _by_state("casework_cases", "Cases by state.", found.cases)
        yield _by_state("casework_jobs", "Jobs by state.", found.jobs)
        deliveries = GaugeMetricFamily("casework_deliveries", "Deliveries.", labels=["destination", "state"])
        for destination, states in found.deliveries.items():
            for state, count in states.items():
                deliveries.add_metric([destination, state], count)
        yield deliveries
        yield from _unproved(found.unproved, now)
        fetches = GaugeMetricFamily(
            "casework_fetch_studies", "Studies that a PACS named.", labels=["destination", "state"]
        )
        for (destination, state), count in self._door.ledger.read.fetch_states().items():
            fetches.add_metric([destination, state], count)
        yield fetches
        yield _notices(found.notices)
        usage = self._door.spool.usage()
        for name, words, value in (
            ("casework_queue_depth", "Jobs that wait for a worker.", found.queue_depth),
            ("casework_queue_oldest_seconds", "Age of the oldest of them.", _age(found.oldest_queued_at, now)),
            ("casework_delivery_backlog", "Objects that wait for a destination.", found.delivery_backlog),
            ("casework_delivery_oldest_seconds", "Age of the oldest of them.", _age(found.oldest_delivery_at, now)),
            ("casework_ledger_associations_open", "Open associations and uploads.", found.open_associations),
            ("casework_ledger_instances", "Accepted instances.", found.instances),
            ("casework_disk_free_bytes", "Free space below the spool.", usage.free),
            ("casework_disk_used_ratio", "Used share of the disk below the spool.", usage.share),
        ):
            yield GaugeMetricFamily(name, words, value=value)


def _by_state(name: str, words: str, counts: object) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, words, labels=["state"])
    for state, count in dict(counts).items():  # type: ignore[call-overload]  # a Mapping[str, int] of the ledger
        family.add_metric([str(state)], count)
    return family


def _unproved(found: Mapping[str, tuple[int, datetime]], now: datetime) -> Iterator[Metric]:
    """What destinations stored and have yet to prove: the age is what to put an alarm on."""
    count = GaugeMetricFamily("casework_unproved", "Stored objects without proof.", labels=["destination"])
    oldest = GaugeMetricFamily("casework_unproved_oldest_seconds", "Age of the oldest.", labels=["destination"])
    for destination, (number, since) in found.items():
        count.add_metric([destination], number)
        oldest.add_metric([destination], _age(since, now))
    yield from (count, oldest)


def _notices(found: Mapping[str, Mapping[str, int]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily("casework_notices", "Webhook events.", labels=["webhook", "state"])
    for webhook, states in found.items():
        for state, count in states.items():
            family.add_metric([webhook, state], count)
    return family


def _age(since: datetime | None, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds()) if since else 0.0


def add_routes(app: FastAPI, door: Door) -> None:
    """Add the routes of this module."""
    routes = ServiceRoutes(door)
    ready = {"application/json": {"schema": {"$ref": "#/components/schemas/Ready"}}}
    text = {"text/plain": {"schema": {"type": "string"}}}
    add(app, "GET", "/v1/session", routes.get_session, role=Role.VIEWER, tag="service")
    add(app, "GET", "/v1/health/live", routes.live, role=None, tag="service")
    add(
        app, "GET", "/v1/health/ready", routes.ready, role=None, tag="service", response_model=None,
        responses={200: {"content": ready}, 503: {"description": "A check failed.", "content": ready}},
    )  # fmt: skip
    add(
        app, "GET", "/v1/metrics", routes.metrics, role=Role.VIEWER, tag="service", response_model=None,
        response_class=PlainTextResponse, failures=(503,), responses={200: {"content": text}},
    )  # fmt: skip
