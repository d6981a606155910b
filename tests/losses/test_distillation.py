import pytest
import torch
from torch import nn

from payoff.examples import four_answers
from payoff.losses.distillation import ForwardKL, soft_distillation
from payoff.pipeline import Evaluation, everywhere
from payoff.trajectories import Channel

TRAJ = four_answers()
TARGET = everywhere({}, TRAJ)


def logits(seed: int, size: int = 5) -> torch.Tensor:
    return torch.randn(4, 3, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def said(teacher: torch.Tensor, student: torch.Tensor, target: Channel = TARGET, **options):
    own = student.log_softmax(-1).gather(2, TRAJ.actions.clamp(max=student.shape[2] - 1)[..., None])[..., 0]
    traj = TRAJ.replace(extras={"teacher_logits": teacher})
    return soft_distillation(Evaluation(own, {"logits": student}), traj, target, **options)


class Fixed(nn.Module):
    offers = frozenset({"logits"})

    def __init__(self, given: torch.Tensor) -> None:
        super().__init__()
        self.given = nn.Parameter(given)

    def evaluate(self, traj, want):
        return Evaluation(torch.zeros(traj.mask.shape), {"logits": self.given})


def test_the_gradient_at_temperature_one_is_what_the_student_says_less_what_the_teacher_says():
    student = logits(1).requires_grad_()
    said(logits(0), student, temperature=1.0).terms.sum().backward()
    expected = student.detach().softmax(-1) - logits(0).softmax(-1)
    assert torch.allclose(student.grad[TRAJ.mask], expected[TRAJ.mask], atol=1e-12)
    assert (student.grad[~TRAJ.mask] == 0).all()


def test_a_teacher_in_the_students_own_context_teaches_nothing():
    student = logits(1).requires_grad_()
    terms = said(student.detach().clone() + 3.0, student).terms  # logits count up to a constant
    terms.sum().backward()
    assert terms.abs().max() < 1e-12
    assert student.grad.abs().max() < 1e-12


def test_a_teacher_sure_of_what_was_said_is_supervised_learning():
    sure = torch.full((4, 3, 5), -1e9).double().scatter(2, TRAJ.actions[..., None], 0.0)
    output, student = said(sure, logits(1), temperature=1.0), logits(1).log_softmax(-1)
    nll = -student.gather(2, TRAJ.actions[..., None])[..., 0]
    assert torch.allclose(output.terms[TRAJ.mask], nll[TRAJ.mask])
    assert output.metrics["divergence"] == pytest.approx(float(nll[TRAJ.mask].mean()))


def test_for_a_large_temperature_it_is_the_squared_distance_of_centred_logits():
    teacher, student = logits(0), logits(1)
    gap = (teacher - teacher.mean(-1, keepdim=True)) - (student - student.mean(-1, keepdim=True))
    expected = gap.square().sum(-1) / (2 * 5)
    assert torch.allclose(said(teacher, student, temperature=1e4).terms[TRAJ.mask], expected[TRAJ.mask], rtol=1e-3)


def test_a_hard_part_adds_the_likelihood_of_what_was_recorded():
    plain, both = said(logits(0), logits(1)), said(logits(0), logits(1), hard=0.5)
    nll = -logits(1).log_softmax(-1).gather(2, TRAJ.actions[..., None])[..., 0]
    assert torch.allclose((both.terms - plain.terms)[TRAJ.mask], 0.5 * nll[TRAJ.mask])
    assert both.metrics == plain.metrics


def test_padding_and_unknown_targets_take_no_part():
    known = Channel(torch.full((4, 1), 2.0), torch.tensor([[True], [False], [True], [True]]))
    dirty = [torch.where(TRAJ.mask[..., None], x, torch.nan).requires_grad_() for x in (logits(0), logits(1))]
    output = said(*dirty, target=known)
    output.terms.sum().backward()
    assert torch.equal(output.terms, said(logits(0), logits(1), target=known).terms)
    assert (output.terms[1] == 0).all()
    assert dirty[1].grad.isfinite().all()
    assert dirty[0].grad is None  # the teacher is a constant
    assert torch.allclose(output.terms[0], 2 * said(logits(0), logits(1)).terms[0])


def test_the_prior_is_nothing_at_first_and_holds_back_afterwards():
    policy = Fixed(logits(0))
    prior = ForwardKL(policy=policy)
    at_first = prior(policy.evaluate(TRAJ, frozenset()), TRAJ, TARGET)
    at_first.terms.sum().backward()
    assert at_first.terms.abs().max() < 1e-12
    assert policy.given.grad.abs().max() < 1e-12
    with torch.no_grad():
        policy.given += logits(1)
    moved = prior(policy.evaluate(TRAJ, frozenset()), TRAJ, TARGET)
    now = torch.distributions.Categorical(logits=policy.given.detach())
    expected = torch.distributions.kl_divergence(torch.distributions.Categorical(logits=logits(0)), now)
    assert torch.allclose(moved.terms[TRAJ.mask], expected[TRAJ.mask])
    assert moved.metrics["kl"] == pytest.approx(float(expected[TRAJ.mask].mean()))
    assert not any(p.requires_grad for p in prior.parameters())


def test_an_action_that_was_never_possible_costs_nothing():
    never = logits(0)
    never[..., 0] = -torch.inf
    assert ForwardKL(policy=Fixed(never))(Fixed(never).evaluate(TRAJ, frozenset()), TRAJ, TARGET).terms.abs().max() < 1e-12


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="temperature must be > 0"):
        said(logits(0), logits(1), temperature=0.0)
    with pytest.raises(ValueError, match=r'needs traj.extras\["teacher_logits"\]'):
        soft_distillation(Evaluation(TRAJ.logp["old"], {"logits": logits(0)}), TRAJ, TARGET)
    with pytest.raises(ValueError, match=r'needs evaluation.more\["logits"\]'):
        soft_distillation(Evaluation(TRAJ.logp["old"], {}), TRAJ.replace(extras={"teacher_logits": logits(0)}), TARGET)
    with pytest.raises(ValueError, match=r"teacher's logits are \[4, 3, 5\], the policy's \[4, 3, 6\]"):
        said(logits(0), logits(1, 6))
    with pytest.raises(ValueError, match="forward-kl: needs a policy that offers logits"):
        ForwardKL(policy=nn.Linear(1, 1))
