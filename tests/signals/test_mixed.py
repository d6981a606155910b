import itertools
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.examples import four_answers
from payoff.pipeline import Verdict
from payoff.policies.embedded import transformer
from payoff.signals.mixed import best_match, bmas, last_number, mixed_r1, tulu3_rlvr
from payoff.trajectories import StopReason, outcome

bags = st.lists(st.sampled_from("abcd"), min_size=1, max_size=6)


def is_unknown(verdict):
    return isinstance(verdict, Verdict) and not verdict.valid


@settings(max_examples=25, deadline=None)
@given(bags, bags, st.randoms())
def test_bmas_is_symmetric_blind_to_order_and_1_for_itself(a, b, rng):
    said, wanted = " ".join(a), " ".join(b)
    assert bmas(said, wanted) == bmas(wanted, said)
    assert bmas(" ".join(rng.sample(a, len(a))), wanted) == pytest.approx(bmas(said, wanted))
    assert bmas(said + " " + said, said) == 1.0
    # words are orthogonal unit vectors
    table = torch.eye(4)
    rows = [table[["abcd".index(word) for word in bag]] for bag in (a, b)]
    assert bmas(said, wanted) == pytest.approx(best_match(*rows))


def test_bmas_by_hand():
    # e1, (e1 + e2) / sqrt 2 against e2: best matches 0 and 0.7071 one way, 0.7071 the other
    a, b = torch.tensor([[1.0, 0.0], [3.0, 3.0]]), torch.tensor([[0.0, 2.0]])
    assert best_match(a, b) == pytest.approx((0.5**0.5 / 2 + 0.5**0.5) / 2)
    assert best_match(-b, b) == -1.0
    assert best_match(torch.zeros(1, 2), b) == 0.0


def test_bmas_takes_tokens_and_embeddings_of_a_policy():
    policy = transformer(checkpoint="chain")
    assert bmas("3+4=7", "3+4=7", policy=policy) == pytest.approx(1.0)
    assert bmas("7=4+3", "3+4=7", policy=policy) == pytest.approx(1.0)
    near = bmas("1", "2", policy=policy)
    table = policy.model.embed.weight.detach()
    one, two = (table[policy.tokenizer.encode(digit)[0]] for digit in "12")
    assert near == pytest.approx(float(torch.cosine_similarity(one, two, dim=0)), abs=1e-5)
    with pytest.raises(ValueError, match="language model"):
        bmas("1", "2", policy=object())


def test_no_answer_is_0_and_no_reference_no_verdict():
    assert bmas("", "a") == 0.0
    assert bmas("...", "a") == 0.0
    assert is_unknown(bmas("a", "..."))
    assert is_unknown(bmas("a", None))


def formed(answer):
    return f"<think>x</think><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("answer", "reference", "kind", "pay"),
    [
        ("yes", "Yes", "match", 1.0),
        ("no", "Yes", "match", 0.0),
        ("10.4", "10", "chart", 1.0),
        ("10.6", "10", "chart", 0.0),
        ("10.4", "10", "match", 0.0),
        ("[0, 0, 2, 2]", [0, 0, 2, 2], "box", 1.0),
        ("[0, 0, 2, 2]", [1, 1, 3, 3], "box", 1 / 7),
        ("[0, 0, 2, 2]", "2, 2, 3, 3", "box", 0.0),
        ("[2, 2, 0, 0]", [0, 0, 2, 2], "box", 0.0),
        ("nowhere", [0, 0, 2, 2], "box", 0.0),
        ("nan nan nan nan", [0, 0, 2, 2], "box", 0.0),
        ("a red ball", "the red cube", "open", 1 / 3),
    ],
)
def test_the_router_pays_by_kind_and_adds_the_form(answer, reference, kind, pay):
    assert mixed_r1(formed(answer), reference, kind) == pytest.approx(1 + pay)
    assert mixed_r1(f"<answer>{answer}</answer>", reference, kind) == pytest.approx(pay)


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("x", "other"),
        (None, "match"),
        (None, "box"),
        ([0, 0, 0, 1], "box"),
        ([0, 0, 1], "box"),
        (["x", 0, 1, 1], "box"),
        (None, "open"),
    ],
)
def test_the_router_gives_no_verdict_for_what_does_not_fit(reference, kind):
    assert is_unknown(mixed_r1(formed("[0, 0, 1, 1]"), reference, kind))


@pytest.mark.parametrize(
    ("said", "pay"),
    [
        ("3 + 4 = 7", 1.0),
        ("7.0", 1.0),
        ("it is 7, found in 2 steps", 0.0),
        ("1,007", 0.0),
        ("-7", 0.0),
        ("10-7", 1.0),
        ("x7", 1.0),
        ("seven", 0.0),
        ("9" * 60 + "7", 0.0),
        ("0." + "0" * 300 + "7", 0.0),
        ("", 0.0),
    ],
)
def test_the_last_number_counts_wherever_it_stands(said, pay):
    assert last_number(said, 7) == pay
    assert last_number(said, "so 3 + 4 = 7") == pay


