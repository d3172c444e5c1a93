"""Loading: engines in their order, room, progress, cancelling, and what becomes of a failure."""

import time
from pathlib import Path

import pytest

from app.errors import ModelCooldownError
from app.jobs import State
from app.kernel import Kernel
from app.registry import Card
from inference.errors import LoadError
from tasks import garage as garages
from tasks.budget import Memory
from tests.needs import needs
from tests.unit.conftest import make_job

from .conftest import NODE, Engines, Yard, until

pytestmark = needs("vllm", "transformers", "torch")  # which engines are asked depends on what is installed

UNSUPPORTED = LoadError("unsupported_model", "no such architecture")
SHORT = LoadError("out_of_memory", "too large")


def wait_for(kernel: Kernel, model: str, **values: object) -> str:
    """A job in the queue."""
    job = make_job(model=model, **values)
    kernel.store.submit(job)
    return job.id


def engines_of(engines: Engines) -> list[str]:
    return [spec.engine for spec in engines.specs]


def test_a_loaded_model_is_held_consumed_and_shown(yard: Yard) -> None:
    yard.load("a")

    card = yard.kernel.registry.workers()[0]
    held = card.held("a")
    assert held is not None
    assert (held.backend, held.slots, held.why) == ("vllm", 64, "")
    assert yard.consumed == {"model.a"}


def test_what_one_engine_cannot_take_goes_to_the_next_and_the_reason_is_kept(yard: Yard, engines: Engines) -> None:
    engines.refusals["vllm"] = UNSUPPORTED
    yard.load("a")

    held = yard.kernel.registry.workers()[0].held("a")
    assert held is not None
    assert (held.backend, held.slots) == ("transformers", 8)
    assert held.why == "vLLM: no such architecture"
    assert yard.kernel.loads.failures() == []


def test_a_refusal_tells_no_folder_of_this_machine_and_leaves_addresses_whole(
    yard: Yard, engines: Engines, kernel: Kernel
) -> None:
    said = (
        "'/srv/secret/tone' has no config; GET /models/a/load or https://hub.example/a/b tells (/srv/secret/b c.gguf)"
    )
    engines.refusals |= {name: LoadError("bad_model", said) for name in ("vllm", "transformers")}
    yard.loader.load("a")
    until(lambda: kernel.loads.failures())
    message = kernel.loads.failures()[0].message
    assert "/srv" not in message
    assert "'tone' has no config; GET /models/a/load or https://hub.example/a/b tells (b c.gguf)" in message


def test_an_engine_that_refused_for_good_is_not_asked_again_until_a_reload(yard: Yard, engines: Engines) -> None:
    engines.refusals["vllm"] = UNSUPPORTED
    yard.load("a")
    yard.garage.drain("a")
    until(lambda: not yard.holds())
    yard.load("a")
    assert engines_of(engines) == ["vllm", "transformers", "transformers"]
    assert yard.garage.bays()[0].why == "vLLM: no such architecture"

    yard.loader.reload("a")
    until(lambda: len(engines.specs) == 5 and yard.holds() == ["a"])
    assert engines_of(engines)[-2:] == ["vllm", "transformers"]


def test_a_failure_that_may_pass_is_tried_again_the_next_time(yard: Yard, engines: Engines) -> None:
    engines.refusals["vllm"] = LoadError("engine_failed", "once")
    yard.load("a")
    yard.garage.drain("a")
    until(lambda: not yard.holds())
    del engines.refusals["vllm"]
    yard.load("a")

    assert yard.garage.bays()[0].pump.engine.info.engine == "vllm"


def test_only_when_all_have_failed_is_the_model_in_cooldown(yard: Yard, engines: Engines, kernel: Kernel) -> None:
    engines.refusals |= {"vllm": UNSUPPORTED, "transformers": LoadError("engine_failed", "it crashed")}
    waiting = wait_for(kernel, "a")
    yard.loader.load("a")
    until(lambda: kernel.store.get(waiting).job.status == State.FAILED)

    job = kernel.store.get(waiting).job
    assert job.error_code == "engine_failed"
    assert job.error_message == "vLLM: no such architecture transformers: it crashed"
    with pytest.raises(ModelCooldownError, match="it crashed") as caught:
        kernel.dispatcher.submit(make_job(model="a"))
    assert 290 < (caught.value.retry_after or 0) <= 300
    kernel.dispatcher.submit(make_job(model="b"))


def test_a_cooldown_that_is_cleared_lets_the_next_request_in(yard: Yard, engines: Engines, kernel: Kernel) -> None:
    engines.refusals |= {"vllm": UNSUPPORTED, "transformers": UNSUPPORTED}
    yard.loader.load("a")
    until(lambda: kernel.loads.cooldown("a"))

    assert kernel.loads.forgive("b") == []
    assert kernel.loads.forgive("a") == ["a"]
    kernel.dispatcher.submit(make_job(model="a"))


