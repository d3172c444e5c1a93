"""From a request to the token ids that a model goes on from, for every engine that takes ids.

A model's own chat template renders messages (by transformers, in its sandbox, within limits of time and size); one that
has none gets the plain form.
Nothing here runs a model's own code: `auto_map` is never followed, and the hub is never asked.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from jinja2 import Environment, TemplateSyntaxError

from inference.errors import RENDER_SECONDS, LoadError, RefusedError, check_prompt, first_line, slow_template
from inference.patience import OutOfPatienceError, patience
from inference.protocol import Failure, Message, Request
from inference.tools import told, turns

log = structlog.get_logger()

#: Where the plain form's answer ends: the model goes on to write the user's part too.
PLAIN_STOP = "\nUser:"
#: What a template may make: characters, or so many times those that it was given.
RENDER_SIZE, RENDER_TIMES = 1 << 20, 8


class Prompt(NamedTuple):
    """What the model is given: `ids`, of which the first `tokens` are the prompt and the rest was emitted before."""

    ids: list[int]
    tokens: int
    stop: tuple[str, ...]
    budget: int  #: how many tokens the answer may yet get, by its own limit and the context's; below 1, it is finished


class Prompter:
    """A model's tokenizer and template."""

    def __init__(self, tokenizer: Any, template: str | None, context: int) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._context = context

    def prompt(self, request: Request) -> Prompt:
        """Raises RefusedError: the template does, or the prompt leaves no room."""
        if request.embed:
            raise RefusedError(
                Failure.INVALID_REQUEST, "This model's engine makes no vectors of texts. Take a GGUF form of the model."
            )
        stop = request.sampling.stop
        if request.prompt is not None:
            ids = self._encode(request.prompt, special=True)
        elif self._template is not None:
            ids = self._encode(self._render(request, self._template), special=False)
        else:
            ids = self._encode(plain(told(request.messages, request.tools)), special=True)
            stop = (*stop, PLAIN_STOP)
        context = min(self._context, request.context or self._context)
        check_prompt(len(ids), context)
        emitted = request.emitted
        before = ids + (list(emitted.ids) if emitted.ids else self._encode(emitted.text, special=False))
        return Prompt(before, len(ids), stop, min(request.remaining, context - len(before)))

    def _render(self, request: Request, template: str) -> str:
        knows = "tools" in template
        messages = request.messages if knows else told(request.messages, request.tools)
        given = turns(messages)
        tools = json.loads(request.tools) if request.tools and knows else None
        thinking = {} if request.think is None else {"enable_thinking": request.think}
        try:
            with patience().limit(RENDER_SECONDS):
                text: str = self._tokenizer.apply_chat_template(
                    given, tools=tools, chat_template=template, add_generation_prompt=True, tokenize=False, **thinking
                )
            if len(text) > RENDER_SIZE and len(text) > RENDER_TIMES * len(json.dumps([given, tools])):
                raise ValueError("it makes far more text of them than there is")
            return text
        except OutOfPatienceError:
            log.info("prompt.template_too_slow")
            raise slow_template(RENDER_SECONDS) from None
        except Exception as error:  # noqa: BLE001 - a template is a program from elsewhere: it may raise anything
            log.info("prompt.template_refused", reason=repr(error))
            raise RefusedError(
                Failure.INVALID_REQUEST,
                f"The model's chat template refuses these messages: {error or type(error).__name__}. "
                "Check the roles and their order.",
            ) from None

    def _encode(self, text: str, *, special: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special)
        return ids


def plain(messages: tuple[Message, ...]) -> str:
    """The form for models without a template: each turn on a line of its own, and the assistant's turn begun."""
    turns = [f"{message.role.capitalize()}: {message.content}\n" for message in messages]
    return "".join(turns) + "Assistant:"


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a model's folder. Raises LoadError."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 - hundreds of classes read these files; nobody lists what they raise
        log.warning("tokenizer.unreadable", folder=str(folder), reason=repr(error))
        raise LoadError(
            "bad_model",
            f"The model's tokenizer cannot be read ({first_line(error)}). Pull the model again; if that does not "
            "help, its tokenizer needs code of its own, which is never run here.",
        ) from None
    return tokenizer


def load_template(folder: Path, tokenizer: Any) -> str | None:
    """The chat template: the tokenizer's, or a processor's beside it (vision and omni models keep theirs there)."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template is None and (beside := folder / "chat_template.json").is_file():
        template = json.loads(beside.read_text()).get("chat_template")
    return _checked(template) if isinstance(template, str) else None


def _checked(template: str) -> str:
    """Raises LoadError for powers: one of them can take hours in one instruction, and no chat needs any."""
    lexer = Environment(extensions=["jinja2.ext.loopcontrols"])  # noqa: S701 - it only reads
    try:
        powers = any(kind == "operator" and value == "**" for _, kind, value in lexer.lex(template))
    except TemplateSyntaxError:
        powers = False  # rendering tells more of it
    if powers:
        raise LoadError("bad_model", "The model's chat template computes powers, which no template here may.")
    return template
