"""schemathesis over our own /openapi.json: whatever is asked, no 5xx, and no answer that is not described.

A worker answers every job at once, so what waits for an answer gets one. DESCRIBED_EXAMPLES asks for more than the few
examples an operation of the suite.
"""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from pydantic import BaseModel
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error

from app.events import Token
from app.jobs import Kind, State
from app.models import Job
from app.web import create_app
from app.web.current import KEY
from tests.described import Description
from tests.unit.web.conftest import Broker, Worker, kernel_of, settings_of, submitted

EXAMPLES = int(os.environ.get("DESCRIBED_EXAMPLES", "12"))


class Busy(threading.Thread):
    """A worker that answers each job as it comes."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(daemon=True)
        self._worker = worker
        self.over = threading.Event()
        worker.announce()
        self.start()

    def run(self) -> None:
        for turn in count(1):
            if self.over.wait(0.002):
                return
            if turn % 500 == 0:
                self._worker.announce()
            for detail in self._worker.kernel.store.page(status=State.QUEUED):
                self._answer(detail.job)

    def _answer(self, job: Job) -> None:
        claimed = self._worker.kernel.store.claim(job.id, self._worker.life, "cpu.0@test")
        if claimed is None:
            return
        self._worker.kernel.bus.install(job.id, claimed.attempt, 60)
        if job.kind == Kind.GENERATE:
            self._worker.finish(job.id, claimed.attempt, self._worker.tokens(job.id, claimed.attempt, 1, 3))
        elif job.kind == Kind.EMBED:
            vectors = [Token(n + 1, "AACAPw==", choice=n) for n in range(job.request["n"])]
            self._worker.finish(job.id, claimed.attempt, vectors)
        else:
            self._worker.fail(job.id, claimed.attempt, 1, "model_not_found")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, shared_broker: Broker) -> Iterator[Flask]:
    kernel = kernel_of(settings_of(tmp_path_factory.mktemp("described"), shared_broker.url))
    busy = Busy(Worker(kernel))
    app = create_app(kernel=kernel)
    yield app
    busy.over.set()
    busy.join()
    app.extensions[KEY].hub.close()
    kernel.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its client closes no file it is sent
def test_no_answer_is_a_fault_or_undescribed(site: Flask, subtests: pytest.Subtests) -> None:
    job = submitted(site.extensions[KEY].kernel, request={"messages": [], "n": 1})
    schema = schemathesis.openapi.from_wsgi("/openapi.json", site)
    description = Description(dict(schema.raw_schema))
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:
            # Nothing is wrong to ask of what takes neither parameters nor a body.
            impossible = (Unsatisfiable,) if mode is GenerationMode.NEGATIVE else ()
            with subtests.test(f"{operation.label} {mode.value}"), suppress(*impossible):
                _hold(operation, mode, description, job.id)


def _hold(operation: Any, mode: GenerationMode, description: Description, job_id: str) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def hold(case: Case) -> None:
        _name_what_is_here(case, job_id)
        answer = case.call_and_validate(checks=[not_a_server_error])
        mimetype = answer.headers.get("content-type", [""])[0].partition(";")[0]
        description.check(case.method, operation.path, answer.status_code, mimetype, answer.content)

    hold()


def _name_what_is_here(case: Case, job_id: str) -> None:
    """A random name leads nowhere: every second one becomes that of something."""
    for holder, key, known in ((case.body, "model", "scripted"), (case.path_parameters, "id", job_id)):
        if isinstance(holder, dict) and isinstance(given := holder.get(key), str) and len(given) % 2:
            holder[key] = known


def test_no_name_in_the_description_stands_for_two_models(site: Flask) -> None:
    """flask-openapi3 keeps schemas by the names of classes; of two, the later one would stand for both."""
    named = Counter(model.__name__ for model in _models(BaseModel) if model.__module__.startswith("app.web"))
    twice = {name for name, count in named.items() if count > 1}
    assert not twice & set(site.api_doc["components"]["schemas"])


def _models(model: type[BaseModel]) -> set[type[BaseModel]]:
    return {model}.union(*map(_models, model.__subclasses__()))
