"""Sections: what a part of the configuration offers beside the values in it."""

from __future__ import annotations

from typing import Any

import pytest

from overlayd.core.settings import values
from overlayd.core.settings.problem import Problem, SectionError
from overlayd.core.settings.section import Section, rows, setting


class Wheel(Section):
    """A section in a section."""

    spokes: int = setting(32, values.integer(1, 64), "how many spokes")
    code: values.Secret | None = setting(None, values.parser(values.Secret))


class Bicycle(Section):
    """The outermost one."""

    name: str = setting("", values.parser(values.host_name))
    bell: bool = setting(True, values.flag, "whether it rings")
    front: Wheel = setting(Wheel(), Wheel.parse)
    spare: tuple[Wheel, ...] = setting((), rows(Wheel.parse))


class Tandem(Bicycle):
    """A section with more, and with another default."""

    seats: int = setting(2, values.integer(2, 9))
    bell: bool = setting(False, values.flag)


def mistakes(**raw: Any) -> list[Problem]:
    with pytest.raises(SectionError) as caught:
        Bicycle.parse(raw)
    return list(caught.value.problems)


def test_values_are_parsed_and_the_rest_is_the_default() -> None:
    found = Bicycle.parse({"bell": " no ", "front": {"spokes": "20"}, "spare": [{"spokes": "8"}, {}]})
    assert found.values() == {
        "name": "", "bell": False, "front": Wheel(spokes="20"), "spare": (Wheel(spokes="8"), Wheel())
    }  # fmt: skip
    assert (found.given.keys(), found.front.given.keys()) == ({"bell", "front", "spare"}, {"spokes"})
    assert Bicycle().given == {}


def test_every_mistake_is_reported_with_its_place() -> None:
    found = mistakes(bell="perhaps", front={"spokes": "x", "spoke": "1"}, spare=["round", {"spokes": "0"}], wheel="1")
    assert [(one.path, one.value) for one in found] == [
        (("bell",), "perhaps"),
        (("front", "spokes"), "x"),
        (("front", "spoke"), ""),
        (("spare", 0), "round"),
        (("spare", 1, "spokes"), "0"),
        (("wheel",), ""),
    ]
    assert found[2].text == "unknown key; did you mean spokes?"
    assert found[3].text == "is not a mapping; write `key: value` lines below it"
    assert found[5].text == "unknown key; known here: name, bell, front, spare"


@pytest.mark.parametrize("key", ["self", "cls", "fields", "parse", "given", "values", "__dict__"])
def test_no_key_is_more_than_a_key(key: str) -> None:
    assert [one.path for one in mistakes(**{key: "1"})] == [(key,)]


def test_a_section_cannot_be_changed_but_copied() -> None:
    one = Bicycle(name="a")
    with pytest.raises(AttributeError, match="use `changed`"):
        one.name = "b"
    with pytest.raises(TypeError):
        one.given["name"] = "b"  # type: ignore[index]
    other = one.changed(bell=False)
    assert (one.bell, other.bell, other.name, other.given.keys()) == (True, False, "a", {"name", "bell"})


def test_equal_is_what_has_the_same_values_given_or_not() -> None:
    assert Bicycle(bell="yes") == Bicycle()
    assert hash(Bicycle(bell="yes")) == hash(Bicycle())
    assert Bicycle(bell="no") != Bicycle()
    assert Bicycle() != Tandem()
    assert Wheel(code="a") == Wheel(code="a") != Wheel(code="b")


def test_a_derived_section_keeps_the_order_and_overrides_defaults() -> None:
    assert list(Tandem.fields) == ["name", "bell", "front", "spare", "seats"]
    assert (Tandem().bell, Bicycle().bell, Tandem(seats="3").seats) == (False, True, 3)


def test_a_text_of_a_section_shows_values_and_no_secret() -> None:
    found = Wheel(code="s3cret")
    assert str(found) == "spokes=32 code=**********"
    assert repr(found) == "Wheel(spokes=32 code=**********)"
    assert found.code is not None
    assert found.code.reveal() == "s3cret"
