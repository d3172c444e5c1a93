"""Loading llama.cpp's server: how large its context is to be, and its loopback door."""

import http.client
import json
import secrets
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from inference import memory
from inference.errors import LoadError
from inference.gguf import BadGgufError, Shape, read_shape
from inference.protocol import Message, Spec

#: Tokens that a usual request takes, prompt and answer: each slot adds as many to the shared KV cache.
USUAL = 1024
#: llama.cpp rounds contexts up to multiples of this.
GRAIN = 256
#: Of the memory that the weights leave free, the part that a KV cache may take when nobody asked for a size.
SHARE = 0.25
#: A context that is worth having, however little memory there is.
LEAST = 2048
#: How long the loopback server may take to render a prompt, in seconds.
TIMEOUT = 60


class RefusedError(ValueError):
    """llama.cpp does not accept this request."""


class Plan(msgspec.Struct, frozen=True):
    """Sizes in tokens: what one request may have, and what all that run have together."""

    context: int
    total: int


def plan(spec: Spec) -> Plan:
    """Plan for the model's own context where memory allows, and for one usual request in each slot.

    One request can use a whole context, since the cache is unified. Raises LoadError for what is no GGUF file.
    """
    path = Path(str(spec.path))
    try:
        shape, size = read_shape(path), path.stat().st_size
    except BadGgufError as error:
        raise LoadError("bad_model", f"{path} is not a whole GGUF file: {error}. Pull the model again.") from None
    except OSError as error:
        raise LoadError("bad_model", f"{path} cannot be read: {error.strerror}. Pull the model again.") from None
    return _plan(shape, spec, int(max(0, memory.available() - size) * SHARE))


def _plan(shape: Shape, spec: Spec, budget: int) -> Plan:
    own = shape.context or 4096
    affordable = max(LEAST, budget // max(1, shape.kv_bytes))
    context = min(spec.context or affordable, own)
    wanted = max(context, spec.slots * min(context, USUAL))
    total = max(context, min(wanted, affordable))
    return Plan(context, -(-total // GRAIN) * GRAIN)


def load_server(spec: Spec, sizes: Plan) -> "tuple[Any, Loopback]":
    """Load the model. Raises LoadError."""
    try:
        import xllamacpp
    except ImportError as error:
        raise LoadError("backend_missing", f"llama.cpp is not installed: pip install xllamacpp ({error})") from None
    key = secrets.token_hex(16)
    try:
        server = xllamacpp.Server(_params(xllamacpp.CommonParams(), spec, sizes, key))
    except RuntimeError as error:
        raise LoadError(
            "bad_model",
            f"llama.cpp cannot load {spec.path} ({error}). Either the file is damaged (pull it again), or this version "
            "does not know the model, or memory is short; the worker's log has llama.cpp's own words.",
        ) from None
    return server, Loopback(server.listening_address, key)


def _params(params: Any, spec: Spec, sizes: Plan, key: str) -> Any:
    params.model.path = spec.path
    params.n_parallel = spec.slots
    # Threads that spin while they wait take the cores from each other: two busy engines on two cores ran at a seventh
    # of their speed. See also OMP_WAIT_POLICY in `remote`.
    params.cpuparams.poll = 0
    params.cpuparams_batch.poll = 0
    params.n_ctx = sizes.total
    params.kv_unified = True
    layers = spec.options.get("gpu_layers")
    params.n_gpu_layers = -1 if layers is None else int(layers)
    # Answers that left their slot are not kept in RAM besides: llama.cpp would take up to 8 GiB for it.
    params.cache_ram_mib = 0
    params.api_keys = [key]
    params.hostnames = ["127.0.0.1"]
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = 1  # errors
    return params


class Loopback:
    """llama.cpp's own HTTP server inside this process, for what has no callback."""

    def __init__(self, address: str, key: str) -> None:
        self._where = urlsplit(address).netloc
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def render(self, messages: tuple[Message, ...]) -> str:
        """The prompt, by the model's own template. Raises RefusedError when the template does."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return str(self._post("/apply-template", {"messages": turns})["prompt"])

    def tokenize(self, prompt: str) -> list[int]:
        """Token ids of a rendered prompt, as llama.cpp's chat endpoint has them: with BOS where the model wants it."""
        ids = self._post("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"]
        return [int(token) for token in ids]

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        # A connection a call: on the loopback it is cheap, and the server hangs up on idle ones.
        with closing(http.client.HTTPConnection(self._where, timeout=TIMEOUT)) as connection:
            connection.request("POST", path, json.dumps(body), self._headers)
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        if response.status != http.client.OK:
            raise RefusedError(str(answer.get("error", {}).get("message", answer)))
        return answer
