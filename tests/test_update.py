"""What an update asks besides rewards and terms: which starts, how and how often rolled out, what is replayed or paired."""

import copy
import json
import textwrap

import pytest
import torch

from payoff.build import build
from payoff.config import ConfigError, load_run, print_config
from payoff.parts import Progress
from payoff.pipeline import concatenate_rewards
from payoff.runs import Request, run_one
from payoff.train import train
from payoff.trajectories import Channel, Pairs, concatenate
from payoff.update import roll_out, update

RUN = """\
task: {name: tree, prompts: 6, density: 0.3}
policy: {name: tabular, starts: 6}
reward: {leaf: tree-leaf}
terms:
  policy: {paths: {leaf: [total, rloo]}, loss: policy-gradient, aggregation: sequence-mean-token-sum}
train: {updates: 4, starts: 3, rollouts: 4, learning_rate: 0.1, checkpoint_every: 2}
evaluate: {every: 0, starts: 0}
"""

CODE = """\
import torch
from torch import nn

from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import LossOutput
from payoff.trajectories import Channel, Pairs, at_start, concatenate, log_ratio
from payoff.pipeline import concatenate_rewards


class Seldom(nn.Module):
    '''The starts that came least often.'''

    def __init__(self, prompts: int = 6):
        super().__init__()
        self.register_buffer("counts", torch.zeros(prompts))

    def forward(self, task, n, rng):
        starts = {s.fields["table"]: s for s in task.starts(200, rng)}
        return [starts[k] for k in self.counts.argsort(stable=True)[:n].tolist()]

    def learn(self, traj, rewards):
        for item in traj.items:
            self.counts[item["table"]] += 1
        return {"curriculum/seen": float((self.counts > 0).sum())}


def twice(policy, starts, n, rng, *, more: int = 2):
    return policy.rollout(starts, n * more, rng)


class Last(nn.Module):
    '''The rows of the update before, again.'''

    def __init__(self):
        super().__init__()
        self.kept = None

    def forward(self, traj, rewards, rng):
        old, self.kept = self.kept, (traj, rewards)
        if old is None:
            return traj, rewards
        return concatenate([traj, old[0]]), concatenate_rewards([rewards, old[1]], [traj, old[0]])


def zero(channel, traj):
    return Channel(torch.zeros_like(channel.value), channel.valid)


def none_kept(rewards, traj):
    return torch.arange(0)


def informative(rewards, traj):
    score = rewards["leaf"].value.sum(1)
    mixed = [len(set(score[traj.group == g].tolist())) > 1 for g in traj.group]
    return torch.tensor(mixed).nonzero().squeeze(1)


def best_worst(channel, traj):
    score, _ = at_start(channel, traj)
    rows = [(traj.group == g).nonzero().squeeze(1) for g in traj.group.unique()]
    index = torch.stack([torch.stack([r[score[r].argmax()], r[score[r].argmin()]]) for r in rows])
    return Pairs(index, torch.ones(len(index)), torch.ones(len(index)))


def out_of_range(channel, traj):
    return Pairs(torch.tensor([[0, 10**6]]), torch.ones(1), torch.ones(1))


def logistic(evaluation, traj, pairs):
    ratio = log_ratio(evaluation.logp, traj.logp["old"], traj).sum(1)
    margin = ratio[pairs.index[:, 0]] - ratio[pairs.index[:, 1]]
    return LossOutput(-torch.nn.functional.logsigmoid(margin), {})


def pair_share(pairs, traj):
    return pairs.weight / max(len(pairs.weight), 1)


class Learnt(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.ones(()))

    def forward(self, ends, traj):
        return Channel(self.weight * sum(c.value for c in ends.values()), torch.stack([c.valid for c in ends.values()]).all(0))

    def learn(self, traj, rewards):
        self.weight *= 2
        return {"mix/weight": float(self.weight)}
"""


PAIRED = """\
terms:
  policy: {paths: {leaf: [total]}, pairs: asked.py:best_worst, loss: asked.py:logistic, aggregation: asked.py:pair_share}
"""


@pytest.fixture
def made(tmp_path):
    (tmp_path / "asked.py").write_text(CODE)

    def make(*lines, terms=None):
        text = RUN if terms is None else RUN[: RUN.index("terms:")] + terms + RUN[RUN.index("train:") :]
        (tmp_path / "run.yaml").write_text(text + textwrap.dedent("\n".join(lines)) + "\n")
        return build(load_run(tmp_path / "run.yaml"))

    return make


def test_a_curriculum_chooses_the_starts_learns_from_every_update_and_is_resumed(made, tmp_path):
    parts, settings = made("curriculum: asked.py:Seldom")
    progress = train(parts, settings, checkpoint=tmp_path / "c.pt")
    assert parts.curriculum.counts.tolist() == [8.0] * 6  # 4 updates of 3 starts and 4 rollouts, the 6 prompts in turn
    assert [line["curriculum/seen"] for line in progress.history[1:]] == [3, 6, 6, 6]
    again, settings = made("curriculum: asked.py:Seldom")
    train(again, settings, checkpoint=tmp_path / "c.pt")
    assert torch.equal(again.curriculum.counts, parts.curriculum.counts)


