"""What the transformers engine does beyond every engine's contract: on the starter model, and on tiny random ones."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from inference.catalog import build
from inference.errors import LoadError
from inference.prompts import Prompt
from inference.protocol import Chunk, Emitted, Failure, Message, Request, Sampling, Spec
from inference.remote import RemoteEngine
from tests.checkpoints import ARCHITECTURES, CONTEXT, WITHOUT_TEMPLATE, Checkpoints
from tests.contract.listener import Listener, make_request
from tests.needs import needs

pytestmark = needs("torch", "transformers", "bitsandbytes")

Open = Callable[..., Listener]
CAPITAL = "What is the capital of France?"
NOTHING = Emitted()


@pytest.fixture
def starter(transformers_starter: Listener) -> Listener:
    """The starter model, for all tests that leave it whole."""
    return transformers_starter


@pytest.fixture
def tiny(checkpoints: Checkpoints) -> Iterator[Open]:
    """Loads a tiny model in this process, and closes it after the test."""
    listeners: list[Listener] = []

    def open_one(architecture: str = "qwen3", **kwargs: object) -> Listener:
        listeners.append(Listener(build(spec_of(checkpoints(architecture), **kwargs), lambda fraction: None)))
        return listeners[-1].__enter__()

    yield open_one
    for listener in listeners:
        listener.__exit__()


@pytest.fixture
def copy(checkpoints: Checkpoints, tmp_path: Path) -> Path:
    """A tiny checkpoint that the test may break."""
    return Path(shutil.copytree(checkpoints("qwen3"), tmp_path / "model"))


def spec_of(path: Path, *, slots: int = 1, **kwargs: Any) -> Spec:
    return Spec("transformers", str(path), slots, **kwargs)


def load_remote(path: Path, **kwargs: object) -> RemoteEngine:
    return RemoteEngine.load(spec_of(path, **kwargs), timeout=120)


def refused(path: Path, **kwargs: object) -> LoadError:
    with pytest.raises(LoadError) as caught:
        build(spec_of(path, **kwargs), lambda fraction: None)
    assert str(path.parent) not in caught.value.message
    return caught.value


def resident(engine: RemoteEngine) -> int:
    return int(psutil.Process(engine.info.pid).memory_info().rss)


def joined(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def emitted_by(chunks: list[Chunk]) -> Emitted:
    return Emitted(
        joined(chunks), tuple(token for chunk in chunks for token in chunk.ids), sum(chunk.count for chunk in chunks)
    )


def sampled(request_id: str, sampling: Sampling, emitted: Emitted = NOTHING, prompt: str | None = None) -> Request:
    return Request(request_id, make_request("x").messages, sampling, emitted=emitted, prompt=prompt)


def expect_same_from_each_cut(listener: Listener, sampling: Sampling, every: int = 1) -> None:
    whole = listener.ask(sampled("whole", sampling))
    assert len(whole) > 3
    for cut in range(1, len(whole), every):
        rest = listener.ask(sampled(f"from {cut}", sampling, emitted_by(whole[:cut])))
        assert joined(whole[:cut] + rest) == joined(whole)
        assert emitted_by(whole[:cut] + rest) == emitted_by(whole)
        assert rest[-1].finish == whole[-1].finish


def test_the_greedy_answer_is_right(starter: Listener) -> None:
    chunks = starter.ask(make_request("paris", messages=(Message("user", CAPITAL),)))
    assert joined(chunks) == "The capital of France is Paris."
    assert chunks[-1].finish == "stop"
    assert len(chunks) > 5


def test_a_prompt_goes_on_as_it_stands(starter: Listener) -> None:
    sampling = Sampling(temperature=0.0, max_tokens=6)
    text = joined(starter.ask(sampled("raw", sampling, prompt="The capital of France is")))
    assert text.startswith(" Paris")


def test_a_greedy_answer_goes_on_in_float32_as_if_it_had_never_been_cut(starter: Listener) -> None:
    expect_same_from_each_cut(starter, Sampling(temperature=0.0, max_tokens=40, ignore_eos=True), every=9)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
def test_a_seeded_and_penalized_answer_goes_on_as_if_it_had_never_been_cut(tiny: Open, architecture: str) -> None:
    sampling = Sampling(
        temperature=0.9,
        top_p=0.95,
        top_k=60,
        min_p=0.01,
        repetition_penalty=1.2,
        presence_penalty=0.6,
        frequency_penalty=0.4,
        seed=11,
        max_tokens=24,
        ignore_eos=True,
    )
    expect_same_from_each_cut(tiny(architecture), sampling)


def test_a_penalty_counts_what_was_emitted_before_the_seam(tiny: Open) -> None:
    listener = tiny("gpt2")
    numbers = count()
    plain, penalized = (
        Sampling(temperature=0.0, max_tokens=12, ignore_eos=True, frequency_penalty=penalty) for penalty in (0.0, 2.0)
    )

    def after(token: int, sampling: Sampling) -> set[int]:
        flood = Emitted(" ", (token,) * 8, 8)
        return set(emitted_by(listener.ask(sampled(f"{next(numbers)}", sampling, flood))).ids)

    said = emitted_by(listener.ask(sampled("first", plain))).ids
    repeated = [token for token in said if token in after(token, plain)]
    assert repeated
    assert not any(token in after(token, penalized) for token in repeated)


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(tiny: Open) -> None:
    listener = tiny()
    answers = [
        joined(listener.ask(sampled(f"{number}", Sampling(temperature=1.0, seed=seed, max_tokens=20))))
        for number, seed in enumerate((1, 1, 2))
    ]
    assert answers[0] == answers[1] != answers[2]


def test_log_probabilities_come_with_each_token(starter: Listener) -> None:
    sampling = Sampling(temperature=0.0, max_tokens=4, logprobs=3)
    told = [entry for chunk in starter.ask(sampled("logprobs", sampling)) for entry in chunk.logprobs]
    assert len(told) == 4
    for entry in told:
        assert len(entry.top) == 3
        assert entry.top[0].id == entry.id
        assert entry.top[0].logprob == pytest.approx(entry.logprob)
        assert 0 >= entry.logprob >= entry.top[1].logprob
    assert "".join(entry.text for entry in told).startswith("The capital")


def test_the_models_end_is_a_token_like_others_where_it_is_to_be_ignored(tiny: Open) -> None:
    from inference.transformersengine import TransformersEngine

    listener = tiny()
    engine = listener.engine
    assert isinstance(engine, TransformersEngine)
    # Random weights hardly ever say the end by themselves.
    leaning = {"temperature": 2.0, "seed": 1, "max_tokens": 700, "logit_bias": ((0, 12.0), (2, 12.0))}
    chunks = listener.ask(sampled("a", Sampling(**leaning)))
    assert chunks[-1].finish == "stop"
    assert chunks[-1].ids[-1] in (0, 2)
    longer = listener.ask(sampled("b", Sampling(**leaning, ignore_eos=True)))
    assert longer[-1].finish == "length"
    assert joined(longer).startswith(joined(chunks).rstrip("\ufffd"))


def test_a_prompt_longer_than_one_pass_gives_way_to_others_and_can_be_aborted(tiny: Open) -> None:
    listener = tiny(context=4000)
    listener.engine.submit(sampled("long", Sampling(temperature=0.0, max_tokens=3), prompt="word " * 900))
    assert sum(chunk.count for chunk in listener.answer("long")) == 3
    listener.engine.submit(sampled("longer", Sampling(max_tokens=3), prompt="word " * 1200))
    listener.engine.abort("longer")
    listener.ask(make_request("next", max_tokens=2, ignore_eos=True))
    assert listener.of("longer") == []


def test_who_streams_does_not_wait_for_a_prompt_that_is_rendered(tiny: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from inference.transformersengine import TransformersEngine

    listener = tiny(slots=2, context=4000)
    assert isinstance(listener.engine, TransformersEngine)
    rendering, may = threading.Event(), threading.Event()
    render = listener.engine._prompter.prompt

    def slow(request: Request) -> Prompt:
        if request.id == "slow":
            rendering.set()
            assert may.wait(60)
        return render(request)

    monkeypatch.setattr(listener.engine._prompter, "prompt", slow)
    listener.engine.submit(make_request("streams", max_tokens=3000, ignore_eos=True))
    listener.wait_first("streams")
    listener.engine.submit(make_request("slow", max_tokens=2, ignore_eos=True))
    assert rendering.wait(60)
    before = len(listener.of("streams"))
    listener.wait(lambda: sum(chunk.id == "streams" for chunk in listener.chunks) > before + 4)
    may.set()
    assert listener.answer("slow")[-1].finish == "length"


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(tiny: Open) -> None:
    listener = tiny(context=100)
    assert listener.engine.info.context == 100
    error = listener.ask(sampled("a", Sampling(), prompt="word " * 200))[-1].error
    assert error is not None
    assert error.code == Failure.CONTEXT_OVERFLOW
    assert "100" in error.message
    until_full = listener.ask(sampled("b", Sampling(max_tokens=5000, ignore_eos=True), prompt="word " * 10))
    assert until_full[-1].finish == "length"
    assert until_full[-1].prompt_tokens + sum(chunk.count for chunk in until_full) == 100


def break_next_pass(listener: Listener, error: Exception) -> None:
    """The model's next pass raises, as a kernel or an allocator would."""
    from inference.transformersengine import TransformersEngine

    assert isinstance(listener.engine, TransformersEngine)

    def fail(*_: object) -> None:
        hook.remove()
        raise error

    hook = listener.engine._network.model.register_forward_pre_hook(fail)


