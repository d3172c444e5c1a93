import json
import shutil
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from inference import prompts
from inference.errors import LoadError, RefusedError
from inference.prompts import PLAIN_STOP, Prompt, Prompter, load_template, load_tokenizer, plain
from inference.protocol import Emitted, Message, Request, Sampling

CHAT = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello!"), Message("user", "Bye"))
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.fixture
def folder(starter_bf16: Path, tmp_path: Path) -> Path:
    """The starter's tokenizer alone, to be changed."""
    for name in TOKENIZER:
        shutil.copy(starter_bf16 / name, tmp_path)
    return tmp_path


@pytest.fixture
def tokenizer(starter_bf16: Path) -> Any:
    return load_tokenizer(starter_bf16)


def prompter(tokenizer: Any, template: str | None, context: int = 8192) -> Prompter:
    return Prompter(tokenizer, template, context)


def ask(**kwargs: Any) -> Request:
    sampling = Sampling(max_tokens=kwargs.pop("max_tokens", 100), stop=kwargs.pop("stop", ()))
    return Request("a", kwargs.pop("messages", CHAT), sampling, **kwargs)


def test_the_models_own_template_renders_a_chat(tokenizer: Any, starter_bf16: Path) -> None:
    prompt = prompter(tokenizer, load_template(starter_bf16, tokenizer)).prompt(ask(stop=("x",)))
    turns = [{"role": message.role, "content": message.content} for message in CHAT]
    expected = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True)["input_ids"]
    assert prompt == Prompt(expected, len(expected), ("x",), 100)


def test_a_model_without_a_template_gets_the_plain_form_and_stops_before_the_next_user(tokenizer: Any) -> None:
    prompt = prompter(tokenizer, None).prompt(ask(stop=("x",)))
    text = "System: Be brief.\nUser: Hi\nAssistant: Hello!\nUser: Bye\nAssistant:"
    assert tokenizer.decode(prompt.ids) == text == plain(CHAT)
    assert prompt.stop == ("x", PLAIN_STOP)


def test_a_raw_prompt_stands_as_it_is(tokenizer: Any) -> None:
    prompt = prompter(tokenizer, None).prompt(ask(messages=(), prompt="Once upon a time"))
    assert tokenizer.decode(prompt.ids) == "Once upon a time"
    assert prompt.stop == ()


def test_what_a_tokenizer_puts_in_front_of_a_text_is_in_front_of_what_no_template_made(starter_bf16: Path) -> None:
    tokenizer = load_tokenizer(starter_bf16)
    tokenizer.add_bos_token = True
    template = "{{ bos_token }}{{ messages[0].content }}"
    for prompt in (
        prompter(tokenizer, None).prompt(ask(prompt="Once")),
        prompter(tokenizer, None).prompt(ask()),
        prompter(tokenizer, template).prompt(ask()),
    ):
        assert prompt.ids.count(tokenizer.bos_token_id) == 1
        assert prompt.ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for x in %}", "Expected an expression"),
        ("{{ messages[0].content.missing.more }}", "has no attribute"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    ],
)
def test_a_template_that_fails_refuses_the_request_and_says_what(tokenizer: Any, template: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason) as caught:
        prompter(tokenizer, template).prompt(ask())
    assert caught.value.failure.code == "invalid_request"


def test_no_messages_and_an_empty_prompt_are_refused(tokenizer: Any) -> None:
    for request in (ask(messages=()), ask(prompt="")):
        with pytest.raises(RefusedError) as caught:
            prompter(tokenizer, "{{ messages[0].content }}").prompt(request)
        assert caught.value.failure.code == "invalid_request"


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(tokenizer: Any) -> None:
    size = len(tokenizer.encode(plain(CHAT)))
    with pytest.raises(RefusedError, match=rf"{size} tokens.* {size},") as caught:
        prompter(tokenizer, None, size).prompt(ask())
    assert (caught.value.failure.code, caught.value.prompt_tokens) == ("context_overflow", size)
    assert prompter(tokenizer, None, size + 3).prompt(ask()).budget == 3


def test_a_continuation_goes_on_after_the_emitted_ids(tokenizer: Any) -> None:
    whole = prompter(tokenizer, None).prompt(ask())
    ids = tuple(tokenizer.encode(" Good bye!"))
    going_on = prompter(tokenizer, None).prompt(ask(emitted=Emitted(" Good bye!", ids, len(ids))))
    assert going_on == (whole.ids + list(ids), whole.tokens, whole.stop, 100 - len(ids))
    by_text = prompter(tokenizer, None).prompt(ask(emitted=Emitted(" Good bye!", (), len(ids))))
    assert by_text == going_on


def test_a_continuation_that_fills_the_context_has_nothing_left(tokenizer: Any) -> None:
    size = len(tokenizer.encode(plain(CHAT)))
    prompt = prompter(tokenizer, None, size + 2).prompt(ask(emitted=Emitted("a b", (1, 2), 2)))
    assert prompt.budget == 0


def test_the_template_beside_a_tokenizer_that_has_none_is_taken(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    assert load_template(folder, load_tokenizer(folder)) is None
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert load_template(folder, load_tokenizer(folder)) == "{{ messages }}"


def test_of_several_templates_the_default_is_taken(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = {"default": "{{ 1 }}", "tool_use": "{{ 2 }}"}
    assert load_template(folder, tokenizer) == "{{ 1 }}"


def test_a_tokenizer_that_is_not_there_or_is_broken_is_a_bad_model(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    (tmp_path / "empty").mkdir()
    for broken in (folder, tmp_path / "empty"):
        with pytest.raises(LoadError, match="Pull the model again") as caught:
            load_tokenizer(broken)
        assert caught.value.code == "bad_model"


@pytest.mark.parametrize("known", [True, False])
def test_code_in_a_models_folder_never_runs(folder: Path, known: bool) -> None:
    ran = folder / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    auto_map = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    config = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer_class = config["tokenizer_class"] if known else "Evil"
    config |= {"auto_map": auto_map, "tokenizer_class": tokenizer_class}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}))
    with suppress(LoadError):
        load_tokenizer(folder)
    assert not ran.exists()


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ messages[0].content }}"


def test_a_template_without_an_end_is_given_up_and_the_next_request_is_unharmed(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "RENDER_SECONDS", 0.05)
    endless = prompter(tokenizer, LOOPS)
    for _ in range(3):
        with pytest.raises(RefusedError, match=r"takes more than 0\.05 s"):
            endless.prompt(ask())
    monkeypatch.setattr(prompts, "RENDER_SECONDS", 5)
    assert prompter(tokenizer, "{{ messages[0].content }}").prompt(ask()).tokens > 0


def test_a_template_that_swells_is_refused(tokenizer: Any) -> None:
    with pytest.raises(RefusedError, match="far more text"):
        prompter(tokenizer, "{{ 'x' * 5000000 }}").prompt(ask())


@pytest.mark.parametrize(
    ("template", "refused"),
    [("{{ 9 ** 9 }}", True), ("{% if 2**x %}{% endif %}", True), ("**Hi** {{ 2 * 3 }} {# ** #}", False)],
)
def test_a_template_that_computes_powers_is_refused(folder: Path, template: str, refused: bool) -> None:
    (folder / "chat_template.jinja").write_text(template)
    found = load_tokenizer(folder)
    with pytest.raises(LoadError, match="powers") if refused else nullcontext():
        assert load_template(folder, found) == template


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ raise_exception.__globals__ }}",
    ],
)
def test_a_template_reaches_nothing_outside(tokenizer: Any, template: str) -> None:
    with pytest.raises(RefusedError):
        prompter(tokenizer, template).prompt(ask())
