"""What operators may tell vLLM of a model, on a real one: all that a CPU can do, in one engine."""

import json
from pathlib import Path

import pytest

from inference.protocol import Message, Request, Sampling
from tests.contract.listener import Listener, make_request
from tests.contract.test_vllm import CAPITAL, load
from tests.needs import needs

pytestmark = needs("vllm", "torch")

PATTERN = (Message("user", "Repeat: a b c d e f a b c d e f a b c d"),)


def make_adapter(base: Path, folder: Path) -> Path:
    """A LoRA adapter with random weights, large enough to be seen in every answer."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((base / "config.json").read_text())
    size = config["hidden_size"]
    outputs = {"q_proj": size, "v_proj": size // config["num_attention_heads"] * config["num_key_value_heads"]}
    draw = torch.Generator().manual_seed(1)
    weights = {}
    for layer in range(config["num_hidden_layers"]):
        for name, output in outputs.items():
            at = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{at}.lora_A.weight"] = torch.randn(8, size, generator=draw) * 0.15
            weights[f"{at}.lora_B.weight"] = torch.randn(output, 8, generator=draw) * 0.15
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 8, "target_modules": list(outputs)}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


def test_what_a_cpu_can_do_is_done(starter_bf16: Path, tmp_path: Path) -> None:
    options = {
        "prefix_caching": False,
        "chunked_prefill": True,
        "max_batched_tokens": 256,
        "kv_cache_dtype": "fp8",
        "speculative_tokens": 3,
        "lora_adapters": json.dumps({"wild": str(make_adapter(starter_bf16, tmp_path / "wild"))}),
    }
    engine = load(starter_bf16, quantize="fp32", context=1024, options=options)
    assert engine.info.context == 1024
    with Listener(engine) as listener:
        listener.ask(make_request("plain", messages=CAPITAL))
        assert listener.text("plain") == "The capital of France is Paris."

        # A repetition is guessed out of the prompt: several tokens a step.
        steps = listener.ask(make_request("repeat", messages=PATTERN, max_tokens=40, ignore_eos=True))
        assert len(steps) < sum(chunk.count for chunk in steps) == 40

        # Longer than a step may be.
        listener.ask(make_request("long", messages=(Message("user", "word " * 600),), max_tokens=4))
        assert listener.of("long")[-1].prompt_tokens > 600

        wild = Request("wild", CAPITAL, Sampling(temperature=0.0, max_tokens=8, ignore_eos=True), adapter="wild")
        assert sum(chunk.count for chunk in listener.ask(wild)) == 8
        assert not listener.text("wild").startswith("The capital")

        refused = listener.ask(Request("tame", CAPITAL, Sampling(max_tokens=8), adapter="tame"))[-1]
        assert refused.error is not None
        assert (refused.error.code, "no adapter 'tame'" in refused.error.message) == ("invalid_request", True)


def test_a_model_guesses_for_another_one(starter_bf16: Path) -> None:
    """Here for itself, as there is no smaller one of its vocabulary: so each guess is right."""
    options = {"speculative_tokens": 3, "speculative_model": str(starter_bf16)}
    with Listener(load(starter_bf16, quantize="fp32", context=1024, options=options)) as listener:
        steps = listener.ask(make_request("guessed", messages=CAPITAL))
        assert listener.text("guessed") == "The capital of France is Paris."
        assert len(steps) <= sum(chunk.count for chunk in steps) / 2


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_llama_cpp_keeps_its_cache_as_it_is_told(starter_gguf: Path, kind: str) -> None:
    from inference.protocol import Spec
    from inference.remote import RemoteEngine

    options = {"kv_cache_dtype": kind, "prefix_caching": False}
    with Listener(RemoteEngine.load(Spec("llamacpp", str(starter_gguf), 2, options=options), timeout=60)) as listener:
        listener.ask(make_request("plain"))
        assert "Paris" in listener.text("plain")
