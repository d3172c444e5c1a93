"""A GGUF file's own tokenizer, and files that only look like one."""

from pathlib import Path

import pytest

from app import vocabulary

#: What llama.cpp's own server tells of the starter model; digits stand alone, before blanks are cut.
KNOWN = {
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "<|im_start|>user\nHi": [1, 4093, 198, 26843],
    " 12345": [216, 33, 34, 35, 36, 37],
    "a\n\n 1": [81, 8866, 33],
}


def test_a_text_is_cut_as_its_engine_cuts_it(starter_gguf: Path) -> None:
    made = vocabulary.read(starter_gguf)
    assert {text: made.encode(text).ids for text in KNOWN} == KNOWN
    for text in (*KNOWN, "Grüße 😀\t日本語", "\0\x7f"):
        assert made.decode(made.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("size", [3, 23, 40, 5_000, 500_000])
def test_a_file_that_ends_early_is_refused(starter_gguf: Path, tmp_path: Path, size: int) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(starter_gguf.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"damaged|no GGUF"):
        vocabulary.read(short)


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        (b"\x04\0\0\0\0\0\0\0gpt2", b"\x04\0\0\0\0\0\0\0gpt9", "gpt9"),
        (b"smollm", b"smoller"[:6], "smolle"),
        (b"\x04\0\0\0\0\0\0\0gpt2", b"\xff\xff\xff\xff\xff\xff\xff\x7fgpt2", "damaged"),
        (b"GGUF\x03", b"GGUF\x01", "no GGUF"),
    ],
)
def test_another_form_is_refused(starter_gguf: Path, tmp_path: Path, was: bytes, becomes: bytes, said: str) -> None:
    changed = tmp_path / "changed.gguf"
    data = starter_gguf.read_bytes()[:4_000_000]
    key = b"tokenizer.ggml.pre" if was == b"smollm" else b"tokenizer.ggml.model" if b"gpt2" in was else b""
    at = data.index(was, data.index(key))
    changed.write_bytes(data[:at] + becomes + data[at + len(was) :])
    with pytest.raises(ValueError, match=said):
        vocabulary.read(changed)
