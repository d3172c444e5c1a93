"""What a name of a model stands for."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app.aliases import Aliases, Named
from app.catalog import Catalog
from app.database import Database
from app.errors import (
    AliasNotFoundError,
    AliasTakenError,
    InvalidRequestError,
    ModelInUseError,
    ModelNotDownloadedError,
    ModelNotFoundError,
    TokenyardError,
)
from app.names import check_name
from app.stock import Standing
from app.store import Store
from app.suggested import suggestions
from tests.unit.conftest import make_job

Add = Callable[..., None]


@pytest.fixture
def aliases(database: Database) -> Aliases:
    return Aliases(database)


@pytest.fixture
def add(catalog: Catalog) -> Add:
    def add(name: str, source: str = "pull") -> None:
        catalog.add(name, Path(f"/m/{name}"), format="gguf", size_bytes=1, source=source)

    return add


@pytest.mark.parametrize(
    "typed",
    ["Qwen/Qwen3-8B", "qwen/qwen3-8b", "Qwen/Qwen3-8B:latest", "fast", "FAST", "fast:latest", "qwen3", "QWEN3:8b"],
)  # fmt: skip
def test_a_model_is_found_under_each_of_its_names(catalog: Catalog, aliases: Aliases, add: Add, typed: str) -> None:
    add("Qwen/Qwen3-8B")
    aliases.put("fast", "Qwen/Qwen3-8B")
    assert catalog.get(typed).name == "Qwen/Qwen3-8B"


def test_capitals_tell_two_models_apart(catalog: Catalog, add: Add) -> None:
    add("own/model")
    add("own/Model")
    assert catalog.get("own/model").name == "own/model"
    assert catalog.get("own/Model").name == "own/Model"


def test_an_unknown_model_is_not_downloaded_under_the_name_that_was_typed(catalog: Catalog) -> None:
    with pytest.raises(ModelNotDownloadedError, match='"model": "qwen3"'):
        catalog.get("qwen3")
    with pytest.raises(ModelNotFoundError, match="'nothing'"):
        catalog.find("nothing")


def test_a_models_own_name_goes_before_an_alias_and_that_before_a_suggestion(
    catalog: Catalog, aliases: Aliases, add: Add
) -> None:
    add("other")
    aliases.put("qwen3", "other")
    assert catalog.resolve("qwen3") == "other"
    add("qwen3")
    assert catalog.resolve("qwen3") == "qwen3"


def test_an_alias_of_an_alias_is_one_step(catalog: Catalog, aliases: Aliases, add: Add) -> None:
    add("one")
    add("two")
    aliases.put("fast", "one")
    assert aliases.put("best", "fast") == Named("best", "one", True)

    aliases.put("soon", "later")  # not here yet
    assert aliases.get("soon") == Named("soon", "later", False)
    aliases.put("later", "two")

    assert catalog.resolve("soon") == "two"
    assert [alias.model for alias in aliases.all()] == ["one", "one", "two", "two"]


def test_an_alias_never_stands_for_itself(aliases: Aliases) -> None:
    aliases.put("a", "b")
    for name, model in (("b", "a"), ("c", "c")):
        with pytest.raises(InvalidRequestError, match="stand for itself"):
            aliases.put(name, model)
    assert [alias.name for alias in aliases.all()] == ["a"]


def test_a_models_name_is_not_given_away(aliases: Aliases, add: Add) -> None:
    add("own")
    with pytest.raises(AliasTakenError):
        aliases.put("own", "other")


def test_an_alias_is_forgotten_once(aliases: Aliases) -> None:
    aliases.put("a", "b")
    aliases.remove("a")
    for act in (aliases.remove, aliases.get):
        with pytest.raises(AliasNotFoundError):
            act("a")


@pytest.mark.parametrize(
    "name",
    ["a/load", "a/unload", "reload", "a/devices", "suggested", "scan", "import", "a//b", "/a", "a/", "../a", "a/./b",
     "a\n", "a\\b", " a", "", "x" * 201, ".new-a"],
)  # fmt: skip
def test_names_that_could_not_be_addressed_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError):
        check_name(name)


def test_usual_names_are_allowed() -> None:
    for entry in suggestions():
        for name in (entry.name, *entry.also, *entry.targets):
            assert check_name(name) == name
    assert check_name("hf.co/owner/name:Q4_K_M") == "hf.co/owner/name:Q4_K_M"


def test_a_pull_fetches_what_a_name_stands_for(catalog: Catalog, aliases: Aliases, add: Add) -> None:
    aliases.put("mine", "owner/name")
    assert catalog.download_name("mine") == "owner/name"
    assert catalog.download_name("owner/other:Q8_0") == "owner/other:Q8_0"
    assert catalog.download_name("phi4:latest") == "bartowski/phi-4-GGUF:Q4_K_M"
    assert catalog.download_name("phi4", gpu=80 << 30) == "microsoft/phi-4"
    assert catalog.download_name("phi4", gpu=16 << 30) == "microsoft/phi-4"  # in 4 bits
    assert catalog.download_name("phi4", gpu=8 << 30) == "bartowski/phi-4-GGUF:Q4_K_M"
    assert catalog.download_name("owner/name:latest") == "owner/name"
    add("phi4", "ollama")  # one that another tool has is no repository of the hub
    assert catalog.download_name("phi4") == "bartowski/phi-4-GGUF:Q4_K_M"


def test_a_suggestion_that_is_here_in_either_form_is_used(catalog: Catalog, add: Add) -> None:
    add("microsoft/phi-4")
    assert catalog.get("phi4").name == "microsoft/phi-4"


def test_a_model_knows_its_further_names_the_shipped_ones_too(catalog: Catalog, aliases: Aliases, add: Add) -> None:
    add("Qwen/Qwen3-8B")
    add("microsoft/phi-4")
    aliases.put("fast", "qwen3")
    aliases.put("phi4", "Qwen/Qwen3-8B")
    assert aliases.of_models() == {
        "Qwen/Qwen3-8B": ["fast", "phi4", "qwen3", "qwen3:8b"],
        "microsoft/phi-4": ["phi4:14b"],
    }


def test_what_operators_set_outlives_a_new_pull(catalog: Catalog, add: Add, database: Database) -> None:
    add("m")
    with database.write() as session:
        model = session.merge(catalog.get("m"))
        model.devices, model.keep_alive = ["gpu.1"], 60.0
    add("m")
    assert (catalog.get("m").devices, catalog.get("m").keep_alive) == (["gpu.1"], 60.0)


def test_a_model_with_open_jobs_stays_unless_it_is_forced(catalog: Catalog, add: Add, store: Store) -> None:
    add("m")
    store.submit(make_job(model="m"))
    with pytest.raises(ModelInUseError, match="1 open job"):
        catalog.begin_removal("m")
    assert catalog.get("m").state == Standing.READY

    catalog.begin_removal("m", force=True)

    with pytest.raises(ModelNotDownloadedError):
        catalog.get("m")
    assert catalog.find("m").state == Standing.REMOVING
    catalog.end_removal("m", hide=False)
    with pytest.raises(ModelNotFoundError):
        catalog.find("m")


def test_a_pull_that_ends_during_a_removal_keeps_its_model(catalog: Catalog, add: Add) -> None:
    add("m")
    catalog.begin_removal("m")
    add("m")
    catalog.end_removal("m", hide=False)
    assert catalog.get("m").state == Standing.READY


def test_a_model_whose_files_are_gone_says_so(catalog: Catalog, add: Add) -> None:
    add("m")
    assert catalog.mark("m", Standing.MISSING, was=Standing.READY)
    assert not catalog.mark("m", Standing.MISSING, was=Standing.READY)
    with pytest.raises(TokenyardError, match="The files of model 'm' are gone"):
        catalog.get("m")
