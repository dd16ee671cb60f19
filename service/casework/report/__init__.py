"""Results as DICOM objects, pictures and words; nothing is sent that has not passed `check`.

rendered = render(result, sources, settings.report, now)
check(rendered, result, sources)
print(describe(result, "en"))
"""

from casework.report.check import check
from casework.report.check_not_performed import check_not_performed
from casework.report.describe import describe
from casework.report.example import example
from casework.report.header import Instance
from casework.report.not_performed import Silent, listed, render_not_performed, verdict_json
from casework.report.rejection import check_rejection, readable, render_rejection, to_reject
from casework.report.rendering import Rendered, render, render_images
from casework.report.slices import needed as slices_needed

__all__ = [
    "Instance",
    "Rendered",
    "Silent",
    "check",
    "check_not_performed",
    "check_rejection",
    "describe",
    "example",
    "listed",
    "readable",
    "render",
    "render_images",
    "render_not_performed",
    "render_rejection",
    "slices_needed",
    "to_reject",
    "verdict_json",
]
