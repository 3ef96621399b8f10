"""Old names work, and warn with the new one at the line that has to change."""

import dataclasses
import importlib
import inspect
from pathlib import Path

import pytest

import longrope_lab
from longrope_lab.common.renames import renamed_arguments, renamed_fields, warn_renamed


@renamed_arguments(width="d_model", stages="until")
def build(size, *, d_model=1, until=None):
    """A function whose arguments were renamed."""
    return size, d_model, until


@renamed_fields(length="window")
@dataclasses.dataclass(frozen=True)
class Spec:
    """A dataclass one of whose fields was renamed."""

    window: int
    base: float = 10.0


def here(caught):
    """Whether each warning points at this file."""
    return all(Path(w.filename) == Path(__file__) for w in caught)


def test_an_old_argument_is_taken_with_a_warning():
    with pytest.warns(
        FutureWarning, match="^width= of build is now d_model=; the old name goes with the next"
    ) as caught:
        assert build(3, width=5) == (3, 5, None)
    assert len(caught) == 1 and here(caught)
    with pytest.warns(FutureWarning) as caught:
        assert build(3, width=5, stages=2) == (3, 5, 2)
    assert len(caught) == 2 and here(caught)


@pytest.mark.filterwarnings("error")
def test_new_names_do_not_warn():
    assert build(3, d_model=5, until=1) == (3, 5, 1)
    assert Spec(4).window == Spec(window=4).window == 4
    assert dataclasses.replace(Spec(4), window=8) == Spec(8)


def test_signature_and_docstring_are_the_new_ones():
    assert list(inspect.signature(build).parameters) == ["size", "d_model", "until"]
    assert list(inspect.signature(Spec).parameters) == ["window", "base"]
    assert build.__doc__ == "A function whose arguments were renamed."


def test_an_old_field_is_taken_and_given():
    with pytest.warns(FutureWarning, match="^length= of Spec is now window=;") as caught:
        spec = Spec(length=4, base=2.0)
    assert spec == Spec(4, 2.0) and here(caught)
    with pytest.warns(FutureWarning, match=r"^Spec\.length is now Spec\.window;") as caught:
        assert spec.length == 4
    assert here(caught)
    with pytest.warns(FutureWarning):
        assert dataclasses.replace(spec, length=16) == Spec(16, 2.0)


def test_an_unknown_name_is_still_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'widht'"):
        build(3, widht=5)
    with pytest.raises(AttributeError, match="lenght"):
        Spec(4).lenght  # noqa: B018 - reading it is the test


def test_a_warning_points_at_the_caller():
    def old_name():
        warn_renamed("old", "new")

    with pytest.warns(FutureWarning, match="^old is now new; ") as caught:
        old_name()
    assert here(caught)


@pytest.mark.parametrize("old", ["bounds", "errors", "rotary"])
def test_a_module_that_moved_is_found_or_named(old):
    new = f"longrope_lab.{longrope_lab.MOVED[old]}"
    with pytest.warns(FutureWarning, match=f"longrope_lab.{old} is now {new};"):
        assert getattr(longrope_lab, old).__name__ == new
    with pytest.raises(ModuleNotFoundError, match=f"longrope_lab.{old} is now {new}"):
        __import__(f"longrope_lab.{old}")


@pytest.mark.parametrize(
    ("room", "name", "module"),
    [
        ("rope", "RopeSpec", "spec"),
        ("models", "load_model", "loading"),
        ("runs", "find_notebook", "notebooks"),
        ("export", "save_pretrained", "folder"),
    ],
)
def test_what_a_room_of_the_same_name_held_is_found(room, name, module):
    new = f"longrope_lab.{room}.{module}"
    held = importlib.import_module(f"longrope_lab.{room}")
    with pytest.warns(FutureWarning, match=rf"longrope_lab\.{room}\.{name} is now {new}\.{name};"):
        found = getattr(held, name)
    assert found is getattr(importlib.import_module(new), name)
    with pytest.raises(AttributeError, match=f"'longrope_lab.{room}' has no attribute 'nothing'"):
        _ = held.nothing
