"""Whether two Patient's Names can be of one person. Does no I/O.

Names are written in many ways, so this only says "no" when two names in the same script have no part in common: a name
that changed with a marriage, an additional given name or another order of the parts is no contradiction, and a name in
Chinese characters says nothing about one in Latin letters.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping

_SEPARATORS = re.compile(r"[\s^=,.\-'·]+")  # parts, component groups (PS3.5 6.2.1.2) and what vendors put between them


def contradict(one: str, other: str) -> bool:
    """Whether both are stated, share a script, and share no part in any script."""
    a, b = _parts(one), _parts(other)
    common = a.keys() & b.keys()
    return bool(common) and not any(_alike(a[script], b[script]) for script in common)


def other_given(one: str, other: str) -> bool:
    """Whether both have given names in a script and share none there: a family name is shared by many.

    An initial is no other name.
    """
    a, b = _given(one), _given(other)
    return any(not _alike(a[s], b[s]) and not _begun(a[s], b[s]) for s in a.keys() & b.keys())


def _given(name: str) -> Mapping[str, list[str]]:
    """Script -> parts of the given and middle names (PS3.5 6.2.1.1)."""
    found: dict[str, list[str]] = {}
    for group in name.split("="):
        for script, parts in _parts(" ".join(group.split("^")[1:3])).items():
            found.setdefault(script, []).extend(parts)
    return found


def _begun(a: list[str], b: list[str]) -> bool:
    return any(x.startswith(y) or y.startswith(x) for x in a for y in b)


def _parts(name: str) -> Mapping[str, list[str]]:
    """Script -> parts of the name in it, without case and accents."""
    found: dict[str, list[str]] = defaultdict(list)
    for part in _SEPARATORS.split(unicodedata.normalize("NFKD", name).casefold()):
        letters = "".join(c for c in part if c.isalpha())
        if letters:
            found[unicodedata.name(letters[0], "").partition(" ")[0]].append(letters)
    return found


def _alike(a: list[str], b: list[str]) -> bool:
    """A part in common, or the same letters cut apart in another way."""
    return bool(set(a) & set(b)) or "".join(sorted("".join(a))) == "".join(sorted("".join(b)))
