"""A real Orthanc (apt install orthanc orthanc-dicomweb) on free ports in a temporary folder, configured by us.

It holds what it gets, answers DICOMweb under /dicom-web/, knows our service as the modality CMAN, and sends every series
of modality MG, MR or US to it soon after the series became stable. What our AE stored is never sent back.
"""

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BINARY = "/usr/sbin/Orthanc"
PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"

# Metadata 5001 holds how many instances of the series went out last, so that a late image makes it go again.
ROUTE = """
local TARGET = '%(aet)s'
local WANTED = { MG = true, MR = true, US = true }

local function sentByTarget(instance)
   local known, sender = pcall(RestApiGet, '/instances/' .. instance .. '/metadata/RemoteAET')
   return known and sender == TARGET
end

function OnStableSeries(seriesId, tags, metadata, origin)
   local series = ParseJson(RestApiGet('/series/' .. seriesId))
   if not WANTED[series['MainDicomTags']['Modality']] then return end
   local count = tostring(#series['Instances'])
   if metadata['RoutedCount'] == count or sentByTarget(series['Instances'][1]) then return end
   RestApiPut('/series/' .. seriesId .. '/metadata/RoutedCount', count)
   local job = { Resources = { seriesId }, Asynchronous = true, Permissive = true }
   RestApiPost('/modalities/target/store', DumpJson(job, false))
end
"""


def available() -> bool:
    """Whether Orthanc and its DICOMweb plug-in are installed."""
    return Path(BINARY).exists() and Path(PLUGIN).exists()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Orthanc:
    """One Orthanc process."""

    def __init__(
        self,
        folder: Path,
        *,
        dicom_port: int = 0,
        http_port: int = 0,
        aet: str = "ORTHANC",
        cman_port: int = 11112,
        cman_aet: str = "CMAN",
        route: bool = True,
        stable_s: int = 1,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.folder, self.aet = folder, aet
        self.port = dicom_port or free_port()
        self.http_port = http_port or free_port()
        self.url = f"http://127.0.0.1:{self.http_port}/dicom-web"
        folder.mkdir(parents=True, exist_ok=True)
        script = folder / "route.lua"
        script.write_text(ROUTE % {"aet": cman_aet}, "utf-8")
        settings = _settings(self, cman_aet, cman_port, stable_s, [str(script)] if route else []) | (options or {})
        self._config = folder / "orthanc.json"
        self._config.write_text(json.dumps(settings, indent=1), "utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, within_s: float = 30.0) -> "Orthanc":
        """Start and wait until both ports answer.

        Raises:
            RuntimeError: it ended or did not answer in time; the log's end is in the message.
        """
        log = (self.folder / "orthanc.log").open("ab")
        self._process = subprocess.Popen([BINARY, str(self._config)], cwd=self.folder, stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError):
                self.get("/system")
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            time.sleep(0.1)
        self.stop()
        raise RuntimeError("Orthanc did not start: " + (self.folder / "orthanc.log").read_text("utf-8")[-2000:])

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(5)
            self._process = None

    def get(self, path: str) -> Any:
        """GET of Orthanc's own REST API, decoded."""
        return json.loads(self._open(path))

    def find(self, level: str, query: dict[str, str]) -> list[dict[str, Any]]:
        """/tools/find with expanded answers."""
        return list(json.loads(self._open("/tools/find", {"Level": level, "Query": query, "Expand": True})))

    def file(self, sop_uid: str) -> bytes | None:
        """The Part 10 file of an instance, None when it is not there."""
        found = self.find("Instance", {"SOPInstanceUID": sop_uid})
        return self._open(f"/instances/{found[0]['ID']}/file") if found else None

    def delete(self, sop_uid: str) -> None:
        """Remove an instance, as a PACS that loses it."""
        (found,) = self.find("Instance", {"SOPInstanceUID": sop_uid})
        address = f"http://127.0.0.1:{self.http_port}/instances/{found['ID']}"
        with urllib.request.urlopen(urllib.request.Request(address, method="DELETE"), timeout=10):
            pass

    def _open(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", data, timeout=10) as answer:
            return bytes(answer.read())


def _settings(pacs: Orthanc, cman_aet: str, cman_port: int, stable_s: int, scripts: list[str]) -> dict[str, Any]:
    folder = str(pacs.folder / "db")
    target = {"AET": cman_aet, "Host": "127.0.0.1", "Port": cman_port}
    return {
        "Name": "casework test PACS",
        "StorageDirectory": folder,
        "IndexDirectory": folder,
        "Plugins": [PLUGIN],
        "LuaScripts": scripts,
        "UserMetadata": {"RoutedCount": 5001},
        "HttpPort": pacs.http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": pacs.aet,
        "DicomPort": pacs.port,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomModalities": {"target": target},
        "DicomAssociationCloseDelay": 1,
        "DefaultEncoding": "Utf8",
        "OverwriteInstances": False,
        "StableAge": stable_s,
        "ConcurrentJobs": 2,
        "SaveJobs": False,
        "SyncStorageArea": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False, "StudiesMetadata": "Full"},
    }


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[Orthanc]:
    """An Orthanc for the length of a block; its folder is removed at the end."""
    orthanc = Orthanc(folder, **options)
    try:
        yield orthanc.start()
    finally:
        orthanc.stop()
        shutil.rmtree(folder, ignore_errors=True)
