"""PRIME's model: what it pays, what it learns from, and that a run with it goes on bit for bit."""

import copy
import dataclasses
import io
import itertools

import pytest
import torch
from torch import nn

from payoff.advantages.prime import unit_return
from payoff.build import build
from payoff.config import load_run
from payoff.contents import learners
from payoff.models.implicit import ImplicitReward
from payoff.pipeline import Evaluation, join
from payoff.policies.embedded import transformer
from payoff.tasks.chain import Chain
from payoff.train import train
from payoff.trajectories import Channel, Trajectories, outcome, place_outcome


def policy(seed=3):
    made = transformer(width=16, layers=1, heads=2, context=40, max_tokens=12)
    torch.manual_seed(seed)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def rollouts(made, n=6, starts=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return made.rollout(Chain(terms=2, held_out=0).starts(starts, rng), n, rng)


def moved(**options):
    """A model whose weights are no longer the reference's."""
    made = policy()
    model = ImplicitReward(policy=copy.deepcopy(made), **options)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made, model


def verdicts(traj, right=None, valid=None):
    right = torch.arange(len(traj)) % 2 == 0 if right is None else right
    valid = torch.ones(len(traj), dtype=torch.bool) if valid is None else valid
    return {"correct": place_outcome(torch.where(valid, right.float(), 0), valid, traj)}


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


# --- what it pays


def test_before_any_learning_every_payment_is_exactly_zero():
    made = policy()
    traj = rollouts(made)
    channel = ImplicitReward(policy=copy.deepcopy(made))(traj)["implicit"]
    assert (channel.value == 0).all()
    assert channel.valid.all()
    assert not channel.value.requires_grad


def test_payments_sum_to_beta_times_the_log_ratio_of_whole_responses():
    made, model = moved(beta=0.3)
    traj = rollouts(made)
    paid = outcome(model(traj)["implicit"], traj)[0]
    for row in range(len(traj)):
        ids = torch.tensor([[*traj.items[row]["prompt_ids"], *traj.actions[row, : traj.length[row]].tolist()]])
        first = len(traj.items[row]["prompt_ids"])
        whole = []
        for network in (model.model.model, made.model):
            with torch.no_grad():
                logp = network(ids)[0, first - 1 : -1].double().log_softmax(-1)
            whole.append(float(logp.gather(1, ids[0, first:, None]).sum()))
        assert float(paid[row]) == pytest.approx(0.3 * (whole[0] - whole[1]), abs=1e-4)
    assert paid.abs().max() > 0.01


def test_actions_that_are_not_the_policys_and_padding_are_paid_nothing_and_not_read():
    made, model = moved()
    traj = rollouts(made)
    mask = traj.mask.clone()
    mask[:, 1] = False
    held = traj.replace(mask=mask)
    value, whole = model(held)["implicit"].value, model(traj)["implicit"].value
    assert (value[:, 1] == 0).all()
    assert torch.allclose(value, torch.where(mask, whole, 0), atol=1e-6)
    spoiled = dataclasses.replace(
        traj,
        actions=traj.actions.masked_fill(~traj.exists, 10**9),
        logp={"old": traj.logp["old"].masked_fill(~traj.exists, torch.nan)},
    )
    assert not torch.equal(spoiled.actions, traj.actions)
    assert torch.equal(model(spoiled)["implicit"].value, whole)
    twin = copy.deepcopy(model)
    assert model.learn(traj, verdicts(traj)) == twin.learn(spoiled, verdicts(traj))
    assert torch.equal(flat(model.model), flat(twin.model))


def test_a_branch_is_paid_on_the_actions_it_shares_with_its_parent():
    made, model = moved()
    traj = rollouts(made)
    row = int(traj.length.argmax())
    branch = made.resume(traj, torch.tensor([row]), torch.tensor([3]), 2, torch.Generator().manual_seed(1))
    parent = model(traj)["implicit"].value[row, :3]
    assert torch.allclose(model(branch)["implicit"].value[:, :3], parent.expand(2, -1), atol=1e-6)


class Table(nn.Module):
    """Two actions of three kinds, with every probability in a table."""

    offers = frozenset()

    def __init__(self, joint):
        super().__init__()
        self.joint = nn.Parameter(joint.log())  # log-probabilities of the nine pairs, up to a constant

    def evaluate(self, traj, want=frozenset()):
        joint = self.joint.flatten().log_softmax(0).view(3, 3)
        first = joint.logsumexp(1)
        a, b = traj.actions.unbind(1)
        return Evaluation(torch.stack([first[a], joint[a, b] - first[a]], 1), {})


def test_at_the_optimum_payments_so_far_are_the_gain_in_soft_value():
    beta, generator = 0.4, torch.Generator().manual_seed(0)
    base = torch.rand(3, 3, generator=generator, dtype=torch.float64) + 0.1
    base /= base.sum()
    reward = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    model = ImplicitReward(policy=Table(base), beta=beta)
    with torch.no_grad():  # the maximum of E[reward] - beta KL over whole sequences
        model.model.joint += reward / beta
    pairs = torch.tensor(list(itertools.product(range(3), repeat=2)))
    traj = Trajectories(
        mask=torch.ones(9, 2, dtype=torch.bool),
        length=torch.full((9,), 2),
        group=torch.zeros(9, dtype=torch.int64),
        step=torch.tensor([[0, 1]]).repeat(9, 1),
        stop=torch.zeros(9, dtype=torch.int64),
        actions=pairs,
    )
    so_far = model(traj)["implicit"].value.cumsum(1)
    weighed = base * (reward / beta).exp()
    root = beta * weighed.sum().log()
    middle = beta * (weighed.sum(1) / base.sum(1)).log()
    expected = torch.stack([middle[pairs[:, 0]] - root, reward[pairs[:, 0], pairs[:, 1]] - root], 1)
    assert torch.allclose(so_far, expected, atol=1e-12)


def test_scaled_to_unit_return_the_payments_do_not_depend_on_beta():
    results = []
    for beta in (0.01, 5.0):
        made, model = moved(beta=beta)
        traj = rollouts(made)
        results.append(unit_return(model(traj)["implicit"], traj, eps=0.0).value)
    assert results[0].abs().max() > 0.1
    assert torch.allclose(*results, atol=1e-5)


# --- what it learns


def test_a_few_updates_tell_right_from_wrong_on_rollouts_it_has_not_seen():
    made = policy()
    model = ImplicitReward(policy=copy.deepcopy(made), beta=1.0, learning_rate=2e-2)
    low = lambda traj: torch.tensor([int(ids[0]) < 6 for ids in traj.actions])
    losses = []
    for k in range(30):
        traj = rollouts(made, n=16, seed=k)
        losses.append(model.learn(traj, verdicts(traj, low(traj))))
    assert losses[0]["prime/loss"] == pytest.approx(0.6931, abs=1e-3)  # log 2: the model is the reference
    fresh = rollouts(made, n=32, seed=99)
    told = outcome(model(fresh)["implicit"], fresh)[0] > 0
    assert float((told == low(fresh)).double().mean()) > 0.85
    assert losses[-1]["prime/loss"] < 0.5
    assert losses[-1]["prime/accuracy"] > 0.8


def test_the_first_step_raises_right_responses_and_lowers_wrong_ones_and_leaves_the_reference():
    made = policy()
    model = ImplicitReward(policy=copy.deepcopy(made), learning_rate=1e-3)
    traj = rollouts(made)
    before = flat(made)
    right = torch.arange(len(traj)) % 2 == 0
    model.learn(traj, verdicts(traj, right))
    paid = outcome(model(traj)["implicit"], traj)[0]
    assert paid[right].mean() > paid[~right].mean()
    assert torch.equal(flat(model.reference), before)
    assert not any(p.requires_grad for p in model.reference.parameters())


def test_outcomes_without_verdict_take_no_part():
    made = policy()
    one, two = (ImplicitReward(policy=copy.deepcopy(made), learning_rate=1e-3) for _ in range(2))
    traj = rollouts(made)
    valid = torch.arange(len(traj)) % 3 != 0
    right = verdicts(traj)["correct"]
    poisoned = Channel(torch.where(valid[:, None], right.value, torch.nan), valid[:, None])
    rows = valid.nonzero()[:, 0]
    some = traj.select(rows)
    assert one.learn(traj, {"correct": poisoned}) == two.learn(some, verdicts(some, rows % 2 == 0))
    assert torch.equal(flat(one.model), flat(two.model))
    before, state = flat(one.model), copy.deepcopy(one.get_extra_state())
    none = verdicts(traj, valid=torch.zeros(len(traj), dtype=torch.bool))
    assert one.learn(traj, none) == {"prime/loss": None, "prime/accuracy": None}
    assert torch.equal(flat(one.model), before)
    assert one.get_extra_state()["state"][0]["step"] == state["state"][0]["step"] == 1


def test_a_step_is_clipped_to_the_norm_that_is_asked_for():
    made = policy()
    traj = rollouts(made)
    firsts = []
    for clip in (1e-4, 0.0):
        model = ImplicitReward(policy=copy.deepcopy(made), gradient_clip=clip)
        model.learn(traj, verdicts(traj))
        first = torch.cat([s["exp_avg"].flatten() for s in model.get_extra_state()["state"].values()])
        firsts.append(float(first.norm() / 0.1))  # after one step the first moment is a tenth of the gradient
    assert firsts[0] == pytest.approx(1e-4, rel=1e-2)
    assert firsts[1] > 1e-3


def test_what_cannot_be_learned_from_is_named():
    made = policy()
    model = ImplicitReward(policy=copy.deepcopy(made))
    traj = rollouts(made)
    with pytest.raises(KeyError, match=r"prime: no reward channel 'correct' to learn from; there are \['length', 'process'\]"):
        model.learn(traj, {"process": verdicts(traj)["correct"], "length": verdicts(traj)["correct"]})
    signed = verdicts(traj, torch.full((len(traj),), -1.0))
    with pytest.raises(ValueError, match=r"must pay an outcome in \[0, 1\], pays -1.0 for trajectory"):
        model.learn(traj, signed)
    before = flat(model.model)
    with torch.no_grad():
        model.model.model.head.weight[0, 0] = torch.nan
    with pytest.raises(ArithmeticError, match="prime"):
        model.learn(traj, verdicts(traj))
    assert torch.equal(flat(model.model).nan_to_num(), torch.where(flat(model.model).isnan(), 0, before))
    for options, said in (
        ({"beta": 0.0}, "beta must be positive"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"gradient_clip": -1.0}, "gradient_clip must be at least 0"),
    ):
        with pytest.raises(ValueError, match=f"prime: {said}"):
            ImplicitReward(policy=policy(), **options)


