"""What one process knows of the workers' cards."""

import pytest

from app import registry
from app.broker import connect
from app.kernel import Kernel
from app.registry import Card, Holding, Registry


def test_a_model_that_was_nowhere_is_found_at_once_when_it_came(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "FRESH_WHERE_NONE", 0.0)
    with connect(kernel.settings.redis_url) as client:
        elsewhere = Registry(client, lease=15)
        assert kernel.registry.slots("a") == 0
        elsewhere.announce(Card("cpu.0@h", "cpu.0", "h", 1, "life", (Holding("a", "scripted", 4),)))
        assert kernel.registry.slots("a") == 4
        assert kernel.registry.slots("b") == 0
