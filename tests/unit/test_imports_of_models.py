"""Imports: a model on this machine becomes one of the catalogue."""

from pathlib import Path

import pytest

from app.catalog import Catalog
from app.errors import BadModelError, InvalidRequestError, ModelExistsError
from app.imports import check_files, copied, import_model, locate
from app.settings import Settings
from tests.modelfiles import LLAMA, write_folder, write_gguf


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, data_dir=tmp_path / "data", models_extra_scan_dirs=str(tmp_path / "extra"))


def test_a_folder_is_listed_where_it_is_under_its_own_name(
    settings: Settings, catalog: Catalog, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "tuned")
    assert import_model(settings, catalog, folder) == "tuned"
    model = catalog.get("tuned")
    assert (model.path, model.source, model.facts["parameters"]) == (str(folder), "import", 101 * 64)


def test_a_copy_is_ours_and_has_what_the_model_needs(settings: Settings, catalog: Catalog, tmp_path: Path) -> None:
    first = write_gguf(tmp_path / "m-00001-of-00002.gguf")
    write_gguf(tmp_path / "m-00002-of-00002.gguf")
    write_gguf(tmp_path / "other.gguf")

    assert import_model(settings, catalog, first, "o/n:Q4", copy=True) == "o/n:Q4"

    copy = Path(catalog.get("o/n:Q4").path)
    assert copy == settings.models_dir / "o%2Fn:Q4" / first.name
    assert sorted(path.name for path in copy.parent.iterdir()) == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    assert [path.name for path in settings.models_dir.iterdir()] == ["o%2Fn:Q4"]


def test_a_copy_of_a_folder_leaves_hidden_files_behind(settings: Settings, catalog: Catalog, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", chat_template_jinja="x")
    (folder / ".git").mkdir()
    (folder / ".git" / "secret").write_text("x")
    import_model(settings, catalog, folder, copy=True)
    names = sorted(path.name for path in (settings.models_dir / "m").rglob("*"))
    assert names == ["chat_template.jinja", "config.json", "model.safetensors"]


def test_a_copy_without_room_leaves_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    facts = {"files": [{"name": "m.gguf", "size_bytes": 7}], "size_bytes": 7}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("app.imports.shutil.copyfile", full)
    with pytest.raises(BadModelError, match="no room for a copy of 7 bytes") as caught:
        copied(settings, "m", path, facts)
    assert caught.value.code == "disk_full"
    assert list(settings.models_dir.iterdir()) == []


def test_a_name_keeps_its_meaning(settings: Settings, catalog: Catalog, tmp_path: Path) -> None:
    one, two = write_gguf(tmp_path / "1" / "m.gguf"), write_gguf(tmp_path / "2" / "m.gguf")
    import_model(settings, catalog, one)
    import_model(settings, catalog, one)
    with pytest.raises(ModelExistsError, match="DELETE /models/m"):
        import_model(settings, catalog, two)
    one.unlink()
    import_model(settings, catalog, two)
    assert catalog.get("m").path == str(two)


def test_what_is_no_model_is_not_imported(settings: Settings, catalog: Catalog, tmp_path: Path) -> None:
    encoder = write_folder(tmp_path / "whisper", {**LLAMA, "is_encoder_decoder": True})
    (tmp_path / "text.gguf").write_text("hello")
    for path, code in ((encoder, "not_a_model"), (tmp_path / "text.gguf", "damaged_model"), (tmp_path, "not_a_model")):
        with pytest.raises(BadModelError) as caught:
            import_model(settings, catalog, path, "x")
        assert caught.value.code == code
    with pytest.raises(InvalidRequestError, match="reserved"):
        import_model(settings, catalog, encoder, "x/load")
    assert catalog.models() == []


def test_without_a_key_any_absolute_path_may_be_named(settings: Settings, tmp_path: Path) -> None:
    assert locate(settings, str(tmp_path / "a" / ".." / "b"), keyed=False) == tmp_path / "b"
    with pytest.raises(InvalidRequestError, match="absolute"):
        locate(settings, "models/m.gguf", keyed=False)


def test_with_a_key_only_the_folders_for_models_are_read(settings: Settings, tmp_path: Path) -> None:
    locked = settings.model_copy(update={"api_key": "key"})
    inside = write_folder(tmp_path / "extra" / "m")
    outside = write_gguf(tmp_path / "outside.gguf")
    assert locate(locked, str(inside), keyed=True) == inside
    (inside / "link.gguf").symlink_to(outside)
    for path in (outside, inside / "link.gguf", inside / ".." / ".." / "outside.gguf", tmp_path / "nothing"):
        with pytest.raises(InvalidRequestError, match="MODELS_EXTRA_SCAN_DIRS"):
            locate(locked, str(path), keyed=True)
    facts = {"files": [{"name": "config.json"}, {"name": "link.gguf"}]}
    with pytest.raises(InvalidRequestError, match="MODELS_EXTRA_SCAN_DIRS"):
        check_files(locked, inside, facts, keyed=True)
    check_files(settings, inside, facts, keyed=False)
