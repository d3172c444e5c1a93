"""A server that wants a key: logging in and out, a pull's bar, and a server that goes away under a page."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.command import tokenyard
from tests.conftest import running_stack
from tests.console.conftest import opened
from tests.console.test_console import lay
from tests.hub import FakeHub, safetensors
from tests.stack import Stack

KEY = "a-key-of-a-test"
#: Long enough to be cancelled under way, however quick the machine is.
SIZE = 60_000_000


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with API_KEY, and a hub on a slow line."""
    folder = tmp_path_factory.mktemp("guarded")
    repos = {"owner/slow": {"config.json": b'{"model_type": "gpt2"}', "model.safetensors": safetensors(SIZE)}}
    with FakeHub(repos, throttle=1_500_000) as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_TOKEN": "", "NO_PROXY": "*"}
        yield from running_stack(folder, settings | {"API_KEY": KEY}, verbs=["migrate"])


@pytest.fixture
def page(browser: Browser, guarded: Stack) -> Iterator[Page]:
    """At the login, as the front door leads there."""
    with opened(browser, guarded) as page:
        page.goto("/")
        yield page


def log_in(page: Page, key: str = KEY) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("button", name="Log out")).to_be_visible()


def test_a_key_opens_the_console_and_logging_out_closes_it(page: Page) -> None:
    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("not known")
    log_in(page)

    page.get_by_label("Model").select_option("scripted")
    page.get_by_label("Message").fill("hello")
    page.get_by_text("Settings").click()
    page.get_by_label("max_tokens").fill("3")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("article.assistant .text")).to_have_text("t0 t1 t2")
    page.get_by_role("link", name="Job", exact=True).click()
    page.get_by_role("button", name="Run again").click()  # a POST, which wants the session's word
    expect(page.locator(".badge")).to_have_text("succeeded")

    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    page.goto("/#jobs")
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.evaluate("document.cookie") == ""


def test_a_session_that_is_over_leads_to_the_login(page: Page) -> None:
    log_in(page)
    page.context.clear_cookies()
    page.get_by_role("link", name="Jobs").click()
    expect(page.get_by_label("API key")).to_be_visible()


def test_a_users_key_shows_what_a_user_may_do(page: Page, guarded: Stack) -> None:
    made = tokenyard(guarded, "keys", "create", "alice").stdout
    log_in(page, next(word for word in made.split() if word.startswith("ty-")))
    expect(page.locator("#who")).to_contain_text("alice · user")
    page.get_by_role("link", name="Models").click()
    expect(page.get_by_role("table").first).to_contain_text("scripted")
    expect(page.get_by_role("button", name="Load")).to_have_count(0)
    page.get_by_role("link", name="Queues").click()
    expect(page.locator(".tile").first).to_be_visible()
    expect(page.get_by_role("alert")).to_be_empty()
    expect(page.locator(".alert")).to_have_count(0)


def test_the_command_shows_its_key(guarded: Stack) -> None:
    assert "scripted" in tokenyard(guarded, "list", API_KEY="", TOKENYARD_API_KEY=KEY).stdout
    assert "wrong, revoked" in tokenyard(guarded, "list", code=5, TOKENYARD_API_KEY="wrong").stderr
    assert "wants an API key" in tokenyard(guarded, "list", code=5, API_KEY="").stderr


def test_a_pulls_bar_moves_and_its_cancel_ends_it(page: Page, guarded: Stack) -> None:
    log_in(page)
    page.get_by_role("link", name="Models").click()
    page.get_by_label("Pull a model").fill("owner/slow")
    page.get_by_role("button", name="Pull", exact=True).first.click()
    bar = page.get_by_role("progressbar", name="Progress of owner/slow")
    told = page.locator(".pull span")
    expect(told).to_contain_text("of 60.0 MB", timeout=30_000)
    expect(told).to_contain_text("/s ·")
    expect(told).to_contain_text("left")
    before = float(bar.evaluate("bar => bar.value"))
    page.wait_for_function("least => document.querySelector('.pull progress')?.value > least", arg=before)
    page.reload()  # the pull goes on, and so does its bar
    page.wait_for_function("least => document.querySelector('.pull progress')?.value > least", arg=before)

    page.get_by_role("button", name="Cancel the pull of owner/slow").click()
    expect(page.get_by_role("alert")).to_contain_text("cancelled")
    expect(bar).to_have_count(0)
    assert guarded.http.get("/jobs?kind=pull").json()["jobs"][0]["status"] == "cancelled"


def test_an_answer_goes_on_when_the_server_was_away(page: Page, guarded: Stack) -> None:
    log_in(page)
    words = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "max_tokens": 250}
    job = guarded.http.post("/jobs", json={**words, "scripted_tokens_per_second": 25}).json()["id"]
    lay(page, {"role": "user", "text": "x"}, {"role": "assistant", "text": "", "seq": 0, "job": job})
    text = page.locator("article.assistant .text")
    expect(text).to_contain_text("t5")

    guarded.kill("web")
    expect(page.get_by_role("status")).to_have_text("Reconnecting …")
    guarded.start("web")

    expect(text).to_have_text(" ".join(f"t{n}" for n in range(250)), timeout=40_000)
    expect(page.get_by_role("status")).to_have_text("")
