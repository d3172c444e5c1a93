"""What the transformers engine keeps and computes in its own way is what transformers keeps and computes."""

from typing import Any

import pytest

from tests.needs import needs

pytestmark = needs("torch", "transformers")


def states(rows: int, tokens: int, seed: int) -> Any:
    import torch

    return torch.randn(rows, 2, tokens, 4, generator=torch.Generator().manual_seed(seed))


def test_a_layer_gives_what_transformers_own_gives_and_makes_no_more_room_than_will_be_needed() -> None:
    from transformers.cache_utils import DynamicLayer

    from inference.transformerscache import ROOM, Layer

    ours, theirs = Layer(ROOM + 9), DynamicLayer()
    for seed, tokens in enumerate([5, 1, 1, ROOM, 1, 1]):
        new = states(1, tokens, seed)
        for mine, its in zip(ours.update(new, new + 1), theirs.update(new, new + 1), strict=True):
            assert mine.equal(its)
        assert ours.get_seq_length() == theirs.get_seq_length() <= ours.keys.shape[2] <= ROOM + 9


def test_rows_that_join_are_padded_on_the_left_and_go_on_in_their_own_room_when_others_leave() -> None:
    from inference.transformerscache import Layer

    first, second = Layer(100), Layer(100)
    long, short, new = states(1, 7, 1), states(1, 3, 2), states(2, 1, 3)
    first.update(long, long)
    second.update(short, short)
    first.join(second)
    keys, _ = first.update(new, new)
    assert keys[0, :, :7].equal(long[0])
    assert keys[1, :, 4:7].equal(short[0])
    assert not keys[1, :, :4].any()
    assert keys[:, :, 7:].equal(new)
    first.keep([1], 4)
    assert first.keys.equal(keys[1:, :, 4:])
    assert first.update(new[:1], new[:1])[0][:, :, 4:].equal(new[:1])


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("places", [1, 3])
def test_heads_that_share_keys_get_what_they_get_with_keys_of_their_own(masked: bool, places: int) -> None:
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from inference.transformerscache import attend

    module = torch.nn.Module()
    module.num_key_value_groups = 3  # type: ignore[assignment]
    key, value = states(2, 8, 1), states(2, 8, 2)
    query = torch.randn(2, 6, places, 4, generator=torch.Generator().manual_seed(3))
    mask = torch.ones(2, 1, places, 8, dtype=torch.bool) if masked else None
    if mask is not None:
        mask[1, :, :, :5] = False
    ours, _ = attend(module, query, key, value, mask, scaling=0.3)
    theirs, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(ours, theirs)
