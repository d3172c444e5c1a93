"""Loading llama.cpp's server: how large its context is to be, and its loopback door."""

import http.client
import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import xllamacpp

from inference import memory
from inference.errors import RENDER_SECONDS, LoadError, RefusedError, slow_template
from inference.gguf import BadGgufError, Shape, parts, read_shape
from inference.memory import gigabytes
from inference.protocol import Failure, Request, Spec
from inference.tools import told, turns

#: Tokens that a usual request takes, prompt and answer: each slot adds as many to the shared KV cache.
USUAL = 1024
#: llama.cpp rounds contexts up to multiples of this.
GRAIN = 256
#: Of the memory that the weights leave free, the part that a KV cache may take when nobody asked for a size.
SHARE = 0.25
#: A context that is worth having, however little memory there is.
LEAST = 2048
#: Where the build for NVIDIA's GPUs is had (the wheel on PyPI serves the CPU alone).
CUDA_BUILD = "pip install --force-reinstall xllamacpp --index-url https://xorbitsai.github.io/xllamacpp/whl/cu128"
#: How long the loopback server may take for anything, in seconds. What is slower than that never ends.
TIMEOUT = 60.0
#: How many prompts may be rendered at once: so many may be slow before nobody else's is rendered.
RENDERERS = 2


class Plan(msgspec.Struct, frozen=True):
    """Sizes: tokens that one request may have, and that all that run have together; bytes of weights and of a token."""

    context: int
    total: int
    weights: int = 0
    token: int = 0

    @property
    def cache(self) -> int:
        """Bytes of the KV cache."""
        return self.total * self.token


def plan(spec: Spec, free: int) -> Plan:
    """Plan for the model's own context where `free` bytes allow, and for one usual request in each slot.

    One request can use a whole context, since the cache is unified. Raises LoadError for what is no GGUF file, and for
    one that does not fit.
    """
    path = Path(str(spec.path))
    try:
        shape, size = read_shape(path), sum(part.stat().st_size for part in parts(path))
    except BadGgufError as error:
        raise LoadError("bad_model", f"{path} is not a whole GGUF file: {error}. Pull the model again.") from None
    except OSError as error:
        raise LoadError("bad_model", f"{path} cannot be read: {error.strerror}. Pull the model again.") from None
    least = size + min(LEAST, shape.context or LEAST) * shape.kv_bytes
    if least > free:
        raise LoadError(
            "out_of_memory",
            f"The model needs {gigabytes(least)} with the smallest useful context, and {gigabytes(free)} are free. "
            "Unload other models, lower MAX_CACHE_MODELS, or take a smaller quantization.",
        )
    left = free - size if spec.memory is None else max(0, min(spec.memory, free) - size)
    sizes = _plan(shape, spec, int(left * SHARE) if spec.memory is None else left)
    return msgspec.structs.replace(sizes, weights=size, token=shape.kv_bytes)


