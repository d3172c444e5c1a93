from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.protocol import Spec
from inference.remote import RemoteEngine
from tests.contract.listener import Listener


@pytest.fixture(scope="session")
def transformers_starter(starter_bf16: Path) -> Iterator[Listener]:
    """The starter model in float32 on transformers, in a child of its own, for all tests that leave it whole."""
    spec = Spec("transformers", str(starter_bf16), slots=1, quantize="fp32")
    with Listener(RemoteEngine.load(spec, timeout=120)) as listener:
        yield listener
