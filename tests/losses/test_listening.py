"""Listeners: the cross-entropy of the truth where they are asked, and of nothing else."""

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.listening import listening
from payoff.pipeline import Evaluation, everywhere
from payoff.trajectories import Channel

HIDDEN = torch.tensor([[-1, 2, -1], [0, -1, 1], [-1, -1, -1], [1, 1, 1]])  # row 1 has two actions, row 3 one


def asked(logits, hidden=HIDDEN, **options):
    traj = four_answers().replace(extras={"hidden": hidden})
    logits = logits.clone().requires_grad_()
    output = listening(Evaluation(traj.logp["old"], {"logits": logits}), traj, everywhere({}, traj), **options)
    return output, torch.autograd.grad(output.terms.sum(), logits)[0]


def test_it_is_torchs_cross_entropy_at_the_surveys_and_nothing_elsewhere():
    logits = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    output, slope = asked(logits, candidates=[4, 0, 3])
    for row, at, truth in ((0, 1, 2), (1, 0, 0), (3, 0, 1)):
        chosen = logits[row, at, [4, 0, 3]]
        assert output.terms[row, at].item() == pytest.approx(float(torch.nn.functional.cross_entropy(chosen, torch.tensor(truth))))
    assert int((output.terms != 0).sum()) == 3
    assert output.metrics["surveys"] == 3.0
    assert not slope[..., [1, 2]].any(), "what is no candidate is not touched"
    torch.testing.assert_close(slope.sum(-1), torch.zeros(4, 3), atol=1e-6, rtol=0)
    assert asked(logits, hidden=torch.where(HIDDEN == 2, 3, HIDDEN))[0].terms[0, 1].item() == pytest.approx(
        float(-logits[0, 1].log_softmax(0)[3])
    )  # without candidates: the number of an action


def test_padding_and_positions_without_a_survey_are_not_read_and_unknown_targets_count_nowhere():
    logits = torch.zeros(4, 3, 3)
    spoilt = logits.masked_fill((HIDDEN < 0)[..., None] | ~four_answers().exists[..., None], torch.nan)
    for found, clean in zip(asked(spoilt)[:1], asked(logits)[:1], strict=True):
        assert torch.equal(found.terms, clean.terms)
    assert asked(spoilt)[1].isfinite().all()
    traj = four_answers().replace(extras={"hidden": HIDDEN})
    said = Evaluation(traj.logp["old"], {"logits": logits})
    none = listening(said, traj, Channel(torch.ones(4, 1), torch.zeros(4, 1, dtype=torch.bool)))
    assert not none.terms.any()
    assert none.metrics == {"belief": 0.0, "surveys": 0.0}


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"the truth is number 2 of 2 values, from 0"):
        asked(torch.zeros(4, 3, 5), candidates=[0, 1])
    traj = four_answers()
    with pytest.raises(ValueError, match=r"needs traj.extras\['hidden'\] \[N, T\] = \[4, 3\], found None"):
        listening(Evaluation(traj.logp["old"], {"logits": torch.zeros(4, 3, 2)}), traj, everywhere({}, traj))
    with pytest.raises(ValueError, match=r'evaluation.more\["logits"\]'):
        listening(Evaluation(traj.logp["old"], {}), traj, everywhere({}, traj))
