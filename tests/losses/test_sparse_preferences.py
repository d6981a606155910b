"""SparsePO: what it is at its corners, what learned masks find, and what they leave alone."""

import copy
import math

import pytest
import torch
from torch import nn

from payoff.examples import four_answers
from payoff.losses.preferences import dpo
from payoff.losses.sparse_preferences import SparsePreferences, TokenMask, activation_mask
from payoff.pipeline import Evaluation
from payoff.trajectories import Pairs, Trajectories

F64 = torch.float64
PAIRS = Pairs(torch.tensor([[0, 1], [2, 3], [1, 0]]), torch.tensor([1.0, 0.0, 0.8]), torch.ones(3))


class Fixed(nn.Module):
    """Logits and hidden states that are simply given, with NaN wherever nothing is acted."""

    def __init__(self, logits: torch.Tensor, hidden: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.hidden = nn.Parameter(logits), hidden
        self.offers, self.width, self.device = frozenset({"logits", "hidden"}), hidden.shape[-1], torch.device("cpu")

    def evaluate(self, traj: Trajectories, want: frozenset[str] = frozenset()) -> Evaluation:
        logits = torch.where(traj.mask[..., None], self.logits, torch.nan)
        own = torch.where(traj.mask[..., None], self.logits, 0).log_softmax(-1)
        logp = own.gather(2, torch.where(traj.mask, traj.actions, 0)[..., None])[..., 0]
        more = {"logits": logits, "hidden": self.hidden}
        return Evaluation(torch.where(traj.mask, logp, torch.nan), {name: more[name] for name in want})


def world(seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=F64)
    traj = four_answers()
    reference, policy = Fixed(draw(4, 3, 5), draw(4, 4, 6)), Fixed(draw(4, 3, 5), torch.zeros(4, 4, 6))
    traj = traj.replace(logp={"ref": reference.evaluate(traj).logp.detach()})
    return traj, reference, policy.evaluate(traj, frozenset({"logits"})), policy


def test_with_all_tokens_and_no_divergence_it_is_dpo():
    traj, reference, now, _ = world()
    found = SparsePreferences(policy=reference, beta=0.3, reward="all", kl="none")(now, traj, PAIRS)
    plain = dpo(now, traj, PAIRS, beta=0.3)
    torch.testing.assert_close(found.terms, plain.terms)
    assert {name: found.metrics[name] for name in plain.metrics} == pytest.approx(plain.metrics)


def test_with_all_of_both_the_margin_is_that_of_sequential_divergences():
    # a pair by hand: rollouts 3 (one token) and 1 (two tokens), each KL(reference || policy) summed over its own tokens
    traj, reference, now, policy = world()
    p, q = reference.logits.detach().log_softmax(-1), policy.logits.detach().log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)
    assert (kl >= 0).all()
    ratio = lambda row, t: (q - p)[row, t, traj.actions[row, t]]
    u = ratio(3, 0) - ratio(1, 0) - ratio(1, 1)
    delta = kl[1, :2].sum() - kl[3, 0]
    pair = Pairs(torch.tensor([[3, 1]]), torch.ones(1), torch.ones(1))
    found = SparsePreferences(policy=reference, beta=0.7, reward="all", kl="all")(now, traj, pair)
    assert float(found.terms.detach()) == pytest.approx(math.log1p(math.exp(-0.7 * float((u - delta).detach()))), rel=1e-6)


def test_masks_of_nothing_are_a_plateau():
    traj, reference, now, policy = world()
    loss = SparsePreferences(policy=reference, kl="same", l1_reward=1.0)
    with torch.no_grad():
        loss.masks["reward"].bias.fill_(-1.0)
    output = loss(now, traj, PAIRS)
    output.terms.sum().backward()
    assert torch.allclose(output.terms, torch.full((3,), math.log(2.0)).to(output.terms))
    assert policy.logits.grad.abs().max() == 0
    assert output.metrics["kept/reward"] == 0


def test_larger_masks_and_a_smaller_beta_are_the_same_loss():
    traj, reference, now, _ = world()
    terms = []
    for scale in (1.0, 4.0):
        loss = SparsePreferences(policy=reference, beta=2.0 / scale)
        with torch.no_grad():
            for mask in loss.masks.values():
                mask.weight.copy_(torch.linspace(-1, 1, 6)[None])
                mask.mixer.mul_(scale)
            terms.append(loss(now, traj, PAIRS).terms)
    torch.testing.assert_close(*terms)


