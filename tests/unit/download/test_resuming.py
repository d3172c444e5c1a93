"""Downloads that break off: what is there counts, what passes is waited for, and what does not pass ends them."""

import hashlib
from pathlib import Path

import msgspec
import pytest
import structlog

from inference.download import fetch as fetching
from inference.download import patience, teller, transfer
from inference.download.cache import PARTIAL, Mark
from tests.hub import FakeHub, Hole, Served, safetensors
from tests.unit.download.conftest import Fetch

WEIGHTS = safetensors(3_000_000)
REPOS = {"owner/name": {"config.json": b"{}", "model.safetensors": WEIGHTS}}
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


def partial_of(tmp_path: Path, content: bytes) -> Path:
    """What a killed download leaves of the weights."""
    path = tmp_path / "hub" / "models--owner--name" / "blobs" / (DIGEST + PARTIAL)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_a_killed_download_goes_on_from_its_last_byte(fetch: Fetch, tmp_path: Path) -> None:
    partial = partial_of(tmp_path, WEIGHTS[:2_000_000])
    with FakeHub(REPOS) as hub:
        fetched = fetch(hub, "owner/name")

    assert (fetched.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert fetched.lines[0]["downloaded"] == 2_000_000
    assert hub.bodies("model.safetensors") == [Served("model.safetensors", 2_000_000, len(WEIGHTS) - 2_000_000)]
    assert not partial.exists()


@pytest.mark.parametrize("left", [WEIGHTS[:1_000_000] + b"rot" * 10, WEIGHTS + b"too much", bytes(len(WEIGHTS))])
def test_a_partial_file_that_went_bad_costs_one_more_beginning(fetch: Fetch, tmp_path: Path, left: bytes) -> None:
    partial_of(tmp_path, left)
    with FakeHub(REPOS) as hub:
        fetched = fetch(hub, "owner/name")

    assert (fetched.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert fetched.counts == sorted(fetched.counts)
    assert hub.bodies("model.safetensors")[-1].start == 0


def test_a_broken_connection_goes_on_from_where_it_broke(fetch: Fetch) -> None:
    with FakeHub(REPOS, cuts=2) as hub:
        fetched = fetch(hub, "owner/name")

    first, second, third = hub.bodies("model.safetensors")
    assert (first.start, second.start, third.start) == (0, first.sent, first.sent + second.sent)
    assert (fetched.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert fetched.counts == sorted(fetched.counts)


def test_a_connection_that_falls_silent_is_given_up_and_made_anew(fetch: Fetch) -> None:
    with FakeHub(REPOS, stalls=1) as hub:
        fetched = fetch(hub, "owner/name", stall=0.3)

    assert (fetched.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert 0 < hub.bodies("model.safetensors")[0].start < len(WEIGHTS)


def test_a_server_without_ranges_begins_again_and_ends_well(fetch: Fetch, tmp_path: Path) -> None:
    partial_of(tmp_path, WEIGHTS[:2_000_000])
    with FakeHub(REPOS, ranges=False) as hub:
        fetched = fetch(hub, "owner/name")

    assert (fetched.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [served.start for served in hub.bodies("model.safetensors")] == [0]


def test_a_file_that_is_too_large_for_one_answer_comes_in_windows(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "WINDOW", 1_200_000)
    with FakeHub(REPOS) as hub:
        fetched = fetch(hub, "owner/name")

    assert (fetched.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [served.start for served in hub.bodies("model.safetensors")] == [0, 1_200_000, 2_400_000]


def test_a_partial_file_that_another_tool_prunes_is_begun_again(
    fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned: list[Path] = []

    def prune(*_: object) -> None:
        for partial in (tmp_path / "hub").rglob(f"{DIGEST}{PARTIAL}"):
            if not pruned:
                partial.unlink()
                pruned.append(partial)

    monkeypatch.setattr(teller.Teller, "stand", prune)
    with FakeHub(REPOS) as hub:
        fetched = fetch(hub, "owner/name")

    assert (fetched.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [served.start for served in hub.bodies("model.safetensors")] == [0, 0]


def test_a_hub_that_stumbles_is_asked_again(fetch: Fetch) -> None:
    with FakeHub(REPOS, stumbles=3) as hub:
        assert fetch(hub, "owner/name").folder


def test_a_hub_that_sets_a_limit_gets_the_pause_that_it_asks_for(fetch: Fetch) -> None:
    with FakeHub(REPOS, limits=1, retry_after="1") as hub, structlog.testing.capture_logs() as logs:
        assert fetch(hub, "owner/name").folder

    assert [entry["pause"] for entry in logs if entry["event"] == "hub.stumbled"] == [1.0]


def test_a_pause_may_be_a_date_and_is_bounded() -> None:
    assert patience.asked_seconds("Fri, 31 Dec 2999 23:59:59 GMT") == patience.asked_seconds("400") == 300
    assert patience.asked_seconds("Fri, 31 Dec 1999 23:59:59 GMT") == 0.0
    assert patience.asked_seconds("soon") == patience.asked_seconds("") == 0.0
    assert patience.asked_seconds("7") == 7


def test_patience_has_an_end(fetch: Fetch) -> None:
    with FakeHub(REPOS, stumbles=1000) as hub:
        error = fetch(hub, "owner/name").error

    assert error is not None
    assert error.code == "hub_unreachable"
    assert len(hub.requests) == 5


def test_a_file_that_never_comes_on_is_given_up(fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "TRIES", 2)
    with FakeHub({"owner/name": {"config.json": b"{}", "model.safetensors": safetensors(900_000)}}, cuts=9) as hub:
        error = fetch(hub, "owner/name").error

    assert error is not None
    assert error.code == "hub_unreachable"
    assert len(hub.bodies("model.safetensors")) == 2
    # What came is kept: a further pull goes on from it.
    assert list((tmp_path / "hub").rglob(f"*{PARTIAL}"))


def test_a_wrong_sum_is_tried_once_more_and_then_told(fetch: Fetch, tmp_path: Path) -> None:
    with FakeHub(REPOS, flips=1) as hub:
        assert (fetch(hub, "owner/name").folder / "model.safetensors").read_bytes() == WEIGHTS
    with FakeHub({"o/n": REPOS["owner/name"]}, flips=2) as hub:
        error = fetch(hub, "o/n").error

    assert error is not None
    assert error.code == "checksum_mismatch"
    assert not list((tmp_path / "hub" / "models--o--n" / "snapshots").rglob("model.safetensors"))


def test_seventy_gigabytes_in_shards_are_counted_and_only_what_is_missing_comes(fetch: Fetch, tmp_path: Path) -> None:
    names = [f"model-{n:05}-of-00015.safetensors" for n in range(1, 16)]
    shards = {name: Hole(4_700_000_000, f"{n:064x}") for n, name in enumerate(names)}
    # One shard is a partial file whose last 4 KB are missing. The sum is that of its content.
    rest = hashlib.shake_128(b"rest").digest(4096)
    size = 200_000_000
    shards[names[7]] = Hole(size, "1b36be59876ae03faea70f384c4c0241b9b88d9923e2ca30b579636b9b2d07da", rest)
    total = 14 * 4_700_000_000 + size + 2
    blobs = tmp_path / "hub" / "models--big--model" / "blobs"
    marks = blobs.parent / ".tokenyard"
    blobs.mkdir(parents=True)
    marks.mkdir()
    for shard in shards.values():
        whole = shard.size != size
        path = blobs / (shard.sha256 + ("" if whole else PARTIAL))
        with path.open("wb") as file:
            file.truncate(shard.size if whole else size - 4096)
        if whole:
            mark = Mark(shard.size, path.stat().st_mtime_ns, fetched=True)
            (marks / shard.sha256).write_bytes(msgspec.json.encode(mark))
    with FakeHub({"big/model": {"config.json": b"{}", **shards}}) as hub:
        fetched = fetch(hub, "big/model")

    assert fetched.lines[0]["total"] == total
    assert fetched.lines[0]["downloaded"] == total - 2 - 4096
    assert fetched.counts[-1] == total
    assert [served for served in hub.served if served.file != "config.json"] == [Served(names[7], size - 4096, 4096)]
    assert fetched.done is not None
    assert fetched.done.size_bytes == total
