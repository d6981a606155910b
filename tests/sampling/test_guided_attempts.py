"""Guided attempts: which rows there are, in whose name, and that their weights make the gradient of the bare start, exactly."""

import pytest
import torch

from payoff.losses.truncated_weights import truncated_importance
from payoff.pipeline import Start, Verdict
from payoff.policies.tabular import Tabular
from payoff.sampling.guided_attempts import GuidedAttempts, judged, told_more
from payoff.sampling.pairings import all_pairs
from payoff.trajectories import Channel, constant

BARE, GUIDED = 0, 1
STARTS = [Start(str(k), {"table": BARE, "prompt": f"{k}?"}) for k in range(5)]


def policy():
    """Two letters, two actions: "ab" is right, rarely said without guidance (table 0) and mostly with it (table 1)."""
    made = Tabular(2, 2, starts=2, spread=0.3, seed=0)
    with torch.no_grad():
        made.logits[BARE] += torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
        made.logits[GUIDED] = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    return made


def right(response):
    return Verdict(float(response == "ab"), reason=f"{response} is not it")


def point_out(start, item, why):
    return start._replace(fields={**start.fields, "table": GUIDED, "prompt": f"{start.fields['prompt']} {why}"})


def sampled(n=6, **options):
    made = GuidedAttempts(checker=right, guide=options.pop("guide", point_out), **options)
    return made(policy(), STARTS, n, torch.Generator().manual_seed(1)).check()


def test_every_failure_is_tried_again_in_its_group_and_nothing_else_is():
    traj = sampled(again=2)
    guided = traj.extras["guided"]
    assert guided[:30].logical_not().all()
    failed = [row for row in range(30) if traj.items[row]["response"] != "ab"]
    assert 0 < len(failed) < 30
    assert guided[30:].all()
    assert traj.group[30:].tolist() == [int(traj.group[row]) for row in failed for _ in range(2)]
    assert len(set(traj.id.tolist())) == len(traj)


def test_rows_without_their_guidance_are_of_the_bare_start_with_the_probabilities_of_who_sampled_them():
    traj, made = sampled(), policy()
    tries = traj.select(traj.extras["guided"].nonzero()[:, 0])
    assert (tries.extras["table"] == BARE).all()
    assert all(item["prompt"] == f"{item['start']}?" for item in tries.items)
    behind = made.evaluate(tries.replace(extras={**tries.extras, "table": torch.full_like(tries.extras["table"], GUIDED)}))
    torch.testing.assert_close(tries.logp["old"], behind.logp.detach())
    assert not torch.allclose(made.evaluate(tries).logp.detach(), tries.logp["old"], atol=0.1)


def test_rows_with_their_guidance_are_on_policy():
    traj = sampled(context="with")
    tries = traj.select(traj.extras["guided"].nonzero()[:, 0])
    assert all("is not it" in item["prompt"] for item in tries.items)
    torch.testing.assert_close(tries.logp["old"], policy().evaluate(tries).logp.detach())


def test_the_weights_of_guided_rollouts_give_the_gradient_of_the_bare_start_exactly():
    """Every sequence once, with the probability that guidance gives it: sum_y q(y) (pi / q)(y) R(y) grad log pi(y)."""
    made = policy()
    every = made.sequences()
    of = lambda table: every.replace(extras={**every.extras, "table": torch.full((len(every),), table)})
    worth = torch.tensor([1.0, 3.0, -1.0, 0.5], dtype=torch.float64)
    guided = made.evaluate(of(GUIDED)).logp.detach()
    traj = of(BARE).replace(logp={"old": guided})
    chance = guided.sum(1).exp()
    target = Channel((chance * worth)[:, None], torch.ones(4, 1, dtype=torch.bool))
    terms = truncated_importance(made.evaluate(traj), traj, target, bound=1e6, level="sequence").terms
    found = torch.autograd.grad(terms.sum(), made.logits)[0]
    value = (made.evaluate(of(BARE)).logp.sum(1).exp() * worth).sum()
    wanted = -torch.autograd.grad(value, made.logits)[0]
    torch.testing.assert_close(found, wanted)


def test_without_guidance_or_failures_they_are_plain_rollouts():
    for options in ({"guide": lambda start, item, why: None}, {}):
        made = GuidedAttempts(checker=(lambda response: 1.0) if not options else right, **{"guide": point_out, **options})
        traj = made(policy(), STARTS, 3, torch.Generator().manual_seed(1))
        plain = policy().rollout(STARTS, 3, torch.Generator().manual_seed(1))
        assert torch.equal(traj.actions, plain.actions)
        assert not traj.extras["guided"].any()


def test_pairs_never_mix_starts_and_need_one_that_passes_and_one_that_fails():
    traj = sampled()
    passes = torch.tensor([float(item["response"] == "ab") for item in traj.items])
    pairs = all_pairs(constant(passes, torch.ones(len(traj), dtype=torch.bool)), traj)
    better, worse = pairs.index.T
    assert len(pairs.index)
    assert torch.equal(traj.group[better], traj.group[worse])
    assert (passes[better] > passes[worse]).all()


def test_what_is_told_and_what_a_checker_says():
    start = Start("a", {"prompt": "Fix it.", "hints": "Run the tests."})
    assert told_more(start, {}, "test 2 failed").fields["prompt"] == (
        "Fix it.\n\nAn earlier attempt failed: test 2 failed\nHints: Run the tests.\n"
    )
    assert told_more(Start("a", {"prompt": "p"}), {}, "") is None
    assert judged(lambda response: None, {"response": "x"}) == (None, "")
    assert judged(lambda response: Verdict(1.0, False, "lost"), {"response": "x"}) == (None, "lost")
    with pytest.raises(ValueError, match="again >= 1"):
        GuidedAttempts(checker=right, again=0)
