import math
import random
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from inference.detok import Detokenizer, Vocabulary
from inference.text import Piece

TEXTS = [
    "The capital of France is Paris.",
    "  leading, and trailing spaces \n\n and tabs\t",
    "emoji 😀😀👩‍👩‍👧‍👦 and 🏳️‍🌈!",
    "世界你好。日本語のテキスト、한국어",
    "mixed: aé̂ñ ß ∑ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𒀀",
    "a genuine \ufffd in the text",
]
WORDS = "one two three four"


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """As Llama 2's and Gemma's: spaces are part of the words, rare characters are bytes, the first space goes."""
    letters = sorted(set("".join([*TEXTS[:2], WORDS])) - set(" \n\t"))
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}}
    for piece in ["▁", *letters]:
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [("▁", letter) for letter in letters]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def metaspace() -> PreTrainedTokenizerFast:
    """As T5's: whole words."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=["<unk>", "</s>"], unk_token="<unk>")
    tokenizer.train_from_iterator([*TEXTS, WORDS], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def smollm2(starter_bf16: Any) -> Any:
    return AutoTokenizer.from_pretrained(starter_bf16)


@pytest.fixture(params=["bytes", "sentencepiece", "metaspace"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    if request.param == "bytes":
        return request.getfixturevalue("smollm2")
    return {"sentencepiece": sentencepiece_like, "metaspace": metaspace}[request.param]()


def whole_text(tokenizer: Any, before: list[int], ids: list[int]) -> str:
    """What ids add to a text, when all is decoded at once."""
    decode = tokenizer.backend_tokenizer.decode
    return str(decode(before + ids)[len(decode(before)) :])


def feed(detokenizer: Detokenizer, ids: list[int]) -> list[Piece]:
    return [piece for token in ids if (piece := detokenizer.feed(token)).count] + [detokenizer.flush()]


def joined(pieces: list[Piece]) -> Piece:
    return sum(pieces, Piece())


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_are_the_text_of_the_whole(tokenizer: Any, text: str) -> None:
    before, ids = tokenizer.encode("a"), tokenizer.encode(text, add_special_tokens=False)
    pieces = feed(Detokenizer(Vocabulary(tokenizer), before), ids)
    assert joined(pieces) == Piece(whole_text(tokenizer, before, ids), tuple(ids), len(ids))
    assert len(pieces) > 4


@pytest.mark.parametrize("text", TEXTS)
def test_a_continuation_from_any_piece_goes_on_exactly(tokenizer: Any, text: str) -> None:
    vocabulary = Vocabulary(tokenizer)
    before, ids = tokenizer.encode("a"), tokenizer.encode(text, add_special_tokens=False)
    whole = feed(Detokenizer(vocabulary, before), ids)
    for cut in range(1, len(whole)):
        done = joined(whole[:cut])
        rest = feed(Detokenizer(vocabulary, before + list(done.ids)), ids[done.count :])
        assert [*whole[:cut], *rest] == whole


def test_a_text_that_nothing_is_before_loses_the_space_that_its_decoder_drops(tokenizer: Any) -> None:
    ids = tokenizer.encode("one two", add_special_tokens=False)
    bos = [tokenizer.eos_token_id]
    pieces = feed(Detokenizer(Vocabulary(tokenizer), bos), ids)
    assert joined(pieces).text == tokenizer.decode(ids) == "one two"
    rest = feed(Detokenizer(Vocabulary(tokenizer), bos + list(pieces[0].ids)), ids[pieces[0].count :])
    assert [pieces[0], *rest] == pieces


def test_no_piece_ends_in_half_a_character_and_each_comes_as_soon_as_it_can(smollm2: Any) -> None:
    ids = smollm2.encode("😀 世界 𒀀x", add_special_tokens=False)
    pieces = feed(Detokenizer(Vocabulary(smollm2), []), ids)
    assert not any("\ufffd" in piece.text for piece in pieces)
    for cut in range(1, len(ids) + 1):
        seen = joined([Detokenizer(Vocabulary(smollm2), []).feed(token) for token in ids[:0]])
        detokenizer = Detokenizer(Vocabulary(smollm2), [])
        seen = joined([detokenizer.feed(token) for token in ids[:cut]])
        assert seen.text == smollm2.decode(ids[:cut]).rstrip("\ufffd")


def test_random_ids_broken_characters_and_special_tokens_included_give_the_text_of_the_whole(smollm2: Any) -> None:
    vocabulary = Vocabulary(smollm2)
    bytewise = [token for token in range(300) if "\ufffd" in vocabulary.text_of(token)]
    chance = random.Random(1)
    for _ in range(300):
        pools = [bytewise, bytewise, range(20), range(len(smollm2))]
        ids = [chance.choice(chance.choice(pools)) for _ in range(chance.randrange(1, 30))]
        pieces = feed(Detokenizer(vocabulary, [40]), ids)
        assert joined(pieces) == Piece(whole_text(smollm2, [40], ids), tuple(ids), len(ids)), ids
        for cut in range(1, len(pieces) - 1):
            done = joined(pieces[:cut])
            rest = feed(Detokenizer(vocabulary, [40, *done.ids]), ids[done.count :])
            assert joined([*pieces[:cut], *rest]) == joined(pieces), ids


def test_a_prompt_that_ends_in_half_a_character_is_not_told_again(tokenizer: Any) -> None:
    """vLLM's own detokeniser gives out the whole prompt then (seen in 0.32)."""
    ids = tokenizer.encode("a secret 😀", add_special_tokens=False)
    for cut in range(1, len(ids)):
        told = joined(feed(Detokenizer(Vocabulary(tokenizer), ids[:cut]), ids[cut:])).text
        assert len(told) <= len(whole_text(tokenizer, ids[:cut], ids[cut:])) + 1
        assert "secret" not in told or cut < 3
        assert cut < 8 or told in ("", "😀", " 😀")


