"""Beliefs between turns: what the policy says of the reference there, asked of each beginning once, and paid in a run."""

import pytest
import torch

from payoff.build import build
from payoff.config import Loaded, RunFile
from payoff.pipeline import Start
from payoff.policies.embedded import transformer
from payoff.policies.tabular import Tabular
from payoff.sampling.reference_beliefs import with_beliefs
from payoff.signals.information_gain import information_gain
from payoff.train import train

TINY = {"alphabet": "0123456789+-=;#.", "context": 24, "width": 16, "layers": 1, "heads": 2, "max_tokens": 10}
STARTS = [Start("a", {"prompt": "1+2=", "reference": "13"}), Start("b", {"prompt": "31-4=", "reference": ""})]


@pytest.fixture(scope="module")
def policy():
    made = transformer(**TINY, step_separator="1")
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    return made


def test_each_belief_is_what_the_policy_says_of_the_reference_there(policy):
    traj = with_beliefs(policy, STARTS, 12, torch.Generator().manual_seed(0), lead="#")
    belief = traj.extras["reference_logp"]
    assert int(traj.step.max()) >= 2
    for row in range(12):
        ends, steps = [0], traj.items[row]["steps"]
        for step in steps[:-1]:
            ends.append(ends[-1] + len(step))
        assert (~belief[row].isnan()).nonzero()[:, 0].tolist() == ends
        for end in ends:
            text = traj.items[row]["response"][:end] + "#13"
            said = policy.read([{"prompt": "1+2=", "response": text}]).logp["old"][0, end + 1 : end + 3].mean()
            assert float(belief[row, end]) == pytest.approx(float(said), abs=1e-5)
    assert belief[12:].isnan().all()  # no reference, no belief
    gain = information_gain(traj)["gain"]
    assert gain.valid[:12].all()
    wanted = belief.exp()
    last = [ends_of[-1] for ends_of in ((~b.isnan()).nonzero()[:, 0].tolist() for b in belief[:12])]
    torch.testing.assert_close(gain.value.sum(1)[:12], torch.stack([wanted[r, e] for r, e in enumerate(last)]) - wanted[:12, 0])


def test_a_beginning_is_asked_about_once_and_none_that_is_too_long(policy, monkeypatch):
    asked = []
    evaluate = type(policy).evaluate

    def counted(self, traj, want=frozenset()):
        asked.append(len(traj))
        return evaluate(self, traj, want)

    monkeypatch.setattr(type(policy), "evaluate", counted)
    traj = with_beliefs(policy, STARTS[:1], 8, torch.Generator().manual_seed(0))
    ends = (~traj.extras["reference_logp"].isnan()).sum()
    assert sum(asked) <= int(ends) - 7  # all begin alike
    long = [Start("a", {"prompt": "1+2=", "reference": "1" * 20})]
    assert with_beliefs(policy, long, 2, torch.Generator().manual_seed(0)).extras["reference_logp"][:, 1:].isnan().all()
    with pytest.raises(ValueError, match="writes no text"):
        with_beliefs(Tabular(2, 2), STARTS, 2, torch.Generator())


def test_a_run_pays_them(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1+2=", "reference": "3"}\n{"prompt": "4-1=", "reference": "3"}\n')
    run = {
        "task": {"name": "dataset", "data": str(rows)},
        "policy": {"name": "transformer", **TINY, "stop": ["."], "step_separator": "1"},
        "reward": {"correct": "length", "gain": "igpo"},
        "sampler": {"name": "igpo", "lead": "#"},
        "terms": {
            "policy": {
                "paths": {"correct": [], "gain": []},
                "then": ["igpo", {"name": "return-to-go", "per": "step"}],
                "loss": "ppo-clip",
            }
        },
        "train": {"updates": 1, "starts": 2, "rollouts": 4},
        "evaluate": {"every": 0, "starts": 1},
    }
    parts, settings = build(Loaded(RunFile.model_validate(run), {}, "test", []))
    last = train(parts, settings).history[-1]
    assert last["gradient_norm"] > 0
    assert last["reward/gain"] is not None
