"""What operators may tell an engine of one model: the table, and what each engine gets of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from app import engine_options
from app.errors import InvalidRequestError
from app.registry import Card
from app.settings import Settings
from app.stock import Model
from inference import vlloptions
from inference.errors import LoadError
from inference.protocol import Spec
from tasks.choice import choose


def row(tmp_path: Path, **options: Any) -> Model:
    values = {"name": "m", "path": str(tmp_path), "format": "safetensors", "size_bytes": 1, "quantize": "no"}
    return Model(**values, facts={"quantization": None}, engine_options=options)


def adapter(folder: Path, rank: object) -> str:
    folder.mkdir()
    (folder / "adapter_model.safetensors").touch()
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return str(folder)


@pytest.mark.parametrize(
    ("format", "options", "param", "says"),
    [
        ("safetensors", {"prefix_cashing": True}, "prefix_cashing", "There are: chunked_prefill, context"),
        ("gguf", {"chunked_prefill": True}, "chunked_prefill", "No engine of a gguf model"),
        ("safetensors", {"prefix_caching": "yes"}, "prefix_caching", "valid boolean"),
        ("safetensors", {"slots": 0}, "slots", "greater than or equal to 1"),
        ("safetensors", {"slots": True}, "slots", "valid integer"),
        ("safetensors", {"kv_cache_dtype": "int3"}, "kv_cache_dtype", "'fp8_e4m3'"),
        ("safetensors", {"lora_adapters": {"a b": "/x"}}, "lora_adapters.a b", "pattern"),
        ("safetensors", {"lora_adapters": {"a": "x"}}, "lora_adapters.a", "pattern"),
        ("safetensors", {"speculative_lookup": 3}, None, "speculative_tokens says how many"),
        ("gguf", {"kv_cache_dtype": "fp8"}, "kv_cache_dtype", "'q8_0'"),
    ],
)
def test_what_is_no_option_is_refused_by_name(format: str, options: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine_options.check(format, options)
    assert says in caught.value.message
    assert (caught.value.param or "").startswith(param or "")


def test_a_null_is_the_usual() -> None:
    assert engine_options.check("safetensors", {"prefix_caching": None, "slots": 4}) == {"slots": 4}


def test_each_engine_gets_what_it_knows_and_the_rest_is_told(tmp_path: Path) -> None:
    given = row(tmp_path, slots=3, context=512, prefix_caching=False, lora_adapters={"a": "/a"})

    vllm, transformers = choose(given, Settings(_env_file=None), has=lambda _: True).candidates

    assert (vllm.slots, vllm.context, vllm.note) == (3, 512, "")
    assert vllm.options == {"prefix_caching": False, "lora_adapters": '{"a": "/a"}'}
    assert (transformers.slots, transformers.context, transformers.options) == (3, 512, {})
    assert transformers.note == "transformers has no lora_adapters, prefix_caching"


def test_what_no_worker_has_the_gpus_for_is_refused_at_once() -> None:
    cards = [Card(node, device, "here", 1, "life") for node, device in (("a", "gpu.0"), ("b", "gpu.1+gpu.2"))]

    engine_options.refuse_here({"tensor_parallel": 2}, cards)
    engine_options.refuse_here({"tensor_parallel": 2}, [])
    with pytest.raises(InvalidRequestError, match=r"tensor_parallel is 2.*DEVICES=gpu.0\+gpu.1"):
        engine_options.refuse_here({"tensor_parallel": 2}, cards[:1])


def test_vllm_is_told_in_its_own_words(tmp_path: Path) -> None:
    folders = {"b": adapter(tmp_path / "b", 12), "a": adapter(tmp_path / "a", 8)}
    options: dict[str, Any] = {
        "prefix_caching": False,
        "max_batched_tokens": 512,
        "speculative_tokens": 3,
        "lora_adapters": json.dumps(folders),
    }

    assert vlloptions.arguments(Spec("vllm", "/m", 1, options=options), 0) == {
        "enable_prefix_caching": False,
        "max_num_batched_tokens": 512,
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4},
        "enable_lora": True,
        "max_loras": 2,
        "max_lora_rank": 16,
    }


def test_several_gpus_are_used_together_unless_told_otherwise() -> None:
    assert vlloptions.arguments(Spec("vllm", "/m", 1), 2) == {"tensor_parallel_size": 2}
    one = Spec("vllm", "/m", 1, options={"tensor_parallel": 1})
    assert vlloptions.arguments(one, 2) == {"tensor_parallel_size": 1}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tensor_parallel": 2}, "this worker has no GPUs"),
        ({"lora_adapters": '{"a": "/nowhere"}'}, "has no adapter_model.safetensors"),
        ({"lora_adapters": "high"}, "rank 4096"),
    ],
)
def test_what_cannot_be_had_on_this_device_is_the_options_fault(
    tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    if options.get("lora_adapters") == "high":
        options = {"lora_adapters": json.dumps({"a": adapter(tmp_path / "a", 4096)})}
    with pytest.raises(LoadError, match=says) as caught:
        vlloptions.arguments(Spec("vllm", "/m", 1, options=options), 0)
    assert caught.value.code == "bad_engine_options"
