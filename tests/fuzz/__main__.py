"""Fuzz one parser with atheris, guided by coverage.

    python -m tests.fuzz header --seconds 600 [--shared ../shared/data]

atheris is not among the pinned packages (it is large and for Linux only): pip install atheris==3.0.0. What it finds goes into
tests/fuzz/found/<target>/ and is then run by the tests for ever.
"""

import argparse
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Run until the time is over or something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=20261120)
    parser.add_argument("--shared", type=Path)
    options = parser.parse_args()
    import atheris

    with atheris.instrument_imports(include=["casework"]):
        from tests.fuzz.seeds import seeds
        from tests.fuzz.targets import TARGETS
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(seeds(options.target, options.shared)):
            (Path(corpus) / f"seed-{number}").write_bytes(data)
        found = Path(__file__).parent / "found" / options.target
        found.mkdir(parents=True, exist_ok=True)
        flags = [f"-max_total_time={options.seconds}", f"-seed={options.seed}", "-timeout=10", "-rss_limit_mb=1024"]
        atheris.Setup(
            [sys.argv[0], *flags, "-max_len=65536", f"-artifact_prefix={found}/", corpus], TARGETS[options.target]
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
