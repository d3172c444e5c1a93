"""What the vLLM engine does beyond every engine's contract: on the starter model, and on tiny random ones."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from inference.errors import EngineDiedError, LoadError
from inference.process import members
from inference.protocol import Chunk, Emitted, Message, Request, Sampling, Spec
from inference.remote import RemoteEngine
from tests.checkpoints import Checkpoints
from tests.contract.listener import Listener, make_request, part_read_after_abort
from tests.needs import needs
from tests.unit.inference.test_process import ROOT, wait_until

pytestmark = needs("vllm", "torch")

CAPITAL = (Message("user", "What is the capital of France?"),)
#: Its answer is made of characters that take several tokens each.
EMOJI = "😀 世界 😀 世界 😀 世界 😀"
FORM = json.dumps(
    {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "people": {"type": "integer", "maximum": 999}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
)
OWNER = """
import sys
from inference.protocol import Spec
from inference.remote import RemoteEngine
engine = RemoteEngine.load(Spec("vllm", sys.argv[1], 4), 120)
print(engine.process.pgid, flush=True)
sys.stdin.read()  # ends with the test, however that ends
"""


def load(path: Path, slots: int = 8, **kwargs: object) -> RemoteEngine:
    return RemoteEngine.load(Spec("vllm", str(path), slots, **kwargs), timeout=120)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def engine(starter_bf16: Path) -> Iterator[Listener]:
    """The starter model in float32, whose continuations are exact."""
    with Listener(load(starter_bf16, quantize="fp32")) as listener:
        yield listener


@pytest.fixture
def starter(engine: Listener) -> Iterator[Listener]:
    """The same, with nothing said yet."""
    yield engine
    engine.forget()


def sampled(request_id: str, *, emitted: Emitted = Emitted(), prompt: str | None = None, **kwargs: object) -> Request:
    return Request(request_id, CAPITAL, Sampling(**kwargs), emitted=emitted, prompt=prompt)  # type: ignore[arg-type]


def emitted_by(chunks: list[Chunk]) -> Emitted:
    return Emitted(
        "".join(chunk.text for chunk in chunks),
        tuple(token for chunk in chunks for token in chunk.ids),
        sum(chunk.count for chunk in chunks),
    )


def refused(path: Path, **kwargs: object) -> LoadError:
    with pytest.raises(LoadError) as caught:
        load(path, **kwargs).close()
    assert str(path.parent) not in caught.value.message
    return caught.value


def test_the_greedy_answer_is_right(starter: Listener) -> None:
    chunks = starter.ask(make_request("paris", messages=CAPITAL))
    assert starter.text("paris") == "The capital of France is Paris."
    assert chunks[-1].finish == "stop"
    assert len(chunks) > 5


def test_it_says_how_it_lies_in_memory(starter: Listener) -> None:
    info = starter.engine.info
    assert (info.engine, info.context, info.dtype, info.quantization) == ("vllm", 8192, "float32", "")
    assert info.weights_bytes == pytest.approx(134_515_008 * 4, rel=0.01)
    assert info.cache_bytes > 8192 * 30 * 3 * 64 * 2 * 4


def test_nothing_of_it_can_be_reached_from_elsewhere(starter: Listener) -> None:
    assert isinstance(starter.engine, RemoteEngine)
    inside = [psutil.Process(pid) for pid in members(starter.engine.process.pgid)]
    connections = [connection for process in inside for connection in process.net_connections("inet")]
    assert {connection.laddr.ip for connection in connections} <= {"127.0.0.1", "::1"}


def test_eight_at_once_share_their_steps(starter: Listener) -> None:
    ids = [f"r{n}" for n in range(8)]
    for request_id in ids:
        starter.engine.submit(make_request(request_id, max_tokens=24, ignore_eos=True))
    starter.answer(*ids)
    assert {sum(chunk.count for chunk in starter.of(request_id)) for request_id in ids} == {24}
    assert len({starter.text(request_id) for request_id in ids}) == 1
    # One message a step for all that ran in it: 192 tokens in not many more steps than one answer takes.
    assert starter.steps < 24 * 2


def test_an_abort_ends_the_reading_of_a_long_prompt(starter: Listener) -> None:
    assert part_read_after_abort(starter, times=14) < 0.6


@pytest.mark.parametrize(
    "kwargs",
    [
        {"max_tokens": 40},
        {"prompt": EMOJI, "max_tokens": 32},
        {"prompt": "one, two, three,", "repetition_penalty": 1.2},
    ],
    ids=["words", "characters of several tokens", "repetition penalty"],
)
def test_a_greedy_answer_goes_on_in_float32_as_if_it_had_never_been_cut(
    starter: Listener, kwargs: dict[str, object]
) -> None:
    kwargs = {"temperature": 0.0, "max_tokens": 20, "ignore_eos": True} | kwargs
    whole = starter.ask(sampled("whole", **kwargs))  # type: ignore[arg-type]
    assert not any("\ufffd" in chunk.text for chunk in whole)
    cuts = {f"from {cut}": cut for cut in range(1, len(whole), 4)}
    for name, cut in cuts.items():
        starter.engine.submit(sampled(name, emitted=emitted_by(whole[:cut]), **kwargs))  # type: ignore[arg-type]
    starter.answer(*cuts)
    for name, cut in cuts.items():
        rest = starter.of(name)
        assert emitted_by(whole[:cut] + rest) == emitted_by(whole)
        assert rest[-1].prompt_tokens == whole[-1].prompt_tokens


def test_characters_of_several_tokens_come_whole(starter: Listener) -> None:
    chunks = starter.ask(sampled("emoji", prompt=EMOJI, temperature=0.0, max_tokens=32, ignore_eos=True))
    assert any(chunk.count > 1 for chunk in chunks[:-1])
    assert any(ord(letter) > 0x2000 for letter in starter.text("emoji"))


def test_a_stop_string_over_several_tokens_ends_the_answer_and_its_slot(starter: Listener) -> None:
    chunks = starter.ask(make_request("a", messages=CAPITAL, stop=("of Fra",)))
    assert starter.text("a") == "The capital "
    assert chunks[-1].finish == "stop"
    assert not any(chunk.finish for chunk in chunks[:-1])
    said = len(starter.of("a"))
    starter.ask(make_request("b", messages=CAPITAL))
    assert len(starter.of("a")) == said


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(starter: Listener) -> None:
    for request_id, seed in (("a", 1), ("b", 1), ("c", 2)):
        starter.ask(sampled(request_id, temperature=1.5, seed=seed, max_tokens=10, ignore_eos=True))
    assert starter.text("a") == starter.text("b") != starter.text("c")


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=["top_k", "top_p", "min_p"])
def test_a_filter_that_leaves_one_token_is_greedy(starter: Listener, narrow: dict[str, object]) -> None:
    starter.ask(sampled("hot", temperature=2.0, max_tokens=12, **narrow))  # type: ignore[arg-type]
    assert "The capital of France is Paris.".startswith(starter.text("hot"))


@pytest.mark.parametrize("penalty", ["repetition_penalty", "presence_penalty", "frequency_penalty"])
def test_a_penalty_makes_an_answer_repeat_itself_less(starter: Listener, penalty: str) -> None:
    different = []
    for request_id, value in (("plain", {}), ("penalized", {penalty: 2.0})):
        sampling = {"temperature": 0.0, "max_tokens": 24, "ignore_eos": True} | value
        chunks = starter.ask(sampled(request_id, prompt="red, blue, red, blue, red, blue,", **sampling))  # type: ignore[arg-type]
        different.append(len(set(emitted_by(chunks).ids)))
    assert different[0] < different[1]


def test_an_answer_fits_the_schema_that_was_asked_for(starter: Listener) -> None:
    chunks = starter.ask(sampled("a", temperature=0.0, max_tokens=64, schema=FORM))
    assert chunks[-1].finish == "stop"
    assert list(json.loads(starter.text("a"))) == ["city", "people"]


def test_a_schema_that_cannot_be_kept_to_is_refused(starter: Listener) -> None:
    failed = starter.ask(sampled("a", schema='{"type": "strange"}'))
    assert [chunk.error.code for chunk in failed if chunk.error] == ["invalid_request"]


def test_a_bias_decides_what_is_drawn(starter: Listener) -> None:
    first = starter.ask(sampled("plain", temperature=0.0, max_tokens=1, logprobs=2))[0].logprobs[0]
    bias = ((first.id, -100.0), (10**9, 5.0))
    starter.ask(sampled("biased", temperature=0.0, max_tokens=1, logit_bias=bias))
    assert starter.text("biased") == first.top[1].text


def test_log_probabilities_come_with_each_token(starter: Listener) -> None:
    chunks = starter.ask(sampled("a", temperature=0.0, max_tokens=6, logprobs=3))
    said = [logprob for chunk in chunks for logprob in chunk.logprobs]
    assert [logprob.id for logprob in said] == [token for chunk in chunks for token in chunk.ids]
    assert "".join(logprob.text for logprob in said) == starter.text("a")
    for logprob in said:
        assert len(logprob.top) == 3
        assert logprob.top[0].id == logprob.id  # greedy: the likeliest was drawn
        assert 0 >= logprob.top[0].logprob >= logprob.top[1].logprob >= logprob.top[2].logprob
    without = starter.ask(sampled("b", temperature=0.0, max_tokens=2, logprobs=0))
    assert [len(logprob.top) for chunk in without for logprob in chunk.logprobs] == [0, 0]


def test_what_vllm_itself_refuses_is_an_invalid_request_and_harms_nobody(starter: Listener) -> None:
    failed = starter.ask(sampled("bad", top_p=7.0))
    assert failed[-1].error is not None
    assert (failed[-1].error.code, "top_p" in failed[-1].error.message) == ("invalid_request", True)
    assert starter.ask(make_request("good", max_tokens=2))[-1].finish == "length"


def test_a_prompt_beyond_the_context_fails_with_both_numbers(starter: Listener) -> None:
    chunks = starter.ask(make_request("a", messages=(Message("user", "word " * 9000),)))
    assert chunks[-1].error is not None
    assert chunks[-1].error.code == "context_overflow"
    assert str(chunks[-1].prompt_tokens) in chunks[-1].error.message
    assert "8192" in chunks[-1].error.message


def test_texts_agree_with_those_of_transformers(starter: Listener, transformers_starter: Listener) -> None:
    asked = [CAPITAL, (Message("system", "You are terse."), Message("user", "Name three colours 🎨."))]
    for number, messages in enumerate(asked):
        name = f"agree {number}"
        for listener in (starter, transformers_starter):
            listener.ask(make_request(name, messages=messages, max_tokens=40))
        assert starter.text(name) == transformers_starter.text(name)
        assert starter.of(name)[-1].prompt_tokens == transformers_starter.of(name)[-1].prompt_tokens


@pytest.mark.parametrize("architecture", ["gpt2", "opt"])
def test_an_architecture_without_a_template_is_streamed_in_the_plain_form(
    checkpoints: Checkpoints, architecture: str
) -> None:
    with Listener(load(checkpoints(architecture), slots=2)) as listener:
        chunks = listener.ask(make_request("a", max_tokens=12, ignore_eos=True))
        assert sum(chunk.count for chunk in chunks) == 12
        assert len(chunks) > 1


def test_a_small_budget_gives_a_smaller_context_which_an_answer_may_fill(
    starter_bf16: Path, checkpoints: Checkpoints
) -> None:
    weights = sum(path.stat().st_size for path in starter_bf16.glob("*.safetensors"))
    engine = load(starter_bf16, slots=2, memory=weights + 1024 * 30 * 3 * 64 * 2 * 2)
    with Listener(engine) as listener:
        context = engine.info.context
        assert context is not None
        assert 512 <= context <= 1024
        assert engine.info.weights_bytes + engine.info.cache_bytes <= weights + 1024 * 30 * 3 * 64 * 2 * 2
        prompt = "word " * (context - 20)
        chunks = listener.ask(sampled("a", prompt=prompt, max_tokens=4000, ignore_eos=True))
        assert chunks[-1].finish == "length"
        assert chunks[-1].prompt_tokens + sum(chunk.count for chunk in chunks) == context
        # The death of vLLM's own process reaches whoever reads and whoever submits, with what to look at.
        listener.engine.submit(make_request("b", max_tokens=400, ignore_eos=True))
        listener.wait_first("b")
        inner = max(members(engine.process.pgid))
        os.kill(inner, signal.SIGKILL)
        listener.wait(lambda: listener.ended)
        assert listener.died is not None
        assert "nvidia-smi" in listener.died.message
        assert members(engine.process.pgid) == []
        with pytest.raises(EngineDiedError):
            engine.submit(make_request("c"))


def test_an_owner_killed_by_sigkill_leaves_no_process(checkpoints: Checkpoints) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(checkpoints("qwen3"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as owner:
        assert owner.stdout is not None
        pgid = int(owner.stdout.readline())
        assert len(members(pgid)) == 3  # the guard, the host, vLLM's own
        os.kill(owner.pid, signal.SIGKILL)
    wait_until(lambda: members(pgid) == [])


def test_an_architecture_that_vllm_does_not_know_is_refused_with_the_reason(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(checkpoints("qwen3"), tmp_path / "model"))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"architectures": ["StrangeForCausalLM"]}))
    error = refused(path)
    assert error.code == "unsupported_model"
    assert "StrangeForCausalLM" in error.message
    assert len(error.message) < 400


def test_its_own_metrics_are_told_to_the_owner(starter: Listener) -> None:
    starter.ask(make_request("counted", max_tokens=3, ignore_eos=True))

    starter.wait(lambda: any("vllm:generation_tokens_total{" in chunk.text for chunk in starter.of("")))
    names = {line.split()[2] for line in starter.of("")[-1].text.splitlines() if line.startswith("# TYPE")}
    assert {"vllm:kv_cache_usage_perc", "vllm:num_requests_running", "vllm:inter_token_latency_seconds"} <= names
    assert all(name.startswith("vllm:") for name in names)


def test_a_prompt_s_cache_serves_its_own_tenant_alone(starter: Listener) -> None:
    """By vLLM's own count of the prompt's tokens that its cache had: how fast an answer begins tells nothing else."""
    asked = (Message("user", "Which of these words is a colour? " + "stone river lamp " * 60),)

    def ask(request_id: str, salt: str) -> None:
        starter.ask(make_request(request_id, messages=asked, max_tokens=2, salt=salt))

    def hits() -> float:
        """As vLLM tells next, of all that was asked so far."""
        seen = len(starter.of(""))
        starter.wait(lambda: len(starter.of("")) > seen)
        lines = (line.rpartition(" ") for line in starter.of("")[-1].text.splitlines())
        return sum(float(value) for name, _, value in lines if name.startswith("vllm:prefix_cache_hits_total"))

    before = hits()
    for tenant in ("alice", "bob", "carol"):
        ask(tenant, tenant)
    assert hits() == before
    ask("alice again", "alice")
    assert hits() > before + 100
