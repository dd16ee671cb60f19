"""Which settings of destinations, webhooks, workers and the queue are refused, because they would lose or leak something. Does no I/O."""

import ipaddress
import urllib.parse
from typing import TYPE_CHECKING

from casework.errors import Defect

if TYPE_CHECKING:
    from casework.config import Destination, Queue, Webhook, Work


def check_destinations(destinations: "tuple[Destination, ...]") -> None:
    """Refuse destinations that can't be reached or can't do what is asked of them."""
    names = [d.name for d in destinations]
    if len(names) != len(set(names)):
        raise Defect("CONFIG_INVALID", "destination: names must differ")
    for d in destinations:
        if d.kind not in ("dimse", "stow"):
            raise Defect("CONFIG_INVALID", f"destination {d.name}: kind must be dimse or stow")
        if (d.kind == "dimse" and not d.ae_title) or (d.kind == "stow" and not d.url):
            raise Defect("CONFIG_INVALID", f"destination {d.name}: ae_title (dimse) or url (stow) is needed")
        if d.proof not in ("", "commitment", "query", "none"):
            raise Defect("CONFIG_INVALID", f"destination {d.name}: proof must be commitment, query or none")
        if d.proof == "commitment" and d.kind != "dimse":
            raise Defect("CONFIG_INVALID", f"destination {d.name}: DICOMweb has no storage commitment; use proof query")


def check_webhook(hook: "Webhook") -> None:
    """Refuse what would leave in the clear, unsigned, or towards a place that nobody named."""
    where, url = f"webhook {hook.name}", urllib.parse.urlsplit(hook.url)
    try:
        networks = [ipaddress.ip_network(n, strict=False) for n in hook.networks]
        _ = url.port
    except ValueError as error:
        raise Defect("CONFIG_INVALID", f"{where}: networks or url: {error}") from error
    if not url.hostname or url.username or url.password or url.fragment:
        raise Defect("CONFIG_INVALID", f"{where}: url must be https://host/path without a user")
    on_this_machine = bool(networks) and all(n.is_loopback for n in networks)
    if url.scheme != "https" and not (url.scheme == "http" and on_this_machine):
        raise Defect("CONFIG_INVALID", f"{where}: url must be https (http only where networks are loopback)")
    if not hook.key_file:
        raise Defect("CONFIG_INVALID", f"{where}: key_file is needed")
    if not hook.events or not set(hook.events) <= {"case.state", "case.results"}:
        raise Defect("CONFIG_INVALID", f"{where}: events must be among case.state, case.results")


def check_work(work: "Work") -> None:
    """Refuse times that the ledger would misunderstand."""
    if work.heartbeat_s * 2 > work.lease_s:
        raise Defect("CONFIG_INVALID", "work.heartbeat_s must be at most half of work.lease_s")
    if work.lease_s > 3600:
        raise Defect("CONFIG_INVALID", "work.lease_s must be at most 3600")
    if max(work.retry_max_s, work.proof_again_s) > 86400:
        raise Defect("CONFIG_INVALID", "work.retry_max_s and work.proof_again_s must be at most 86400")
    if not 0 < work.proof_again_s <= work.proof_wait_s:
        raise Defect("CONFIG_INVALID", "work.proof_again_s must be above 0 and at most work.proof_wait_s")


def check_queue(queue: "Queue") -> None:
    """Refuse a queue that could give out one job twice at a time, or wait for what never comes."""
    if queue.kind not in ("ledger", "celery"):
        raise Defect("CONFIG_INVALID", "queue.kind: ledger or celery")
    if queue.kind == "ledger":
        return
    parts = urllib.parse.urlsplit(queue.url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise Defect("CONFIG_INVALID", "queue.url: redis://user@host:port/0 or rediss://...")
    if parts.password is not None:
        raise Defect("CONFIG_INVALID", "queue.url: without the password; queue.password_file names its file")
    if not 0 < queue.soft_limit_before_s < queue.time_limit_s:
        raise Defect("CONFIG_INVALID", "queue.soft_limit_before_s must be above 0 and below queue.time_limit_s")
    if queue.visibility_s <= 2 * queue.time_limit_s:
        raise Defect("CONFIG_INVALID", "queue.visibility_s must be above twice queue.time_limit_s")
    if not 15 <= queue.repeat_s <= 30:
        raise Defect("CONFIG_INVALID", "queue.repeat_s: 15 to 30")
    if not 1 <= queue.window <= 10_000:
        raise Defect("CONFIG_INVALID", "queue.window: 1 to 10000")
    if not queue.prefix.endswith(":") or not queue.prefix[:-1].replace("-", "").isalnum():
        raise Defect("CONFIG_INVALID", "queue.prefix: letters, digits and -, then a colon")
