"""Which settings of destinations, webhooks and workers are refused, because they would lose or leak something. Does no I/O."""

import ipaddress
import urllib.parse
from dataclasses import fields
from typing import TYPE_CHECKING

from casework.errors import Defect

if TYPE_CHECKING:
    from casework.config import Assembly, Destination, Policy, Webhook, Work


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
        elsewhere = d.commitment_ae_title or d.commitment_host or d.commitment_port
        if elsewhere and d.proof != "commitment":
            raise Defect("CONFIG_INVALID", f"destination {d.name}: commitment_* needs proof commitment")


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


def check_policy(policy: "Policy", assembly: "Assembly") -> None:
    """Refuse waits that could never be of use, or that outlast the window in which studies are joined."""
    if not policy.wanted or len(set(policy.wanted)) < len(policy.wanted) or not {*policy.wanted} <= {"MG", "MR", "US"}:
        raise Defect("CONFIG_INVALID", "policy.wanted: some of MG, MR and US, each once")
    for setting in fields(policy):
        hours = getattr(policy, setting.name)
        if setting.name.startswith("wait_") and not 0 <= hours <= assembly.window_days * 24:
            raise Defect("CONFIG_INVALID", f"policy.{setting.name}: from 0 to assembly.window_days in hours")
    for kind in {"MG", "MR", "US"} - {*policy.wanted}:
        if getattr(policy, f"wait_{kind.lower()}_h"):
            raise Defect("CONFIG_INVALID", f"policy.wait_{kind.lower()}_h: {kind} is not in policy.wanted")
    if not policy.stat_quiet_s >= 0:
        raise Defect("CONFIG_INVALID", "policy.stat_quiet_s must not be negative")