def test_what_the_model_raises_ends_that_request_alone_and_nobody_waits_for_ever(tiny: Open) -> None:
    listener = tiny()
    listener.engine.submit(make_request("a", max_tokens=4000, ignore_eos=True))
    listener.wait_first("a")
    listener.engine.submit(make_request("b", max_tokens=2, ignore_eos=True))
    break_next_pass(listener, RuntimeError("a kernel failed at /somewhere/secret"))
    listener.answer("a", "b")
    error = listener.of("a")[-1].error
    assert error is not None
    assert error.code == Failure.ENGINE_FAILED
    assert "secret" not in error.message
    assert listener.of("b")[-1].finish == "length"


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_a_request_for_which_memory_runs_out_fails_alone(tiny: Open, error: Exception) -> None:
    listener = tiny()
    break_next_pass(listener, error)
    failure = listener.ask(make_request("a", max_tokens=5))[-1].error
    assert failure is not None
    assert failure.code == Failure.OUT_OF_MEMORY
    assert "max_tokens" in failure.message
    assert listener.ask(make_request("b", max_tokens=2, ignore_eos=True))[-1].finish == "length"


def test_scores_that_are_no_numbers_are_an_error_that_says_so(tiny: Open) -> None:
    import torch

    from inference.transformersengine import TransformersEngine

    listener = tiny("gpt2")
    assert isinstance(listener.engine, TransformersEngine)
    with torch.no_grad():
        listener.engine._network.model.transformer.ln_f.weight.fill_(float("nan"))
    error = listener.ask(make_request("a", max_tokens=5))[-1].error
    assert error is not None
    assert "not numbers" in error.message


