"""Nodes that keep models on disks of their own: who has what, and where a model goes."""

from pathlib import Path

import pytest

from app import placement
from app.catalog import Catalog
from app.database import Database
from app.disk import is_here
from app.registry import Card
from app.scan import Scan
from app.settings import Settings
from app.store import Store


def on(database: Database, node: str) -> Catalog:
    return Catalog(database, node=node)


def add(catalog: Catalog, path: str, revision: str = "r1") -> None:
    catalog.add("m", Path(path), format="gguf", size_bytes=7, source="pull", repo="m", revision=revision)


def test_each_node_finds_the_files_where_it_has_them(database: Database) -> None:
    a, b, c = (on(database, node) for node in "abc")
    add(a, "/a/m")
    add(b, "/b/m")

    assert [catalog.get("m").path for catalog in (a, b, c)] == ["/a/m", "/b/m", ""]
    assert [catalog.rows()[0].path for catalog in (a, b, c)] == ["/a/m", "/b/m", ""]
    assert c.nodes(c.get("m")) == {"a", "b"}
    assert [catalog.get("m").path for catalog in (a, b, c)] == ["/a/m", "/b/m", ""]  # looking changed nothing


def test_a_newer_pull_leaves_the_others_with_nothing_that_counts(database: Database) -> None:
    a, b = on(database, "a"), on(database, "b")
    add(a, "/a/m")
    add(b, "/b/m", revision="r2")

    assert (a.get("m").path, b.get("m").path) == ("", "/b/m")
    assert a.nodes(a.get("m")) == {"b"}


def test_what_was_there_before_nodes_had_stores_is_everywhere(database: Database) -> None:
    add(Catalog(database), "/shared/m")
    a = on(database, "a")

    assert a.get("m").path == "/shared/m"
    assert a.nodes(a.get("m")) is None


def test_files_of_a_model_that_was_removed_elsewhere_are_strays_until_they_are_deleted(database: Database) -> None:
    a, b = on(database, "a"), on(database, "b")
    add(a, "/a/m")
    assert a.strays() == []
    b.begin_removal("m")
    b.end_removal("m", hide=False)

    assert ([stray.path for stray in a.strays()], b.strays()) == (["/a/m"], [])
    a.forget_copy("m")
    assert a.strays() == []


def test_a_scan_on_one_node_leaves_alone_what_others_have(database: Database, store: Store, tmp_path: Path) -> None:
    a, b = on(database, "a"), on(database, "b")
    add(b, "/b/m")
    homes = {name: tmp_path / name for name in ("hf_home", "ollama_models", "lmstudio_models")}
    settings = Settings(data_dir=tmp_path, _env_file=None, **homes)

    assert Scan(settings, a, store).run().missing == []

    assert (b.get("m").path, is_here(a.find("m"))) == ("/b/m", False)
    b.begin_removal("m")  # and whoever did that dies
    Scan(settings, a, store).run()
    assert [stray.path for stray in b.strays()] == ["/b/m"]


@pytest.mark.parametrize(("nodes", "node"), [(None, "w@b"), ({"a"}, "w@a"), ({"z"}, "w@b"), (set("ab"), "w@b")])
def test_a_model_goes_where_its_files_are_and_then_where_there_is_room(nodes: set[str] | None, node: str) -> None:
    full = Card("w@a", "cpu.0", "a", 1, "l", cache_limit=0)
    empty = Card("w@b", "cpu.0", "b", 1, "l", cache_limit=1)

    card = placement.choose([full, empty], 5, nodes)

    assert card is not None
    assert card.node == node


def test_a_model_is_bound_to_devices_nodes_or_workers() -> None:
    cards = [Card(f"{device}@{host}", device, host, 1, "l") for host in "ab" for device in ("gpu.0", "gpu.1")]

    def bound(*devices: str) -> list[str]:
        return [card.node for card in placement.allowed(cards, devices)]

    assert bound("gpu.0") == ["gpu.0@a", "gpu.0@b"]
    assert bound("b") == ["gpu.0@b", "gpu.1@b"]
    assert bound("gpu.1@a", "b") == ["gpu.1@a", "gpu.0@b", "gpu.1@b"]
    assert len(bound()) == 4
