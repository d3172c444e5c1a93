"""What vLLM is told, and why it is not; without vLLM itself."""

import json
import logging
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inference import checkpoint, memory, vllmload
from inference.errors import LoadError
from inference.lastwords import LastWords
from inference.protocol import Spec
from inference.source import examine
from tests.checkpoints import Checkpoints
from tests.needs import needs

pytestmark = needs("torch", "transformers")


class EngineDeadError(Exception):
    """Named like vLLM's."""


GB = 10**9
NOTHING: Any = None


@pytest.fixture
def model(checkpoints: Checkpoints, tmp_path: Path) -> Path:
    """A checkpoint that the test may change."""
    return Path(shutil.copytree(checkpoints("qwen3"), tmp_path / "model"))


@pytest.fixture(autouse=True)
def _plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 16 * GB)


def spec_of(path: Path, **kwargs: Any) -> Spec:
    return Spec("vllm", str(path), **{"slots": 8} | kwargs)


def on_cpu(spec: Spec) -> tuple[dict[str, Any], vllmload.Room]:
    return vllmload._on_cpu(spec, examine(spec), NOTHING)


def on_cuda(spec: Spec, total: int) -> tuple[dict[str, Any], vllmload.Room]:
    vllm: Any = SimpleNamespace(platform=SimpleNamespace(get_device_total_memory=lambda: total), gpus=lambda: 1)
    return vllmload._on_cuda(spec, examine(spec), vllm)


def change(path: Path, **values: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | values))


def refused(spec: Spec) -> LoadError:
    with pytest.raises(LoadError) as caught:
        on_cpu(spec)
    return caught.value


def token_bytes(path: Path) -> int:
    """Of the cache, in float32: twice what the configuration tells in 16 bits."""
    return 2 * (checkpoint.kv_bytes(json.loads((path / "config.json").read_text())) or 0)


def test_on_the_cpu_the_cache_is_what_the_requests_can_use(model: Path) -> None:
    arguments, room = on_cpu(spec_of(model))
    assert room.weights == sum(tensor.size for tensor in examine(spec_of(model)).tensors.values())
    assert room.cache == arguments["kv_cache_memory_bytes"] == (8 * 1024 + 10 * 128) * token_bytes(model)


def test_a_budget_bounds_the_cache(model: Path) -> None:
    weights = on_cpu(spec_of(model))[1].weights
    budget = weights + 2000 * token_bytes(model)
    assert on_cpu(spec_of(model, memory=budget))[1] == (weights, budget - weights)


def test_a_budget_that_holds_no_context_worth_having_is_refused_with_figures(model: Path) -> None:
    weights = on_cpu(spec_of(model))[1].weights
    error = refused(spec_of(model, memory=weights + 300 * token_bytes(model)))
    assert error.code == "out_of_memory"
    assert f"{weights / 1e9:.2f} GB" in error.message
    assert '"quantize": "q4"' in error.message


def test_weights_beyond_the_free_memory_are_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 100_000)
    assert refused(spec_of(model)).code == "out_of_memory"


@pytest.mark.parametrize("quantize", ["q4", "q8"])
def test_on_the_cpu_bitsandbytes_is_for_transformers(model: Path, quantize: str) -> None:
    error = refused(spec_of(model, quantize=quantize))
    assert (error.code, "bitsandbytes" in error.message) == ("unsupported_model", True)


def test_on_a_gpu_vllm_gets_its_part_and_quantizes_to_four_bits(model: Path) -> None:
    arguments, room = on_cuda(spec_of(model, memory=6 * GB, quantize="q4"), total=24 * GB)
    assert arguments == {"gpu_memory_utilization": 0.25, "quantization": "bitsandbytes"}
    assert room.cache is None
    assert on_cuda(spec_of(model, memory=30 * GB), total=24 * GB)[0] == {"gpu_memory_utilization": 0.97}
    assert on_cuda(spec_of(model), total=24 * GB)[0] == {"gpu_memory_utilization": 0.9}


def test_on_a_gpu_what_does_not_fit_or_needs_eight_bits_is_refused(model: Path) -> None:
    for spec, code in (
        (spec_of(model, memory=1000), "out_of_memory"),
        (spec_of(model, quantize="q8"), "unsupported_model"),
    ):
        with pytest.raises(LoadError) as caught:
            on_cuda(spec, total=24 * GB)
        assert caught.value.code == code