def test_a_sampler_makes_the_rollouts(made):
    parts, settings = made("sampler: {name: asked.py:twice, more: 3}")
    progress = train(parts, settings)
    assert progress.rollouts == 4 * 3 * 4 * 3


def test_replayed_rows_are_trained_on_with_their_own_rewards_and_log_probabilities(made):
    parts, settings = made("replay: asked.py:Last")
    progress = Progress(optimiser=torch.optim.SGD(parts.policy.parameters(), lr=0.1))
    first, metrics = update(parts, settings, progress)
    assert (len(first.traj), metrics["replayed"]) == (12, 0)
    second, metrics = update(parts, settings, progress)
    assert (len(second.traj), metrics["selected"], metrics["replayed"]) == (24, 12, 12)
    assert torch.equal(second.traj.id[12:], first.traj.id)
    assert torch.equal(second.traj.logp["old"][12:], first.traj.logp["old"])
    assert torch.equal(second.rewards["leaf"].value[12:], first.rewards["leaf"].value)


def test_rounds_go_on_until_selections_leave_enough_groups_and_no_longer(made):
    parts, settings = made("selection: [asked.py:informative]")
    settings = type(settings)(**{**settings.__dict__, "rounds": 30, "rollouts": 2, "starts": 5})
    progress = Progress(optimiser=torch.optim.SGD(parts.policy.parameters(), lr=0.0))
    batch, metrics = update(parts, settings, progress)
    assert len(batch.traj.group.unique()) == 5
    assert metrics["rounds"] > 1
    assert progress.rollouts == metrics["rounds"] * 10
    score = batch.rewards["leaf"].value.sum(1)
    assert all(len(set(score[batch.traj.group == g].tolist())) == 2 for g in batch.traj.group.unique())


def test_selections_go_by_what_was_scored_and_not_by_what_shaping_made_of_it(made):
    flat = "shaping: [{on: leaf, do: [asked.py:zero]}]"
    parts, settings = made(flat, "selection: [asked.py:informative]")
    progress = Progress(optimiser=torch.optim.SGD(parts.policy.parameters(), lr=0.0))
    settings = type(settings)(**{**settings.__dict__, "starts": 6, "rollouts": 2})
    batch, metrics = update(parts, settings, progress)
    assert 0 < metrics["selected"] < 12
    assert not batch.rewards["leaf"].value.any()


def test_rounds_end_where_nothing_is_ever_kept(made):
    parts, settings = made("selection: [asked.py:none_kept]")
    settings = type(settings)(**{**settings.__dict__, "rounds": 3})
    before = [p.clone() for p in parts.policy.parameters()]
    progress = Progress(optimiser=torch.optim.SGD(parts.policy.parameters(), lr=0.1))
    batch, metrics = update(parts, settings, progress)
    assert (metrics["rounds"], metrics["selected"], len(batch.traj)) == (3, 0, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, parts.policy.parameters(), strict=True))


def test_pairs_reach_the_loss_and_the_better_of_each_gains(made):
    parts, settings = made(terms=PAIRED)
    progress = Progress(optimiser=torch.optim.SGD(parts.policy.parameters(), lr=0.1))
    batch, _ = update(parts, settings, progress)
    pairs = batch.targets["policy"]
    assert isinstance(pairs, Pairs)
    gain = (parts.policy.evaluate(batch.traj).logp - batch.traj.logp["old"]).masked_fill(~batch.traj.mask, 0).sum(1)
    score = batch.rewards["leaf"].value.sum(1)
    strict = score[pairs.index[:, 0]] > score[pairs.index[:, 1]]
    assert strict.any()
    assert (gain[pairs.index[:, 0]] > gain[pairs.index[:, 1]])[strict].all()
    assert torch.allclose(batch.own.value.sum(1), score)  # the own reward is what is compared


def test_a_pairing_that_names_rows_which_are_not_there_is_an_error(made):
    parts, settings = made(terms=PAIRED.replace("best_worst", "out_of_range"))
    with pytest.raises(ValueError, match="out_of_range: pairs must name rows 0 to 11"):
        train(parts, settings)


def test_a_mixing_is_a_part_that_learns_and_is_resumed(made, tmp_path):
    terms = "terms:\n  policy: {paths: {leaf: [total]}, mix: asked.py:Learnt, then: [rloo], loss: policy-gradient}\n"
    parts, settings = made(terms=terms)
    progress = train(parts, settings, checkpoint=tmp_path / "c.pt")
    assert [line["mix/weight"] for line in progress.history[1:]] == [2, 4, 8, 16]
    again, settings = made(terms=terms)
    train(again, settings, checkpoint=tmp_path / "c.pt")
    assert float(again.terms["policy"].target.mix.weight) == 16