class Passes:
    """Counts a model's passes by their rows, and makes one of so many rows fail."""

    def __init__(self, listener: Listener, fail_at: int = 0) -> None:
        from inference.transformersengine import TransformersEngine

        assert isinstance(listener.engine, TransformersEngine)
        self.shapes: list[tuple[int, int]] = []  #: rows and tokens
        self._fail_at = fail_at
        listener.engine._network.model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, _: object, __: object, kwargs: dict[str, Any]) -> None:
        self.shapes.append(tuple(kwargs["input_ids"].shape))
        if self.rows[-1] == self._fail_at:
            raise RuntimeError("one of them cannot be computed")

    @property
    def rows(self) -> list[int]:
        return [rows for rows, _ in self.shapes]

    @property
    def prompts(self) -> list[tuple[int, int]]:
        """The passes that take in prompts."""
        return [(rows, tokens) for rows, tokens in self.shapes if tokens > 1]


def several() -> list[Request]:
    """Requests of different lengths and samplings."""
    shared: Any = {"max_tokens": 24, "ignore_eos": True}
    return [
        sampled("greedy", Sampling(temperature=0.0, **shared)),
        sampled("short", Sampling(temperature=0.0, max_tokens=5, ignore_eos=True), prompt="word"),
        sampled("drawn", Sampling(temperature=1.0, seed=5, **shared), prompt="the quick brown fox " * 9),
        sampled("penalized", Sampling(temperature=0.0, frequency_penalty=1.5, **shared), prompt="a language"),
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_requests_that_share_their_passes_get_what_each_gets_alone(tiny: Open, architecture: str) -> None:
    listener = tiny(architecture, slots=4)
    for request in several():
        listener.ask(request)
    alone = {request.id: emitted_by(listener.of(request.id)) for request in several()}
    listener.chunks.clear()
    passes = Passes(listener)
    for request in several():
        listener.engine.submit(request)
    listener.answer(*alone)
    assert {name: emitted_by(listener.of(name)) for name in alone} == alone
    assert max(passes.rows) > 2
    assert len(passes.rows) < 0.7 * sum(answer.count for answer in alone.values())


def submit_together(listener: Listener, requests: list[Request], abort: str = "") -> None:
    """They are admitted at once, and then one of them may be aborted before any pass."""
    from inference.transformersengine import TransformersEngine

    assert isinstance(listener.engine, TransformersEngine)
    room, admit = listener.engine._room, listener.engine._room.admit

    def admit_all() -> list[Any]:
        if len(room._waiting) < len(requests):
            return []
        room.admit = admit  # type: ignore[method-assign]
        admitted = admit()
        listener.engine.abort(abort)
        return admitted

    room.admit = admit_all  # type: ignore[method-assign]
    for request in requests:
        listener.engine.submit(request)


def of_words(*words: int, tokens: int = 6) -> list[Request]:
    """A greedy request for each number of words."""
    sampling = Sampling(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    return [sampled(f"{number}", sampling, prompt="word " * size) for number, size in enumerate(words)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prompts_that_wait_are_taken_in_together_and_answered_as_alone(tiny: Open, architecture: str) -> None:
    listener = tiny(architecture, slots=6)
    requests = of_words(3, 1, 2, 4, 2)
    alone = {request.id: emitted_by(listener.ask(request)) for request in requests}
    listener.chunks.clear()
    passes = Passes(listener)
    submit_together(listener, requests)
    listener.answer(*alone)
    assert {name: emitted_by(listener.of(name)) for name in alone} == alone
    assert [rows for rows, _ in passes.prompts] == [5]
    assert set(passes.rows) == {5}


def test_a_pass_over_prompts_is_bounded_and_pads_little_and_no_answer_waits_for_two(tiny: Open) -> None:
    from inference.transformersanswer import PASS

    listener = tiny(slots=20, context=4000)
    requests = of_words(*[30] * 7, 90, 31, *[29] * 4, tokens=12)
    passes = Passes(listener)
    submit_together(listener, requests)
    listener.answer(*(request.id for request in requests))
    longest = listener.of("7")[-1].prompt_tokens
    assert sum(rows for rows, _ in passes.prompts) == len(requests)
    assert len(passes.prompts) < len(requests) / 2
    assert all(rows * tokens <= PASS for rows, tokens in passes.prompts)
    assert [rows for rows, tokens in passes.prompts if tokens == longest] == [1]
    assert not any(first > 1 and second > 1 for (_, first), (_, second) in pairwise(passes.shapes))


def test_a_request_that_is_aborted_among_waiting_prompts_takes_no_part_and_gives_its_slot_back(tiny: Open) -> None:
    listener = tiny(slots=4)
    passes = Passes(listener)
    submit_together(listener, of_words(3, 3, 3), abort="1")
    listener.answer("0", "2")
    assert listener.of("1") == []
    assert [rows for rows, _ in passes.prompts] == [2]


def test_a_request_that_comes_later_joins_those_that_run_and_one_that_leaves_disturbs_none(tiny: Open) -> None:
    listener = tiny(slots=3)
    first, second = (sampled(name, Sampling(temperature=0.0, max_tokens=300, ignore_eos=True)) for name in "ab")
    expected = emitted_by(listener.ask(sampled("x", first.sampling)))
    listener.chunks.clear()
    passes = Passes(listener)
    listener.engine.submit(first)
    listener.wait_first("a")
    listener.engine.submit(second)
    listener.wait_first("b")
    listener.engine.submit(sampled("c", Sampling(temperature=0.0, max_tokens=4, ignore_eos=True), prompt="word " * 700))
    listener.answer("c")
    listener.engine.abort("b")
    listener.answer("a")
    assert emitted_by(listener.of("a")) == expected
    assert not any(chunk.finish for chunk in listener.of("b"))
    assert max(passes.rows) == 3


def test_of_a_shared_pass_that_fails_each_request_goes_on_alone(tiny: Open) -> None:
    listener = tiny(slots=4)
    alone = {request.id: emitted_by(listener.ask(request)) for request in several()}
    listener.chunks.clear()
    passes = Passes(listener, fail_at=3)
    for request in several():
        listener.engine.submit(request)
    listener.answer(*alone)
    assert {name: emitted_by(listener.of(name)) for name in alone} == alone
    assert passes.rows.count(3) == 1


def test_requests_share_passes_only_within_the_memory_that_is_granted(tiny: Open) -> None:
    whole = tiny(slots=2, context=600).engine.info
    per_token = whole.cache_bytes // 1200
    listener = tiny(slots=2, context=600, memory=whole.weights_bytes + 700 * per_token)
    passes = Passes(listener)
    listener.engine.submit(sampled("long", Sampling(max_tokens=500, ignore_eos=True), prompt="word " * 20))
    listener.engine.submit(sampled("short", Sampling(max_tokens=50, ignore_eos=True), prompt="word"))
    listener.answer("long", "short")
    assert set(passes.rows) == {1}  # together they would be padded to two long ones


def test_an_architecture_whose_requests_cannot_share_passes_has_one_slot_and_answers(copy: Path) -> None:
    edit_config(copy, use_sliding_window=True, sliding_window=16, max_window_layers=1)
    edit_config(copy, layer_types=["full_attention", "sliding_attention"])
    with Listener(build(spec_of(copy, slots=4), lambda fraction: None)) as listener:
        assert listener.engine.info.slots == 1
        for request in several():
            listener.engine.submit(request)
        listener.answer(*(request.id for request in several()))
        assert [sum(chunk.count for chunk in listener.of(request.id)) for request in several()] == [24, 5, 24, 24]
        expect_same_from_each_cut(listener, Sampling(temperature=0.0, max_tokens=40, ignore_eos=True), every=13)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_validated_architecture_loads_and_streams(checkpoints: Checkpoints, architecture: str) -> None:
    said: list[float] = []
    engine = build(spec_of(checkpoints(architecture)), said.append)
    with Listener(engine) as listener:
        chunks = listener.ask(make_request("a", max_tokens=12, ignore_eos=True))
        assert sum(chunk.count for chunk in chunks) == 12
        assert len(chunks) > 1
        again = listener.ask(make_request("b", max_tokens=12, ignore_eos=True))
        assert emitted_by(again) == emitted_by(chunks)
        info = engine.info
    assert said[0] == 0.0
    assert said[-1] == 1.0
    assert len(said) > 10
    assert said == sorted(said)
    assert (info.dtype, info.quantization) == ("float32", "")
    assert info.weights_bytes > 100_000
    assert info.cache_bytes > 0


def test_of_an_omni_model_the_thinker_alone_is_loaded(tiny: Open, checkpoints: Checkpoints) -> None:
    files = sum(file.stat().st_size for file in checkpoints("qwen3-omni").glob("*.safetensors"))
    assert tiny("qwen3-omni").engine.info.weights_bytes < 0.8 * files


def test_a_model_without_a_template_stops_before_the_users_next_turn(tiny: Open) -> None:
    for architecture in WITHOUT_TEMPLATE:
        listener = tiny(architecture)
        chunks = listener.ask(make_request("a", max_tokens=3, ignore_eos=True))
        plain = "User: What is the capital of France? Answer in one sentence.\nAssistant:"
        same = listener.ask(sampled("b", Sampling(temperature=0.0, max_tokens=3, ignore_eos=True), prompt=plain))
        assert emitted_by(chunks) == emitted_by(same)
        assert chunks[-1].prompt_tokens == same[-1].prompt_tokens


def test_4_bit_weights_take_less_than_half_the_memory_and_answer_still(
    starter: Listener, starter_bf16: Path, checkpoints: Checkpoints
) -> None:
    assert isinstance(starter.engine, RemoteEngine)
    plain = starter.engine.info
    empty = load_remote(checkpoints("qwen3"), quantize="q8")  # imports what 4 bits import
    bare = resident(empty)
    empty.close()
    with Listener(load_remote(starter_bf16, quantize="q4")) as small:
        info = small.engine.info
        assert (info.dtype, info.quantization) == ("bfloat16", "nf4")
        assert info.weights_bytes < 0.45 * plain.weights_bytes / 2  # against 16 bits
        assert isinstance(small.engine, RemoteEngine)
        assert resident(small.engine) - bare < 0.5 * (resident(starter.engine) - bare)
        text = joined(small.ask(make_request("paris", max_tokens=30)))
        assert "Paris" in text


def test_8_bit_weights_load_and_answer(tiny: Open) -> None:
    listener = tiny(quantize="q8")
    assert listener.engine.info.quantization == "int8"
    assert sum(chunk.count for chunk in listener.ask(make_request("a", max_tokens=4, ignore_eos=True))) == 4


def test_a_precision_can_be_forced(tiny: Open) -> None:
    full, half = (tiny(quantize=quantize).engine.info for quantize in ("fp32", "fp16"))
    assert (full.dtype, half.dtype) == ("float32", "float16")
    assert half.weights_bytes == pytest.approx(full.weights_bytes / 2, rel=0.05)


def test_a_budget_makes_the_context_fit(tiny: Open) -> None:
    whole = tiny().engine.info
    assert whole.context == CONTEXT
    budget = whole.weights_bytes + 300 * whole.cache_bytes // CONTEXT
    cut = tiny(memory=budget).engine.info
    assert cut.context == 300
    assert cut.weights_bytes + cut.cache_bytes <= budget


def test_weights_beyond_the_budget_are_refused_before_they_are_loaded(checkpoints: Checkpoints) -> None:
    said: list[float] = []
    with pytest.raises(LoadError) as caught:
        build(spec_of(checkpoints("qwen3"), memory=10_000), said.append)
    assert caught.value.code == "out_of_memory"
    assert "0.00 GB" in caught.value.message
    assert said == [0.0]


def test_memory_that_runs_out_over_a_load_is_told_with_figures_and_another_load_goes_well(
    checkpoints: Checkpoints, tiny: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import Qwen3ForCausalLM

    def run_out(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory at 0xsecret")

    with monkeypatch.context() as patched:
        patched.setattr(Qwen3ForCausalLM, "from_pretrained", run_out)
        error = refused(checkpoints("qwen3"))
    assert error.code == "out_of_memory"
    assert "GB" in error.message
    assert "q4" in error.message
    assert "secret" not in error.message
    assert tiny().ask(make_request("a", max_tokens=2, ignore_eos=True))[-1].finish == "length"


def edit_config(folder: Path, **values: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def test_an_architecture_that_transformers_does_not_know_is_told_from_a_damaged_one(copy: Path) -> None:
    assert refused(edit_config(copy, model_type="qwen99", architectures=["Qwen99ForCausalLM"])).code == (
        "unsupported_model"
    )
    assert refused(edit_config(copy, model_type="qwen3", architectures=["os"])).code == "unsupported_model"
    error = refused(edit_config(copy, architectures=["Qwen3ForSequenceClassification"]))
    assert (error.code, "Qwen3ForSequenceClassification" in error.message) == ("unsupported_model", True)
    broken = edit_config(copy, architectures=["Qwen3ForCausalLM"], num_attention_heads="many")
    assert refused(broken).code == "bad_model"


def test_a_model_never_brings_its_own_code(copy: Path) -> None:
    (copy / "mine.py").write_text("raise SystemExit('ran')")
    edit_config(copy, model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"})
    assert refused(copy).code == "unsupported_model"


def test_missing_and_damaged_files_are_named_as_such(copy: Path) -> None:
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert refused(copy).code == "bad_model"
    weights.write_bytes(b"no tensors")
    assert refused(copy).code == "bad_model"
    weights.unlink()
    assert "no weights" in refused(copy).message
    weights.write_bytes(whole)
    (copy / "config.json").write_text("{")
    assert refused(copy).code == "bad_model"
    (copy / "config.json").unlink()
    assert "config.json" in refused(copy).message
    assert refused(copy / "nowhere").code == "bad_model"


def test_a_checkpoint_that_lacks_weights_is_refused_rather_than_filled_with_noise(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    error = refused(copy)
    assert error.code == "bad_model"
    assert "model.layers.1.mlp.up_proj.weight" in error.message


@pytest.mark.parametrize(("method", "package"), [("gptq", "optimum"), ("awq", "gptqmodel")])
def test_a_quantized_checkpoint_that_nothing_here_can_read_names_the_package(
    copy: Path, method: str, package: str
) -> None:
    edit_config(copy, quantization_config={"quant_method": method, "bits": 4, "group_size": 32})
    error = refused(copy, quantize="q4")
    assert error.code == "unsupported_model"
    assert f"pip install {package}" in error.message


def test_an_fp8_checkpoint_is_recognised_and_computed_in_16_bits_without_a_gpu(copy: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    stored = {}
    for name, weight in load_file(copy / "model.safetensors").items():
        stored[name] = weight.to(torch.bfloat16)
        if weight.dim() == 2 and "layers" in name:
            scale = weight.abs().max() / 448
            stored[name] = (weight / scale).to(torch.float8_e4m3fn)
            stored[name.replace("weight", "weight_scale_inv")] = scale.reshape(1, 1).float()
    save_file(stored, copy / "model.safetensors", metadata={"format": "pt"})
    method = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    edit_config(copy, quantization_config=method, dtype="bfloat16")
    with Listener(build(spec_of(copy, quantize="q4"), lambda fraction: None)) as listener:
        assert sum(chunk.count for chunk in listener.ask(make_request("a", max_tokens=4, ignore_eos=True))) == 4
        assert listener.engine.info.dtype == "bfloat16"
        assert listener.engine.info.quantization != "nf4"