def test_broken_bytes_do_not_hold_up_what_follows_for_long(smollm2: Any) -> None:
    vocabulary = Vocabulary(smollm2)
    lead = next(token for token in range(300) if vocabulary.decode([token, token]) == "\ufffd\ufffd")
    detokenizer = Detokenizer(vocabulary, [40])
    for count in range(1, 200):
        detokenizer.feed(lead)
        assert sum(piece.count for piece in detokenizer._pending) < 4, count
    assert detokenizer.feed(40).text.endswith(smollm2.decode([40]))


def test_a_stop_string_over_several_tokens_never_leaks(tokenizer: Any) -> None:
    ids = tokenizer.encode(WORDS, add_special_tokens=False)
    for stop in ("two", "o three", "e two thr"):
        detokenizer = Detokenizer(Vocabulary(tokenizer), tokenizer.encode("a"), (stop,))
        pieces = [detokenizer.feed(token) for token in ids]
        assert detokenizer.stopped
        assert joined(pieces).text.lstrip() == WORDS.partition(stop)[0]
        assert joined(pieces).count < len(ids)
        assert detokenizer.flush() == Piece()


def test_special_tokens_are_counted_and_have_no_text(smollm2: Any) -> None:
    end = smollm2.eos_token_id
    detokenizer = Detokenizer(Vocabulary(smollm2), [40])
    assert detokenizer.feed(end) == Piece()
    assert detokenizer.feed(40) == Piece(smollm2.decode([40]), (end, 40), 2)
    assert detokenizer.feed(end) == Piece()
    assert detokenizer.flush() == Piece("", (end,), 1)


def test_ids_that_the_caller_names_are_as_silent(smollm2: Any) -> None:
    detokenizer = Detokenizer(Vocabulary(smollm2, silent=[40]), [41])
    assert detokenizer.feed(40) == Piece()
    assert detokenizer.flush() == Piece("", (40,), 1)


def test_a_log_probability_names_tokens_with_their_own_text(tokenizer: Any) -> None:
    vocabulary = Vocabulary(tokenizer)
    token = tokenizer.encode("one two", add_special_tokens=False)[-1]
    said = vocabulary.logprob(token, -0.5, [(token, -0.5), (tokenizer.eos_token_id, -math.inf)])
    assert said.text == said.top[0].text
    assert "two".endswith(said.text.strip())
    assert (said.top[1].text, said.top[1].logprob) == (tokenizer.eos_token, -9999.0), "JSON has no infinity"
