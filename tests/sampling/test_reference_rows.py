"""Rewards that depend on the policy: the reasoning's term and the reward's own make the gradient of what is expected, exactly."""

import itertools
import math
import re
from pathlib import Path

import pytest
import torch
import yaml

from payoff.advantages.marginal import without_it
from payoff.build import build
from payoff.config import Loaded, RunFile
from payoff.credit.reference_rows import reward_gradient
from payoff.credit.returns import total
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Start
from payoff.policies.embedded import transformer
from payoff.policies.tabular import Tabular
from payoff.sampling.reference_rows import note_references, with_reference_likelihood, with_reference_rows
from payoff.signals.reference_likelihood import ReasonedProbability, ReferenceLikelihood
from payoff.train import train
from payoff.trajectories import Trajectories, constant

PROMPT, LEAD, RIGHT, LONGEST = "b", "b", "a.", 3
RNG = torch.Generator()


@pytest.fixture(scope="module", autouse=True)
def exactly():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def texts():
    """Everything that can be written: three tokens, or fewer with the stop at the end."""
    for n in range(1, LONGEST + 1):
        for said in itertools.product("ab;.", repeat=n):
            if "." not in said[:-1] and (said[-1] == "." or n == LONGEST):
                yield "".join(said)


@pytest.fixture(scope="module")
def world(exactly):
    """A policy, all its rollouts with a reference, and their log-probabilities with gradient."""
    policy = transformer(alphabet="ab;.", context=10, width=6, layers=1, heads=1, max_tokens=LONGEST).double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(std=0.4, generator=torch.Generator().manual_seed(1))
    traj = policy.read([{"prompt": PROMPT, "response": text, "reference": RIGHT} for text in texts()])
    traj = traj.replace(logp={"old": policy.evaluate(traj).logp.detach()})
    chance = policy.evaluate(traj).logp.sum(1)
    assert float(chance.detach().exp().sum()) == pytest.approx(1.0, abs=1e-12)
    return policy, traj, chance


def likelihoods(policy, traj, keep):
    """log pi of each token of the reference behind what is kept of each rollout, [N, 2], with gradient, by rows of text."""
    kept = ["".join(item["steps"] if keep == "all" else item["steps"][:-1]) for item in traj.items]
    rows = policy.read([{"prompt": PROMPT, "response": before + LEAD + RIGHT} for before in kept])
    last = rows.length[:, None] - torch.tensor([2, 1])
    return policy.evaluate(rows).logp.gather(1, last)


def gradient(policy, value):
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(policy.parameters()), retain_graph=True)])


REWARDS = {
    "log": lambda logp: logp.sum(1),
    "mean-log": lambda logp: logp.mean(1),
    "probability": lambda logp: logp.sum(1).exp(),
    "mean-probability": lambda logp: logp.exp().mean(1),
}


@pytest.mark.parametrize("keep", ["but-last-step", "all"])
@pytest.mark.parametrize("form", REWARDS)
def test_both_terms_are_the_gradient_of_the_expected_reward_and_one_is_not(world, form, keep):
    policy, traj, chance = world
    reward = REWARDS[form](likelihoods(policy, traj, keep))
    wanted = gradient(policy, (chance.exp() * reward).sum())

    noted = note_references(policy, traj, keep=keep, lead=LEAD)
    paid = ReferenceLikelihood(form=form)(noted)
    rows, paid = with_reference_rows(noted, paid, RNG)
    weight = chance.exp().detach().repeat(2)[:, None]  # of a rollout, and of the row made of it
    terms = {
        "reasoning": total(paid["likelihood"], rows),
        "reward": reward_gradient(paid["likelihood"], rows, form=form),
    }
    said = policy.evaluate(rows)
    found = {name: -gradient(policy, (weight * policy_gradient(said, rows, x).terms).sum()) for name, x in terms.items()}
    torch.testing.assert_close(found["reasoning"] + found["reward"], wanted, rtol=0, atol=1e-9)
    assert float((found["reasoning"] - wanted).norm()) > 0.05 * float(wanted.norm())


def test_of_groups_both_terms_are_the_gradient_of_the_expected_log_of_their_mean_likelihood(world):
    policy, traj, chance = world
    pairs = torch.cartesian_prod(torch.arange(len(traj)), torch.arange(len(traj)))
    whole = likelihoods(policy, traj, "all").sum(1)
    mean = whole[pairs].logsumexp(1) - math.log(2)
    wanted = gradient(policy, (chance[pairs].sum(1).exp() * mean).sum())

    noted = note_references(policy, traj, keep="all", lead=LEAD)
    groups = noted.select(pairs.flatten()).replace(
        group=torch.arange(len(pairs)).repeat_interleave(2), id=torch.arange(2 * len(pairs))
    )
    rows, paid = with_reference_rows(groups, ReferenceLikelihood(form="log")(groups), RNG)
    weight = chance[pairs].sum(1).exp().detach().repeat_interleave(2).repeat(2)[:, None]
    said = policy.evaluate(rows)
    reasoning = without_it(total(paid["likelihood"], rows), rows)
    direct = reward_gradient(paid["likelihood"], rows, form="group")
    found = [-gradient(policy, (weight * policy_gradient(said, rows, x).terms).sum()) for x in (reasoning, direct)]
    torch.testing.assert_close(found[0] + found[1], wanted, rtol=0, atol=1e-9)
    assert float((found[0] - wanted).norm()) > 0.05 * float(wanted.norm())


