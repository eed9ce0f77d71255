"""Parameters of a class in a file of the user's, with annotations as types and as text."""
import pytest
from wilson.core.errors import InputError
from wilson.core.params import param, params_of


class Mine:
    share: float = param(0.5, "a share", min=0, max=1)
    rounds: int = param(2, "rounds", min=1)
    limit: "float | None" = param(None, "a limit")
    bound: float | None = param(None, "a bound")


def test_annotations_may_be_types_or_text():
    assert {name: (p.kind, p.optional) for name, p in params_of(Mine).items()} == {
        "share": (float, False), "rounds": (int, False), "limit": (float, True), "bound": (float, True)}
    with pytest.raises((TypeError, RuntimeError)) as caught:  # before Python 3.12 the TypeError is the cause
        class Wrong:
            many: list = param((), "many")
    assert "found list" in str(caught.value.__cause__ or caught.value)


def test_an_effect_must_be_known():
    with pytest.raises(ValueError, match="affects='speed'"):
        param(1, "a number", affects="speed")


def test_several_values():
    from collections.abc import Sequence

    class Job:
        lines: Sequence[str] = param((), "lines of the shell")
        sizes: "Sequence[int]" = param((), "sizes", min=1)

    known = params_of(Job)
    assert known["lines"].convert(["a", "b"]) == ("a", "b") and known["sizes"].convert(["3", 4]) == (3, 4)
    with pytest.raises(InputError, match="sizes=0: expected at least 1"):
        known["sizes"].convert([0])
