"""The migrations and the models say the same."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from app.cli.migrate import ROOT, migrate
from app.settings import Settings
from tests.postgres import create


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_migrations_give_the_tables_that_the_models_describe(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = create(request.getfixturevalue("postgres"), "migrations") if database == "postgresql" else ""
    settings = Settings(data_dir=tmp_path, database_url=url, _env_file=None)
    assert "now at version" in migrate(settings)

    config = Config(str(ROOT / "alembic.ini"))
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.attributes["url"] = settings.database_url
    command.check(config)  # raises where they differ


def test_a_second_migration_changes_nothing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, _env_file=None)
    migrate(settings)

    assert "is at version" in migrate(settings)
    assert not (tmp_path / "backups").exists()


def test_of_several_machines_that_start_at_once_one_migrates(postgres: str, tmp_path: Path) -> None:
    url = create(postgres, "at_once")
    homes = [tmp_path / name for name in "abc"]

    with ThreadPoolExecutor(3) as pool:
        said = list(pool.map(lambda home: migrate(Settings(data_dir=home, database_url=url, _env_file=None)), homes))

    assert sorted("now at" in told for told in said) == [False, False, True]
