"""Texts to vectors: a job like any other, whose choices are its texts and whose answer is base64 of float32."""

import base64
import struct
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field

from app.errors import InvalidRequestError
from app.events import Usage
from app.jobs import Kind
from app.web.current import here
from app.web.dialect import TIMEOUT
from app.web.errors import translating
from app.web.held import events_of, gathered
from app.web.schemas import GenerateBody
from app.web.submit import submit_generation

MAX_INPUTS = 1024

Text = Annotated[str, Field(min_length=1)]


class EmbedBody(GenerateBody):
    """Texts of which to tell the vectors. Only other dialects offer it."""

    KIND: ClassVar[Kind] = Kind.EMBED

    inputs: Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]

    def request(self) -> dict[str, Any]:
        """With the texts."""
        return {**super().request(), "messages": [], "inputs": self.inputs, "n": len(self.inputs)}


class Vectors(NamedTuple):
    """What was made of texts: each one's vector in base64, in their order, and the counts."""

    model: str
    texts: list[str]
    usage: Usage


def vectors(inputs: str | list[str], *, dimensions: int | None = None, **asked: Any) -> Vectors:
    """Waits for them. They have the length that the model gives them; `dimensions` is what the client counts on.

    Raises InvalidRequestError, JobFailedError, and what `submit_generation` does.
    """
    site = here()
    site.kernel.bus.ping()
    with translating():
        body = EmbedBody(inputs=[inputs] if isinstance(inputs, str) else inputs, timeout=TIMEOUT, **asked)
    job = submit_generation(site.kernel, body, held=True)
    tokens, ended = gathered(events_of(site, job), job.timeout)
    texts = [""] * job.request["n"]
    for token in tokens:
        texts[token.choice] += token.text
    if dimensions is not None and dimensions != (length := len(vector(texts[0]))):
        raise InvalidRequestError(f"dimensions: this model's vectors have {length}; leave it out.", param="dimensions")
    return Vectors(job.model, texts, ended.usage)


def vector(text: str) -> list[float]:
    """The numbers."""
    raw = base64.b64decode(text)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))
