"""What all answers of the API's description are made of.

Nothing is built from the models here and in the modules of the nouns at run time: views.py makes plain dictionaries,
and the tests hold each answer that they get against /openapi.json, in both directions: a field that is missing there,
or here, fails them.
"""

from typing import Annotated, Any

from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Answer(BaseModel):
    """An object whose fields are all known."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)

    @classmethod
    def of(cls, source: object) -> dict[str, Any]:
        """What is told of something that has its fields."""
        return cls.model_validate(source).model_dump(mode="json")


#: Texts that may be empty, and then are told as null.
Word = Annotated[str | None, BeforeValidator(lambda text: text or None)]


class ErrorDetail(Answer):
    """What went wrong. `code` is stable; `message` says what to do."""

    code: str
    message: str
    param: str | None = Field(description="The field that is to blame, where it is one.")
    request_id: str


class ErrorAnswer(Answer):
    """Any error."""

    error: ErrorDetail
    detail: str = Field(description="The message once more, where older clients look for it.")


#: What streams are made of, to be told among the components of the description.
EVENTS: list[type[BaseModel]] = []


def stream_of(model: type[BaseModel], mimetype: str = "text/event-stream") -> dict[str, Any]:
    """The content of a stream of events. OpenAPI 3.1 has no word for what one event holds; 3.2 calls it itemSchema."""
    EVENTS.append(model)
    event = {"$ref": f"#/components/schemas/{model.__name__}"}
    text = {"type": "string", "description": "One event after the other; an SSE comment is a heartbeat."}
    return {mimetype: {"schema": text, "x-itemSchema": event}}


def described(name: str, tag: str, description: str, error: type[BaseModel]) -> APIBlueprint:
    """A noun of a dialect. Every route may answer an error: flask-openapi3 wants 400 by its own name."""
    errors: dict[str | int, Any] = {400: error, "4XX": error, "5XX": error}
    tags = [Tag(name=tag, description=description)]
    return APIBlueprint(name, __name__, abp_tags=tags, abp_responses=errors, abp_security=[{"api_key": []}])


def blueprint(name: str, tag: str, description: str) -> APIBlueprint:
    """A noun of the native API."""
    return described(name, tag, description, ErrorAnswer)
