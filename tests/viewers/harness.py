"""The shared OHIF harness (tools/ohif of CASEWORK_SHARED) as processes: the viewer's server, and one run over a study."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.simulators.orthanc import free_port

# OHIF's renderer dies when a series takes the place of a volume that was not drawn yet, which takes software seconds; a
# person waits for a picture before the next click, so a run does too.
IDLE = "await page.waitForLoadState('networkidle', { timeout: 8000 }).catch(() => {});"
DRAWN = """
  await page.waitForFunction(() => {
    const S = window.services, id = S?.viewportGridService?.getState().activeViewportId;
    const from = S?.cornerstoneViewportService?.getCornerstoneViewport(id)?.canvas;
    if (!from?.width) return false;
    const to = document.createElement('canvas'), k = to.getContext('2d');
    k.drawImage(from, 0, 0, 100, 100);
    return k.getImageData(0, 0, 100, 100).data.some((v, i) => i % 4 < 3 && v > 16);
  }, null, { timeout: 60000 }).catch(() => {});
"""
FILES = ("run-viewer.sh", "server.mjs", "shoot.mjs", "app-config.js", "package.json")


def source() -> Path | None:
    """Where the harness lies, None on a plain clone."""
    shared = os.environ.get("CASEWORK_SHARED", "")
    folder = Path(shared) / "tools" / "ohif"
    return folder if shared and (folder / "shoot.mjs").exists() else None


def copy(folder: Path) -> Path:
    """A copy that can be written to; what it downloads (OHIF, playwright-core) stays for the next run."""
    found = source()
    assert found is not None
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        target = folder / name
        target.unlink(missing_ok=True)
        target.write_text((found / name).read_text("utf-8").replace(IDLE, IDLE + DRAWN), "utf-8")
        target.chmod(0o755)
    return folder


@contextmanager
def viewer(folder: Path, dicomweb: str) -> Iterator[str]:
    """OHIF over an archive for the length of a block; yields its address.

    Raises:
        SystemExit: it did not start; what it said is in the message.
    """
    port = str(free_port())
    script = str(folder / "run-viewer.sh")
    started = subprocess.run([script, dicomweb, port], capture_output=True, text=True, timeout=900, check=False)
    if started.returncode:
        raise SystemExit(f"the viewer did not start: {started.stderr.strip()[-500:]}")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run([script, "stop", port], capture_output=True, timeout=60, check=False)


def shoot(folder: Path, address: str, study: str, out: Path, *, within_s: int = 400) -> dict[str, Any] | None:
    """Open every series of a study in OHIF; the harness's report, with pictures in `out`; None when OHIF hung.

    Raises:
        SystemExit: the test itself could not run.
    """
    shutil.rmtree(out, ignore_errors=True)
    command = ["node", str(folder / "shoot.mjs"), address, study, str(out), "--total", str(within_s)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=within_s + 60, check=False)
    if ran.returncode == 2 and f"longer than {within_s} s" in ran.stderr:
        return None
    if ran.returncode not in (0, 1):
        raise SystemExit(f"the viewer could not be tested: {(ran.stdout + ran.stderr).strip()[-500:]}")
    report: dict[str, Any] = json.loads((out / "report.json").read_text("utf-8"))
    return report
