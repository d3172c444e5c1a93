"""The scan: what the catalogue says is what the disk has, after any crash."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import disk
from app.aliases import Aliases
from app.catalog import Catalog
from app.database import Database
from app.disk import making
from app.errors import BadModelError, ModelNotDownloadedError, ModelNotFoundError
from app.jobs import Kind
from app.models import Pull
from app.scan import Report, Scan
from app.settings import Settings
from app.stock import Standing
from app.store import Store
from tests.modelfiles import LLAMA, write_folder, write_gguf
from tests.unit.conftest import make_job
from tests.unit.test_stores import Ollama, small

Run = Callable[..., Report]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        data_dir=tmp_path / "data",
        hf_home=tmp_path / "hf",
        ollama_models=tmp_path / "ollama",
        lmstudio_models=tmp_path / "lmstudio",
        models_extra_scan_dirs=str(tmp_path / "extra"),
    )


@pytest.fixture
def scan(settings: Settings, catalog: Catalog, store: Store) -> Run:
    """A scan with children that read the files."""

    def run(**values: Any) -> Report:
        return Scan(settings, catalog, store).run(**values)

    return run


def snapshot(settings: Settings, repo: str, config: dict[str, Any] = LLAMA) -> Path:
    """A model in the hub's cache, as links to blobs."""
    root = settings.hub_cache / f"models--{repo.replace('/', '--')}"
    place = write_folder(root / "snapshots" / "c", config)
    (root / "blobs").mkdir()
    for path in list(place.iterdir()):
        path.rename(root / "blobs" / path.name)
        path.symlink_to(f"../../blobs/{path.name}")
    return place


def test_models_of_every_tool_are_listed_with_their_facts(
    scan: Run, settings: Settings, catalog: Catalog, database: Database, tmp_path: Path
) -> None:
    snapshot(settings, "o/n")
    store = Ollama(tmp_path / "ollama")
    for tag in ("3b", "latest"):
        store.put(f"registry.ollama.ai/library/llama3.2/{tag}", store.manifest(small(1)))
    write_gguf(tmp_path / "lmstudio" / "p" / "m" / "m-Q4_0.gguf")
    write_folder(tmp_path / "extra" / "tuned")
    write_gguf(settings.models_dir / "mine" / "m.gguf")

    report = scan()

    assert (report.state, report.skipped) == ("done", [])
    rows = {model.name: model for model in catalog.models()}
    assert {name: row.source for name, row in rows.items()} == {
        "o/n": "hf-cache", "llama3.2:3b": "ollama", "p/m:Q4_0": "lmstudio", "tuned": "folder", "mine": "import",
    }  # fmt: skip
    assert (rows["o/n"].format, rows["o/n"].repo, rows["o/n"].revision) == ("safetensors", "o/n", "c")
    assert rows["o/n"].facts["parameters"] == 101 * 64
    assert rows["llama3.2:3b"].format == "gguf"
    assert catalog.get("llama3.2").name == "llama3.2:3b"
    assert [alias.name for alias in Aliases(database).all()] == ["llama3.2"]


def test_a_model_whose_facts_cannot_even_be_told_is_left_out(scan: Run, settings: Settings, catalog: Catalog) -> None:
    snapshot(settings, "o/odd", LLAMA | {"model_type": "\ud800"})
    snapshot(settings, "o/n")

    report = scan()

    assert (report.state, len(report.skipped)) == ("done", 1)
    assert "is no whole model" in str(report.skipped[0])
    assert [model.name for model in catalog.models()] == ["o/n"]


def test_a_second_scan_reads_only_what_changed(scan: Run, settings: Settings, catalog: Catalog, store: Store) -> None:
    place = snapshot(settings, "o/n")
    snapshot(settings, "o/m")
    scan()
    read: list[str] = []

    def reader(path: Path) -> dict[str, Any]:
        read.append(path.parts[-3])
        raise BadModelError("damaged_model", "changed")

    assert Scan(settings, catalog, store, reader).run().found == []
    assert read == []
    os.utime(os.path.realpath(place / "model.safetensors"), ns=(0, 0))
    report = Scan(settings, catalog, store, reader).run()
    assert read == ["models--o--n"]
    assert [(Path(s.path).parts[-3], s.reason) for s in report.skipped] == [("models--o--n", "changed")]
    assert len(catalog.models()) == 2


def test_what_is_no_language_model_is_left_out_with_its_reason(scan: Run, settings: Settings, catalog: Catalog) -> None:
    snapshot(settings, "o/whisper", {"architectures": ["WhisperModel"], "is_encoder_decoder": True})
    snapshot(settings, "o/mlx", {**LLAMA, "quantization": {"group_size": 64, "bits": 4}})
    place = snapshot(settings, "o/partial")
    os.unlink(os.path.realpath(place / "model.safetensors"))
    reasons = {Path(skipped.path).parts[-3]: skipped.reason for skipped in scan().skipped}
    assert "no language model" in reasons["models--o--whisper"]
    assert "MLX" in reasons["models--o--mlx"]
    assert "not downloaded whole" in reasons["models--o--partial"]
    assert catalog.models() == []


def test_scanning_can_be_left_to_folders_that_were_named(
    settings: Settings, catalog: Catalog, store: Store, tmp_path: Path
) -> None:
    snapshot(settings, "o/n")
    write_folder(tmp_path / "extra" / "tuned")
    quiet = settings.model_copy(update={"scan_models": False})
    assert Scan(quiet, catalog, store).run().found == ["tuned"]


