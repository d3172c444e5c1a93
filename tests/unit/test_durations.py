"""Durations as people write them."""

import pytest

from app.durations import FOR_EVER, seconds_of


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (300, 300),
        (0, 0),
        (0.5, 0.5),
        ("5m", 300),
        ("1h30m", 5400),
        ("90s", 90),
        ("500ms", 0.5),
        ("2d", 172_800),
        ("42", 42),
    ],
)
def test_a_duration_is_read(written: object, seconds: float) -> None:
    assert seconds_of(written) == seconds


@pytest.mark.parametrize("written", [-1, "-1", "-5m", -0.1])
def test_whatever_is_negative_is_for_ever(written: object) -> None:
    assert seconds_of(written) == FOR_EVER


@pytest.mark.parametrize(
    "written", ["", "m5", "5 minutes", "5m3", True, None, [], "nan", "inf", float("nan"), "9" * 50]
)
def test_anything_else_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="a duration is"):
        seconds_of(written)
