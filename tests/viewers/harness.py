"""The shared OHIF harness (tools/ohif of CASEWORK_SHARED) as processes: the viewer's server, and one run over a study."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
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
# What the shared harness lacks: only some series, and each by a link of its own in a new page.
CHANGES = {
    IDLE: IDLE + DRAWN,
    "const load = async () => {": "const only = process.env.ONLY?.split(','), linked = process.env.LINK === '1';\nconst load = async uid => {",
    "${opt.plain ? '&novoifix=1' : ''}`, viewer)": "${linked ? '&initialSeriesInstanceUID=' + uid : ''}`, viewer)",
    "for (const s of series) {\n  errors = []": "for (const s of series.filter(each => !only || only.includes(each.uid))) {\n  errors = []",
    "if (!fresh) { await load();": "if (!fresh || linked) { await load(s.uid);",
}
# The viewer's settings that this repository ships, without the dialog and the tour that would lie over the picture.
OURS = Path(__file__).resolve().parents[2] / "deploy" / "viewer" / "app-config.js"
NO_TOUR = "localStorage.setItem('shownTours', JSON.stringify(['basicViewerTour']));\n"
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
        target.write_text(
            changed((found / name).read_text("utf-8")) if name == "shoot.mjs" else (found / name).read_text("utf-8"),
            "utf-8",
        )
        target.chmod(0o755)
    return folder


def changed(text: str) -> str:
    """The shared harness's shoot.mjs with `CHANGES`.

    Raises:
        SystemExit: it is another one than those were written for.
    """
    for old, new in CHANGES.items():
        if text.count(old) != 1:
            raise SystemExit(f"tools/ohif/shoot.mjs is another one than tests/viewers knows: {old}")
        text = text.replace(old, new)
    return text


def settings(folder: Path, *, shipped: bool) -> None:
    """Which settings pages that are opened from now on get: those of deploy/viewer, or the harness's, which mend less."""
    found = source()
    assert found is not None
    plain = (found / "app-config.js").read_text("utf-8")
    ours = NO_TOUR + OURS.read_text("utf-8").replace("option: 'always'", "option: 'never'")
    (folder / "app-config.js").write_text(ours if shipped else plain, "utf-8")


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


def shoot(
    folder: Path, address: str, study: str, out: Path, *, only: Sequence[str], linked: bool, within_s: int = 300
) -> dict[str, Any] | None:
    """Some series of a study in OHIF; the harness's report, with pictures in `out`; None when OHIF hung.

    only: their Series Instance UIDs. linked: each is opened by a link in a new page; else by a double click, one after
    another, in the viewport that the study's first images fill.

    Raises:
        SystemExit: the test itself could not run.
    """
    shutil.rmtree(out, ignore_errors=True)
    command = ["node", str(folder / "shoot.mjs"), address, study, str(out), "--total", str(within_s)]
    env = {**os.environ, "ONLY": ",".join(only), "LINK": "1" if linked else "0"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=within_s + 60, check=False, env=env)
    if ran.returncode == 2 and f"longer than {within_s} s" in ran.stderr:
        return None
    if ran.returncode not in (0, 1):
        raise SystemExit(f"the viewer could not be tested: {(ran.stdout + ran.stderr).strip()[-500:]}")
    report: dict[str, Any] = json.loads((out / "report.json").read_text("utf-8"))
    return report