def test_the_least_recently_used_idle_model_makes_room(yard: Yard, engines: Engines) -> None:
    yard.load("a", "b")
    bay = yard.garage.enter("a")
    assert bay is not None
    yard.garage.leave(bay)
    yard.load("c")

    assert yard.holds() == ["a", "c"]
    assert sorted(engines.open) == ["a", "c"]


def test_a_pinned_model_goes_last(yard: Yard) -> None:
    yard.load("a", "b")
    yard.garage.keep("a", -1)
    yard.load("c")
    assert yard.holds() == ["a", "c"]


def test_a_model_at_work_is_not_ended_and_the_load_waits(yard: Yard) -> None:
    yard.load("a", "b")
    users = [yard.garage.enter(model) for model in "ab"]
    yard.loader.load("c")
    until(lambda: yard.loader.loading())
    assert yard.holds() == ["a", "b"]

    yard.garage.leave(users[1])  # type: ignore[arg-type]
    until(lambda: yard.holds() == ["a", "c"])


def test_models_with_endless_work_take_turns(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garages, "TURN", 0.2)
    yard.load("a", "b")
    users = [yard.garage.enter(model) for model in "ab"]
    yard.loader.load("c")
    until(lambda: any(bay.leaving for bay in yard.garage.bays()))

    assert [bay.model for bay in yard.garage.bays() if bay.leaving] == ["a"]
    assert yard.garage.enter("a") is None
    assert yard.consumed == {"model.b"}
    yard.garage.leave(users[0])  # type: ignore[arg-type]
    until(lambda: yard.holds() == ["b", "c"])


def test_a_gentle_load_takes_nothing_from_anybody(yard: Yard, kernel: Kernel) -> None:
    yard.load("a", "b")
    yard.garage.enter("a")
    wait_for(kernel, "b")
    yard.loader.load("c", gentle=True)
    until(lambda: not yard.loader.loading())

    assert yard.holds() == ["a", "b"]
    assert kernel.loads.failures() == []


def test_a_cancelled_load_leaves_nothing_and_tells_who_waits(yard: Yard, engines: Engines, kernel: Kernel) -> None:
    engines.gate.clear()
    waiting = wait_for(kernel, "a")
    yard.loader.load("a")
    until(lambda: engines.specs)
    assert yard.loader.loading()[0].fraction == 0.5

    yard.loader.cancel("a")
    until(lambda: kernel.store.get(waiting).job.status == State.FAILED)
    assert kernel.store.get(waiting).job.error_code == "load_cancelled"
    assert (yard.holds(), yard.loader.loading(), kernel.loads.failures()) == ([], (), [])
    assert engines_of(engines) == ["vllm"]
    yard.loader.cancel("a")  # there is nothing any more


def test_a_load_that_is_asked_for_again_after_its_cancelling_comes(yard: Yard, engines: Engines) -> None:
    engines.gate.clear()
    yard.loader.load("a")
    until(lambda: engines.specs)
    yard.loader.cancel("a")
    yard.loader.load("a")
    engines.gate.set()

    until(lambda: yard.holds() == ["a"] and not yard.loader.loading())


