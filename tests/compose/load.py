"""A hospital at work: patients one after the other into the PACS, each image until the PACS has acknowledged it."""

import random
import threading
import time
from pathlib import Path

from pydicom import Dataset, dcmread

from models.cman.phantom.dicom import write_case
from tests.demo.pacs import Pacs

REST_S = (4.0, 12.0)  # between two patients


class Load:
    """`with Load(pacs, folder, seed) as load`: sends until the block ends; `load.patients` is what the PACS acknowledged."""

    def __init__(self, pacs: Pacs, folder: Path, seed: int) -> None:
        self._pacs, self._folder, self._seed = pacs, folder, seed
        self._dice = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send_on, name="load")
        self.patients: list[dict[str, Dataset]] = []
        self.sending = threading.Event()
        self.tries = 0

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(300)

    def _send_on(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            images = case(self._folder, self._seed + number)
            self.sending.set()
            self._until_acknowledged(images)
            self.patients.append(images)
            self.sending.clear()
            self._stop.wait(self._dice.uniform(*REST_S))

    def _until_acknowledged(self, images: dict[str, Dataset]) -> None:
        paths = [Path(str(ds.filename)) for ds in images.values()]
        while True:
            self.tries += 1
            try:
                self._pacs.store(paths, lambda _: None)
            except (
                SystemExit,
                OSError,
                RuntimeError,
                ValueError,
            ):  # the PACS is the one that is down: a modality repeats
                time.sleep(2)
            else:
                return


def case(folder: Path, seed: int) -> dict[str, Dataset]:
    """One small patient's images by SOP Instance UID."""
    place = folder / str(seed)
    write_case(place, seed, full_size=False)
    headers = [dcmread(path, stop_before_pixels=True) for path in sorted(place.rglob("*.dcm"))]
    return {str(ds.SOPInstanceUID): ds for ds in headers}
