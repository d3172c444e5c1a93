"""Layers of 16 bits on a CPU without instructions for them."""

from typing import Any

import pytest

from inference.catalog import build
from inference.protocol import Spec
from tests.checkpoints import Checkpoints
from tests.needs import needs

pytestmark = needs("torch", "transformers")


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Layers of several precisions, as a CPU widens them that multiplies none of 16 bits."""
    import torch

    from inference.transformerslinear import widen

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx512_fp16": False})
    torch.manual_seed(4)
    kinds = [torch.bfloat16, torch.float16, torch.float32]
    found = torch.nn.ModuleList(torch.nn.Linear(40, 70, dtype=kind) for kind in kinds)
    widen(found)
    return found


@pytest.mark.parametrize("tokens", [1, 300])
def test_a_widened_layer_is_as_exact_as_its_precision_and_keeps_it(
    layers: Any, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from inference import transformerslinear

    monkeypatch.setattr(transformerslinear, "PART", 1000)  # three parts, the last one shorter
    for layer in layers:
        given = torch.randn(2, tokens, 40).to(layer.weight.dtype)
        exact = given.double() @ layer.weight.double().T + layer.bias.double()
        found = layer(given)
        assert found.dtype == given.dtype
        torch.testing.assert_close(found, exact.to(given.dtype))


def test_many_tokens_are_multiplied_in_float32_and_few_as_they_are(
    layers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from inference import transformerslinear

    seen: list[torch.dtype] = []
    multiply = transformerslinear.linear

    def watched(given: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        seen.append(weight.dtype)
        return multiply(given, weight)

    monkeypatch.setattr(transformerslinear, "linear", watched)
    for tokens in (transformerslinear.LEAST - 1, transformerslinear.LEAST):
        for layer in layers:
            layer(torch.ones(1, tokens, 40, dtype=layer.weight.dtype))
    assert seen == [torch.float32] * 2


def test_a_cpu_that_multiplies_in_16_bits_does(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from inference.transformerslinear import widen

    layer = torch.nn.Linear(4, 4, dtype=torch.bfloat16)
    for has in ({"architecture": "x86_64", "amx_bf16": True}, {"architecture": "aarch64"}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", has.copy)
        widen(layer)
        assert type(layer) is torch.nn.Linear


def test_a_loaded_model_multiplies_so(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from inference.transformersengine import TransformersEngine
    from inference.transformerslinear import WideLinear

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64"})
    engine = build(Spec("transformers", str(checkpoints("qwen3")), 1, quantize="fp16"), lambda fraction: None)
    assert isinstance(engine, TransformersEngine)
    layers = [layer for layer in engine._network.model.modules() if isinstance(layer, torch.nn.Linear)]
    assert layers
    assert all(type(layer) is WideLinear for layer in layers)