def _plan(shape: Shape, spec: Spec, budget: int) -> Plan:
    own = shape.context or 4096
    affordable = max(LEAST, budget // max(1, shape.kv_bytes))
    context = min(spec.context or affordable, own)
    wanted = max(context, spec.slots * min(context, USUAL))
    total = max(context, min(wanted, affordable))
    return Plan(context, -(-total // GRAIN) * GRAIN)


def free_memory(spec: Spec) -> int:
    """Bytes that weights and cache may take. Raises LoadError where layers are to go on a GPU that is not there."""
    layers = spec.options.get("gpu_layers")
    gpus = _gpus()
    if layers and not gpus:
        raise LoadError(
            "backend_missing",
            f"GPU_LAYERS={layers} asks for a GPU, and this build of llama.cpp has none to use. Unset GPU_LAYERS, or "
            f"install the build with CUDA: {CUDA_BUILD}",
        )
    # With some layers on the GPU and some not, or where llama.cpp decides that, both memories serve.
    on_gpus = sum(int(gpu["memory_free"]) for gpu in gpus) if layers != 0 else 0
    return memory.available() + on_gpus


def _gpus() -> list[dict[str, Any]]:
    return [device for device in xllamacpp.get_device_info() if "GPU" in device["type"].name]


def note_on_gpu(spec: Spec) -> str:
    """What an operator should know whose worker has a GPU (`on_gpu`), where llama.cpp cannot use it."""
    if not spec.options.get("on_gpu") or _gpus():
        return ""
    return f"llama.cpp runs on the CPU: its package here is built without CUDA. For the GPU: {CUDA_BUILD}"


def load_server(spec: Spec, sizes: Plan, on_stuck: Callable[[], None]) -> "tuple[Any, Loopback]":
    """Load the model; `on_stuck` is called where its template turns out to loop. Raises LoadError."""
    key = secrets.token_hex(16)
    try:
        server = xllamacpp.Server(_params(spec, sizes, key))
    except RuntimeError as error:
        raise LoadError(
            "bad_model",
            f"llama.cpp cannot load {spec.path} ({error}). Either the file is damaged (pull it again), or this version "
            "does not know the model, or memory is short; the worker's log has llama.cpp's own words.",
        ) from None
    return server, Loopback(server.listening_address, key, on_stuck)


def common_params(spec: Spec, key: str) -> Any:
    """What every server of llama.cpp's is told here: the model, and to be quiet behind a door on the loopback."""
    params = xllamacpp.CommonParams()
    params.model.path = spec.path
    # Threads that spin while they wait take the cores from each other: two busy engines on two cores ran at a seventh
    # of their speed. See also OMP_WAIT_POLICY in `remote`.
    params.cpuparams.poll = params.cpuparams_batch.poll = 0
    params.kv_unified = True
    params.api_keys = [key]
    params.hostnames = ["127.0.0.1"]
    params.ui = params.endpoint_slots = False
    params.verbosity = 1  # errors
    return params


def _params(spec: Spec, sizes: Plan, key: str) -> Any:
    params = common_params(spec, key)
    params.n_parallel = spec.slots
    params.n_ctx = sizes.total
    # A prompt is read in steps of what is computed at once. With four of them in one, llama.cpp's default, a cancel and
    # whoever streams would wait for all four.
    params.n_batch = params.n_ubatch
    layers = spec.options.get("gpu_layers")
    params.n_gpu_layers = -1 if layers is None else int(layers)
    if (caching := spec.options.get("prefix_caching")) is not None:
        params.cache_prompt = bool(caching)
    if kind := spec.options.get("kv_cache_dtype"):
        params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{str(kind).upper()}")
    # Answers that left their slot are not kept in RAM besides: llama.cpp would take up to 8 GiB for it.
    params.cache_ram_mib = 0
    return params


class Loopback:
    """llama.cpp's own HTTP server inside this process, for what has no callback."""

    def __init__(self, address: str, key: str, on_stuck: Callable[[], None]) -> None:
        self._where = urlsplit(address).netloc
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._tools: bool | None = None
        self._renderers = ThreadPoolExecutor(RENDERERS, "render")
        self._on_stuck = on_stuck

    def render(self, request: Request) -> str:
        """The prompt, by the model's own template. Raises RefusedError when the template does, or takes too long."""
        knows = self._knows_tools()
        body: dict[str, Any] = {"messages": turns(request.messages if knows else told(request.messages, request.tools))}
        for call in (call for turn in body["messages"] for call in turn.get("tool_calls", ())):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        if request.tools and knows:
            body["tools"] = json.loads(request.tools)
        if request.think is not None:
            body["chat_template_kwargs"] = {"enable_thinking": request.think}
        rendering = self._renderers.submit(self._rendered, body)
        try:
            return rendering.result(RENDER_SECONDS)
        except TimeoutError:
            rendering.cancel()
            raise slow_template(RENDER_SECONDS) from None

    def _rendered(self, body: dict[str, Any]) -> str:
        try:
            return str(self._post("/apply-template", body)["prompt"])
        except TimeoutError:
            self._on_stuck()
            raise

    def _knows_tools(self) -> bool:
        """Whether the template has a place for tools. Where it has none, llama.cpp would make up a form of its own."""
        if self._tools is None:
            self._tools = bool(self._ask("GET", "/props")["chat_template_caps"]["supports_tools"])
        return self._tools

    def tokenize(self, prompt: str) -> list[int]:
        """Token ids of a rendered prompt, as llama.cpp's chat endpoint has them: with BOS where the model wants it."""
        ids = self._post("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"]
        return [int(token) for token in ids]

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._ask("POST", path, json.dumps(body))

    def _ask(self, verb: str, path: str, body: str | None = None) -> dict[str, Any]:
        # A connection a call: on the loopback it is cheap, and the server hangs up on idle ones.
        with closing(http.client.HTTPConnection(self._where, timeout=TIMEOUT)) as connection:
            connection.request(verb, path, body, self._headers)
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        if response.status != http.client.OK:
            raise RefusedError(Failure.INVALID_REQUEST, str(answer.get("error", {}).get("message", answer)))
        return answer
