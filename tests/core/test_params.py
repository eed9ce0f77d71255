"""Parameters of a class in a file of the user's, with annotations as types and as text."""
import pytest
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
