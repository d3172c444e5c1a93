"""Settings, and that each one is documented."""

from pathlib import Path

import pytest

from app.settings import Settings

DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "settings.md"


def test_every_setting_is_documented() -> None:
    text = DOCS.read_text()
    assert [name for name in Settings.model_fields if f"`{name.upper()}`" not in text] == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert Settings(host=host, _env_file=None).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "box.example"])
def test_other_addresses_are_not_loopback(host: str) -> None:
    assert not Settings(host=host, _env_file=None).is_loopback


def test_the_data_folder_is_absolute_and_holds_the_database() -> None:
    settings = Settings(data_dir=Path("somewhere"), _env_file=None)
    assert settings.data_dir.is_absolute()
    assert settings.database_url == f"sqlite:///{settings.data_dir}/jobs.db"
