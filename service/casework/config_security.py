"""Who may come in and over what: the settings of TLS and of tokens, and which of them are refused. Does no I/O."""

import ipaddress
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from casework.errors import Defect

if TYPE_CHECKING:
    from casework.config import Destination, Dicom, Settings


@dataclass(frozen=True, slots=True)
class Peer:
    """One row of the AE allow-list: all three must match. address is an IP address or a CIDR network."""

    ae_title: str
    address: str = "127.0.0.1"
    called_ae_title: str = ""  # "" = our own AE title
    certificate_name: str = ""  # then only over TLS, with a certificate of this common name, DNS name or address
    sop_classes: tuple[str, ...] = ()  # SOP Class UIDs that it may send, of those taken here; none = all of them
    images_per_s: float = (
        0.0  # answers to its images come no faster, over all its associations; 0 = as fast as they can
    )


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS (PS3.15 B.12) for DICOM on a port of its own, and HTTPS. Changed files count from the next connection on."""

    dicom: bool = False  # open the TLS port for DICOM
    dicom_port: int = 2762  # dicom-tls
    plain_dicom: bool = True  # false closes dicom.port: only TLS
    https: bool = False  # http.port speaks HTTPS only
    certificate_file: str = ""  # PEM: our certificate and the ones between it and its authority
    key_file: str = ""  # PEM, without a passphrase, readable by its owner only
    client_ca_file: str = ""  # PEM; with it every peer on the TLS port must show a certificate of these authorities
    client_crl_file: str = ""  # PEM; their lists of revoked certificates; one that is overdue lets nobody in


@dataclass(frozen=True, slots=True)
class Oidc:
    """Access tokens of one OAuth 2 issuer, beside API keys. Everything that decides is here, nothing is taken from a token."""

    issuer: str = ""  # exactly as in the tokens' `iss`; "" = API keys only
    audience: str = ""  # this service's name at the issuer, in `aud`
    jwks_url: str = ""  # https address of the issuer's public keys
    jwks_file: str = ""  # or a file of them, where the issuer can't be reached from here
    ca_file: str = ""  # PEM; "" = the system's authorities
    algorithms: tuple[str, ...] = ("RS256", "RS384", "ES256", "ES384")  # asymmetric ones only
    claim: str = "scope"  # the claim that names scopes or roles: words in a text, or a list
    scopes: tuple[str, ...] = (
        "casework.viewer=viewer",
        "casework.operator=operator",
        "casework.admin=admin",
        "casework.auditor=auditor",
    )  # which scope gives which role
    leeway_s: float = 30.0  # between the two clocks
    keys_refresh_s: float = 300.0
    keys_stale_s: float = 86400.0  # keys that could not be fetched anew for so long are believed no more
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Signing:
    """Whose model packages are served. Without a key any package whose digests fit is, with a mark in log and doctor."""

    public_key_files: tuple[str, ...] = ()  # Ed25519 PEM; with one, only packages that one of them signed
    allow_unsigned: bool = False  # although keys are named; a signature that does not fit is refused all the same
    allow_rollback: str = ""  # "name version" of the one older version that may serve again
    check_s: float = 3600.0  # how often the package on the disk is compared with the one that serves


_ALGORITHMS = frozenset("RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512".split())  # noqa: SIM905 - nine quoted words read worse
_ROLES = frozenset({"viewer", "operator", "admin", "auditor"})


def check_signing(signing: Signing) -> None:
    """Refuse checks that would never come, or would take the worker's time."""
    if not 60 <= signing.check_s <= 86400:
        raise Defect("CONFIG_INVALID", "signing.check_s: 60 to 86400")
    if signing.allow_unsigned and not signing.public_key_files:
        raise Defect("CONFIG_INVALID", "signing.allow_unsigned says nothing without signing.public_key_files")


