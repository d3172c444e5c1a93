"""What a user does in the console, and what a model's words cannot do there."""

import json

from playwright.sync_api import Page, expect

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


def test_a_chat_is_answered_with_its_speed(page: Page) -> None:
    page.goto("/")
    ask(page, QUESTION, temperature=0)

    expect(page.locator("article.assistant .text")).to_have_text(ANSWER, timeout=30_000)
    expect(page.locator("article.assistant .note")).to_contain_text("tokens/s")
    page.reload()
    expect(page.locator("article.assistant .text")).to_have_text(ANSWER)


def test_a_reload_in_the_middle_goes_on_where_it_was(page: Page, stack: Stack) -> None:
    page.goto("/")
    # The page has no field for the scripted engine's pace, so the conversation is laid as the page keeps it.
    job = stack.http.post(
        "/jobs",
        json={
            "model": "scripted",
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 120,
            "scripted_tokens_per_second": 30,
        },
    ).json()["id"]
    turns = [
        {"role": "user", "text": "x"},
        {"role": "assistant", "text": "", "seq": 0, "job": job, "model": "scripted"},
    ]
    talk = {"id": "1", "title": "x", "model": "scripted", "system": "", "options": {}, "turns": turns}
    page.evaluate("talks => localStorage.setItem('tokenyard.conversations', talks)", json.dumps([talk]))
    page.reload()
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
    expect(page.locator("article.assistant .note")).to_contain_text("cancelled", timeout=20_000)
    page.get_by_role("link", name="Job", exact=True).click()
    expect(page.locator(".badge")).to_have_text("cancelled", timeout=10_000)


def test_what_a_model_says_cannot_run(page: Page, stack: Stack) -> None:
    evil = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>[a](javascript:window.owned=1) **b**"
    asked = [{"role": "user", "content": evil}]
    job = stack.http.post("/jobs", json={"model": "scripted", "messages": asked, "max_tokens": 2}).json()["id"]
    stack.finished(job)
    page.goto("/")
    page.route(
        f"**/jobs/{job}?format=html",
        lambda route: route.fulfill(json={"id": job, "html": "<p>plain</p>"}),
    )
    turns = [{"role": "user", "text": evil}, {"role": "assistant", "text": evil, "seq": 9, "job": job, "ended": True}]
    talk = {"id": "1", "title": evil, "model": evil, "system": "", "options": {}, "turns": turns}
    page.evaluate("talks => localStorage.setItem('tokenyard.conversations', talks)", json.dumps([talk]))
    page.reload()
    expect(page.locator("article.user .text")).to_have_text(evil)
    page.goto(f"/#jobs/{job}")
    page.get_by_text("Request", exact=True).click()
    expect(page.locator("pre")).to_contain_text("<script>")

    assert page.evaluate("window.owned") is None


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
    expect(page.get_by_role("table").last).to_contain_text("cpu.0@")


def test_a_pull_that_fails_says_why(page: Page) -> None:
    page.goto("/#models")
    page.get_by_label("Pull a model").fill("../etc/passwd")
    page.get_by_role("button", name="Pull", exact=True).first.click()
    expect(page.get_by_role("alert")).not_to_be_empty(timeout=20_000)
