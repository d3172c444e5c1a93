from itertools import combinations, pairwise

import pytest

from inference.text import Piece, Seam

TEXTS = [
    ("abcabd", ("abd",), "abc"),
    ("aaab", ("aab",), "a"),
    ("one two three", ("two", "three"), "one "),
    ("xabcdy", ("abcd", "bc"), "xa"),
    ("no stop", ("stopped", ""), "no stop"),
    ("tail st", ("stop",), "tail st"),
    ("stop first", ("stop",), ""),
    ("a\ufffdb", ("zz",), "a\ufffdb"),
    ("plain", (), "plain"),
]


def splits(text: str) -> list[list[str]]:
    """Every way to cut a text into pieces."""
    inner = range(1, len(text))
    cuts = [(0, *chosen, len(text)) for size in range(len(text)) for chosen in combinations(inner, size)]
    return [[text[a:b] for a, b in pairwise(cut)] for cut in cuts]


@pytest.mark.parametrize(("text", "stop", "expected"), TEXTS)
def test_the_outcome_is_the_same_however_the_text_is_cut(text: str, stop: tuple[str, ...], expected: str) -> None:
    for pieces in splits(text):
        seam = Seam(stop)
        given = [seam.feed(piece, (n,), 1) for n, piece in enumerate(pieces)]
        given.append(seam.flush())
        assert "".join(piece.text for piece in given) == expected, pieces
        assert seam.stopped == (text != expected)


@pytest.mark.parametrize(("text", "stop", "expected"), TEXTS)
def test_every_end_is_a_clean_seam(text: str, stop: tuple[str, ...], expected: str) -> None:
    """Given out at any time: a whole number of tokens, their ids, and exactly their text."""
    for pieces in splits(text):
        seam = Seam(stop)
        out = ""
        tokens = 0
        for n, piece in enumerate(pieces):
            given = seam.feed(piece, (n,), 1)
            if seam.stopped:
                break
            out += given.text
            assert given.ids == tuple(range(tokens, tokens + given.count))
            tokens += given.count
            assert out == "".join(pieces[:tokens])
            assert not any(out.endswith(word[:size]) for word in stop for size in range(1, len(word)))
            assert not out.endswith("\ufffd")


def test_tokens_without_text_wait_for_the_text_they_belong_to() -> None:
    seam = Seam()
    assert seam.feed("", (240, 159), 2) == Piece()
    assert seam.feed("😀", (152,), 1) == Piece("😀", (240, 159, 152), 3)


def test_half_a_character_waits_for_what_follows() -> None:
    seam = Seam()
    assert seam.feed("\ufffd", (1,), 1) == Piece()
    assert seam.feed("a", (2,), 1) == Piece("\ufffda", (1, 2), 2)


def test_a_flush_gives_out_what_waited_once() -> None:
    seam = Seam(("stop",))
    assert seam.feed("st", (1,), 1) == Piece()
    seam.feed("", (2,), 1)
    assert seam.flush() == Piece("st", (1, 2), 2)
    assert seam.flush() == Piece()


def test_all_tokens_are_counted_and_only_those_before_the_stop_show_their_ids() -> None:
    seam = Seam(("stop",))
    assert seam.feed("a s", (1,), 1) == Piece()
    assert seam.feed("top", (2,), 1) == Piece("a ", (1,), 2)
    assert seam.feed("more", (3,), 1) == Piece()
    assert seam.flush() == Piece()
