"""Other people's files come in only as what was pinned, and under no name of their own."""

import dataclasses
from pathlib import Path

import pytest

from tests import corpora

INSTALLED = next(source for source in corpora.SOURCES if source.name == "pynetdicom")


def test_a_source_that_changed_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    """A digest other than the pinned one: an error, and an empty folder."""
    with pytest.raises(ValueError, match="pinned are 6"):
        corpora.fetch(dataclasses.replace(INSTALLED, digest="0" * 64), tmp_path, None)
    assert not list(tmp_path.iterdir())


def test_files_are_named_by_their_digest_and_can_be_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read-only files named by digest; the looking command says what header and decoder made of each."""
    corpora.fetch(INSTALLED, tmp_path, None)
    found = corpora.files(tmp_path)
    assert [len(path.stem) for path in found] == [64] * 6
    assert {path.stat().st_mode & 0o777 for path in found} == {0o400}
    assert corpora.check(tmp_path) == 0
    assert "6 files" in capsys.readouterr().out
    assert corpora.check(tmp_path / "nothing") == 1
