"""What is installed: every package pinned, with the hash of each of its files, from wherever a machine has them."""

import re
import subprocess

from tests.stack import ROOT

_PIN = re.compile(r"^([A-Za-z0-9._-]+(?:\[[^\]]+\])?)==([^\s;\\]+)", re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text()
    return {re.sub(r"[-_.]+", "-", package.split("[")[0]).lower(): version for package, version in _PIN.findall(text)}


def test_the_lock_is_that_of_what_was_asked_for() -> None:
    asked, locked = pins("requirements-base.in"), pins("requirements-base.txt")
    different = {name: version for name, version in asked.items() if locked.get(name) != version}
    assert different == {}, "run `make lock`"
    assert len(locked) > len(asked)


def test_every_package_of_the_lock_has_hashes_and_no_address() -> None:
    text = (ROOT / "requirements-base.txt").read_text()
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    assert entries
    for entry in entries:
        assert _PIN.match(entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
    for file in ROOT.glob("requirements*"):
        for line in file.read_text().splitlines():
            assert line.startswith("#") or ("://" not in line and not line.startswith(("-i", "--index", "--extra")))


def test_what_is_not_hashed_is_pinned() -> None:
    for file in ROOT.glob("requirements*.txt"):
        for line in file.read_text().splitlines():
            if line.strip() and not line.startswith(("#", "-r ", " ")):
                assert _PIN.match(line), f"{file.name}: {line}"


def test_the_audit_asks_for_all_of_them_and_calls_nothing_clean_that_it_could_not_look_up() -> None:
    recipe = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "audit"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    calls = [call for call in re.split(r"&&|;", recipe) if "pip-audit --" in call]
    asked = {name for call in calls for name in re.findall(r"requirements\S*", call)}
    included = {name for name in asked for name in re.findall(r"^-r (\S+)", (ROOT / name).read_text(), re.MULTILINE)}
    assert asked | included >= {file.name for file in ROOT.glob("requirements*.txt")}
    assert all("--strict" in call for call in calls)
