"""The `tokenyard` command on a running stack: what a shell's user sees, and the exit codes that a script reads."""

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import tokenyard, told
from tests.stack import ROOT, Stack, eventually, free_port

pytestmark = pytest.mark.slow


def test_a_prompt_is_answered_and_piped_input_joins_it(stack: Stack) -> None:
    done = tokenyard(
        stack, "run", "smollm2", "What is the capital", "of France? Answer briefly.", "--temperature", "0", "-v"
    )
    assert "Paris" in done.stdout
    assert "tokens/s" in done.stderr

    job = told(stack, "run", "scripted", "Sum up:", "--max-tokens", "2", given="a line\n")
    assert job["text"] == "t0 t1"
    assert job["request"]["messages"] == [{"role": "user", "content": "Sum up:\n\na line"}]


def test_a_detached_job_is_followed_from_an_event_on_listed_and_cancelled(stack: Stack) -> None:
    job = tokenyard(stack, "run", "scripted", "--detach", "--max-tokens", "5", given="go on").stdout.strip()
    assert tokenyard(stack, "logs", "-f", job).stdout == "t0 t1 t2 t3 t4\n"
    assert tokenyard(stack, "logs", job, "--after", "3").stdout.split() == ["t3", "t4"]
    events = [json.loads(line) for line in tokenyard(stack, "logs", job, "--json").stdout.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert job in tokenyard(stack, "jobs", "--status", "succeeded").stdout

    slow = stack.http.post(
        "/jobs",
        json={
            "model": "scripted",
            "messages": [{"role": "user", "content": "slowly"}],
            "max_tokens": 1000,
            "scripted_tokens_per_second": 5,
        },
    ).json()["id"]
    eventually(lambda: stack.job(slow)["status"] == "running", what="running")
    assert "logs -f" in tokenyard(stack, "logs", slow).stderr
    assert any(lane["running"] for lane in told(stack, "queues")["queues"] if lane["model"] == "scripted")
    assert "scripted" in tokenyard(stack, "queues").stdout
    assert told(stack, "cancel", slow)["id"] == slow
    assert stack.finished(slow)["status"] == "cancelled"
    assert "cancelled" in tokenyard(stack, "logs", slow, code=1).stderr


def test_ctrl_c_ends_the_job_that_it_interrupts(stack: Stack) -> None:
    words = ["run", "scripted", "count", "--max-tokens", "100000", "--timeout", "600"]
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", *words],
        cwd=ROOT,
        env=stack.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Whoever runs the tests in the background may ignore Ctrl-C, and children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.read(2) == b"t0"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    newest = stack.http.get("/jobs", params={"limit": 1}).json()["jobs"][0]
    assert stack.finished(newest["id"])["status"] == "cancelled"


def test_a_conversation_remembers_what_was_said(stack: Stack) -> None:
    ours, theirs = pty.openpty()
    words = ["run", "scripted", "--max-tokens", "1"]
    command = [sys.executable, "-m", "app.cli", *words]
    with subprocess.Popen(command, cwd=ROOT, env=stack.env, stdin=theirs, stdout=subprocess.PIPE) as process:
        os.close(theirs)
        os.write(ours, b'/system Be brief.\none\n"""two\nlines"""\n/bye\n')
        said = process.communicate(timeout=60)[0].decode()
    os.close(ours)
    assert process.returncode == 0
    assert said.count("t0") == 2
    newest = stack.http.get("/jobs", params={"limit": 1}).json()["jobs"][0]
    asked = stack.http.get(f"/jobs/{newest['id']}").json()["request"]
    turns = [(message["role"], message["content"]) for message in asked["messages"]]
    assert turns == [("system", "Be brief."), ("user", "one"), ("assistant", "t0"), ("user", "two\nlines")]


def test_models_are_listed_loaded_named_and_unloaded(stack: Stack) -> None:
    assert "smollm2" in tokenyard(stack, "list").stdout
    assert all(form["fits"] for form in told(stack, "list", "--fits"))
    assert told(stack, "show", "smollm2")["architecture"] == "llama"

    tokenyard(stack, "alias", "small", "smollm2")
    assert "small" in tokenyard(stack, "alias").stdout
    tokenyard(stack, "load", "small")
    eventually(lambda: held(stack), what="loaded")
    assert "llamacpp" in tokenyard(stack, "ps").stdout
    assert "unloading" in tokenyard(stack, "stop", "small").stdout
    eventually(lambda: not held(stack), what="unloaded")
    tokenyard(stack, "alias", "small", "--rm")
    assert tokenyard(stack, "alias", "small", code=4).stderr.startswith("tokenyard: No alias is named 'small'.")


def held(stack: Stack) -> bool:
    workers = stack.http.get("/workers").json()["workers"]
    return any(model["model"] == "smollm2" for worker in workers for model in worker["models"])


def test_a_batch_goes_from_a_file_to_its_results(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    body = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    lines = [
        {"custom_id": f"n{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for number in range(3)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    batch = told(stack, "batch", "submit", str(file), "--wait")
    assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 3)
    target = tmp_path / "results.jsonl"
    tokenyard(stack, "batch", "results", batch["id"], "-o", str(target))
    assert {json.loads(line)["custom_id"] for line in target.read_text().splitlines()} == {"n0", "n1", "n2"}
    assert batch["id"] in tokenyard(stack, "batch", "list").stdout

    file.write_text("nothing\n")
    assert "the first line is no request" in tokenyard(stack, "batch", "submit", str(file), code=1).stderr


def test_errors_are_one_line_and_an_exit_code(stack: Stack) -> None:
    assert tokenyard(stack, "jobs", "nothing", code=4).stderr.count("\n") == 1
    assert "give a prompt" in tokenyard(stack, "run", "scripted", code=2).stderr
    assert "Pull it first" in tokenyard(stack, "load", "nothing", code=4).stderr
    assert tokenyard(stack, "jobs", "a?b#c", code=4).stderr.startswith("tokenyard: No job has the id 'a?b#c'.")
    assert "is TOKENYARD_URL right?" in tokenyard(stack, "jobs", "../metrics", code=1).stderr
    assert "does not answer" in tokenyard(stack, "list", code=3, TOKENYARD_URL="http://[bad").stderr
    gone = f"http://127.0.0.1:{free_port()}"
    assert f"{gone} does not answer" in tokenyard(stack, "list", code=3, TOKENYARD_URL=gone).stderr


def test_the_database_is_copied_while_it_is_in_use(stack: Stack, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    assert "To restore it" in tokenyard(stack, "backup", str(target)).stdout
    with sqlite3.connect(target) as copy:
        assert copy.execute("SELECT count(*) FROM jobs").fetchone()[0] > 0
    copy.close()
    assert os.listdir(tmp_path) == ["copy.db"]


def test_the_doctor_explains_what_is_broken(stack: Stack, tmp_path: Path) -> None:
    # The port is in use, by a stack that no `up` of this folder began; the rest is well.
    found = {finding["what"]: finding for finding in json.loads(tokenyard(stack, "doctor", "--json", code=1).stdout)}
    assert found["port"]["state"] == "bad"
    assert "PORT=" in found["port"]["todo"]
    assert found["broker"]["state"] == found["database"]["state"] == "ok"

    said = tokenyard(stack, "doctor", code=1, DEVICES="gpu.7").stdout
    assert "There is no gpu.7 on this machine" in said
    (tmp_path / "jobs.db").write_text("no database, but long enough to be taken for one")
    said = tokenyard(stack, "doctor", code=1, DATA_DIR=str(tmp_path), REDIS_URL="redis://127.0.0.1:1/0").stdout
    assert "REDIS_URL does not answer" in said
    assert "Restore a backup" in said
