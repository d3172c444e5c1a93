from inference.slots import WaitingRoom


def test_it_admits_no_more_than_there_are_slots() -> None:
    room: WaitingRoom[str] = WaitingRoom(2)
    for name in "abc":
        room.enter(name, priority=5)
    assert room.admit() == ["a", "b"]
    assert room.admit() == []
    room.leave("a")
    assert room.admit() == ["c"]


def test_the_most_urgent_comes_first_then_the_earliest() -> None:
    room: WaitingRoom[str] = WaitingRoom(4)
    for name, priority in (("batch", 7), ("usual", 5), ("urgent", 0), ("usual 2", 5)):
        room.enter(name, priority=priority)
    assert room.admit() == ["urgent", "usual", "usual 2", "batch"]


def test_nobody_overtakes_a_larger_one_whose_turn_it_is() -> None:
    room: WaitingRoom[str] = WaitingRoom(4, capacity=100)
    for name, cost in (("a", 60), ("large", 50), ("small", 10)):
        room.enter(name, priority=5, cost=cost)
    assert room.admit() == ["a"]
    room.leave("a")
    assert room.admit() == ["large", "small"]


def test_one_that_is_larger_than_everything_runs_alone() -> None:
    room: WaitingRoom[str] = WaitingRoom(4, capacity=100)
    room.enter("huge", priority=5, cost=500)
    room.enter("small", priority=5, cost=1)
    assert room.admit() == ["huge"]
    room.leave("huge")
    assert room.admit() == ["small"]


def test_who_waits_may_leave_and_leaving_twice_is_no_fault() -> None:
    room: WaitingRoom[str] = WaitingRoom(1, capacity=10)
    for name in "abc":
        room.enter(name, priority=5, cost=10)
    assert room.admit() == ["a"]
    room.leave("b")
    room.leave("a")
    room.leave("a")
    assert room.admit() == ["c"]
    assert room.is_running("c")
    assert not room.is_running("a")
