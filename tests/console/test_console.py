"""What a user does in the console, and what a model's words cannot do there."""

import json
import sqlite3
from contextlib import closing
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from app.events import Log
from tests.stack import Stack

QUESTION = "What is the capital of France? Answer briefly."
ANSWER = "The capital of France is Paris."


def ask(page: Page, text: str, model: str = "smollm2", **options: float) -> None:
    page.get_by_label("Model").select_option(model)
    if options and not page.get_by_label("temperature").is_visible():
        page.get_by_text("Settings").click()
    for name, value in options.items():
        page.get_by_label(name).fill(str(value))
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def lay(page: Page, *turns: dict[str, object], title: str = "x", model: str = "scripted") -> None:
    """A conversation in the browser, as the page keeps it; then the page anew."""
    talk = {"id": "1", "title": title, "model": model, "system": "", "options": {}, "turns": turns}
    page.goto("/")
    page.get_by_label("Message").wait_for()  # what it begins with is kept by now
    page.evaluate("talks => localStorage.setItem('tokenyard.conversations', talks)", json.dumps([talk]))
    page.reload()


def test_a_chat_is_answered_with_its_speed(page: Page) -> None:
    page.goto("/")
    ask(page, QUESTION, temperature=0)

    expect(page.locator("article.assistant .text")).to_have_text(ANSWER, timeout=30_000)
    expect(page.locator("article.assistant .note")).to_contain_text("tokens/s")
    page.reload()
    expect(page.locator("article.assistant .text")).to_have_text(ANSWER)


def test_a_reload_in_the_middle_goes_on_where_it_was(page: Page, stack: Stack) -> None:
    # The page has no field for the scripted engine's pace, so the conversation is laid as the page keeps it.
    words = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "max_tokens": 120}
    job = stack.http.post("/jobs", json={**words, "scripted_tokens_per_second": 30}).json()["id"]
    lay(page, {"role": "user", "text": "x"}, {"role": "assistant", "text": "", "seq": 0, "job": job})
    text = page.locator("article.assistant .text")
    expect(text).to_contain_text("t5")
    page.reload()
    expect(text).to_contain_text("t20")
    page.reload()

    expect(text).to_have_text(" ".join(f"t{n}" for n in range(120)), timeout=30_000)
    assert stack.job(job)["attempt"] == 1


def test_stop_ends_the_job(page: Page, stack: Stack) -> None:
    page.goto("/")
    ask(page, "Count from one to a thousand in words.", max_tokens=4000)
    page.get_by_role("button", name="Stop").click(timeout=20_000)
    expect(page.locator("article.assistant .note")).to_contain_text("cancelled")
    page.get_by_role("link", name="Job", exact=True).click()
    expect(page.locator(".badge")).to_have_text("cancelled")


EVIL = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>[a](javascript:window.owned=1) **b**"


def test_what_a_model_says_cannot_run(page: Page, stack: Stack) -> None:
    """The scripted engine says nothing evil, so its result is changed where it is kept; all behind that is real."""
    words = {"model": "scripted", "messages": [{"role": "user", "content": EVIL}], "max_tokens": 1}
    job = stack.http.post("/jobs", json=words).json()["id"]
    stack.finished(job)
    log = Log((len(EVIL),), (1,)).encode()
    with closing(sqlite3.connect(stack.folder / "jobs.db", timeout=20)) as db, db:
        db.execute("UPDATE results SET text = ?, log = ? WHERE job_id = ?", (EVIL, log, job))

    answer = {"role": "assistant", "text": "", "seq": 0, "job": job}
    lay(page, {"role": "user", "text": EVIL}, answer, title=EVIL, model=EVIL)
    expect(page.locator("article.user .text")).to_have_text(EVIL)
    expect(page.locator("article.assistant .html strong")).to_have_text("b")
    is_harmless(page)
    page.goto(f"/#jobs/{job}")
    expect(page.locator(".text").first).to_have_text(EVIL)
    page.get_by_text("Request", exact=True).click()
    expect(page.locator("pre")).to_contain_text("<script>")
    is_harmless(page)


def is_harmless(page: Page) -> None:
    """Nothing ran, and nothing is there that could: the page's policy is the second wall, not the first."""
    assert page.evaluate("window.owned") is None
    assert page.locator("main script, main img, main [onerror], main a[href^=javascript]").count() == 0


