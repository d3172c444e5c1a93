from collections import Counter

import pytest

from inference.protocol import Sampling
from tests.needs import needs

pytestmark = needs("torch", "transformers")

SCORES = [2.0, 1.0, 0.5, -1.0, -3.0]


def draw(sampling: Sampling, *, prompt: tuple[int, ...] = (0,), answer: tuple[int, ...] = (), place: int = 0) -> int:
    import torch

    from inference.sampler import Sampler

    sampler = Sampler(sampling, len(prompt))
    return sampler.draw(torch.tensor(SCORES), 0, [*prompt, *answer], place).token


def drawn(sampling: Sampling, times: int = 400) -> Counter[int]:
    """What comes out at so many places, under one seed."""
    return Counter(draw(sampling, place=place) for place in range(times))


def test_without_temperature_the_likeliest_token_is_drawn() -> None:
    assert draw(Sampling(temperature=0.0)) == 0
    assert draw(Sampling(temperature=1e-7, seed=4)) == 0


def test_tokens_come_as_often_as_they_are_likely() -> None:
    seen = drawn(Sampling(temperature=1.0, seed=1), times=4000)
    # softmax of SCORES: 0.60, 0.22, 0.13, 0.03, 0.004
    assert seen[0] == pytest.approx(2400, abs=150)
    assert seen[1] == pytest.approx(880, abs=120)
    assert seen[2] == pytest.approx(535, abs=100)


def test_a_higher_temperature_draws_unlikely_tokens_more_often() -> None:
    assert drawn(Sampling(temperature=2.0, seed=1))[3] > drawn(Sampling(temperature=0.5, seed=1))[3]


def test_top_k_top_p_and_min_p_shut_unlikely_tokens_out() -> None:
    assert set(drawn(Sampling(temperature=1.0, top_k=2, seed=1))) == {0, 1}
    assert set(drawn(Sampling(temperature=1.0, top_p=0.7, seed=1))) == {0, 1}
    assert set(drawn(Sampling(temperature=1.0, min_p=0.2, seed=1))) == {0, 1, 2}


def test_a_seed_draws_the_same_at_each_place_and_other_seeds_do_not() -> None:
    first, again, other = (
        [draw(Sampling(temperature=1.0, seed=seed), place=place) for place in range(50)] for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other
    assert len(set(first)) > 1


def test_without_a_seed_each_answer_is_drawn_anew() -> None:
    answers = {tuple(draw(Sampling(temperature=2.0), place=place) for place in range(30)) for _ in range(3)}
    assert len(answers) == 3


def test_a_repetition_penalty_holds_for_prompt_and_answer() -> None:
    strong = Sampling(temperature=0.0, repetition_penalty=10.0)
    assert draw(strong, prompt=(0,)) == 1
    assert draw(strong, prompt=(0,), answer=(1,)) == 2


def test_presence_and_frequency_penalties_count_the_answer_and_not_the_prompt() -> None:
    presence = Sampling(temperature=0.0, presence_penalty=1.2)
    assert draw(presence, prompt=(0, 0, 0)) == 0
    assert draw(presence, prompt=(0,), answer=(0,)) == 1
    assert draw(presence, prompt=(0,), answer=(0, 1)) == 0  # both have lost the same
    frequency = Sampling(temperature=0.0, frequency_penalty=0.4)
    assert draw(frequency, answer=(0, 0)) == 0
    assert draw(frequency, answer=(0, 0, 0)) == 1


def test_a_bias_is_added_to_the_scores_of_its_tokens() -> None:
    assert draw(Sampling(temperature=0.0, logit_bias=((0, -100.0),))) == 1
    assert draw(Sampling(temperature=0.0, logit_bias=((4, 5.5),))) == 4
    assert draw(Sampling(temperature=0.0, logit_bias=((99, 100.0),))) == 0  # the vocabulary has no such token
    assert set(drawn(Sampling(temperature=1.0, seed=1, logit_bias=((0, -100.0), (1, -100.0))))) <= {2, 3, 4}


def test_log_probabilities_are_the_models_own_whatever_the_sampling() -> None:
    import torch

    from inference.sampler import Sampler

    logs = torch.tensor(SCORES).log_softmax(-1)
    sampler = Sampler(Sampling(temperature=0.3, presence_penalty=2.0, seed=1, logprobs=2), 1)
    found = sampler.draw(torch.tensor(SCORES), 0, [3, 0], 5)
    assert found.logprob == pytest.approx(float(logs[found.token]))
    assert [token for token, _ in found.top] == [0, 1]
    assert [value for _, value in found.top] == pytest.approx(logs[:2].tolist())


def test_more_log_probabilities_than_there_are_tokens_are_all_of_them() -> None:
    import torch

    from inference.sampler import Sampler

    found = Sampler(Sampling(temperature=0.0, logprobs=20), 1).draw(torch.tensor(SCORES), 0, [0], 0)
    assert len(found.top) == len(SCORES)


def test_scores_that_are_no_numbers_draw_nothing_and_spoil_no_other_row() -> None:
    import torch

    from inference.sampler import NoNumbersError, Sampler, likeliest

    scores = torch.tensor([[1.0, 2.0, float("nan")], [0.0, float("inf"), 1.0], [1.0, 3.0, 3.0]])
    assert likeliest(scores) == [-1, -1, 1]
    for sampling in (Sampling(), Sampling(temperature=0.0)):
        with pytest.raises(NoNumbersError):
            Sampler(sampling, 1).draw(scores[0], -1, [0], 0)