def test_numbers_with_thousands_and_a_reference_without_any():
    assert last_number("about 1,234,567.5", "1234567.5") == 1.0
    assert last_number("-5", "\n#### -5") == 1.0
    assert is_unknown(last_number("7", "seven"))
    assert is_unknown(last_number("7", None))


def rows(verifier, stop=StopReason.finished, **fields):
    traj = four_answers()
    return traj.replace(items=[{**item, "verifier": verifier, **fields} for item in traj.items], stop=torch.full((4,), int(stop)))


def test_verified_is_alpha_and_not_verified_nothing():
    for name in ("last-number", "last_number", "answer-match"):
        assert tulu3_rlvr(rows(name), alpha=3.0)["tulu3-rlvr"].value.sum(1).tolist() == [3.0, 0.0, 3.0, 0.0]


def test_several_verifiers_add_up_with_their_weights_and_references():
    both = ["last-number", {"name": "answer-match", "weight": 0.5, "reference": "5"}]
    assert tulu3_rlvr(rows(both))["tulu3-rlvr"].value.sum(1).tolist() == [10.0, 0.0, 15.0, 0.0]


def test_what_did_not_finish_has_the_fixed_reward():
    assert tulu3_rlvr(rows("last-number", StopReason.truncated))["tulu3-rlvr"].value.sum(1).tolist() == [-10.0] * 4
    assert tulu3_rlvr(rows("last-number", StopReason.truncated), unfinished=None)["tulu3-rlvr"].value.sum(1).tolist() == [
        10,
        0,
        10,
        0,
    ]


@pytest.mark.parametrize(
    ("verifier", "why"),
    [
        ("no-such", "unknown verifier"),
        ("length", "unknown verifier"),  # a signal
        (None, "names no verifier"),
        ([], "names no verifier"),
        ([3], "unknown verifier"),
        ([{"name": "answer-match", "weight": "x"}], "only a name, a weight"),
        ([{"name": "code-tests", "isolation": "none"}], "only a name, a weight"),
        ([{"name": "answer-match", "reference": None}], "no reference"),
        ("format", "TypeError"),  # it needs a pattern, which only the run can give
        ([{"name": "answer-match", "weight": 1e400}], "no number"),
    ],
)
def test_a_verifier_that_cannot_be_used_is_no_verdict_and_says_why(verifier, why):
    channel = tulu3_rlvr(rows(verifier))["tulu3-rlvr"]
    assert all(why in reason for reason in channel.reasons.values())
    assert len(channel.reasons) == 4
    value, known = outcome(channel, four_answers())
    assert not known.any()
    assert (value == 0).all()


def test_options_and_what_is_allowed_are_the_runs():
    traj = rows("format")
    paid = tulu3_rlvr(traj, options={"format": {"pattern": "[25]"}})["tulu3-rlvr"]
    assert paid.value.sum(1).tolist() == [10.0, 0.0, 10.0, 0.0]
    assert len(tulu3_rlvr(traj, allowed=["answer-match"])["tulu3-rlvr"].reasons) == 4


def test_a_verifier_is_given_the_fields_it_reads():
    paid = tulu3_rlvr(rows("choice", choices=["2", "5"], reference="A"))["tulu3-rlvr"]
    assert paid.value.sum(1).tolist() == [10.0, 0.0, 0.0, 0.0]
    assert "TypeError" in next(iter(tulu3_rlvr(rows("med-r1"))["tulu3-rlvr"].reasons.values()))  # no labels


def test_rows_may_come_in_any_order():
    traj = rows("last-number")
    paid = tulu3_rlvr(traj)["tulu3-rlvr"].value.sum(1)
    for order in itertools.islice(itertools.permutations(range(4)), 5, 24, 6):
        assert torch.equal(tulu3_rlvr(traj.select(torch.tensor(order)))["tulu3-rlvr"].value.sum(1), paid[list(order)])


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="alpha must be"):
        tulu3_rlvr(four_answers(), alpha=0.0)
    with pytest.raises(ValueError, match="no items"):
        tulu3_rlvr(four_answers().replace(items=()))


@pytest.mark.parametrize(
    "response", ["9" * 200_000, "1," * 100_000, "1,111" * 40_000, "-" * 200_000, "." * 200_000, "a " * 100_000]
)
def test_hostile_responses_are_read_quickly(response):
    start = time.process_time()
    assert last_number(response, "7") == 0.0
    assert mixed_r1(response, [0, 0, 1, 1], "box") == 0.0
    assert 0.0 <= bmas(response, "b " * 100) <= 1.0
    assert time.process_time() - start < 2.0
