import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.covariance_clipping import clip_cov, kl_cov
from payoff.losses.policy_gradient import ppo_clip
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel, Trajectories

F64 = torch.float64


def many(n: int = 40, t: int = 25, seed: int = 0) -> tuple[Trajectories, Evaluation, Channel]:
    rng = torch.Generator().manual_seed(seed)
    length = torch.randint(1, t + 1, (n,), generator=rng)
    exists = torch.arange(t) < length[:, None]
    old = -3 * torch.rand(n, t, generator=rng, dtype=F64)
    traj = Trajectories(
        mask=exists,
        length=length,
        group=torch.arange(n) // 4,
        step=torch.where(exists, 0, -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, t, dtype=torch.int64),
        logp={"old": old},
        id=torch.arange(n) + 1000,
    )
    new = (old + 0.05 * torch.randn(n, t, generator=rng, dtype=F64)).requires_grad_()
    advantage = torch.randn(n, 1, generator=rng, dtype=F64)
    return traj, Evaluation(new, {}), Channel(advantage, torch.ones(n, 1, dtype=torch.bool))


def left_out(traj, evaluation, target, **options) -> torch.Tensor:
    plain = ppo_clip(evaluation, traj, target).terms
    return traj.mask & (clip_cov(evaluation, traj, target, **options).terms != plain)


def test_what_is_left_out_is_what_the_covariance_says():
    traj = four_answers()
    logp = torch.tensor([[-0.5, -2.0, -2.0], [-2.0, -2.0, 0.0], [-0.5, -2.0, -2.0], [-2.0, 0.0, 0.0]])
    traj = traj.replace(logp={"old": logp})
    target = Channel(torch.tensor([[2.0], [-1.0], [0.5], [-1.0]]), torch.ones(4, 1, dtype=torch.bool))
    # over nine actions mean A = (6 - 2 + 1.5 - 1) / 9 = 0.5 and mean log pi = -15 / 9 = -1.667, so
    # c = 1.5 * 1.167 = 1.75 at the first action of row 0, 1.5 * -0.333 = -0.5 beside it, 0 in row 2, and in rows 1 and 3
    # -1.5 * -0.333 = 0.5
    evaluation = Evaluation(logp, {})
    found = clip_cov(evaluation, traj, target, share=1.0, least=0.4, most=2.0).terms
    assert (found == 0).tolist() == [[True, False, False], [True] * 3, [False] * 3, [True] * 3]
    found = clip_cov(evaluation, traj, target, share=1.0, least=1.0, most=2.0).terms
    assert (found[traj.mask] == 0).sum() == 1
    assert found[0, 0] == 0
    held = kl_cov(evaluation, traj, target, share=0.4).metrics["held_fraction"]  # floor(3.6): the four of 1.75 and 0.5, less one
    assert held == pytest.approx(3 / 9)


def test_so_many_are_left_out_by_lot_and_never_what_a_bound_clips():
    traj, evaluation, target = many()
    terms, options = int(traj.mask.sum()), {"least": 0.2, "most": 0.9}
    for share in (0.01, 0.02, 0.03):
        out = left_out(traj, evaluation, target, share=share, **options)
        assert int(out.sum()) == int(share * terms)
    logp = evaluation.logp.detach()
    advantage = target.value.expand_as(logp)
    mean = lambda x: x[traj.mask].mean()
    covariance = (advantage - mean(advantage)) * (logp - mean(logp))
    assert ((covariance > 0.2) & (covariance < 0.9))[out].all()
    clipped = ((logp - traj.logp["old"]).exp() > 1.2) & (advantage > 0)
    assert not (out & clipped).any()


def test_the_lot_depends_on_seed_id_and_position_alone():
    traj, evaluation, target = many()
    options = {"share": 0.02, "least": 0.2, "most": 0.9}
    out = left_out(traj, evaluation, target, **options)
    order = torch.randperm(len(traj), generator=torch.Generator().manual_seed(1))
    moved = left_out(
        traj.select(order), Evaluation(evaluation.logp[order], {}), Channel(target.value[order], target.valid[order]), **options
    )
    assert torch.equal(moved, out[order])
    assert not torch.equal(left_out(traj, evaluation, target, seed=1, **options), out)
    renamed = traj.replace(id=traj.id + 500)
    assert not torch.equal(left_out(renamed, evaluation, target, **options), out)


def test_the_lot_falls_evenly():
    """Over 120 seeds each eligible action is left out about equally often: a binomial count stays within five deviations."""
    traj, evaluation, target = many(12, 10)
    options = {"least": 0.0, "most": 9.0}
    eligible = left_out(traj, evaluation, target, share=1.0, **options)
    draws = 120
    counts = sum(left_out(traj, evaluation, target, share=0.1, seed=seed, **options).int() for seed in range(draws))
    p = int(0.1 * int(traj.mask.sum())) / int(eligible.sum())
    spread = 5 * (draws * p * (1 - p)) ** 0.5
    assert not counts[~eligible].any()
    assert (counts[eligible] - draws * p).abs().max() < spread


def test_the_penalty_pulls_the_surest_good_actions_back_with_constant_strength():
    traj, evaluation, target = many()
    parts = [kl_cov(evaluation, traj, target, share=0.05, coefficient=c).terms for c in (0.0, 1.0)]
    pull = torch.autograd.grad((parts[1] - parts[0]).sum(), evaluation.logp)[0]
    held = pull != 0
    assert int(held.sum()) == int(0.05 * int(traj.mask.sum()))
    moved = evaluation.logp.detach() - traj.logp["old"]
    torch.testing.assert_close(pull[held], moved.sign()[held])


def test_batches_named_by_the_exact_lab_are_apart():
    traj, evaluation, target = many()
    half = torch.arange(len(traj)) // 20
    both = traj.replace(extras={"batch": half})
    for loss in (
        lambda e, t, c: kl_cov(e, t, c, share=0.05).terms,
        lambda e, t, c: clip_cov(e, t, c, share=0.02, least=0.2, most=0.9).terms,
    ):
        together = loss(evaluation, both, target)
        for number in (0, 1):
            rows = (half == number).nonzero().squeeze(1)
            part = traj.select(rows)
            alone = loss(Evaluation(evaluation.logp[rows, : part.width], {}), part, Channel(target.value[rows], target.valid[rows]))
            torch.testing.assert_close(together[rows, : part.width], alone)


def test_mistakes_are_named():
    traj, evaluation, target = many(4, 3)
    for loss in (clip_cov, kl_cov):
        with pytest.raises(ValueError, match=rf"{loss.__name__}: share must lie in \(0, 1\], got 0.0"):
            loss(evaluation, traj, target, share=0.0)
    with pytest.raises(ValueError, match="clip_cov: least must be at most most"):
        clip_cov(evaluation, traj, target, least=2.0, most=1.0)
    with pytest.raises(ValueError, match="kl_cov: coefficient must be at least 0"):
        kl_cov(evaluation, traj, target, coefficient=-1.0)
