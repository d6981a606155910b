"""Views: each is what its model says of the same tokens behind its prompt, and what reads them runs in the loop."""

import copy
from types import SimpleNamespace

import pytest
import torch

from payoff.build import build
from payoff.checkpoints import save_checkpoint
from payoff.config import Loaded, RunFile
from payoff.pipeline import Start
from payoff.policies.embedded import transformer
from payoff.policies.tabular import Tabular
from payoff.sampling.second_views import SecondViews
from payoff.train import train

STARTS = [Start("a", {"prompt": "1+2="}), Start("b", {"prompt": "31-4="})]
TINY = {"alphabet": "0123456789+-=;#.", "context": 40, "width": 16, "layers": 1, "heads": 2, "max_tokens": 10}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def policy():
    made = transformer(**TINY)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3, generator=rng())
    return made


@pytest.fixture(scope="module")
def other(policy):
    made = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(0.9)
    return made


def said_behind(asked, traj, prompts):
    """What a policy says of the responses as stored rows with these prompts."""
    rows = [{"prompt": p, "response": item["response"]} for p, item in zip(prompts, traj.items, strict=True)]
    return asked.read(rows).logp["old"]


def test_a_view_is_what_its_model_says_behind_its_prompt(policy, other):
    views = {
        "told": {"prompt": "9-{prompt}", "by": "initial"},
        "first": {"by": "initial"},
        "swapped": {"prompt": "another"},
        "same": {"prompt": "{prompt}"},
    }
    sampler = SecondViews(policy=other, views=views)
    assert sampler.asked["told"] is sampler.asked["first"]  # one copy for all who ask it
    traj = sampler(policy, STARTS, 3, rng())
    own = [item["prompt"] for item in traj.items]
    torch.testing.assert_close(traj.logp["told"], said_behind(other, traj, ["9-" + p for p in own]))
    torch.testing.assert_close(traj.logp["first"], said_behind(other, traj, own))
    torch.testing.assert_close(traj.logp["swapped"], said_behind(policy, traj, own[3:] + own[:3]))
    torch.testing.assert_close(traj.logp["same"], traj.logp["old"])
    assert [item["prompt"] for item in traj.items] == ["1+2="] * 3 + ["31-4="] * 3  # what is recorded is what was shown


def test_noise_replaces_its_share_of_the_prompts_tokens_and_not_the_response(policy):
    seen = []

    class Watched(SecondViews):
        def _shown(self, *given):
            found = super()._shown(*given)
            seen.append(found)
            return found

    sampler = Watched(policy=policy, views={"none": {"noise": 1e-9}, "all": {"noise": 1.0}, "half": {"noise": 0.5}})
    traj = sampler(policy, STARTS * 1, 100, rng())
    ids = [[item["prompt_ids"] for item in shown.items] for shown in seen]
    own = [item["prompt_ids"] for item in traj.items]
    assert ids[0] == own
    pool = [token for row in own for token in row]
    same = lambda shown: sum(a == b for x, y in zip(shown, own, strict=True) for a, b in zip(x, y, strict=True)) / len(pool)
    # a token that is drawn anew is the old one with its share among all
    again = sum((pool.count(token) / len(pool)) ** 2 for token in set(pool))
    assert same(ids[1]) == pytest.approx(again, abs=0.05)
    assert same(ids[2]) == pytest.approx((1 + again) / 2, abs=0.05)
    assert {token for row in ids[1] for token in row} <= set(pool)
    torch.testing.assert_close(traj.logp["none"], traj.logp["old"])
    assert all(torch.equal(shown.actions, traj.actions) for shown in seen)


def test_weights_come_from_a_checkpoint_of_a_run_with_or_without_a_critic(policy, other, tmp_path):
    valued = transformer(**TINY, critic=True)
    valued.model.load_state_dict(other.model.state_dict())
    progress = SimpleNamespace(
        optimiser=torch.optim.SGD(valued.parameters(), lr=1.0), rng=rng(), update=1, rollouts=1, seconds=0.0, history=[]
    )
    save_checkpoint(tmp_path / "checkpoint.pt", [valued], progress)
    traj = SecondViews(policy=policy, views={"dpo": {"by": str(tmp_path / "checkpoint.pt")}})(policy, STARTS, 2, rng())
    torch.testing.assert_close(traj.logp["dpo"], other.evaluate(traj).logp.detach())
    with pytest.raises(ValueError, match="is no checkpoint of this policy"):
        SecondViews(policy=transformer(**{**TINY, "width": 8}), views={"dpo": {"by": str(tmp_path / "checkpoint.pt")}})


@pytest.mark.parametrize(
    ("views", "error"),
    [
        ({}, "at least one view"),
        ({"x": {}}, "'x' is what the run has anyway"),
        ({"x": {"nosie": 1.0}}, "'x' has no option 'nosie'"),
        ({"x": {"prompt": "Be good."}}, r"must be \"another\" or hold \{prompt\}"),
        ({"x": {"noise": 1.5}}, r"must lie in 0\.\.1"),
        ({"x": {"by": "nobody.pt"}}, "there is no file 'nobody.pt'"),
    ],
)
def test_views_that_make_no_sense_are_refused(policy, views, error):
    with pytest.raises(ValueError, match=error):
        SecondViews(policy=policy, views=views)


def test_policies_without_text_and_single_starts_are_refused(policy):
    with pytest.raises(ValueError, match="this policy has none that are text"):
        SecondViews(policy=Tabular(2, 2), views={"x": {"noise": 0.5}})
    with pytest.raises(ValueError, match="this batch has one start"):
        SecondViews(policy=policy, views={"x": {"prompt": "another"}})(policy, STARTS[:1], 2, rng())


@pytest.mark.parametrize(
    ("views", "reward", "term"),
    [
        ({"corrupted": {"noise": 0.5}}, {}, {"paths": {"correct": ["total", "grpo", "vppo"]}, "loss": "ppo-clip"}),
        (
            {"better": {"prompt": "1{prompt}", "by": "initial"}, "worse": {"prompt": "2{prompt}", "by": "initial"}},
            {},
            {"paths": {"correct": ["total"]}, "pairs": "best-worst", "loss": "t-reg", "aggregation": "pair-mean"},
        ),
        (
            {"dpo": {"by": "initial"}},
            {"tilt": "rto"},
            {"paths": {"correct": ["return-to-go"], "tilt": ["return-to-go"]}, "then": ["rloo"], "loss": "ppo-clip"},
        ),
    ],
    ids=["vppo", "t-reg", "rto"],
)
def test_what_reads_views_runs_in_the_loop(views, reward, term):
    run = {
        "task": {"name": "chain", "terms": 2, "held_out": 4},
        "policy": {"name": "transformer", **TINY, "stop": ["."], "step_separator": ";"},
        "reward": {"correct": "length", **reward},
        "sampler": {"name": "views", "views": views},
        "terms": {"policy": term},
        "train": {"updates": 1, "starts": 2, "rollouts": 4},
        "evaluate": {"every": 0, "starts": 1},
    }
    parts, settings = build(Loaded(RunFile.model_validate(run), {}, "test", []))
    assert train(parts, settings).history[-1]["gradient_norm"] > 0
