"""Heads learn a judge's labels kind by kind, pay the class they hold likeliest, and leave alone what nobody judged."""

import pytest
import torch

from payoff.examples import four_answers
from payoff.models.fact_classifiers import FactClassifiers
from payoff.trajectories import Channel


def traj():
    """Actions of two to a step where there are so many; the state behind a step says what it states."""
    step = torch.tensor([[0, 0, 1], [0, 0, -1], [0, 1, 1], [0, -1, -1]]).int()
    states = torch.zeros(4, 4, 3)
    for row, ends in enumerate([[(2, 0), (3, 1)], [(2, 2)], [(1, 1), (3, 0)], [(1, 2)]]):
        for position, kind in ends:
            states[row, position, kind] = 1
    states[torch.arange(4) > four_answers().length[:, None]] = torch.nan
    return four_answers().replace(step=step, extras={"hidden": states})


LABELS = torch.tensor([[0, 1], [2, -1], [1, 0], [2, -1]])  # of the two steps; -1 where there is none


def test_labels_are_learned_and_paid_at_the_end_of_their_steps():
    model = FactClassifiers(
        size=3, kinds=["existence", "relation"], weights={"existence": 2.0, "relation": 1.0}, learning_rate=0.1, steps=60
    )
    both = torch.stack([LABELS, torch.full_like(LABELS, -1)], 2)
    assert model.fit(traj(), both)["fact-classifiers/accuracy"] == 1
    paid = model(traj())
    assert paid["existence"].value.tolist() == [[0, 2, -2], [0, 0, 0], [-2, 0, 2], [0, 0, 0]]
    assert paid["relation"].value.abs().max() == 0  # nobody judged: absent
    model.soft = True
    assert 0 < model(traj())["existence"].value[0, 1] < 2


def test_in_a_run_the_judges_channels_are_the_labels_and_what_is_unknown_is_left_out():
    judged = torch.tensor([[0.0, 1, -1], [0, 0, 0], [-1, 0, 1], [0, 1, 0]])
    sure = torch.ones(4, 3, dtype=torch.bool)
    sure[3, 0] = False  # this one would contradict the second row
    channels = {"facts/existence": Channel(judged, sure)}
    made = [FactClassifiers(size=3, kinds=["existence"], learning_rate=0.1, steps=5) for _ in range(2)]
    metrics = made[0].learn(traj(), channels)
    unknown = LABELS.clone()
    unknown[3] = -1
    assert metrics == made[1].fit(traj(), unknown[..., None])
    made[1].load_state_dict(made[0].state_dict())
    assert made[0].learn(traj(), channels) == made[1].learn(traj(), channels)
    nothing = {"facts/existence": Channel(judged, torch.zeros(4, 1, dtype=torch.bool))}
    assert made[0].learn(traj(), nothing) == {"fact-classifiers/loss": None, "fact-classifiers/accuracy": None}
    with pytest.raises(KeyError, match="facts/existence"):
        made[0].learn(traj(), {})


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="labels must be"):
        FactClassifiers(size=3, kinds=["a"]).fit(traj(), LABELS[..., None] + 1)
    with pytest.raises(ValueError, match="needs traj"):
        FactClassifiers(size=3)(four_answers())
    with pytest.raises(ValueError, match="needs a size"):
        FactClassifiers()
    with pytest.raises(ValueError, match="weights are those"):
        FactClassifiers(size=3, weights={"existence": 1.0})
