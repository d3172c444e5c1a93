from inference.llamaslots import Slots


def test_a_prompt_goes_where_its_beginning_was_kept() -> None:
    slots = Slots(3)
    for number, ids in enumerate(([1, 2, 3], [7, 8, 9])):
        assert slots.take("alice", ids) == (number, False)
    slots.leave(0, "alice", [1, 2, 3])
    slots.leave(1, "alice", [7, 8, 9])
    assert slots.take("alice", [7, 8, 9, 10]) == (1, True)
    assert slots.take("alice", [1, 2, 4]) == (0, True)


def test_what_was_kept_of_another_tenant_is_not_used() -> None:
    slots = Slots(1)
    slots.leave(slots.take("alice", [1, 2, 3])[0], "alice", [1, 2, 3])
    assert slots.take("bob", [1, 2, 3]) == (0, False)
    slots.leave(0, "bob", [1, 2, 3])
    assert slots.take("alice", [1, 2, 3]) == (0, False)


def test_one_that_is_like_none_takes_the_slot_that_is_free_longest() -> None:
    slots = Slots(2)
    for ids in ([1], [2]):
        slots.take("alice", ids)
    slots.leave(1, "alice", [2])
    slots.leave(0, "alice", [1])
    assert slots.take("alice", [5, 6]) == (1, True)
    assert slots.take("bob", [1]) == (0, False)