def check_oidc(oidc: Oidc) -> None:
    """Refuse an issuer that could not be told from another one, or algorithms that a public key could forge."""
    if not oidc.issuer:
        return
    if not oidc.audience or bool(oidc.jwks_url) == bool(oidc.jwks_file):
        raise Defect("CONFIG_INVALID", "oidc: audience and one of jwks_url, jwks_file are needed")
    url = urllib.parse.urlsplit(oidc.jwks_url)
    if oidc.jwks_url and url.scheme != "https" and not (url.scheme == "http" and url.hostname == "127.0.0.1"):
        raise Defect("CONFIG_INVALID", "oidc.jwks_url: https:// is needed")
    if not oidc.algorithms or not set(oidc.algorithms) <= _ALGORITHMS:
        raise Defect("CONFIG_INVALID", f"oidc.algorithms: some of {', '.join(sorted(_ALGORITHMS))}")
    if any(pair.rpartition("=")[2] not in _ROLES or not pair.rpartition("=")[0] for pair in oidc.scopes):
        raise Defect("CONFIG_INVALID", f"oidc.scopes: scope=role, role one of {', '.join(sorted(_ROLES))}")
    if not (0 <= oidc.leeway_s <= 120 and 0 < oidc.timeout_s <= 30 and 10 < oidc.keys_refresh_s <= oidc.keys_stale_s):
        raise Defect("CONFIG_INVALID", "oidc: leeway_s up to 120, timeout_s up to 30, keys_refresh_s above 10")


def check_doors(settings: "Settings") -> None:
    """Refuse settings that would open a door to people nobody named, or promise TLS that could not be had."""
    tls, dicom, http = settings.tls, settings.dicom, settings.http
    if not _loopback("dicom.host", dicom.host) and not dicom.peer:
        raise Defect("CONFIG_INVALID", "dicom.host is not loopback: name the allowed peers in [[dicom.peer]]")
    if not _loopback("http.host", http.host):
        if not http.keys_file:
            raise Defect("CONFIG_INVALID", "http.host is not loopback: set http.keys_file")
        if not tls.https and not http.tls_by_proxy:
            raise Defect("CONFIG_INVALID", "http.host is not loopback: set tls.https, or http.tls_by_proxy")
    if (tls.dicom or tls.https) and not (tls.certificate_file and tls.key_file):
        raise Defect("CONFIG_INVALID", "tls: certificate_file and key_file are needed")
    if tls.client_crl_file and not tls.client_ca_file:
        raise Defect("CONFIG_INVALID", "tls.client_crl_file needs tls.client_ca_file")
    if not tls.dicom and not tls.plain_dicom:
        raise Defect("CONFIG_INVALID", "tls.plain_dicom is false and tls.dicom too: no door for images is left")
    for peer in dicom.peer:
        _check_peer(peer, dicom, tls)
    for destination in settings.destination:
        _check_outgoing(destination)


def _check_peer(peer: Peer, dicom: "Dicom", tls: Tls) -> None:
    """Refuse a row of the allow-list that nobody could match, or that would keep a sender waiting until it gives up."""
    try:
        ipaddress.ip_network(peer.address, strict=False)
    except ValueError as error:
        raise Defect("CONFIG_INVALID", f"dicom.peer {peer.ae_title}: address") from error
    if peer.images_per_s and not dicom.max_associations_per_peer / 20 <= peer.images_per_s:
        raise Defect(
            "CONFIG_INVALID",
            f"dicom.peer {peer.ae_title}: images_per_s keeps senders waiting for over 20 s; allow more",
        )
    if peer.certificate_name and not (tls.dicom and tls.client_ca_file):
        raise Defect(
            "CONFIG_INVALID", f"dicom.peer {peer.ae_title}: certificate_name needs tls.dicom and tls.client_ca_file"
        )


def _check_outgoing(destination: "Destination") -> None:
    """Refuse a destination whose certificates would not be used, or only halfway."""
    where = f"destination {destination.name}"
    encrypted = destination.tls if destination.kind == "dimse" else destination.url.startswith("https://")
    if destination.tls and destination.kind != "dimse":
        raise Defect("CONFIG_INVALID", f"{where}: tls is for kind dimse; for stow write https:// in url")
    if not encrypted and (destination.ca_file or destination.certificate_file or destination.tls_name):
        raise Defect("CONFIG_INVALID", f"{where}: ca_file, certificate_file and tls_name need TLS")
    if destination.tls_name and destination.kind != "dimse":
        raise Defect("CONFIG_INVALID", f"{where}: tls_name is for kind dimse; url names the host")
    if bool(destination.certificate_file) != bool(destination.key_file):
        raise Defect("CONFIG_INVALID", f"{where}: certificate_file and key_file belong together")


def _loopback(where: str, host: str) -> bool:
    """Whether a host to listen on is loopback; names are not resolved, so that a bind can't be moved from outside."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise Defect("CONFIG_INVALID", f"{where}: expected an IP address") from error
