"""Programs that speak to OpenAI or Ollama by way of others' packages, unmodified."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel, Field

from tests.stack import Stack

QUESTION = "What is the capital of France? Answer briefly."
ANSWER = "The capital of France is Paris."


# LangChain's models are never closed; what they leave open is told when it is collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


class Town(BaseModel):
    """A town."""

    name: str = Field(max_length=20)


@pytest.fixture(params=["openai", "ollama"])
def model(request: pytest.FixtureRequest, stack: Stack) -> Callable[[], Any]:
    """Makes LangChain's model over either dialect; the test alone holds it, so that it is collected with the test."""
    if request.param == "openai":
        from langchain_openai import ChatOpenAI

        url = f"{stack.url}/v1"
        return lambda: ChatOpenAI(base_url=url, api_key="none", model="smollm2", temperature=0, max_tokens=100)
    from langchain_ollama import ChatOllama

    return lambda: ChatOllama(base_url=stack.url, model="smollm2", temperature=0, num_predict=100)


def test_langchain(model: Callable[[], Any]) -> None:
    chain = model()
    assert chain.invoke(QUESTION).content == ANSWER
    assert "".join(part.content for part in chain.stream(QUESTION)) == ANSWER
    assert isinstance(chain.with_structured_output(Town, method="json_schema").invoke("Name a town."), Town)


def test_langchain_calls_tools(stack: Stack) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=f"{stack.url}/v1", api_key="none", model="smollm2", temperature=0, max_tokens=100)
    said = model.bind_tools([Town], tool_choice="required").invoke("Name a town.")
    assert [call["name"] for call in said.tool_calls] == ["Town"]
    assert set(said.tool_calls[0]["args"]) == {"name"}


def test_llm_with_its_plugin_for_ollama(stack: Stack) -> None:
    env = os.environ | {"OLLAMA_HOST": stack.url, "LLM_USER_PATH": str(stack.folder / "llm")}
    command = [sys.executable, "-m", "llm", "-m", "ollama/smollm2:latest", "-o", "temperature", "0", QUESTION]
    said = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert said.stdout.strip() == ANSWER, said.stderr
