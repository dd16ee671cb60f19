"""Certificates for tests: authorities made on the spot, what they sign, and a relay that ends TLS before a plain server."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Pair:
    """A certificate and its key as PEM files."""

    certificate: str
    key: str


class Authority:
    """A certificate authority of its own in a folder."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        own = self._build(self._name, self._key.public_key(), 1, []).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self._usage = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        made = own.add_extension(self._usage, critical=False).sign(self._key, hashes.SHA256())
        self.file = str(folder / "ca.pem")
        Path(self.file).write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str = "localhost", *, days: int = 1, file: str = "") -> Pair:
        """A certificate for `name` and for 127.0.0.1; negative days: it has ended."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names: list[x509.GeneralName] = [x509.DNSName(name), x509.IPAddress(IPv4Address("127.0.0.1"))]
        made = self._build(subject, key.public_key(), days, names).sign(self._key, hashes.SHA256())
        certificate, private = (self._folder / f"{file or name}.{kind}" for kind in ("pem", "key"))
        private.touch(0o600)
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        return Pair(str(certificate), str(private))

    def revoke(self, *pairs: Pair, days: int = 1) -> str:
        """The authority's list of revoked certificates, as a file; negative days: the list is overdue."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(now - timedelta(days=30)).next_update(now + timedelta(days=days))
        for pair in pairs:
            serial = x509.load_pem_x509_certificate(Path(pair.certificate).read_bytes()).serial_number
            row = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - timedelta(hours=1))
            builder = builder.add_revoked_certificate(row.build())
        file, part = self._folder / "revoked.pem", self._folder / "revoked.part"
        part.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        part.rename(file)
        return str(file)

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, days: int, names: list[x509.GeneralName]
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=30)).not_valid_after(now + timedelta(days=days))
        return builder.add_extension(x509.SubjectAlternativeName(names), critical=False) if names else builder


@contextmanager
def relay(port: int, pair: Pair, client_ca: str = "") -> Iterator[int]:
    """End TLS in front of a plain server on 127.0.0.1; gives the port. With `client_ca` callers must show a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    listening = socket.create_server(("127.0.0.1", 0))
    open_: list[socket.socket] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return
            try:
                outer = context.wrap_socket(plain, server_side=True)
            except OSError:
                continue
            inner = socket.create_connection(("127.0.0.1", port))
            open_.extend((outer, inner))
            for pair_ in ((outer, inner), (inner, outer)):
                threading.Thread(target=pump, args=pair_, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for one in open_:
            one.close()
