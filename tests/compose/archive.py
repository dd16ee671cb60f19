"""What the PACS holds, asked by its own REST: result objects of a patient's studies. Each is fetched once."""

import io
import json
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from pydicom import Dataset, dcmread


class Archive:
    """Orthanc at a loopback port."""

    def __init__(self, port: int) -> None:
        self._root = f"http://127.0.0.1:{port}"
        self._kept: dict[str, Dataset] = {}

    def results(self, images: Mapping[str, Dataset]) -> dict[str, Sequence[Dataset]]:
        """Study -> the SRs and captures that the PACS holds.

        Raises:
            OSError: it does not answer.
        """
        return {uid: self._of_study(uid) for uid in {str(ds.StudyInstanceUID) for ds in images.values()}}

    def _of_study(self, study: str) -> list[Dataset]:
        found: list[Dataset] = []
        for modality in ("SR", "OT"):
            query = {"Level": "Instance", "Query": {"StudyInstanceUID": study, "Modality": modality}}
            for name in json.loads(self._open("/tools/find", query)):
                if name not in self._kept:
                    data = self._open(f"/instances/{name}/file")
                    self._kept[name] = dcmread(io.BytesIO(data), stop_before_pixels=True)
                found.append(self._kept[name])
        return found

    def _open(self, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(self._root + path, data, timeout=30) as answer:  # noqa: S310 - loopback
            return bytes(answer.read())