def test_the_derivatives_have_the_worked_numbers():
    logp = torch.tensor([[0.1, torch.nan], [0.2, torch.nan], [0.4, torch.nan], [0.5, 0.25]]).log()
    length = torch.tensor([1, 1, 1, 2])
    exists = torch.arange(2) < length[:, None]
    ends = {"mask": exists, "length": length, "step": torch.where(exists, 0, -1).int(), "actions": torch.zeros(4, 2).long()}
    zeros = torch.zeros(4, dtype=torch.int64)
    rows = Trajectories(**ends, group=zeros, stop=zeros, logp={"old": logp}, extras={"reference": zeros == 0})
    wanted = {  # by tokens: the last row's likelihood is .5 * .25 = .125
        "log": [1, 1, 1, 1, 1],
        "mean-log": [1, 1, 1, 0.5, 0.5],
        "probability": [0.1, 0.2, 0.4, 0.125, 0.125],
        "mean-probability": [0.1, 0.2, 0.4, 0.25, 0.125],
        "group": [x / 0.825 for x in (0.1, 0.2, 0.4, 0.125, 0.125)],
    }
    for form, numbers in wanted.items():
        credit = reward_gradient(constant(torch.zeros(4), torch.zeros(4) > 0), rows, form=form)
        assert credit.value[exists].tolist() == pytest.approx(numbers)
        assert float(credit.value[~exists].abs().sum()) == 0


def test_the_rows_are_known_to_no_other_term_and_nothing_beyond_their_end_is_read(world):
    policy, traj, _ = world
    noted = note_references(
        policy, traj.replace(extras={"worth": torch.arange(len(traj)), "seen": torch.ones(len(traj), 3)}), lead=LEAD
    )
    rows, paid = with_reference_rows(noted, ReferenceLikelihood()(noted), RNG)
    n = len(traj)
    assert rows.check() is rows
    assert not paid["likelihood"].valid[n:].any()
    assert len(set(rows.id.tolist())) == 2 * n
    assert rows.group[n:].tolist() == traj.group.tolist()
    assert rows.extras["worth"].tolist() == 2 * list(range(n))
    assert float(rows.extras["seen"][n:].abs().sum()) == 0
    for old, new in zip(rows.items[:n], rows.items[n:], strict=True):
        assert new["response"] == "".join(old["steps"][:-1]) + LEAD + RIGHT == "".join(new["tokens"]) == "".join(new["steps"])
    credit = reward_gradient(paid["likelihood"], rows, form="probability")
    filled = rows.replace(logp={"old": torch.where(rows.own, rows.logp["old"], torch.nan)})
    torch.testing.assert_close(reward_gradient(paid["likelihood"], filled, form="probability").value, credit.value, rtol=0, atol=0)
    assert torch.equal(credit.valid, rows.own & rows.extras["reference"][:, None])


def test_what_has_no_reference_or_no_room_gets_no_row(world):
    policy = world[0]
    starts = [
        Start("a", {"prompt": "b"}),
        Start("b", {"prompt": "b", "reference": "a" * 10}),
        Start("c", {"prompt": "b", "reference": "a"}),
    ]
    noted = with_reference_likelihood(policy, starts, 2, torch.Generator().manual_seed(0), base=True)
    assert [("reference_logp" in item, "base_logp" in item) for item in noted.items] == [(False, False)] * 4 + [(True, True)] * 2
    assert ReasonedProbability()(noted)["probability"].valid.all(1).tolist() == [False] * 4 + [True] * 2
    paid = ReferenceLikelihood()(noted)
    assert len(with_reference_rows(noted, paid, RNG)[0]) == 8
    none = noted.select(torch.arange(4))
    alone, same = with_reference_rows(none, {"x": paid["likelihood"]}, RNG)
    assert len(alone) == 4
    assert not alone.extras["reference"].any()
    assert same["x"] is paid["likelihood"]


def test_errors_name_what_is_wrong(world):
    policy, traj, _ = world
    with pytest.raises(ValueError, match="writes no text"):
        note_references(Tabular(2, 2), traj)
    with pytest.raises(ValueError, match="the replay likelihood-rewards adds such rows"):
        reward_gradient(total(ReferenceLikelihood()(note_references(policy, traj))["likelihood"], traj), traj)


# --- in a run


def run_file() -> Loaded:
    """That of the page on sampling, made small."""
    page = (Path(__file__).parents[2] / "docs" / "sampling.md").read_text(encoding="utf-8")
    (block,) = [text for text in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL) if "replay: likelihood-rewards" in text]
    small = {
        "task": {"name": "chain", "terms": 3},
        "policy": {"name": "transformer", "width": 16, "layers": 1, "heads": 2, "max_tokens": 8},
        "train": {"updates": 20, "starts": 4, "rollouts": 4, "learning_rate": 0.02},
        "evaluate": {"every": 0, "starts": 0},
    }
    return Loaded(RunFile.model_validate({**yaml.safe_load(block), **small}), {}, "run.yaml", [])


def test_in_a_run_the_reward_is_that_of_the_policy_as_it_is_and_rises_by_what_goes_through_it():
    torch.set_default_dtype(torch.float32)
    history = train(*build(run_file(), seed=0)).history[1:]
    torch.set_default_dtype(torch.float64)
    assert [line["replayed"] for line in history] == [16] * len(history)
    first, last = (sum(line["reward"] for line in some) / 5 for some in (history[:5], history[-5:]))
    assert last > first + 0.2  # nats
