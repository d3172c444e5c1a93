import pytest

from inference.checkpoint import Tensor
from inference.errors import LoadError
from inference.protocol import Spec
from tests.needs import needs

pytestmark = needs("torch", "transformers")


def tensor(*shape: int, dtype: str = "BF16") -> Tensor:
    size = 2 if dtype == "BF16" else 4
    for side in shape:
        size *= side
    return Tensor(dtype, list(shape), (0, size))


TENSORS = {
    "model.embed_tokens.weight": tensor(1000, 64),
    "model.layers.0.mlp.up_proj.weight": tensor(256, 64),
    "model.layers.0.mlp.experts.3.up_proj.weight": tensor(128, 64),
    "model.norm.weight": tensor(64),
    "talker.model.layers.0.mlp.up_proj.weight": tensor(5000, 64),
}
PLAIN = 2 * (1000 * 64 + 128 * 64 + 64)
LINEAR = 256 * 64


def size(quantize: str, stated: str | None = "bfloat16") -> int:
    from inference import transformersmemory

    return transformersmemory.weights(TENSORS, quantize, stated)


def test_weights_are_counted_as_they_will_lie_in_memory_and_speech_is_not() -> None:
    assert size("no") == PLAIN + 2 * LINEAR
    assert size("no", "float32") == 2 * size("no")
    assert size("no", None) == size("no")
    assert size("fp32") == 2 * size("no")
    assert size("fp16", "float32") == size("no")
    assert size("q4") == pytest.approx(PLAIN + 0.516 * LINEAR, abs=1)
    assert size("q8") == pytest.approx(PLAIN + 1.002 * LINEAR, abs=1)


def test_weights_that_are_quantized_already_take_what_their_files_do_unless_they_are_turned_back() -> None:
    from inference import transformersmemory

    stored = PLAIN + 2 * LINEAR
    assert transformersmemory.weights_as_stored(TENSORS, "gptq", "cpu") == stored
    assert transformersmemory.weights_as_stored(TENSORS, "fp8", "cuda") == stored
    assert transformersmemory.weights_as_stored(TENSORS, "fp8", "cpu") == 2 * stored


def plan(own: int | None, left: int, *, slots: int = 1, context: int | None = None) -> tuple[int, int]:
    from inference import transformersmemory
    from inference.transformersmemory import Growth

    return transformersmemory.plan(own, context, Growth(token=100, fixed=1000), left, slots)


def test_the_context_is_the_models_own_where_memory_holds_it() -> None:
    assert plan(2048, 1 << 30) == (2048, 2048)
    assert plan(2048, 1 << 30, context=512) == (512, 512)
    assert plan(2048, 1 << 30, context=9000) == (2048, 2048)
    assert plan(2048, 1 << 30, slots=3) == (2048, 3 * 2048)


def test_else_it_is_the_largest_that_fits() -> None:
    assert plan(2048, 101_000) == (1000, 1000)
    assert plan(600, 102_000, slots=2) == (600, 1000)
    assert plan(None, 101_000) == (1000, 1000)


def test_too_little_memory_for_any_context_is_an_error_with_figures() -> None:
    with pytest.raises(LoadError) as caught:
        plan(2048, 20_000)
    assert caught.value.code == "out_of_memory"
    assert "190 tokens" in caught.value.message
    assert plan(100, 20_000) == (100, 100)


def test_a_cache_that_grows_is_measured_apart_from_what_stays() -> None:
    from inference import transformersmemory

    assert transformersmemory.measure([8 * 30 + 500, 16 * 30 + 500]) == (30, 500)


def test_the_budget_is_the_least_of_what_is_free_granted_and_allowed() -> None:
    from inference import transformersmemory

    assert transformersmemory.room(Spec("transformers", "x", 1, memory=1000), "cpu") == (1000, 0)
    allowed = Spec("transformers", "x", 1, memory=1000, options={"max_cpu_memory": 700, "max_gpu_memory": 5})
    assert transformersmemory.room(allowed, "cpu") == (700, 0)


def test_a_gpu_takes_what_overflows_into_main_memory_only_where_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from inference import transformersmemory

    monkeypatch.setattr(transformersmemory, "free", lambda device: 5000)
    options = {"max_gpu_memory": 4000, "max_cpu_memory": 700}
    spec = Spec("transformers", "x", 1, options=options)
    assert transformersmemory.room(spec, "cuda") == (4000, 700)
    assert transformersmemory.room(Spec("transformers", "x", 1, options=options, quantize="q4"), "cuda") == (4000, 0)
    assert transformersmemory.room(Spec("transformers", "x", 1), "cuda") == (5000, 0)
