"""Names of one person are written in many ways; names of two persons have nothing in common."""

import pytest

from casework.preprocess.names import contradict


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Doe^Jane", "DOE^JANE^A"),
        ("Doe^Jane", "Jane Doe"),
        ("Doe^Jane", "Smith^Jane"),
        ("Doe^Jane", ""),
        ("Müller^Änne", "Mu\u0308ller^A\u0308nne"),
        ("Wang^XiaoDong", "王^小东"),
        ("王^小东", "王小东"),
        ("Wang^XiaoDong=王^小东", "王小东"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎"),
        ("O'Brien^Ann", "OBrien Ann"),
    ],
)
def test_one_person_never_contradicts_herself(one: str, other: str) -> None:
    """Case, order, marriage, an additional name, accents and another script are no contradiction."""
    assert not contradict(one, other)
    assert not contradict(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Doe^Jane", "Smith^Mary"), ("王^小东", "李^丽"), ("ANONYMOUS", "Doe^Jane"), ("Wang^Fang=王^芳", "Li^Na=李^娜")],
)
def test_names_without_a_common_part_are_two_persons(one: str, other: str) -> None:
    """Where one script is shared and nothing in it, the names are of two persons."""
    assert contradict(one, other)
    assert contradict(other, one)
