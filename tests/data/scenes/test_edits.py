import pytest

from nest_nerfstudio.data.scenes.edits import edit_name_problems, edit_table_problems, read_edits
from nest_nerfstudio.states import Edit, SunSky


def test_a_light_may_be_unknown() -> None:
    edits = read_edits({"base": {}, "relight": {"light": None}, "turn": {"yaw": 1.0}}, "file")
    assert (edits["relight"].light, edits["base"].light) == (None, SunSky())
    assert edits["base"].differences(edits["relight"]) == ["light"]
    unlit = read_edits({"base": {"light": None}, "turn": {"yaw": 1.0}}, "file")
    assert unlit["turn"] == Edit(light=None, yaw=1.0)


def test_edits_stand_in_the_light_of_the_base() -> None:
    stored = {"base": {"light": {"ambient": 0.1}}, "turn": {"yaw": 1}, "dim": {"light": {"sun": 1.0}}}
    edits = read_edits(stored, "here")
    assert edits["turn"] == Edit(light=SunSky(ambient=0.1), yaw=1.0)
    assert edits["dim"].light == SunSky(sun=1.0, ambient=0.1)
    assert read_edits({}, "here") == {"base": Edit()}


@pytest.mark.parametrize("stored", [3, ["base"], None])
def test_edits_that_are_no_table(stored: object) -> None:
    with pytest.raises(ValueError, match=r"^here: `edits` must be a table of edits by name"):
        read_edits(stored, "here")


def test_the_reader_raises_the_first_of_all_problems() -> None:
    stored = {"base": {}, "turn": {"yaw": "left"}, "dim": {"light": {"sun": -1, "moon": 2}}}
    problems = list(edit_table_problems(stored))
    assert [problem.partition(":")[0] for problem in problems] == ["edit turn", "edit dim", "edit dim"]
    with pytest.raises(ValueError, match="here: ") as raised:
        read_edits(stored, "here")
    assert str(raised.value) == f"here: {problems[0]}"


def test_edits_that_are_shown_but_not_listed() -> None:
    shown = ["base", "melt", "turn", "melt"]
    assert list(edit_name_problems(shown, ["base", "turn"])) == [
        "2 frame(s) show the edit 'melt'; there are: base, turn"
    ]
    assert not list(edit_name_problems(shown, ["base", "turn", "melt"]))
