"""Names of one person are written in many ways; names of two persons have nothing in common."""

import pytest

from casework.preprocess.names import contradict, other_given


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ("Li^Na", "Li^Min", True), ("LEE^MARY", "LEE^JANE", True), ("Li^Na=\u674e^\u5a1c", "Li^Min=\u674e^\u654f", True),
        ("Wang^XiaoDong", "Wang^Xiao Dong", False), ("Smith^Mary", "Jones^Mary", False), ("Smith^Mary^Ann", "Smith^Ann", False),
        ("Smith^M", "Smith^Mary", False), ("Li^Na", "\u674e^\u5a1c", False), ("Li Na", "Li^Min", False),
    ],
)  # fmt: skip
def test_another_given_name_is_noticed(one: str, other: str, differ: bool) -> None:
    """A family name is shared by many; a marriage changes it and leaves the given name."""
    assert other_given(one, other) is other_given(other, one) is differ


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
