"""TLS by PS3.15 B.12 (BCP 195: RFC 8996, RFC 9325): versions 1.2 and 1.3, forward secrecy, authenticated encryption. Reads PEM files.

TLS is never negotiated up from a plain connection. A certificate that was replaced is used from the next connection on,
without a restart (S21); one that can't be used changes nothing but the log.
"""

import ssl
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from casework.config import Destination, Settings
from casework.errors import Defect
from casework.observe import log

SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2"  # level 2: RSA from 2048 bits, no SHA-1 signatures
RELOAD_S = 1.0
_Stamp = tuple[tuple[int, int, int], ...]


class ServerTls:
    """The TLS context of a listening port, made again when its files change. `clock` is monotonic seconds.

    Raises:
        Defect: CONFIG_INVALID, a file is missing, not what it should be, or the key is open to others.
    """

    def __init__(
        self,
        certificate_file: str,
        key_file: str,
        client_ca_file: str = "",
        client_crl_file: str = "",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = (certificate_file, key_file, client_ca_file, client_crl_file)
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp = _stamp(self._files)
        self._context = self._make()
        self._looked_at = clock()

    def context(self) -> ssl.SSLContext:
        """The context for the next connection; looks at the files once a second at most."""
        with self._lock:
            if self._clock() - self._looked_at >= RELOAD_S:
                self._looked_at = self._clock()
                self._refresh()
            return self._context

    def _refresh(self) -> None:
        try:
            stamp = _stamp(self._files)
            if stamp != self._stamp:
                self._context, self._stamp = self._make(), stamp
                log.info("tls.reloaded")
        except Defect as defect:
            log.error("tls.not_reloaded", code=defect.code)

    def _make(self) -> ssl.SSLContext:
        certificate, key, client_ca, revoked = self._files
        context = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        # No sessions are resumed: a peer shows its certificate at every connection.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        _load(context, certificate, key)
        if client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            _trust(context, client_ca)
        if revoked:
            _trust(context, revoked)
            if not context.cert_store_stats()["crl"]:
                raise Defect("CONFIG_INVALID", f"{revoked}: no list of revoked certificates (X509 CRL)")
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return context


def dicom_port(settings: Settings) -> ServerTls | None:
    """TLS of the DICOM port that has it; None when no port has."""
    tls = settings.tls
    files = (tls.certificate_file, tls.key_file, tls.client_ca_file, tls.client_crl_file)
    return ServerTls(*files) if tls.dicom else None


def https_context(settings: Settings) -> ssl.SSLContext | None:
    """What an HTTPS server is given once: it hands every handshake to the context of that moment."""
    if not settings.tls.https:
        return None
    current = ServerTls(settings.tls.certificate_file, settings.tls.key_file)

    def choose(sock: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        sock.context = current.context()

    first = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    first.options |= ssl.OP_NO_TICKET
    first.num_tickets = 0
    first.sni_callback = choose
    return first


def client_context(destination: Destination) -> ssl.SSLContext:
    """How we call a destination: its certificate must come from `ca_file` and bear its name.

    Raises:
        Defect: CONFIG_INVALID, naming the destination.
    """
    try:
        context = believing(destination.ca_file)
        if destination.certificate_file:
            _load(context, destination.certificate_file, destination.key_file)
    except Defect as defect:
        raise Defect("CONFIG_INVALID", f"destination {destination.name}: {defect.detail}") from defect
    return context


def believing(ca_file: str) -> ssl.SSLContext:
    """A client's context that believes these authorities only; "" = the system's.

    Raises:
        Defect: CONFIG_INVALID.
    """
    context = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    if ca_file:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a certificate that is named here is believed itself
        _trust(context, ca_file)
    else:
        context.load_default_certs()
    return context


def is_tls(error: BaseException) -> bool:
    """Whether TLS is at the bottom of a failure."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def names_of(sock: object) -> frozenset[str]:
    """The names in the certificate that a peer showed and that was verified: common name, DNS names, addresses."""
    shown: Any = sock.getpeercert() if isinstance(sock, ssl.SSLSocket) else None
    if not shown:
        return frozenset()
    common = (value for group in shown.get("subject", ()) for key, value in group if key == "commonName")
    return frozenset([*common, *(value for _, value in shown.get("subjectAltName", ()))])


def expires(certificate_file: str) -> datetime:
    """When a certificate ends.

    Raises:
        Defect: CONFIG_INVALID.
    """
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(Path(certificate_file).read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise Defect("CONFIG_INVALID", f"{certificate_file}: {type(error).__name__}") from error


def own_name(certificate_file: str) -> str:
    """A name that our own certificate bears, to call ourselves by: its first DNS name, else its first address, else "".

    Raises:
        Defect: CONFIG_INVALID.
    """
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(Path(certificate_file).read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    except (OSError, ValueError) as error:
        raise Defect("CONFIG_INVALID", f"{certificate_file}: {type(error).__name__}") from error
    found = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return next(iter(found), "")


def _strict(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def _load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        if Path(key).stat().st_mode & 0o037:
            raise Defect(
                "CONFIG_INVALID", f"{key}: must not be writable by its group or readable by others (chmod 600)"
            )
        context.load_cert_chain(certificate, key, password="")  # an encrypted key is refused, nobody is asked
    except (OSError, ValueError) as error:
        raise Defect("CONFIG_INVALID", f"{certificate}, {key}: {type(error).__name__}") from error


def _trust(context: ssl.SSLContext, authorities: str) -> None:
    try:
        context.load_verify_locations(authorities)
    except (OSError, ValueError) as error:
        raise Defect("CONFIG_INVALID", f"{authorities}: {type(error).__name__}") from error


def _stamp(files: tuple[str, ...]) -> _Stamp:
    """What changes when a file does."""
    found = []
    for name in filter(None, files):
        try:
            status = Path(name).stat()
        except OSError as error:
            raise Defect("CONFIG_INVALID", f"{name}: {type(error).__name__}") from error
        found.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)