def test_clients_learn_no_path_of_the_machine(yard: Yard, engines: Engines, kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "a"
    engines.refusals |= {
        "vllm": LoadError("bad_model", f"{path} is broken"),
        "transformers": LoadError("bad_model", f"{path}/config.json and {tmp_path}/b are broken"),
    }
    yard.loader.load("a")
    until(lambda: kernel.loads.failures())

    message = kernel.loads.failures()[0].message
    assert message == "vLLM: model 'a' is broken transformers: model 'a'/config.json and b are broken"


def test_a_fault_of_ours_fails_one_load_and_ends_no_loader(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    def burst(name: str) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(yard.kernel.catalog, "get", burst)
        patched.setattr(yard.kernel.dispatcher, "settle", burst)
        yard.loader.load("a")
        until(lambda: not yard.loader.loading())
    yard.load("b")

    assert yard.holds() == ["b"]


def test_a_worker_that_stops_ends_its_load_and_fails_nobody(kernel: Kernel, engines: Engines) -> None:
    yard = Yard(kernel, engines)
    engines.gate.clear()
    waiting = wait_for(kernel, "a")
    yard.loader.load("a")
    until(lambda: engines.specs)
    yard.close()

    assert kernel.store.get(waiting).job.status == State.QUEUED
    assert kernel.loads.failures() == []


def test_a_load_outlives_the_job_that_caused_it(yard: Yard, engines: Engines, kernel: Kernel) -> None:
    engines.gate.clear()
    job_id = wait_for(kernel, "a")
    yard.loader.load("a")
    until(lambda: engines.specs)
    kernel.dispatcher.end(job_id, State.CANCELLED)
    engines.gate.set()

    until(lambda: yard.holds() == ["a"])


class Device:
    """Memory that engines of `each` bytes take while they are open."""

    def __init__(self, engines: Engines, total: int, each: int) -> None:
        self._engines, self._total, self._each = engines, total, each

    def measure(self) -> Memory:
        return Memory(self._total, self._total - self._each * len(self._engines.open))


GB = 10**9


@pytest.fixture
def tight(kernel: Kernel, engines: Engines, tmp_path: Path) -> Yard:
    """A device that has room for one model of 10 GB with vLLM, but not for two."""
    for name in "abcd":
        kernel.catalog.add(name, tmp_path / name, format="safetensors", size_bytes=10 * GB, source="import")
    return Yard(kernel, engines, Device(engines, 20 * GB, 14 * GB).measure)


def test_what_would_fit_if_idle_ones_went_has_them_go_first(tight: Yard, engines: Engines) -> None:
    tight.load("a", "b")
    assert tight.holds() == engines.open == ["b"]
    tight.close()


def test_what_would_not_fit_alone_fails_with_figures_and_ends_nothing(
    tight: Yard, kernel: Kernel, tmp_path: Path
) -> None:
    kernel.catalog.add("d", tmp_path / "d", format="safetensors", size_bytes=60 * GB, source="import", quantize="no")
    tight.load("a")
    tight.loader.load("d")
    until(lambda: kernel.loads.failures())

    failure = kernel.loads.failures()[0]
    assert failure.code == "out_of_memory"
    assert all(part in failure.message for part in ("60.00 GB", "20.00 GB", "q4"))
    until(lambda: not tight.loader.loading())
    assert tight.holds() == ["a"]
    tight.close()


def test_out_of_memory_takes_idle_places_first_and_gives_them_back_after(
    yard: Yard, engines: Engines, kernel: Kernel, tmp_path: Path
) -> None:
    yard.load("a")
    engines.refusals[f"vllm {tmp_path / 'b'}"] = engines.refusals[f"transformers {tmp_path / 'b'}"] = SHORT
    yard.loader.load("b")
    until(lambda: kernel.loads.cooldown("b"))
    until(lambda: yard.holds() == ["a"] and not yard.loader.loading())

    assert kernel.loads.failures()[0].code == "out_of_memory"
    assert engines_of(engines) == ["vllm", "vllm", "vllm", "transformers", "vllm"]


def test_out_of_memory_takes_no_wanted_place_for_a_gentle_load(
    yard: Yard, engines: Engines, kernel: Kernel, tmp_path: Path
) -> None:
    yard.load("a")
    wait_for(kernel, "a")
    engines.refusals[f"vllm {tmp_path / 'b'}"] = engines.refusals[f"transformers {tmp_path / 'b'}"] = SHORT
    yard.loader.load("b", gentle=True)
    until(lambda: kernel.loads.failures() and not yard.loader.loading())

    assert yard.holds() == ["a"]
    assert engines_of(engines) == ["vllm", "vllm", "transformers"]


def test_the_grant_leaves_room_for_the_other_places(kernel: Kernel, engines: Engines) -> None:
    yard = Yard(kernel, engines, lambda: Memory(100 * GB, 100 * GB))
    yard.load("a")
    yard.close()

    assert engines.specs[0].memory == 45 * GB


def test_a_failure_of_one_worker_does_not_cool_what_another_may_hold(
    yard: Yard, engines: Engines, kernel: Kernel
) -> None:
    kernel.registry.announce(Card("gpu.1@test", "gpu.1", "test", 2, "other"))
    kernel.registry.forget()
    engines.refusals |= {"vllm": SHORT, "transformers": SHORT}
    waiting = wait_for(kernel, "a")
    yard.loader.load("a")
    until(lambda: kernel.loads.failures())
    until(lambda: not yard.loader.loading())

    assert kernel.loads.cooldown("a") is None
    assert kernel.store.get(waiting).job.status == State.QUEUED
    card = kernel.loads.choose("a")
    assert card is None or card.node == "gpu.1@test"


def test_files_at_fault_are_at_fault_on_the_whole_host(yard: Yard, engines: Engines, kernel: Kernel) -> None:
    kernel.registry.announce(Card("gpu.1@test", "gpu.1", "test", 2, "other"))
    kernel.registry.announce(Card("gpu.0@far", "gpu.0", "far", 2, "third"))
    kernel.registry.forget()
    engines.refusals |= {"vllm": UNSUPPORTED, "transformers": UNSUPPORTED}
    yard.loader.load("a")
    until(lambda: kernel.loads.failures())

    assert {failure.node for failure in kernel.loads.failures()} == {NODE, "gpu.1@test"}


def test_an_engine_that_died_under_a_job_is_loaded_again(yard: Yard, engines: Engines) -> None:
    yard.load("a")
    assert yard.garage.enter("a") is not None
    first = yard.garage.bays()[0]
    first.pump.engine.close()  # as the pump sees it, the steps are over and nobody of us ended them

    until(lambda: yard.holds() == ["a"] and yard.garage.bays()[0] is not first)


def test_an_idle_engine_that_died_is_not(yard: Yard, engines: Engines) -> None:
    yard.load("a")
    yard.garage.bays()[0].pump.engine.close()

    until(lambda: not yard.holds())
    assert (yard.loader.loading(), yard.consumed) == ((), set())


def test_a_reload_waits_for_the_jobs_that_run(yard: Yard, engines: Engines) -> None:
    yard.load("a")
    bay = yard.garage.enter("a")
    assert bay is not None
    yard.loader.reload("a")
    yard.loader.load("b")
    until(lambda: yard.holds() == ["a", "b"])
    assert yard.garage.find("a") is bay
    assert yard.garage.enter("a") is None

    yard.garage.leave(bay)
    until(lambda: yard.holds() == ["a", "b"] and yard.garage.find("a") is not bay)


def test_keep_alive_zero_unloads_after_the_last_job(yard: Yard) -> None:
    yard.load("a")
    first, second = yard.garage.enter("a", 0.0), yard.garage.enter("a")
    assert first is not None and second is not None  # noqa: PT018 - both are given
    yard.garage.leave(first)
    assert yard.garage.find("a") is first
    yard.garage.leave(second)

    until(lambda: not yard.holds())
    assert yard.consumed == set()


@pytest.mark.parametrize("by", ["order", "row", "setting"])
def test_how_long_a_model_stays_is_said_by_its_load_its_row_or_a_setting(
    kernel: Kernel, engines: Engines, by: str
) -> None:
    if by == "setting":
        object.__setattr__(kernel.settings, "keep_alive", 0.0)
    if by == "row":
        kernel.catalog.configure("a", keep_alive=0.0)
    yard = Yard(kernel, engines)
    yard.loader.load("a", keep_alive=0.0 if by == "order" else None)

    until(lambda: engines.specs and not yard.loader.loading() and not yard.holds())
    assert engines.open == []
    yard.close()


def test_a_model_with_work_in_the_queue_outstays_its_time(yard: Yard, kernel: Kernel) -> None:
    job_id = wait_for(kernel, "a")
    yard.load("a")
    bay = yard.garage.enter("a", 0.0)
    assert bay is not None
    yard.garage.leave(bay)
    until(lambda: bay.rest() is not None and 0 < (bay.rest() or 0) <= garages.GRACE)
    assert yard.holds() == ["a"]

    kernel.dispatcher.end(job_id, State.CANCELLED)
    until(lambda: not yard.holds())


def test_an_expiry_is_shown_only_while_nothing_runs(yard: Yard) -> None:
    yard.load("a")
    bay = yard.garage.enter("a", 300.0)
    assert bay is not None
    assert bay.holding().expires_at is None
    yard.garage.leave(bay)

    assert 290 < (bay.holding().expires_at or 0) - time.time() <= 300
    yard.garage.keep("a", -1)
    assert bay.holding().expires_at is None


def test_a_draft_whose_files_are_on_another_node_is_missed_and_not_left_out(
    yard: Yard, kernel: Kernel, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.catalog.configure("a", engine_options={"speculative_tokens": 3, "speculative_model": "b"})
    get = kernel.catalog.get

    def without_files(name: str) -> object:
        row = get(name)
        row.path = "" if name == "b" else row.path
        return row

    monkeypatch.setattr(kernel.catalog, "get", without_files)
    yard.loader.load("a")
    until(lambda: kernel.loads.failures())

    (failure,) = kernel.loads.failures()
    assert (failure.code, "'b'" in failure.message, engines.specs) == ("bad_engine_options", True, [])


def test_a_database_that_is_away_delays_a_load_and_fails_nothing(
    yard: Yard, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.errors import UnavailableError

    get, calls = kernel.catalog.get, []

    def flaky(name: str) -> object:
        calls.append(name)
        if len(calls) == 1:
            raise UnavailableError("database_unavailable", "later")
        return get(name)

    monkeypatch.setattr(kernel.catalog, "get", flaky)
    yard.load("a")

    assert yard.holds() == ["a"]
    assert kernel.loads.failures() == []
