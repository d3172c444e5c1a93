"""Real clients over a live server on the starter model."""

from collections.abc import Iterator

import openai
import pytest

from tests.stack import Stack


@pytest.fixture(scope="session")
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made
