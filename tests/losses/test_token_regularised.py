"""T-REG: DPO where the contexts say nothing, and the pull on a single token where they do."""

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.preferences import dpo
from payoff.losses.token_regularised import token_regularised
from payoff.pipeline import Evaluation
from payoff.trajectories import Pairs

F64 = torch.float64
PAIRS = Pairs(torch.tensor([[0, 1], [2, 3], [1, 0]]), torch.tensor([1.0, 0.0, 0.8]), torch.ones(3))


def world(seed: int = 0, **said):
    rng = torch.Generator().manual_seed(seed)
    noise = lambda: -torch.rand(4, 3, generator=rng, dtype=F64)
    traj = four_answers()
    logp = {"ref": noise(), "better": noise(), "worse": noise(), **said}
    off = ~traj.exists
    return traj.replace(logp={k: torch.where(off, torch.nan, v) for k, v in logp.items()}), noise().requires_grad_()


def test_without_weight_or_without_contrast_it_is_dpo():
    traj, logp = world()
    plain = dpo(Evaluation(logp, {}), traj, PAIRS)
    found = token_regularised(Evaluation(logp, {}), traj, PAIRS, weight=0.0)
    torch.testing.assert_close(found.terms, plain.terms)
    assert found.metrics == plain.metrics
    same, logp = world(better=torch.full((4, 3), -1.0, dtype=F64), worse=torch.full((4, 3), -1.0, dtype=F64))
    assert torch.equal(token_regularised(Evaluation(logp, {}), same, PAIRS).terms, dpo(Evaluation(logp, {}), same, PAIRS).terms)


def test_a_token_is_pulled_by_its_worth_and_nothing_flows_through_the_weights():
    # at pi = ref the weight of a pair is 1/2; worth of log-odds log 3 is 1/4: every token of the pair is raised by a/2 beta/4
    traj, _ = world(better=torch.full((4, 3), 3.0, dtype=F64).log() - 3, worse=torch.full((4, 3), -3.0, dtype=F64))
    logp = torch.where(traj.exists, traj.logp["ref"], 0).requires_grad_()
    one = Pairs(PAIRS.index[:1], PAIRS.label[:1], PAIRS.weight[:1])
    gradient = lambda loss: torch.autograd.grad(loss.terms.sum(), logp)[0]
    pull = gradient(token_regularised(Evaluation(logp, {}), traj, one, beta=0.2, weight=0.4)) - gradient(
        dpo(Evaluation(logp, {}), traj, one, beta=0.2)
    )
    wanted = torch.where(traj.exists, -0.4 * 0.5 * 0.2 * 0.25, 0).to(F64)
    torch.testing.assert_close(pull, wanted * torch.tensor([1, 1, 0, 0])[:, None])


def test_exchanging_the_contexts_turns_the_pull_around():
    traj, logp = world()
    swapped = traj.replace(logp={"better": traj.logp["worse"], "worse": traj.logp["better"]})
    plain = dpo(Evaluation(logp, {}), traj, PAIRS).terms
    one, other = (token_regularised(Evaluation(logp, {}), t, PAIRS).terms - plain for t in (traj, swapped))
    assert one.abs().min() > 1e-5
    torch.testing.assert_close(one, -other)


def test_a_pair_counts_the_same_in_either_order():
    traj, logp = world()
    turned = Pairs(PAIRS.index.flip(1), 1 - PAIRS.label, PAIRS.weight)
    one, other = (token_regularised(Evaluation(logp, {}), traj, p).terms for p in (PAIRS, turned))
    torch.testing.assert_close(one, other)


def test_numbers_and_log_probabilities_are_checked():
    traj, logp = world()
    with pytest.raises(ValueError, match="weight must be at least 0, got -1"):
        token_regularised(Evaluation(logp, {}), traj, PAIRS, weight=-1.0)
    with pytest.raises(ValueError, match="beta must be > 0, got 0"):
        token_regularised(Evaluation(logp, {}), traj, PAIRS, beta=0.0)
    with pytest.raises(ValueError, match=r"needs traj.logp\['better'\]"):
        token_regularised(Evaluation(four_answers().logp["old"], {}), four_answers(), PAIRS)
