"""Texts to vectors: a job like any other, whose choices are its texts and whose answer is base64 of float32."""

import base64
import struct
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from app.events import Token
from app.jobs import Kind
from app.web.schemas import GenerateBody

MAX_INPUTS = 1024

Text = Annotated[str, Field(min_length=1)]


def _of_the_model(dimensions: int | None) -> None:
    if dimensions is not None:
        raise ValueError("dimensions: vectors have the length that the model gives them; leave it out")


class EmbedBody(GenerateBody):
    """Texts of which to tell the vectors. Only other dialects offer it."""

    KIND: ClassVar[Kind] = Kind.EMBED

    inputs: Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
    dimensions: Annotated[int | None, AfterValidator(_of_the_model)] = None

    def request(self) -> dict[str, Any]:
        """With the texts."""
        return {**super().request(), "messages": [], "inputs": self.inputs, "n": len(self.inputs)}


def encoded(tokens: list[Token], count: int) -> list[str]:
    """Each text's vector in base64, in the order of the texts."""
    texts = [""] * count
    for token in tokens:
        texts[token.choice] += token.text
    return texts


def vector(text: str) -> list[float]:
    """The numbers."""
    raw = base64.b64decode(text)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))
