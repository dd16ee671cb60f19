"""Results as DICOM objects, pictures and words; nothing is sent that has not passed `check`.

rendered = render(result, sources, settings.report, now)
check(rendered, result, sources)
print(describe(result, "en"))
"""

from casework.report.check import check
from casework.report.describe import describe
from casework.report.rendering import Rendered, render

__all__ = ["Rendered", "check", "describe", "render"]