def test_what_a_loss_reads_of_the_policy_that_acted_is_kept_when_the_batch_is_made(made):
    terms = "terms:\n  policy: {paths: {leaf: [total, mean-baseline]}, loss: rover}\n"
    parts, settings = made(terms=terms)
    settings = type(settings)(**{**settings.__dict__, "epochs": 2})
    progress = Progress(optimiser=torch.optim.SGD(parts.policy.parameters(), lr=1.0))
    with torch.no_grad():
        acted = copy.deepcopy(parts.policy)
    batch, metrics = update(parts, settings, progress)
    assert torch.equal(batch.traj.extras["mean_logp"], acted.evaluate(batch.traj, frozenset({"mean_logp"})).more["mean_logp"])
    assert metrics["policy/bootstrap"] > 0  # in the second pass the policy is no longer the one that acted


def test_a_function_of_ones_own_that_takes_traj_is_a_signal(tmp_path):
    (tmp_path / "paid.py").write_text(
        "from payoff.trajectories import constant\n\n\n"
        "def lengths(traj, *, unit: float = 1.0):\n"
        "    return {'length': constant(traj.length.float() / unit, traj.length > 0)}\n"
    )
    text = RUN.replace("leaf: tree-leaf", "long: {name: paid.py:lengths, unit: 2}").replace("{leaf: [total", "{long: [total")
    (tmp_path / "run.yaml").write_text(text)
    parts, _ = build(load_run(tmp_path / "run.yaml"))
    traj = parts.policy.rollout(parts.task.starts(3, torch.Generator()), 2, torch.Generator())
    assert torch.equal(parts.signal(traj)["long"].value[:, 0], traj.length / 2)


def test_print_config_runs_again_as_it_is(made, tmp_path):
    made(
        "curriculum: {name: asked.py:Seldom, prompts: 6}",
        "sampler: asked.py:twice",
        terms=PAIRED.replace("pairs:", "mix: asked.py:Learnt, pairs:"),
    )
    loaded = load_run(tmp_path / "run.yaml")
    (tmp_path / "again.yaml").write_text(print_config(loaded))
    assert load_run(tmp_path / "again.yaml").run == loaded.run


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("curriculum: rloo", "is a advantage"),
        ("sampler: {name: asked.py:twice, often: 2}", "has no option 'often'"),
        ("replay: nothing", "unknown replay 'nothing'"),
        ("train: {rounds: 0}", "rounds"),
    ],
)
def test_mistakes_name_their_line(made, line, said):
    text = (line,) if not line.startswith("train") else ()
    with pytest.raises(ConfigError, match=said):
        made(*text) if text else made(terms=RUN[RUN.index("terms:") : RUN.index("train:")] + line + "\n#")


def test_rewards_of_rows_of_different_width_are_joined_as_the_rows_are(made):
    parts, settings = made()
    progress = Progress()
    rounds = [roll_out(parts, settings, progress, {}, lambda name: None) for _ in range(2)]
    one, two = (r.traj for r in rounds)
    dense = {"a": Channel(torch.rand(12, one.width), torch.rand(12, one.width) > 0.5, {int(one.id[0]): "no"})}
    column = {"a": Channel(torch.rand(12, 1), torch.ones(12, 1) > 0, {int(two.id[0]): "none"})}
    both, traj = concatenate_rewards([dense, column], [one, two])["a"], concatenate([one, two])
    assert both.value.shape == both.valid.shape == (24, traj.width)
    assert torch.equal(both.value[:12], dense["a"].value)
    assert torch.equal(both.value[12:], column["a"].value.expand(-1, traj.width))
    assert both.reasons == {int(one.id[0]): "no", int(two.id[0]): "none"}
    with pytest.raises(ValueError, match=r"channels \['a', 'b'\]"):
        concatenate_rewards([dense, {"b": column["a"]}], [one, two])


def test_continuations_hold_credit_against_what_steps_were_worth_and_change_nothing_else(tmp_path):
    told = {}
    for n in (0, 40):
        folder = tmp_path / str(n)
        folder.mkdir()
        (folder / "run.yaml").write_text(RUN.replace("starts: 0}", f"starts: 0, continuations: {n}}}"))
        loaded = load_run(folder / "run.yaml")
        done = run_one(loaded.run.model_dump(mode="json"), loaded.source, Request("", 0, folder / "run"))
        assert done["status"] == "finished", done["error"]
        lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
        told[n] = [{key: value for key, value in line.items() if not key.startswith("seconds")} for line in lines]
    asked = [{key: line.pop(key) for key in list(line) if key.startswith("credit/")} for line in told[40]]
    assert told[40] == told[0]
    assert [bool(found) for found in asked] == [False, True, False, False, True]
    assert all(0.3 < found["credit/cosine"] <= 1.1 for found in asked if found)  # of the return with a baseline: right, and noisy


def test_one_continuation_is_refused_for_it_has_no_error(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN.replace("starts: 0}", "starts: 0, continuations: 1}"))
    with pytest.raises(ConfigError, match="continuations is 1"):
        build(load_run(tmp_path / "run.yaml"))
