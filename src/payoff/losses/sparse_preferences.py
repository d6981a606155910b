"""A loss on pairs that weighs every token: which log-ratios are the reward, and where to stay near the reference (SparsePO)."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm, softplus

from payoff.catalogue import method
from payoff.losses.preference_links import check_positive, compare
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Pairs, Trajectories, log_ratio

Kind = Literal["learned", "activations", "all", "none"]


@method("sparse-po", kind="loss", paper="arXiv:2410.05102", needs=("logits",), sees="group")
class SparsePreferences(nn.Module):
    """DPO with a weight for every token's log-ratio and one for every token's divergence (SparsePO and MaPO).

    -log sigmoid(beta (u - delta)) + l1_reward sum m_u + l1_kl sum m_d, the sums over both rollouts of the pair, with
    u = sum_t m_u rho_t of the winner less that of the loser, rho_t = (log pi - log pi_ref)(a_t), and
    delta = sum_t m_d KL_t of the loser less that of the winner, KL_t = KL(pi_ref || pi) over the vocabulary before a_t.

    policy:       as it is at first: the reference, whose states the masks read; a run hands over a copy, which never changes
    reward, kl:   where m_u and m_d come from. "learned": ReLU(sum_l c_l ReLU(w_l . LN(h_l) + b_l)) of the reference's states h_l
                  before the action, in every layer where the policy offers "layers" [N, T+1, L, D] and has `depth` L, else in the
                  last alone, "hidden". "activations" (MaPO): the mean of h_l's entries, stretched to 0..1 over the rollout's own
                  actions (1 where all are equal), averaged over layers; not trained. "all" is 1, "none" 0. kl "same": m_d is m_u
    l1_reward, l1_kl: price of a learned mask, without which nothing makes it sparse; too high a one makes it 0 everywhere, and then
                  the loss is log 2 and the policy learns nothing
    dropout:      of a learned mask, in every layer and of what comes out, while gradients are on
    learning_rate, weight_decay: of the masks, which take a step of AdamW of their own on the pairs they are shown

    reward "all" with kl "none" is `dpo`; with kl "all" it is TDPO1, whose stopped gradient this lacks. Multiplying the masks and
    dividing beta by the same number changes nothing but the price. Learned masks begin at 1. What they learn comes from
    which answer was chosen, and they belong to the loss: the policy is used without them. [P]; aggregate by `pair-mean`.

    Metrics: those of `dpo` with u + sum m_d KL as a rollout's score; divergence (mean KL_t); kept/reward and kept/kl (share of own
    actions whose learned mask is not 0). Raises ValueError for options that make no sense, and a policy that lacks what they read.

    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1)
    >>> traj = policy.read([{"prompt": "1+1=", "response": "#2."}, {"prompt": "1+1=", "response": "#3."}])
    >>> pairs, now = Pairs(torch.tensor([[0, 1]]), torch.ones(1), torch.ones(1)), policy.evaluate(traj, frozenset({"logits"}))
    >>> SparsePreferences(policy=policy)(now, traj, pairs).terms  # nothing has moved yet
    tensor([0.6931], grad_fn=<AddBackward0>)
    """

    def __init__(
        self,
        *,
        policy: Any,
        beta: float = 0.8,
        reward: Kind = "learned",
        kl: Kind | Literal["same"] = "learned",
        l1_reward: float = 0.0,
        l1_kl: float = 0.0,
        dropout: float = 0.1,
        learning_rate: float = 1e-6,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive("sparse-po", beta=beta, learning_rate=learning_rate)
        if reward not in ("learned", "activations", "all", "none") or kl not in ("learned", "activations", "all", "none", "same"):
            raise ValueError(
                f'sparse-po: masks are "learned", "activations", "all", "none" (kl: "same"), got {reward!r} and {kl!r}'
            )
        if not 0 <= dropout < 1 or not min(l1_reward, l1_kl, weight_decay) >= 0:
            raise ValueError(
                "sparse-po: dropout must lie in [0, 1), l1_reward, l1_kl and weight_decay be at least 0, "
                f"got {dropout}, {l1_reward}, {l1_kl} and {weight_decay}"
            )
        offers: frozenset[str] = getattr(policy, "offers", frozenset())
        reads = {"learned", "activations"} & {reward, kl}
        self.states = "layers" if "layers" in offers else "hidden"
        if "logits" not in offers or (reads and self.states not in offers):
            raise ValueError(f"sparse-po: needs a policy that offers logits{' and hidden states' if reads else ''}")
        self.beta, self.kinds, self.l1 = beta, (reward, kl), (l1_reward, l1_kl)
        self.dropout, self.seed, self.steps = dropout, seed, 0
        self.want = frozenset({"logits", self.states}) if reads else frozenset({"logits"})
        self.initial = copy.deepcopy(policy).requires_grad_(False)
        size = (policy.depth if self.states == "layers" else 1, policy.width) if reads else (1, 1)
        learned = [name for name, kind in (("reward", reward), ("kl", kl)) if kind == "learned"]
        self.masks = nn.ModuleDict({name: TokenMask(*size) for name in learned})
        if learned:
            self.masks.to(policy.device)
            self.optimiser = torch.optim.AdamW(self.masks.parameters(), lr=learning_rate, weight_decay=weight_decay)

    def forward(self, evaluation: Evaluation, traj: Trajectories, target: Pairs) -> LossOutput:
        """The terms of these pairs; learned masks take a step on them where gradients are on."""
        if "logits" not in evaluation.more:
            raise ValueError('sparse-po: needs evaluation.more["logits"] [N, T, V], the policy\'s own over all actions')
        with torch.no_grad():
            behind = self.initial.evaluate(traj, self.want)
        ratio = log_ratio(evaluation.logp, behind.logp, traj)
        away = divergence(behind.more["logits"], evaluation.more["logits"], traj.own)
        learns = bool(self.masks) and torch.is_grad_enabled() and len(target.index) > 0
        reward, kl = self._masks(behind, traj, learns)
        if learns:
            self._learn(ratio.detach(), away.detach(), reward, kl, target)
        reward, kl = reward.detach(), kl.detach()
        output = self._terms(ratio, away, reward, kl, target)
        own = traj.own.sum().clamp(min=1)
        told = {"divergence": float(away.detach().double().sum() / own)}
        told |= {f"kept/{name}": float((m > 0).sum() / own) for name, m in (("reward", reward), ("kl", kl)) if name in self.masks}
        return LossOutput(output.terms, {**output.metrics, **told})

    def get_extra_state(self) -> dict[str, Any]:
        """The masks' optimiser, and how many steps they have taken."""
        return {"steps": self.steps, "optimiser": self.optimiser.state_dict() if self.masks else {}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from what was saved."""
        self.steps = state["steps"]
        if self.masks:
            self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))

    def _terms(self, ratio: Tensor, away: Tensor, reward: Tensor, kl: Tensor, pairs: Pairs) -> LossOutput:
        score = (reward * ratio + kl * away).sum(1)
        output = compare(lambda a, b: softplus(-self.beta * (a - b)), score, pairs)
        price = self.l1[0] * reward.sum(1) * (self.kinds[0] == "learned")
        price = price + self.l1[1] * kl.sum(1) * (self.kinds[1] == "learned" or self.kinds == ("learned", "same"))
        return LossOutput(output.terms + price[pairs.index].sum(1), output.metrics)

    def _masks(self, behind: Evaluation, traj: Trajectories, learns: bool) -> tuple[Float[Tensor, "N T"], Float[Tensor, "N T"]]:
        """m_u and m_d, 0 where the policy did not act; with a graph where they learn."""
        own, states = traj.own, None
        if self.states in behind.more:
            states = behind.more[self.states][:, :-1]  # before each action
            states = torch.where(own[..., None, None], states if states.ndim == 4 else states[:, :, None], 0)
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + self.steps)

        def made(name: str, kind: str) -> Tensor:
            if kind in ("all", "none"):
                return own.to(behind.logp.dtype) * (kind == "all")
            assert states is not None
            if kind == "activations":
                return activation_mask(states, own)
            with torch.set_grad_enabled(learns):
                return torch.where(own, self.masks[name](states, dropout=self.dropout if learns else 0.0, rng=rng), 0)

        reward = made("reward", self.kinds[0])
        return reward, reward if self.kinds[1] == "same" else made("kl", self.kinds[1])

    def _learn(self, ratio: Tensor, away: Tensor, reward: Tensor, kl: Tensor, pairs: Pairs) -> None:
        """One step of the masks on the weighted mean over pairs; the policy's part is a constant to them."""
        terms = self._terms(ratio, away, reward, kl, pairs).terms
        weight = pairs.weight.to(terms)
        self.optimiser.zero_grad(set_to_none=True)
        ((terms * weight).sum() / weight.sum().clamp(min=1e-12)).backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.steps += 1


class TokenMask(nn.Module):
    """A number of at least 0 for every position: ReLU(sum_l c_l ReLU(w_l . LN(h_l) + b_l)), 1 everywhere at first.

    layers, width: L and D. w_l begin at 0, b_l at 1 and c_l at 1 / L, so that no ReLU is closed at first.

    >>> mask = TokenMask(4, 8)
    >>> mask(torch.randn(2, 3, 4, 8)).tolist()  # two rollouts of three positions
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers, width))
        self.bias = nn.Parameter(torch.ones(layers))
        self.mixer = nn.Parameter(torch.full((layers,), 1 / layers))

    def forward(
        self, states: Float[Tensor, "N T L D"], *, dropout: float = 0.0, rng: torch.Generator | None = None
    ) -> Float[Tensor, "N T"]:
        """The mask of every position; dropout takes whole layers of a position out, and then whole positions."""
        states = layer_norm(states.to(self.weight.dtype), states.shape[-1:])
        layers = _dropped(((states * self.weight).sum(-1) + self.bias).relu(), dropout, rng)
        return _dropped((layers * self.mixer).sum(-1).relu(), dropout, rng)


def activation_mask(states: Float[Tensor, "N T L D"], own: Bool[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    """The mean entry of each layer's state, stretched to 0..1 over a rollout's own actions, averaged over layers (MaPO).

    The published z-normalisation before the stretch does not change it. Where all of a rollout's are equal: 1; 0 off `own`.

    >>> activation_mask(torch.tensor([[[[1.0, 3.0]], [[4.0, 4.0]], [[9.0, 9.0]]]]), torch.tensor([[True, True, False]]))
    tensor([[0., 1., 0.]])
    """
    mean = states.mean(-1)
    here = own[..., None]
    low = torch.where(here, mean, torch.inf).amin(1, keepdim=True)
    span = torch.where(here, mean, -torch.inf).amax(1, keepdim=True) - low
    stretched = torch.where(span > 0, (mean - low) / torch.where(span > 0, span, 1), 1)
    return torch.where(own, torch.where(here, stretched, 0).mean(-1), 0)


def divergence(reference: Float[Tensor, "N T V"], policy: Float[Tensor, "N T V"], own: Bool[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    """KL(reference || policy) over all actions, where the policy acted; an action that the reference never takes adds nothing.

    >>> even, sure = torch.zeros(1, 1, 2), torch.tensor([[[0.0, -torch.inf]]])
    >>> divergence(sure, even, torch.tensor([[True]]))
    tensor([[0.6931]])
    """
    behind = torch.where(own[..., None], reference.detach().to(policy.dtype), 0).log_softmax(-1)
    now = torch.where(own[..., None], policy, 0).log_softmax(-1)
    possible = behind > -torch.inf
    return (behind.exp() * (torch.where(possible, behind, 0) - torch.where(possible, now, 0))).sum(-1)


def _dropped(x: Tensor, dropout: float, rng: torch.Generator | None) -> Tensor:
    if not dropout:
        return x
    kept = (torch.rand(x.shape, generator=rng) >= dropout).to(x.device)
    return x * kept / (1 - dropout)