# --- in a run


def test_the_loop_finds_it_learning_unless_it_is_told_not_to():
    model = ImplicitReward(policy=policy(), update="before")
    signal = join({"process": model, "correct": lambda traj: {}})
    assert learners([signal]) == [model]
    assert model.training
    assert not model.model.training  # dropout never acts
    assert model.learns_first
    assert not ImplicitReward(policy=policy()).learns_first
    signal.eval()
    assert not model.training
    signal.train()
    assert model.training


def test_saved_and_loaded_in_the_middle_it_goes_on_bit_for_bit():
    made = policy()
    one, two = (ImplicitReward(policy=copy.deepcopy(made), learning_rate=1e-3) for _ in range(2))
    batches = [rollouts(made, seed=k) for k in range(4)]
    for traj in batches[:2]:
        one.learn(traj, verdicts(traj))
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    two.load_state_dict(torch.load(file, weights_only=True))
    for traj in batches[2:]:
        assert one.learn(traj, verdicts(traj)) == two.learn(traj, verdicts(traj))
    assert torch.equal(flat(one.model), flat(two.model))


RUN = """\
title: tiny
task: {{name: chain, terms: 2, held_out: 20}}
policy:
  {{name: transformer, alphabet: "0123456789+-=;#.", context: 40, width: 16, layers: 1, heads: 2, max_tokens: 12, stop: ["."],
   step_separator: ";"}}
reward: {{correct: chain-format, process: {{name: prime, by: correct, learning_rate: 1e-4, update: {update}}}}}
terms:
  policy:
    paths:
      correct: [total, rloo]
      process: [prime-scale, prime-rloo, return-to-go]
    loss: ppo-clip
train: {{updates: 2, starts: 3, rollouts: 4, learning_rate: 1e-2, checkpoint_every: 1}}
evaluate: {{every: 0, starts: 4}}
"""


@pytest.mark.parametrize("update", ["after", "before"])
def test_a_run_with_it_learns_and_is_resumed_bit_for_bit(tmp_path, update):
    (tmp_path / "run.yaml").write_text(RUN.format(update=update))
    ends, models = [], []
    for name, updates in (("whole", (2,)), ("broken", (1, 2))):
        for until in updates:
            parts, settings = build(load_run(tmp_path / "run.yaml", []))
            stop = None
            if until == 1:
                seen = []
                stop = lambda seen=seen: bool(seen)
                progress = train(
                    parts, settings, checkpoint=tmp_path / name, on_update=lambda m, s=seen: m["update"] and s.append(m), stop=stop
                )
                assert progress.update == 1
            else:
                progress = train(parts, settings, checkpoint=tmp_path / name)
        (model,) = learners([parts.signal])
        ends.append(torch.cat([flat(parts.policy), flat(model.model)]))
        models.append(model)
        assert progress.update == 2
        assert [line["prime/loss"] for line in progress.history[1:]] == pytest.approx([0.6931] * 2, abs=1e-2)
    assert torch.equal(*ends)
    assert not torch.equal(flat(models[0].model), flat(models[0].reference))
    assert models[0].get_extra_state()["state"][0]["step"] == 2