def test_a_found_model_goes_with_its_files_and_a_pulled_one_is_missing_until_they_come_back(
    scan: Run, catalog: Catalog, tmp_path: Path
) -> None:
    found = write_gguf(tmp_path / "extra" / "found.gguf")
    pulled = write_gguf(tmp_path / "elsewhere" / "pulled.gguf")
    catalog.add("pulled", pulled, format="gguf", size_bytes=1, source="pull")
    assert scan().found == ["found"]
    found.unlink()
    away = pulled.rename(tmp_path / "away")

    report = scan()

    assert (report.removed, report.missing) == (["found"], ["pulled"])
    with pytest.raises(ModelNotFoundError):
        catalog.find("found")
    with pytest.raises(ModelNotDownloadedError, match="are gone"):
        catalog.get("pulled")
    away.rename(pulled)
    assert scan().found == ["pulled"]
    assert catalog.get("pulled").state == Standing.READY


def test_a_model_without_facts_gets_them(scan: Run, catalog: Catalog, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "starter.gguf")
    catalog.add("starter", path, format="gguf", size_bytes=1, source="starter")
    scan()
    assert catalog.get("starter").facts["parameters"] == 128


def test_a_removal_that_a_crash_cut_short_is_ended(scan: Run, settings: Settings, catalog: Catalog) -> None:
    folder = write_folder(settings.models_dir / "m")
    catalog.add("m", folder, format="safetensors", size_bytes=1, source="import")
    catalog.begin_removal("m")
    assert scan().removed == ["m"]
    assert not folder.exists()
    assert catalog.models() == []


def test_what_was_removed_from_the_list_alone_stays_away_until_somebody_asks(
    scan: Run, catalog: Catalog, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "extra" / "found.gguf")
    scan()
    catalog.begin_removal("found")
    catalog.end_removal("found", hide=disk.is_here(catalog.find("found")))

    assert scan().found == []
    assert catalog.models() == []
    with pytest.raises(ModelNotFoundError):
        catalog.find("found")

    scan(unhide=True)
    assert catalog.get("found").path == str(path)
    catalog.begin_removal("found")
    catalog.end_removal("found", hide=True)
    path.unlink()
    assert scan().removed == ["found"]
    assert catalog.rows() == []


def test_a_name_that_another_model_has_is_not_taken(scan: Run, catalog: Catalog, tmp_path: Path) -> None:
    mine = write_gguf(tmp_path / "mine.gguf")
    catalog.add("tuned", mine, format="gguf", size_bytes=1, source="import")
    write_folder(tmp_path / "extra" / "tuned")
    assert [skipped.reason for skipped in scan().skipped] == ["Another model has its name, 'tuned'."]
    assert catalog.get("tuned").path == str(mine)


def test_a_name_that_could_not_be_addressed_is_left_out(scan: Run, tmp_path: Path, catalog: Catalog) -> None:
    write_folder(tmp_path / "extra" / "m" / "load")
    assert ["is reserved" in skipped.reason for skipped in scan().skipped] == [True]
    assert catalog.rows() == []


def test_a_model_is_not_listed_twice(scan: Run, settings: Settings, catalog: Catalog) -> None:
    place = snapshot(settings, "o/n")
    catalog.add("short", place, format="safetensors", size_bytes=1, source="pull")
    assert scan().found == []
    assert [model.name for model in catalog.models()] == ["short"]


def test_what_is_being_pulled_is_listed_by_the_pull(scan: Run, settings: Settings, store: Store) -> None:
    snapshot(settings, "o/n")
    store.submit(make_job(kind=Kind.PULL, model="o/n:Q4"), Pull(quantize="auto", init=False))
    assert scan().found == []


def test_what_was_being_made_when_its_process_died_is_swept(scan: Run, settings: Settings) -> None:
    with making(settings.models_dir) as living:
        dead = settings.models_dir / ".new-dead"
        fresh = settings.models_dir / ".new-fresh"
        for folder in (dead, fresh):
            folder.mkdir()
        (dead / ".lock").touch()
        for folder in (dead, living):
            os.utime(folder, (time.time() - 3600,) * 2)
        scan()
        assert (living.exists(), dead.exists(), fresh.exists()) == (True, False, True)
    assert not living.exists()


def test_a_folder_that_is_closed_to_us_stops_nothing(
    scan: Run, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "extra" / "a" / "m.gguf")
    write_gguf(tmp_path / "extra" / "b" / "m.gguf")
    real = Path.iterdir

    def closed(self: Path) -> Any:
        if self.name == "a":
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(Path, "iterdir", closed)  # who runs the tests may be root, whom no mode keeps out
    assert scan().found == ["b/m"]


def test_a_report_names_a_manageable_number_of_what_it_left_out(
    scan: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch, catalog: Catalog, store: Store
) -> None:
    for n in range(6):
        write_gguf(settings.models_dir / f"m{n}" / "m.gguf")
    monkeypatch.setattr("app.scan.MOST_FOUND", 3)
    report = scan()
    assert report.found == ["m0", "m1", "m2"]
    assert ["too much" in skipped.reason for skipped in report.skipped] == [True]
    assert [skipped.path for skipped in report.skipped] == [str(settings.models_dir / "m3" / "m.gguf")]
