"""Which processes belong to a stack."""

from pathlib import Path

from app.cli import place
from app.settings import Settings
from tests.stack import broker


def test_a_broker_that_wrote_over_its_environment_is_a_member(tmp_path: Path) -> None:
    """A broker that outlived its supervisor went unseen, and wrote to the same file as the next one."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with broker(tmp_path / "a"), broker(tmp_path / "b"):
        found = place.members(Settings(_env_file=None, data_dir=tmp_path / "a"))
        assert [process.cwd() for process in found] == [str(tmp_path / "a" / "broker")]
