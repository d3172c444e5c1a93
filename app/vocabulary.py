"""The tokenizer in a GGUF file, as the tokenizers library has it: byte-level BPE in the forms that current models have.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A file comes from strangers: whatever it says is
held against its own length, and the worst that a wrong one does is a ValueError.
"""

import mmap
import struct
from pathlib import Path
from typing import Any

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
#: How a text is cut before it is merged, by the file's `tokenizer.ggml.pre`; and whether as in Llama 3 a word that is a
#: token is never merged, and a text begins with a token of its own. As llama.cpp has it.
_CUTS = {
    "gpt-2": ([_GPT2], False),
    "smollm": ([r"\p{N}", _GPT2], False),
    "llama-bpe": ([_LLAMA3], True),
    "llama3": ([_LLAMA3], True),
    "qwen2": ([_QWEN2], False),
    "deepseek-r1-qwen": ([_QWEN2], False),
}
#: Kinds of tokens that stand for themselves in a text.
_CONTROL, _USER_DEFINED = 3, 4
_STRING, _ARRAY = 8, 9
_LETTERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_PREFIX = "tokenizer.ggml."


def read(path: Path) -> Any:
    """A tokenizers.Tokenizer. Raises OSError, and ValueError for a file that is damaged or of another form."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            values = _Values(data).read()
        except (struct.error, KeyError, IndexError) as error:
            raise ValueError("the file is damaged") from error
    form, cut = values.get("model"), values.get("pre")
    if form != "gpt2" or cut not in _CUTS:
        raise ValueError(f"its form is '{form}', cut as '{cut}', which its engine alone knows")
    return _built(values, *_CUTS[str(cut)])


def _built(values: dict[str, Any], cuts: list[str], llama3: bool) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    words: list[str] = values["tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in values.get("merges", [])]
    made = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, merges, ignore_merges=llama3))
    splits = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in cuts]
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([*splits, bytewise])
    made.decoder = decoders.ByteLevel()
    for word, kind in zip(words, values.get("token_type", []), strict=False):
        if kind in (_CONTROL, _USER_DEFINED):
            added = AddedToken(word, normalized=False, special=kind == _CONTROL)
            (made.add_special_tokens if kind == _CONTROL else made.add_tokens)([added])
    first = values.get("bos_token_id")
    if values.get("add_bos_token", llama3) and first is not None:
        made.post_processor = processors.TemplateProcessing(
            single=f"{words[first]} $A", special_tokens=[(words[first], first)]
        )
    return made


class _Values:
    """A file's values, of which the tokenizer's own are kept."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def read(self) -> dict[str, Any]:
        magic, version, _, count = self._take("<4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError("the file is no GGUF file of version 2 or 3")
        kept = {}
        for _ in range(count):
            name, kind = self._text(), self._number("I")
            value = self._value(kind, keep=name.startswith(_PREFIX))
            if name.startswith(_PREFIX):
                kept[name.removeprefix(_PREFIX)] = value
        return kept

    def _value(self, kind: int, *, keep: bool) -> Any:
        if kind == _STRING:
            return self._text()
        return self._array(keep=keep) if kind == _ARRAY else self._number(_LETTERS[kind])

    def _array(self, *, keep: bool) -> Any:
        kind, count = self._take("<IQ")
        if kind == _STRING:
            # One after the other, so that a count beyond the file's end is met there, before any memory is.
            texts = (self._text() for _ in range(count))
            return list(texts) if keep else sum(0 for _ in texts)
        size = struct.calcsize(_LETTERS[kind]) * count
        if size > len(self._data) - self._at:
            raise IndexError
        self._at += 0 if keep else size
        return list(self._take(f"<{count}{_LETTERS[kind]}")) if keep else None

    def _text(self) -> str:
        size = self._number("Q")
        text = self._data[self._at : self._at + size]
        if len(text) < size:
            raise IndexError
        self._at += size
        return text.decode(errors="replace")

    def _number(self, letter: str) -> Any:
        return self._take(f"<{letter}")[0]

    def _take(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return found
