"""Bad form is a penalty whatever the score; good form is the score."""

import math
import re
from pathlib import Path

import pytest
import torch
import yaml

from payoff.advantages.group import grpo
from payoff.build import build
from payoff.config import Loaded, RunFile
from payoff.examples import four_answers
from payoff.shaping.broken_form import penalised_form
from payoff.train import train
from payoff.trajectories import constant, outcome, place_outcome

SURE = [True] * 4


def paid(scores, forms, score_known=SURE, form_known=SURE, **options):
    traj = four_answers()
    give = lambda x, known: place_outcome(torch.tensor(x, dtype=torch.float64), torch.tensor(known), traj)
    rewards = {"probability": give(scores, score_known), "form": give(forms, form_known)}
    return outcome(penalised_form(rewards, traj, **options)["rlpr"], traj), traj


def listed(*given, **options):
    (value, valid), _ = paid(*given, **options)
    return [v if k else None for v, k in zip(value.tolist(), valid.tolist(), strict=True)]


def test_anything_but_whole_form_is_broken_and_needs_no_score():
    assert listed([0.5, 0.5, 0.5, 0.25], [1.0, 0.0, 0.9, 1.0]) == [0.5, -1.0, -1.0, 0.25]
    assert listed([0.5] * 4, [1.0, 0.0, 1.0, 0.0], broken=-2.0) == [0.5, -2.0, 0.5, -2.0]
    unknown = [False, False, True, True]
    assert listed([0.5] * 4, [1.0, 0.0, 1.0, 0.0], score_known=unknown) == [None, -1.0, 0.5, -1.0]
    assert listed([0.5] * 4, [1.0, 0.0, 1.0, 0.0], form_known=unknown) == [None, None, 0.5, -1.0]


def test_the_worst_in_form_is_better_than_the_best_out_of_it():
    (value, valid), traj = paid([0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0])
    advantage = grpo(constant(value, valid), traj).value[:, 0]  # groups 0 0 1 1
    assert (advantage[[0, 2]] > 0).all()
    assert (advantage[[1, 3]] < 0).all()


def test_mistakes_are_named():
    for options, match in (({"broken": float("-inf")}, "broken must be finite"), ({"into": "form"}, "already is a reward channel")):
        with pytest.raises(ValueError, match=match):
            paid([0.0] * 4, [1.0] * 4, **options)
    with pytest.raises(KeyError, match="no reward channel 'style'"):
        paid([0.0] * 4, [1.0] * 4, form="style")


def test_with_a_penalty_on_repetition_the_run_file_on_the_page_pays_the_worked_sums():
    page = (Path(__file__).parents[2] / "docs" / "several-rewards.md").read_text(encoding="utf-8")
    (block,) = [text for text in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL) if "- rlpr" in text]
    small = {
        "policy": {"name": "transformer", "width": 8, "layers": 1, "heads": 1, "max_tokens": 16},
        "train": {"updates": 1, "starts": 2, "rollouts": 4},
        "evaluate": {"every": 0, "starts": 0},
    }
    parts, settings = build(Loaded(RunFile.model_validate({**yaml.safe_load(block), **small}), {}, "run.yaml", []), seed=0)
    said = {"prompt": "1+2=", "reference_logp": [math.log(0.9)], "base_logp": [math.log(0.5)]}
    # in form, and one of ten six-letter stretches twice: .9 - .5 - .5 / 10; the same without an answer; only an answer
    responses = ["1+2=3;1+2=3;#3.", "1+2=3;1+2=3;#3;", "#3."]
    traj = parts.policy.read([{**said, "response": text} for text in responses])
    rewards = parts.signal(traj)
    for shaping in parts.shapings:
        rewards = shaping(rewards, traj)
    assert outcome(rewards["paid"], traj)[0].tolist() == pytest.approx([0.35, -1.05, -1.0])
    assert train(parts, settings).history[-1]["selected"] == 8  # it filters from the eleventh update on
