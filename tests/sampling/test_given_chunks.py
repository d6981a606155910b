"""Scaffolds: what is given, that it is context and nothing else, and that groups never mix amounts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Start
from payoff.policies.embedded import transformer
from payoff.policies.tabular import Tabular
from payoff.sampling.given_chunks import split_solution, with_given_chunks
from payoff.tasks.chain import Chain, chain_solution
from payoff.trajectories import constant

PROMPTS = ["3-7+7-5=", "1+2+3+4="]
STARTS = [Start(p, {"prompt": p, "reference": chain_solution(p)[-2], "solution": chain_solution(p)}) for p in PROMPTS]
OPTIONS = {"chunks": 4, "separators": (";",)}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def policy():
    made = transformer(width=8, layers=1, heads=1, context=48, max_tokens=26, stop=["."])
    torch.manual_seed(0)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


@pytest.fixture(scope="module")
def batch(policy):
    return with_given_chunks(policy, STARTS * 8, 2, rng(), **OPTIONS).check()


@settings(max_examples=20, deadline=None)
@given(st.text("ab.\n ;", max_size=60), st.integers(1, 6))
def test_chunks_put_together_are_the_solution_and_none_is_empty(text, chunks):
    parts = split_solution(text, chunks)
    assert "".join(parts) == text
    assert len(parts) <= chunks
    assert all(parts) or text == ""


def test_paragraphs_come_before_lines_and_lines_before_sentences():
    text = "A. B.\nC.\n\nD."
    assert split_solution(text, 2) == ["A. B.\nC.\n\n", "D."]
    assert split_solution(text, 3) == ["A. B.\n", "C.\n\n", "D."]  # two paragraphs are not enough, three lines are
    assert split_solution("A. B. C.", 2) == ["A. B. ", "C."]
    assert split_solution("A.\n\nB.\n\nC.\n\nD.\n\nE.", 2) == ["A.\n\nB.\n\nC.\n\n", "D.\n\nE."]


def test_a_rollout_begins_with_the_chunks_that_were_given_and_acts_behind_them(batch):
    for row, item in enumerate(batch.items):
        parts = split_solution(item["solution"], 4, (";",))
        text = "".join(parts[: item["given"]])
        assert item["response"].startswith(text)
        assert int(batch.fork[row]) == len(text)  # one letter is one token here
        assert not batch.own[row, : len(text)].any()
        assert batch.own[row, len(text)]


def test_a_group_is_one_start_with_one_amount_and_has_n_members(batch):
    groups = {}
    for row, item in enumerate(batch.items):
        groups.setdefault(int(batch.group[row]), []).append((item["start"], item["given"]))
    assert len(groups) == 16
    assert all(len(members) == 2 and len(set(members)) == 1 for members in groups.values())


def test_every_amount_but_the_whole_solution_comes_up(batch):
    assert {item["given"] for item in batch.items} == {0, 1, 2, 3}


def test_the_first_half_ends_at_half_and_a_number_is_cut_at_the_last_but_one(policy):
    half = with_given_chunks(policy, STARTS * 8, 1, rng(1), given="first-half", **OPTIONS)
    assert {item["given"] for item in half.items} == {0, 1, 2}
    most = with_given_chunks(policy, STARTS, 1, rng(1), given=9, **OPTIONS)
    assert [item["given"] for item in most.items] == [3, 3]


def test_given_text_gets_no_gradient_and_what_follows_does(policy, batch):
    helped = batch.select(torch.tensor([row for row, item in enumerate(batch.items) if item["given"]]))
    logp = policy.evaluate(helped).logp.detach().requires_grad_()
    target = constant(torch.ones(len(helped)), torch.ones(len(helped), dtype=torch.bool))
    terms = policy_gradient(policy.evaluate(helped)._replace(logp=logp), helped, target).terms
    (slope,) = torch.autograd.grad(terms.sum(), logp)
    assert torch.equal(slope != 0, helped.own)


def test_graders_are_shown_the_given_part_and_what_was_written_behind_it(batch):
    for row, item in enumerate(batch.items):
        begun = "".join(split_solution(item["solution"], 4, (";",))[: item["given"]])
        written = "".join(item["tokens"][int(batch.fork[row]) :])
        assert written
        assert item["response"] == begun + written
        assert item["steps"][: item["given"]] == split_solution(item["solution"], 4, (";",))[: item["given"]]


def test_nothing_given_is_the_policys_own_rollout_to_the_bit(policy):
    free = policy.rollout(STARTS, 2, rng(3))
    same = with_given_chunks(policy, STARTS, 2, rng(3), given=0, **OPTIONS)
    assert torch.equal(free.actions, same.actions)
    assert same.parent is None


def test_a_start_without_solution_and_a_solution_in_one_piece_are_rolled_out_freely(policy):
    starts = [Start("a", {"prompt": PROMPTS[0]}), Start("b", {"prompt": PROMPTS[1], "solution": "#0."})]
    traj = with_given_chunks(policy, starts, 1, rng(), given=2, **OPTIONS)
    assert [item["given"] for item in traj.items] == [0, 0]


def test_a_solution_can_be_a_function_of_the_fields(policy):
    starts = Chain(terms=3).starts(2, rng())
    traj = with_given_chunks(policy, starts, 1, rng(), solution=lambda row: chain_solution(row["prompt"]), given=1, **OPTIONS)
    assert all(item["response"].startswith(chain_solution(item["prompt"]).split(";")[0] + ";") for item in traj.items)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="chunks must be at least 1"):
        with_given_chunks(Tabular(2, 2), [], 1, rng(), chunks=0)
    with pytest.raises(ValueError, match="given must be"):
        with_given_chunks(Tabular(2, 2), [], 1, rng(), given=-1)
    with pytest.raises(ValueError, match="reads no stored text"):
        with_given_chunks(Tabular(2, 2), STARTS, 1, rng(), given=1, **OPTIONS)
