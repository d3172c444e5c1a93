"""Which engines may load a model, in which order and precision."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from app.stock import Model
from inference.errors import LoadError
from tasks.choice import choose, quantization


def model(path: Path, form: str = "safetensors", **values: Any) -> Model:
    defaults: dict[str, Any] = {"name": "m", "size_bytes": 1000, "quantize": "auto", "facts": {}}
    return Model(path=str(path), format=form, **(defaults | values))


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


def everything(package: str) -> bool:
    return True


def all_but(*missing: str) -> Any:
    return lambda package: package not in missing


def engines(row: Model, has: Any = everything, **values: Any) -> list[str]:
    return [candidate.engine for candidate in choose(row, settings(**values), has).candidates]


def test_the_format_decides_and_vllm_comes_first(tmp_path: Path) -> None:
    assert engines(model(tmp_path)) == ["vllm", "transformers"]
    assert engines(model(tmp_path, "gguf")) == ["llamacpp"]
    assert engines(model(tmp_path, "scripted")) == ["scripted"]


def test_an_engine_that_is_not_installed_is_passed_over_and_that_is_told(tmp_path: Path) -> None:
    choice = choose(model(tmp_path), settings(), all_but("vllm"))

    assert [candidate.engine for candidate in choice.candidates] == ["transformers"]
    assert choice.passed_over == ["vLLM is not installed here (vllm missing)"]


def test_without_any_engine_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="make up") as caught:
        choose(model(tmp_path), settings(), all_but("torch"))
    assert caught.value.code == "backend_missing"


def test_a_setting_forces_one_engine(tmp_path: Path) -> None:
    assert engines(model(tmp_path), engine="transformers") == ["transformers"]
    assert engines(model(tmp_path, "scripted"), engine="vllm") == ["scripted"]
    with pytest.raises(LoadError, match="takes no gguf"):
        choose(model(tmp_path, "gguf"), settings(engine="vllm"), everything)


def test_files_that_are_gone_are_told_before_any_engine_is_asked(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="are gone") as caught:
        choose(model(tmp_path / "nothing"), settings(), everything)
    assert caught.value.code == "bad_model"


@pytest.mark.parametrize(("form", "slots"), [("gguf", 16), ("scripted", 64)])
def test_slots_are_the_engine_s_unless_a_setting_says_otherwise(tmp_path: Path, form: str, slots: int) -> None:
    row = model(tmp_path, form)

    assert choose(row, settings(), everything).candidates[0].slots == slots
    assert choose(row, settings(worker_slots=3), everything).candidates[0].slots == 3


def test_vllm_and_transformers_have_slots_of_their_own(tmp_path: Path) -> None:
    assert [c.slots for c in choose(model(tmp_path), settings(), everything).candidates] == [64, 8]


def test_auto_is_four_bit_above_the_threshold(tmp_path: Path) -> None:
    large = model(tmp_path, size_bytes=15_000_000_000)

    assert quantization(large, settings(), everything) == "q4"
    assert quantization(large, settings(model_q4_threshold_bytes=16e9), everything) == "no"
    assert quantization(large, settings(), all_but("bitsandbytes")) == "no"
    assert quantization(model(tmp_path), settings(), everything) == "no"


@pytest.mark.parametrize("forced", ["q4", "q8", "fp16", "fp32", "no"])
def test_a_pull_s_word_goes_before_auto(tmp_path: Path, forced: str) -> None:
    assert quantization(model(tmp_path, size_bytes=10**11, quantize=forced), settings(), everything) == forced


def test_what_is_quantized_already_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))

    assert quantization(model(tmp_path, quantize="q4"), settings(), everything) == "no"
    assert quantization(model(tmp_path, facts={"quantization": "awq"}, quantize="q4"), settings(), everything) == "no"
    assert quantization(model(tmp_path, "gguf", quantize="q4"), settings(), everything) == "no"


def test_layers_on_the_gpu_are_passed_on_to_llamacpp_alone(tmp_path: Path) -> None:
    assert choose(model(tmp_path, "gguf"), settings(gpu_layers=5), everything).candidates[0].options == {
        "gpu_layers": 5
    }
    assert choose(model(tmp_path), settings(gpu_layers=5), everything).candidates[0].options == {}


def test_limits_of_memory_are_passed_on_to_transformers_alone(tmp_path: Path) -> None:
    limited = choose(model(tmp_path), settings(max_gpu_memory="2GB", max_cpu_memory="1GB"), everything).candidates
    assert [candidate.options for candidate in limited] == [
        {},
        {"max_gpu_memory": 2_000_000_000, "max_cpu_memory": 1_000_000_000},
    ]


def test_memory_limits_are_passed_on_to_transformers(tmp_path: Path) -> None:
    limited = choose(model(tmp_path), settings(max_gpu_memory="2GB", max_cpu_memory="1MB"), everything).candidates

    assert [candidate.options for candidate in limited] == [
        {},
        {"max_gpu_memory": 2_000_000_000, "max_cpu_memory": 1_000_000},
    ]