def test_a_worker_without_a_gpu_does_not_take_the_gpus_vllm(model: Path) -> None:
    with pytest.raises(LoadError) as caught:
        vllmload._on_cuda(spec_of(model), examine(spec_of(model)), SimpleNamespace(gpus=lambda: 0))  # type: ignore[arg-type]
    assert caught.value.code == "backend_missing"


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8"])
def test_weights_that_are_quantized_already_are_left_as_they_are(model: Path, method: str) -> None:
    change(model, quantization_config={"quant_method": method, "bits": 4})
    spec = spec_of(model, memory=6 * GB, quantize="no")
    assert examine(spec).method == method
    assert on_cuda(spec, total=24 * GB)[0] == {"gpu_memory_utilization": 0.25}
    assert vllmload._dtype(spec, examine(spec)) == "auto"


@pytest.mark.parametrize(
    ("quantize", "stated", "dtype"),
    [
        ("no", "float32", "float32"),
        ("no", "bfloat16", "auto"),
        ("no", None, "auto"),
        ("fp16", "float32", "float16"),
        ("fp32", "bfloat16", "float32"),
        ("q4", "float16", "bfloat16"),
    ],
)
def test_no_quantization_leaves_the_precision_as_it_is(
    model: Path, quantize: str, stated: str | None, dtype: str
) -> None:
    change(model, dtype=stated, torch_dtype=stated)
    spec = spec_of(model, quantize=quantize)
    assert vllmload._dtype(spec, examine(spec)) == dtype


def test_a_folder_that_is_not_whole_is_a_bad_model(model: Path, tmp_path: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for path in (model, tmp_path / "nothing", tmp_path):
        with pytest.raises(LoadError) as caught:
            examine(spec_of(path))
        assert caught.value.code == "bad_model"


@pytest.mark.parametrize(
    ("heard", "code"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "out_of_memory"),
        ("ValueError: Free memory on device cuda:0 (1.0/24.0 GiB) on startup is less than desired", "out_of_memory"),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", "out_of_memory"),
        ("SafetensorError: Error while deserializing header", "bad_model"),
        ("NotImplementedError: This is not for the CPU", "unsupported_model"),
        ("RuntimeError: Unsupported CPU attention configuration: head_dim=8", "unsupported_model"),
        ("OSError: /dev/shm is full", "engine_failed"),
    ],
)
def test_what_vllms_process_said_becomes_the_reason(model: Path, heard: str, code: str) -> None:
    room = vllmload.Room(2 * GB, 1 * GB)
    error = vllmload.reason(RuntimeError("Engine core initialization failed."), examine(spec_of(model)), room, heard)
    assert error.code == code
    assert heard.split(": ")[1][:20] in error.message or code == "engine_failed"
    assert code != "out_of_memory" or "2.00 GB" in error.message


def test_a_reason_is_one_line_without_paths_and_without_all_that_there_is() -> None:
    said = (
        "1 validation error for ModelConfig\n  Value error, Model architectures ['X'] are not supported for now. "
        "Supported architectures: dict_keys(['A', 'B']) [type=value_error, input_value=ArgsKwargs((), {})]"
    )
    assert vllmload._line(said) == "Model architectures ['X'] are not supported for now"
    assert vllmload._line("cannot read /data/models/x/config.json") == "cannot read config.json"


def test_without_vllm_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(LoadError, match=r"make up.*package vllm") as caught:
        vllmload._import()
    assert caught.value.code == "backend_missing"


def test_last_words_of_a_forked_child_are_heard() -> None:
    earlier = logging.getLogRecordFactory()
    words = LastWords("thelibrary")
    assert words.reason() == ""
    child = os.fork()
    if child == 0:
        logger = logging.getLogger("thelibrary.core")
        logger.handlers = [logging.NullHandler()]
        try:
            raise RuntimeError("CUDA error: an illegal memory access")
        except RuntimeError:
            logger.exception("fatal")
            logging.getLogger("another").exception("not ours")
        try:
            raise EngineDeadError
        except EngineDeadError:
            logger.exception("the child is gone")
        os._exit(0)
    os.waitpid(child, 0)
    assert words.reason() == "RuntimeError: CUDA error: an illegal memory access"
    words.close()
    assert logging.getLogRecordFactory() == earlier