def test_what_a_model_is_called_cannot_run(page: Page, stack: Stack) -> None:
    """No such name is accepted; if one came into the database all the same, it would be text."""
    assert stack.http.post("/pull", json={"model": EVIL}).status_code == 400
    assert stack.http.put("/aliases/<img src=x>", json={"target": "scripted"}).status_code == 400
    name = "<img src=x onerror='window.owned = 1'>"
    columns = "name, path, format, size_bytes, source, created_at, state, facts, devices, quantize"
    values = (name, "/nowhere", "gguf", 1, "import", 1.0, "ready", "{}", "[]", "auto")
    with closing(sqlite3.connect(stack.folder / "jobs.db", timeout=20)) as db, db:
        db.execute(f"INSERT INTO models ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    try:
        page.goto("/#models")
        expect(page.get_by_role("table").first).to_contain_text(name)
        is_harmless(page)
        page.get_by_role("row").filter(has_text=name).get_by_role("button", name="Delete").click()
        expect(page.get_by_role("dialog")).to_contain_text(name)
        is_harmless(page)
        page.goto("/#chat")
        expect(page.get_by_label("Model")).to_contain_text(name)
        is_harmless(page)
    finally:
        with closing(sqlite3.connect(stack.folder / "jobs.db", timeout=20)) as db, db:
            db.execute("DELETE FROM models WHERE name = ?", (name,))


def test_models_jobs_and_queues_are_shown(page: Page, stack: Stack) -> None:
    group = stack.http.post(
        "/jobs?group=shown",
        content=b"\n".join([b'{"model": "scripted", "messages": [{"role": "user", "content": "x"}]}'] * 3),
        headers={"Content-Type": "application/x-ndjson"},
    ).json()
    for job in group["ids"]:
        stack.finished(job)
    page.goto("/#models")
    expect(page.get_by_role("table").first).to_contain_text("smollm2")
    page.goto("/#jobs")
    page.get_by_label("Group").fill("shown")
    page.get_by_label("Group").blur()
    expect(page.locator(".group")).to_contain_text("3 of 3 ended")
    page.goto("/#queues")
    expect(page.locator(".worker")).to_contain_text("cpu.0@")
    expect(page.locator(".worker")).to_contain_text("of 64 slots")


def test_a_pull_that_fails_says_why(page: Page) -> None:
    page.goto("/#models")
    page.get_by_label("Pull a model").fill("../etc/passwd")
    page.get_by_role("button", name="Pull", exact=True).first.click()
    expect(page.get_by_role("alert")).not_to_be_empty(timeout=20_000)


def test_a_groups_results_are_a_download(page: Page, stack: Stack) -> None:
    body = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    sent = stack.http.post(
        "/jobs?group=kept", content=json.dumps(body).encode(), headers={"Content-Type": "application/x-ndjson"}
    )
    stack.finished(sent.json()["ids"][0])
    page.goto("/#jobs")
    page.get_by_role("link", name="Groups and batches").click()
    row = page.get_by_role("row").filter(has_text="kept")
    expect(row).to_contain_text("1 of 1 ended")

    with page.expect_download() as download:
        row.get_by_role("link", name="Results").click()
    told = json.loads(download.value.path().read_text())
    assert (told["text"], download.value.suggested_filename) == ("t0 t1", "kept.jsonl")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_place_can_be_used_without_eyes_or_a_mouse(
    page: Page, stack: Stack, theme: Literal["light", "dark"]
) -> None:
    """What axe finds by itself: names, roles, contrast, order of headings, what the keyboard reaches."""
    page.emulate_media(color_scheme=theme)
    words = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    job = stack.http.post("/jobs", json=words).json()["id"]
    stack.finished(job)
    failed = stack.http.post("/pull", json={"model": "nobody/nothing"}).json()["job_id"]
    stack.finished(failed)
    answer = {"role": "assistant", "text": "t0 t1", "seq": 2, "job": job, "ended": True, "stats": "2 tokens"}
    lay(page, {"role": "user", "text": "x"}, answer)
    shown = {
        "chat": "article.assistant .html",
        "models": "text=Suggested >> xpath=ancestor::table",
        "jobs": ".badge",
        "jobs/groups": "h1",
        f"jobs/{job}": ".timeline",
        f"jobs/{failed}": ".alert",
        "queues": ".worker",
    }
    for place, sign in shown.items():
        page.goto(f"/#{place}")
        page.reload()
        page.locator(sign).first.wait_for()
        found = Axe().run(page).response["violations"]
        assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in found] == [], place
