"""Several prompts in one request."""

import pytest
from flask.testing import FlaskClient

from app.jobs import State
from app.kernel import Kernel
from app.web import held

from .conftest import until


def test_prompts_of_a_refused_request_do_not_run_on(
    client: FlaskClient, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "LINGER", 0.1)
    monkeypatch.setattr(held, "ANSWER", 0.1)
    monkeypatch.setattr(kernel.limits, "_held", 1)
    refused = client.post("/v1/completions", json={"model": "scripted", "prompt": ["a", "b"]})

    assert refused.status_code == 429
    (first,) = kernel.store.page()
    until(lambda: kernel.store.get(first.job.id).job.status == State.CANCELLED)
