"""Which files of models are ours to delete, and whether they are all there."""

from pathlib import Path

import pytest

from app.disk import delete_files, folder_of, is_here, name_of
from app.settings import Settings
from app.stock import Model
from tests.modelfiles import write_folder, write_gguf


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, data_dir=tmp_path / "data", hf_home=tmp_path / "hf")


def row(name: str, path: Path, **values: object) -> Model:
    form = "gguf" if path.suffix == ".gguf" else "safetensors"
    folder = path.parent if form == "gguf" else path
    files = [path] if form == "gguf" else sorted(folder.iterdir())
    facts = {"files": [{"name": file.name, "size_bytes": 1} for file in files]} | dict(values)
    return Model(name=name, path=str(path), format=form, size_bytes=1, source="x", created_at=0.0, facts=facts)


def test_a_folder_is_named_after_its_model_and_tells_the_name(settings: Settings) -> None:
    for name in ("smollm2", "owner/name:Q4_K_M", "a%2Fb", "a--b"):
        folder = folder_of(settings, name)
        assert folder.parent == settings.models_dir
        assert name_of(folder) == name


def test_what_we_made_is_deleted_whole(settings: Settings) -> None:
    folder = write_folder(folder_of(settings, "owner/name"))
    assert delete_files(row("owner/name", folder), [], settings)
    assert not folder.exists()
    assert settings.models_dir.exists()


def test_two_models_in_one_folder_do_not_take_each_other_along(settings: Settings) -> None:
    one, two = (write_gguf(settings.models_dir / "m" / f"{n}.gguf") for n in "12")
    rows = [row("1", one), row("2", two)]
    assert delete_files(rows[0], rows, settings)
    assert (one.exists(), two.exists()) == (False, True)
    assert delete_files(rows[1], rows[1:], settings)
    assert not one.parent.exists()


def test_what_somebody_put_beside_a_model_stays(settings: Settings) -> None:
    folder = write_folder(settings.models_dir / "lib" / "a")
    beside = write_folder(settings.models_dir / "lib" / "b")
    file = write_gguf(settings.models_dir / "loose" / "m.gguf")
    notes = file.with_name("notes.txt")
    notes.write_text("mine")
    assert delete_files(row("a", folder), [], settings)
    assert delete_files(row("m", file), [], settings)
    assert (folder.exists(), beside.exists(), file.exists(), notes.exists()) == (False, True, False, True)


def test_a_model_within_the_folder_of_another_stays(settings: Settings) -> None:
    outer = write_folder(settings.models_dir / "m")
    inner = write_gguf(outer / "gguf" / "m.gguf")
    rows = [row("m", outer), row("g", inner)]
    rows[0].facts["files"] = [{"name": "config.json"}, {"name": "model.safetensors"}, {"name": "gguf/m.gguf"}]
    assert delete_files(rows[0], rows, settings)
    assert [path.name for path in outer.iterdir()] == ["gguf"]
    assert inner.exists()


def test_what_lies_elsewhere_stays(settings: Settings, tmp_path: Path) -> None:
    own = write_folder(tmp_path / "mine")
    link = settings.models_dir / "link"
    link.parent.mkdir(parents=True)
    link.symlink_to(own)
    assert not delete_files(row("mine", own), [], settings)
    assert not delete_files(row("up", settings.models_dir / ".." / ".." / "mine"), [], settings)
    assert not delete_files(row("all", settings.models_dir), [], settings)
    inner = row("inner", write_gguf(link / "inner" / "m.gguf"))
    assert not delete_files(inner, [], settings)  # as written it is ours, and where the link leads it is not
    assert Path(inner.path).exists()
    assert delete_files(row("link", link), [], settings)
    assert (own.exists(), link.is_symlink()) == (True, False)


class Cache:
    """One repository in Hugging Face's cache: two files that link to blobs."""

    def __init__(self, settings: Settings) -> None:
        self.root = settings.hub_cache
        self.repo = self.root / "models--o--n"
        self.snapshot = self.repo / "snapshots" / "c0ffee"
        for folder in (self.snapshot, self.repo / "blobs", self.repo / "refs"):
            folder.mkdir(parents=True)
        (self.repo / "refs" / "main").write_text("c0ffee")

    def put(self, name: str) -> str:
        write_gguf(self.repo / "blobs" / f"b-{name}")
        (self.snapshot / name).symlink_to(f"../../blobs/b-{name}")
        (self.repo / ".tokenyard").mkdir(exist_ok=True)
        (self.repo / ".tokenyard" / f"b-{name}").write_text("{}")
        return f"models--o--n/blobs/b-{name}"


def test_of_the_hubs_cache_goes_what_we_fetched(settings: Settings) -> None:
    cache = Cache(settings)
    ours = cache.put("Q4.gguf")
    model = row("o/n:Q4", cache.snapshot / "Q4.gguf", fetched=[ours])
    cache.put("theirs.gguf")

    assert delete_files(model, [], settings)

    assert [path.name for path in cache.snapshot.iterdir()] == ["theirs.gguf"]
    assert [path.name for path in (cache.repo / "blobs").iterdir()] == ["b-theirs.gguf"]
    assert (cache.repo / "refs" / "main").exists()


def test_of_the_hubs_cache_nothing_goes_that_another_tool_fetched(settings: Settings) -> None:
    cache = Cache(settings)
    cache.put("Q4.gguf")
    assert not delete_files(row("o/n", cache.snapshot / "Q4.gguf"), [], settings)
    assert is_here(row("o/n", cache.snapshot / "Q4.gguf"))


def test_a_blob_that_two_models_share_goes_with_the_second(settings: Settings) -> None:
    cache = Cache(settings)
    shared = cache.put("Q4.gguf")
    rows = [row(name, cache.snapshot / "Q4.gguf", fetched=[shared]) for name in ("a", "b")]
    assert not delete_files(rows[0], rows, settings)
    assert is_here(rows[1])
    assert delete_files(rows[1], rows[1:], settings)
    assert not cache.repo.exists()


def test_nothing_outside_the_cache_counts_as_fetched(settings: Settings, tmp_path: Path) -> None:
    cache = Cache(settings)
    cache.put("Q4.gguf")
    outside = tmp_path / "outside"
    outside.write_text("x")
    names = ["../../outside", str(outside), "."]
    assert not delete_files(row("o/n", cache.snapshot / "Q4.gguf", fetched=names), [], settings)
    assert outside.exists()
    assert cache.root.exists()


def test_a_model_is_here_while_all_its_weights_are(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", README_md="# M")
    model = row("m", folder)
    (folder / "README.md").unlink()
    assert is_here(model)
    (folder / "model.safetensors").unlink()
    assert not is_here(model)
    assert not is_here(row("g", tmp_path / "g.gguf"))
