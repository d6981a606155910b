"""ArCHer: with a fixed policy the critics are its values, turns are read where the policy wrote, and what is paid is Q - V."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from payoff.build import build
from payoff.config import Loaded, RunFile
from payoff.credit.returns import immediate
from payoff.examples import four_answers
from payoff.losses.value import value_loss
from payoff.models.turn_critics import TurnCritics, turns_of
from payoff.policies.tabular import Tabular
from payoff.train import train
from payoff.trajectories import Channel, StopReason, place_outcome, place_steps

DISCOUNT = 0.9


@pytest.fixture(scope="module")
def learned():
    """Two turns of two letters each on a tree, all sixteen sequences of a uniform policy, states told apart by their prefix."""
    torch.manual_seed(0)
    policy = Tabular(2, 4, step_length=2)
    traj = policy.sequences()
    states = torch.zeros(16, 5, dtype=torch.int64)
    for t in range(5):  # 1, 2..3, 4..7, ... : which prefix
        states[:, t] = 2**t - 1 + (traj.actions[:, :t] * 2 ** torch.arange(t - 1, -1, -1)).sum(1)
    traj = traj.replace(extras={"hidden": torch.nn.functional.one_hot(states, 31).float()})
    worth = torch.arange(16.0) / 8 - 1
    step = torch.tensor([[0.5, 0.0]]).repeat(16, 1)
    rewards = {"correct": place_steps(step, torch.ones(16, 2) > 0, traj)}
    rewards["correct"] = Channel(rewards["correct"].value + place_outcome(worth, worth < 9, traj).value, rewards["correct"].valid)
    options = {"size": 31, "hidden": 0, "gradient_clip": 0.0, "warm_up": 0, "batch_size": 128}
    model = TurnCritics(learning_rate=0.08, updates=200, follow=0.2, **options)
    model.learn(traj, rewards)
    for group in model.optimiser.param_groups:
        group["lr"] = 0.01
    model.updates = 120
    model.learn(traj, rewards)
    return model, traj, rewards, worth


def test_with_a_fixed_policy_the_critics_come_to_its_values(learned):
    model, traj, _, worth = learned
    q, v, here = model.worth(traj)
    assert here.all()
    second = worth.view(4, 4).mean(1)  # V after the first turn, which is one of four
    torch.testing.assert_close(q[:, 1], worth, atol=0.05, rtol=0)
    torch.testing.assert_close(v[:, 1], second.repeat_interleave(4), atol=0.08, rtol=0)
    torch.testing.assert_close(q[:, 0], 0.5 + DISCOUNT * second.repeat_interleave(4), atol=0.08, rtol=0)
    torch.testing.assert_close(v[:, 0], (0.5 + DISCOUNT * worth.mean()).repeat(16), atol=0.08, rtol=0)


def test_advantages_are_the_smaller_q_less_the_smaller_v_and_average_to_nothing(learned):
    model, traj, _, _ = learned
    credit = immediate(model(traj)["archer"], traj).value
    assert torch.equal(credit[:, 0], credit[:, 1])
    q, v, _ = model.worth(traj)
    torch.testing.assert_close(credit[:, [0, 2]], q - v)
    assert credit[:, 2].view(4, 4).mean(1).abs().max() < 0.1
    one, two = (model.critics[name](traj.extras["hidden"][:, 4])[:, 0] for name in ("q1", "q2"))
    torch.testing.assert_close(q[:, 1], torch.minimum(one, two))


def test_the_best_baseline_of_a_token_is_the_mean_advantage_of_the_turns_that_go_on_from_it(learned):
    # a turn is paid its advantage, each of its tokens weighs that less b; b of a prefix is fitted to it
    _, traj, _, _ = learned
    policy = Tabular(2, 4, step_length=2, spread=1.0, seed=3, critic=True)
    states, chance = policy.prefixes(traj), policy.evaluate(traj).logp.sum(1).exp().detach()
    advantage = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))[states[:, [1, 3]], traj.actions[:, [1, 3]]]
    target = immediate(place_steps(advantage.double(), torch.ones(16, 2) > 0, traj), traj)
    weight = chance[:, None].expand(16, 4)
    mass, total = (
        torch.zeros(15, dtype=torch.float64).index_add(0, states.flatten(), x.flatten()) for x in (weight, weight * target.value)
    )
    with torch.no_grad():
        policy.critic[0] = total / mass
    terms = value_loss(policy.evaluate(traj, frozenset({"values"})), traj, target).terms
    gradient = torch.autograd.grad((terms * weight).sum(), policy.critic)[0]
    assert gradient.abs().max() < 1e-12
    assert float((total / mass)[1:].abs().max()) > 0.1


def test_turns_are_the_stretches_the_policy_wrote_and_truncation_goes_on():
    # row 0: turn 0 writes 0, 1 is the environment's, turn 1 writes 2; row 2: step 0 is the environment's alone
    traj = four_answers().replace(
        step=torch.tensor([[0, 0, 1], [0, 0, -1], [0, 1, 1], [0, -1, -1]]).int(),
        mask=torch.tensor([[1, 0, 1], [1, 0, 0], [0, 1, 1], [1, 0, 0]]) > 0,
        stop=torch.tensor([0, int(StopReason.truncated), 0, 0]),
    )
    turns = turns_of(traj, torch.arange(4.0).repeat(4, 1)[..., None])
    assert turns.row.tolist() == [0, 0, 1, 2, 3]
    assert turns.number.tolist() == [0, 1, 0, 1, 0]
    assert turns.before[:, 0].tolist() == [0, 2, 0, 1, 0]
    assert turns.after[:, 0].tolist() == [1, 3, 1, 3, 1]
    assert turns.later[:, 0].tolist() == [2, 3, 2, 3, 1]
    assert turns.over.tolist() == [False, True, False, True, True]


def test_without_a_future_the_advantage_is_what_was_paid_less_its_mean():
    torch.manual_seed(0)
    traj = four_answers().select(torch.tensor([3, 3, 3, 3])).replace(extras={"hidden": torch.zeros(4, 2, 4)})
    states = torch.zeros(4, 2, 4)
    states[:, 0, 0] = 1
    states[torch.arange(4), 1, torch.tensor([1, 1, 2, 3])] = 1
    paid = place_outcome(torch.tensor([1.0, 1.0, 0.0, 2.0]), torch.ones(4) > 0, traj)
    model = TurnCritics(size=4, hidden=0, discount=0.0, learning_rate=0.1, updates=120, gradient_clip=0.0, follow=0.3, warm_up=0)
    traj = traj.replace(extras={"hidden": states})
    model.learn(traj, {"correct": paid})
    torch.testing.assert_close(model(traj)["archer"].value[:, 0], torch.tensor([0.0, 0.0, -1.0, 1.0]), atol=0.1, rtol=0)


def test_each_twin_learns_from_its_own_target_and_never_from_what_is_learning():
    torch.manual_seed(0)
    traj = four_answers().replace(extras={"hidden": torch.randn(4, 4, 2)})
    model = TurnCritics(size=2, hidden=0, updates=150, learning_rate=0.1, gradient_clip=0.0, follow=1e-9, batch_size=64, warm_up=0)
    for critic, worth in zip(model.targets.values(), (5.0, -5.0, 1.0, 3.0), strict=True):  # q1, q2, v1, v2
        with torch.no_grad():
            critic.weight.zero_()
            critic.bias.fill_(worth)
    model.learn(
        traj.replace(stop=torch.full((4,), int(StopReason.truncated))),
        {"correct": Channel(torch.zeros(4, 1), torch.ones(4, 1) > 0)},
    )
    said = {name: critic(traj.extras["hidden"][:, 1:])[traj.exists].mean().item() for name, critic in model.critics.items()}
    # no turn is over and nothing is paid: Q goes to 0.9 V of its own twin's target, V to Q of its own
    assert said == pytest.approx({"q1": 0.9, "q2": 2.7, "v1": 5.0, "v2": -5.0}, abs=0.1)


def test_new_turns_are_asked_for_where_they_can_be_and_old_episodes_are_forgotten():
    asked = []

    def fresh(states):
        asked.append(states)
        return torch.full_like(states, 0.5)

    traj = four_answers().replace(extras={"hidden": torch.randn(4, 4, 2)})
    rewards = {"correct": place_outcome(torch.ones(4), torch.tensor([True, True, True, False]), traj)}
    model = TurnCritics(size=2, hidden=4, fresh=fresh, updates=3, batch_size=8, capacity=4)
    for _ in range(3):
        metrics = model.learn(traj, rewards)
    assert metrics["archer/turns"] == 8  # the fourth rollout's only turn has no reward; two batches of four are over capacity
    written = traj.extras["hidden"][:3, :3].reshape(-1, 2)  # states before turns whose reward is known
    assert all((state == written).all(1).any() for states in asked for state in states)
    assert len(model.kept) == 1


def test_nothing_is_paid_while_only_the_critics_learn_and_faults_are_named():
    traj = four_answers().replace(extras={"hidden": torch.randn(4, 4, 2)})
    rewards = {"correct": place_outcome(torch.tensor([1.0, 0, 1, 0]), torch.ones(4) > 0, traj)}
    model = TurnCritics(size=2, hidden=4, updates=1, warm_up=2)
    model.learn(traj, rewards)
    assert model(traj)["archer"].value.abs().max() == 0
    state = model.get_extra_state()
    model.learn(traj, rewards)
    assert model(traj)["archer"].value.abs().max() > 0
    model.set_extra_state(state)
    assert model.batches == 1
    assert [episodes for *_, episodes in model.kept] == [4]  # and the past is back
    with pytest.raises(KeyError, match="to learn from"):
        model.learn(traj, {})
    with pytest.raises(ValueError, match="needs traj"):
        model(four_answers())
    for options, error in (({}, "give size"), ({"size": 2, "follow": 0.0}, "follow"), ({"size": 2, "updates": 0}, "updates")):
        with pytest.raises(ValueError, match=error):
            TurnCritics(**options)


def test_fresh_turns_of_the_newest_batch_alone_make_v_that_of_the_policy_as_it_is():
    # one state, two turns worth 0 and 1; 8 old episodes chose the first every time, 4 new ones the second
    torch.manual_seed(0)
    states = torch.zeros(4, 2, 3)
    states[:, 0, 0] = 1
    old, new = states.clone(), states.clone()
    old[:, 1, 1] = new[:, 1, 2] = 1
    one = four_answers().select(torch.tensor([3, 3, 3, 3]))
    values = {}
    for fresh in (None, "batch"):
        options = {"size": 3, "hidden": 0, "gradient_clip": 0.0, "warm_up": 0, "batch_size": 16, "follow": 0.3, "updates": 60}
        model = TurnCritics(fresh=fresh, learning_rate=0.05, **options)
        for seen, worth in ((old, 0.0), (old, 0.0), (new, 1.0)):
            traj = one.replace(extras={"hidden": seen})
            model.learn(traj, {"correct": place_outcome(torch.full((4,), worth), torch.ones(4) > 0, traj)})
        q, values[fresh], _ = model.worth(traj)
        torch.testing.assert_close(q[:, 0], torch.ones(4), atol=0.1, rtol=0)  # of all episodes, either way
    assert values["batch"][:, 0].min() > 0.8  # what the policy does now is worth 1
    assert values[None][:, 0].max() < 0.5  # what it did until now was worth a third of that
    nothing = model.learn(
        traj.replace(mask=torch.zeros_like(traj.mask)), {"correct": Channel(torch.zeros(4, 1), torch.ones(4, 1) > 0)}
    )
    assert nothing["archer/v"] == 0  # nobody wrote a turn, and V keeps what it knows


def test_the_run_file_on_the_page_trains_the_policy_once_its_critics_are_warm():
    page = (Path(__file__).parents[2] / "docs" / "process-rewards.md").read_text(encoding="utf-8")
    (block,) = [text for text in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL) if "name: archer" in text]
    file = yaml.safe_load(block)
    file["policy"] = {"name": "transformer", "width": 8, "layers": 1, "heads": 1, "max_tokens": 12}
    file["reward"]["archer"] |= {"hidden": 0, "updates": 3, "warm_up": 2}
    file |= {"train": {"updates": 2, "starts": 2, "rollouts": 4}, "evaluate": {"every": 0, "starts": 0}}
    parts, settings = build(Loaded(RunFile.model_validate(file), {}, "run.yaml", []), seed=0)
    history = train(parts, settings).history[1:]
    assert [line["gradient_norm"] > 0 for line in history] == [False, True]
    assert all(line["archer/turns"] > 8 for line in history)
