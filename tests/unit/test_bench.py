"""What `make bench` keeps of what it measured."""

from pathlib import Path

import pytest

from bench import report, results
from bench.results import Row, failure, keep, kept, turns


@pytest.fixture(autouse=True)
def _own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "KEPT", tmp_path / "benchmarks.json")


def a_row(value: float, form: str) -> Row:
    return Row("relay", "events", "events/s", value, 100, machine={"form": form})


def test_a_quick_run_does_not_replace_what_the_full_form_found(capsys: pytest.CaptureFixture[str]) -> None:
    keep("relay", [a_row(1, "quick")])
    keep("relay", [a_row(2, "full")])
    keep("relay", [a_row(3, "quick")])
    assert kept()["relay"].value == 2
    assert "relay: not kept" in capsys.readouterr().out
    keep("relay", [a_row(4, "full")])
    assert kept()["relay"].value == 4


def test_a_failure_stands_beside_older_rows_until_the_measure_succeeds() -> None:
    keep("relay", [a_row(2, "full")])
    keep("relay", [failure("relay", "no broker")])
    assert kept()["relay"].value == 2
    assert kept()["relay failed"].failed
    keep("relay", [a_row(3, "quick")])
    assert kept().keys() == {"relay"}


def test_each_row_of_the_page_says_its_form() -> None:
    assert "| quick |" in report._table([a_row(1, "quick")])


def test_who_begins_alternates() -> None:
    assert [turns(("ours", "theirs"), pair)[0] for pair in range(3)] == ["ours", "theirs", "ours"]