def test_the_mask_of_the_published_model_is_met():
    # Two layers of width 3, dropout off; numbers of SimpleMaskAllLayers with these weights, worked out again by hand:
    # LN(1, 2, 3) = (-a, 0, a), a = sqrt(3/2); layer 1: ReLU(2a + 0.5), layer 2: LN(4, 0, 2) = (a, -a, 0), ReLU(-a + 1) = 0
    mask, a = TokenMask(2, 3), math.sqrt(1.5)
    with torch.no_grad():
        mask.weight.copy_(torch.tensor([[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]]))
        mask.bias.copy_(torch.tensor([0.5, 1.0]))
        mask.mixer.copy_(torch.tensor([0.5, 3.0]))
    states = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 0.0, 2.0]]]])
    assert float(mask(states)) == pytest.approx(0.5 * (2 * a + 0.5), rel=1e-4)


def test_activations_are_stretched_within_each_rollout_and_equal_ones_all_count():
    states = torch.tensor([[[[1.0], [5.0]], [[3.0], [5.0]], [[2.0], [5.0]]]])
    own = torch.tensor([[True, True, True]])
    assert activation_mask(states, own).tolist() == [[0.5, 1.0, 0.75]]  # layers: 0, 1, 1/2 and 1, 1, 1
    shifted = activation_mask(7 * states - 3, own)
    assert torch.allclose(shifted, torch.tensor([[0.5, 1.0, 0.75]]))
    traj, reference, now, _ = world()
    assert torch.isfinite(SparsePreferences(policy=reference, reward="activations", kl="activations")(now, traj, PAIRS).terms).all()


@pytest.fixture(scope="module")
def decided_by_one_token():
    """Answers of four tokens, good or bad by the third alone; states say which place it is. Policy and masks learn together."""
    n, t = 10, 4
    rng = torch.Generator().manual_seed(0)
    actions = torch.randint(2, (n, t), generator=rng)
    mask = torch.ones(n, t, dtype=torch.bool)
    traj = Trajectories(
        mask=mask, length=torch.full((n,), t), group=torch.zeros(n).long(), step=torch.zeros(n, t).int(),
        stop=torch.zeros(n).long(), actions=actions,
    )  # fmt: skip
    hidden = torch.eye(t + 1)[None].expand(n, -1, -1).contiguous()
    better = (actions[:, None, 2] > actions[None, :, 2]).nonzero()
    pairs = Pairs(better, torch.ones(len(better)), torch.ones(len(better)))
    shared = nn.Parameter(torch.zeros(t, 2))

    class Shared(Fixed):
        def evaluate(self, traj, want=frozenset()):
            logp = shared.log_softmax(-1)[None].expand(n, -1, -1)
            logp = logp.detach() if not self.training else logp
            return Evaluation(logp.gather(2, traj.actions[..., None])[..., 0], {"logits": logp, "hidden": self.hidden})

    reference = Fixed(torch.zeros(n, t, 2), hidden)
    policy = Shared(torch.zeros(n, t, 2), hidden)
    loss = SparsePreferences(policy=reference, beta=1.0, kl="none", l1_reward=0.02, learning_rate=0.08, dropout=0.0)
    optimiser = torch.optim.Adam([shared], lr=0.08)
    for _ in range(50):
        optimiser.zero_grad()
        output = loss(policy.evaluate(traj), traj, pairs)
        output.terms.mean().backward()
        optimiser.step()
    return loss, traj, hidden, output


def test_a_learned_mask_finds_the_token_that_decided(decided_by_one_token):
    loss, _, hidden, output = decided_by_one_token
    weights = loss.masks["reward"](hidden[:1, :-1, None])[0].detach()
    assert weights[2] / weights.sum() > 0.9  # one of four tokens
    assert output.metrics["kept/reward"] < 1


def test_a_loss_goes_on_from_its_saved_state_and_draws_the_same_dropout():
    traj, reference, now, _ = world()
    now = Evaluation(now.logp.detach(), {"logits": now.more["logits"].detach()})
    make = lambda: SparsePreferences(policy=copy.deepcopy(reference), learning_rate=0.1, dropout=0.5)
    first, second = make(), make()
    first(now, traj, PAIRS)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(first(now, traj, PAIRS).terms, second(now, traj, PAIRS).terms)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_options_that_make_no_sense_are_refused():
    _, reference, _, _ = world()
    for options, message in (
        ({"dropout": 1.0}, "dropout must lie"),
        ({"beta": 0.0}, "beta must be > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            SparsePreferences(policy=reference, **options)
    blind = copy.deepcopy(reference)
    blind.offers = frozenset({"logits"})
    with pytest.raises(ValueError, match="logits and hidden states"):
        SparsePreferences(policy=blind)
