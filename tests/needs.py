"""Which engines a test needs: where their packages cannot be had, it is skipped and says why."""

from importlib.util import find_spec

import pytest


def needs(*packages: str) -> pytest.MarkDecorator:
    """A mark for tests, classes and parameters: `@needs("vllm")`, `pytest.param(…, marks=needs("transformers"))`."""
    missing = [package for package in packages if find_spec(package) is None]
    reason = f"not installed here: {', '.join(missing)}; `make engines` installs them, or says why it cannot"
    return pytest.mark.skipif(bool(missing), reason=reason)
