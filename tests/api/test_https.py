"""HTTPS for API and page: modern TLS only, and a new certificate without a restart."""

import socket
import ssl
import subprocess
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from casework.config import Http, Settings
from casework.config_security import Tls
from casework.entrypoints.doctor import _certificate
from casework.entrypoints.pulse import look
from tests.api.conftest import serving
from tests.certificates import Authority, Pair


def with_https(pair: Pair) -> Tls:
    return Tls(https=True, certificate_file=pair.certificate, key_file=pair.key)


def test_https(tmp_path: Path) -> None:
    """The API answers over TLS 1.3 and 1.2; plain HTTP and older versions get nothing; a new certificate is used at once."""
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("localhost")

    def change(settings: Settings) -> Settings:
        return replace(settings, tls=with_https(pair))

    with serving(tmp_path / "api", change) as api:
        context = ssl.create_default_context(cafile=authority.file)
        bearer = {"Authorization": f"Bearer {api.keys['viewer']}"}
        with httpx.Client(base_url=api.base_url, verify=context, headers=bearer) as client:
            answer = client.get("/v1/cases")
            assert answer.status_code == 200
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context.minimum_version = context.maximum_version = version
            assert httpx.get(f"{api.base_url}/v1/health/live", verify=context).status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{api.base_url}/v1/health/live".replace("https", "http"))
        for weak in ("-tls1_1", "-tls1"):
            command = [
                "openssl",
                "s_client",
                "-connect",
                f"127.0.0.1:{api.port}",
                weak,
                "-cipher",
                "DEFAULT@SECLEVEL=0",
            ]
            assert subprocess.run(command, input=b"", capture_output=True, check=False).returncode != 0
        fresh = ssl.create_default_context(cafile=authority.file)
        first = _serial(api.port, fresh)
        authority.issue("localhost")
        time.sleep(1.1)
        assert _serial(api.port, fresh) != first


def test_a_container_is_well_over_https(tmp_path: Path) -> None:
    """The health check speaks what the API speaks: with HTTPS on, a door that answers is not called dead."""
    tls = with_https(Authority(tmp_path / "ca").issue("localhost"))
    with serving(tmp_path / "api", lambda settings: replace(settings, tls=tls)) as api:
        asked = replace(Settings(), http=Http(port=api.port), tls=tls)
        assert look(asked, "api", datetime.now(UTC)) == ""
        assert look(asked, "api", datetime.now(UTC), only_alive=True) == ""
        named = replace(asked, http=Http(port=api.port, allowed_hosts=("casework.example.org",)))
        assert look(named, "api", datetime.now(UTC)) == "answers 421"  # so it asks by that name: this API has none such
        assert "does not answer" in look(replace(asked, tls=Tls()), "api", datetime.now(UTC))


def _serial(port: int, context: ssl.SSLContext) -> object:
    with (
        socket.create_connection(("127.0.0.1", port), 5) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as secure,
    ):
        return (secure.getpeercert() or {})["serialNumber"]


def test_the_doctor_reads_the_certificate(tmp_path: Path) -> None:
    """A certificate that ends within a month is a warning, one that has ended a failure."""
    authority = Authority(tmp_path / "ca")
    marks = []
    for days in (90, 10, -2):
        settings = replace(Settings(), tls=with_https(authority.issue("localhost", days=days)))
        marks += [check.mark for check in _certificate(settings)]
    assert marks == ["ok", "warn", "fail"]
