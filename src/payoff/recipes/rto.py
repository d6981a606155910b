"""RTO: does paying each token what a preference-tuned policy makes of it reach a reward with fewer samples than paying the end?

payoff reproduce rto
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from payoff.credit.returns import lambda_return
from payoff.losses.policy_gradient import ppo_clip
from payoff.losses.value import value_loss
from payoff.pipeline import Start
from payoff.policies.tabular import Tabular
from payoff.recipes import Effect, Recipe
from payoff.sets import statistics
from payoff.signals.density_ratios import preference_tilt
from payoff.signals.likelihood import kl_penalty
from payoff.trajectories import Channel, Trajectories, place_outcome

VOCABULARY, HORIZON, PAIRS, BETA, KL, ROLLOUTS = 3, 6, 1024, 0.1, 0.01, 32
DENSE: dict[str, tuple[float, float | None]] = {"rto": (0.05, 0.05), "unclipped": (BETA, None)}
RATE = 0.1


def worth(seed: int) -> Tensor:
    """What every response is worth: the sum of a normal number for each prefix, brought to mean 0 and variance 1."""
    rng = torch.Generator().manual_seed(seed)
    level = torch.zeros(1, dtype=torch.float64)
    for _ in range(HORIZON):
        level = level.repeat_interleave(VOCABULARY)
        level = level + torch.randn(len(level), generator=rng, dtype=torch.float64)
    return (level - level.mean()) / level.std()


def preferred(paid: Tensor, reference: Tabular, seed: int) -> Tabular:
    """The policy that DPO makes of the reference and of PAIRS preferences, drawn as Bradley and Terry have it from what is paid."""
    rng = torch.Generator().manual_seed(seed + 1_000_000)
    chance = reference.probabilities().detach()
    pair = torch.multinomial(chance, 2 * PAIRS, replacement=True, generator=rng).view(-1, 2)
    first = torch.rand(PAIRS, generator=rng, dtype=torch.float64) < torch.sigmoid(paid[pair[:, 0]] - paid[pair[:, 1]])
    pair = torch.where(first[:, None], pair, pair.flip(1))
    policy = reference.matching(chance)
    optimiser = torch.optim.Adam(policy.parameters(), lr=0.1)
    for _ in range(100):
        ratio = BETA * (policy.probabilities().log() - chance.log())
        optimiser.zero_grad()
        (-logsigmoid(ratio[pair[:, 0]] - ratio[pair[:, 1]]).mean()).backward()
        optimiser.step()
    return policy


def run(arm: str, seed: int, *, updates: int = 120) -> Mapping[str, float]:
    """PPO with a critic, the same score at the end in all arms; what else is paid is the arm's."""
    return learned(arm, seed, updates, RATE)


def learned(arm: str, seed: int, updates: int, rate: float) -> dict[str, float]:
    """Expected worth along the way, at one learning rate."""
    reference = Tabular(VOCABULARY, HORIZON)
    paid = worth(seed)
    tuned = preferred(paid, reference, seed)
    policy = Tabular(VOCABULARY, HORIZON, critic=True)
    optimiser = torch.optim.Adam(policy.parameters(), lr=rate)
    rng = torch.Generator().manual_seed(seed)
    number = VOCABULARY ** torch.arange(HORIZON - 1, -1, -1)
    along = []
    for _ in range(updates):
        traj = policy.rollout([Start("0", {})], ROLLOUTS, rng)
        with torch.no_grad():
            traj = traj.replace(logp={"ref": reference.evaluate(traj).logp, "dpo": tuned.evaluate(traj).logp})
            traj = traj.replace(extras={"values": policy.evaluate(traj, frozenset({"values"})).more["values"]})
        score = paid[(traj.actions * number).sum(1)]
        reward = place_outcome(score.clamp(-10, 10), torch.ones(ROLLOUTS, dtype=torch.bool), traj).value
        reward = reward + KL * kl_penalty(traj)["kl"].value
        if arm in DENSE:
            scale, clip = DENSE[arm]
            reward = reward + preference_tilt(traj, scale=scale, clip=clip)["rto"].value
        improve(policy, optimiser, traj, Channel(reward, torch.ones(ROLLOUTS, 1, dtype=torch.bool)))
        along.append(float(policy.probabilities().detach() @ paid))
    return {
        "worth": along[-1],
        "early": along[updates // 4],
        "area": sum(along) / updates,
        "tuned": float(tuned.probabilities().detach() @ paid),
    }


def improve(policy: Tabular, optimiser: torch.optim.Optimizer, traj: Trajectories, reward: Channel) -> None:
    """Two steps of PPO on one batch: GAE 0.95, standardised, and the critic."""
    target = lambda_return(reward, traj, trace=0.95)
    gap = target.value - traj.extras["values"][:, :-1]
    spread = statistics(gap, torch.zeros_like(traj.actions), traj.mask, ddof=0)
    scaled = (gap - spread.mean) / torch.where(spread.std > 0, spread.std, 1)
    for _ in range(2):
        said = policy.evaluate(traj, frozenset({"values"}))
        terms = ppo_clip(said, traj, Channel(scaled, target.valid)).terms + value_loss(said, traj, target).terms
        optimiser.zero_grad()
        terms.mean().backward()
        optimiser.step()


RECIPE = Recipe(
    name="rto",
    claim=(
        "Token rewards from the log-ratio of a policy tuned by DPO, added to the reward model's score of the whole, reach a reward "
        "with fewer samples than PPO on that score alone."
    ),
    paper="arXiv:2404.18922",
    test=(
        f"Responses of {HORIZON} tokens out of {VOCABULARY}; what one is worth is a sum over its prefixes, normal, of "
        f"variance 1; {PAIRS} preferences between responses of a uniform reference, by a tabular DPO with beta {BETA:g}. "
        f"PPO with a critic on {ROLLOUTS} responses an update, KL coefficient {KL:g}, two steps a batch; the score at the "
        "end is the worth itself in all arms, as a perfect reward model. The learning rate of all arms is the best of "
        "0.01, 0.03 and 0.1 for the arm `sequence` on three other seeds, by the area. The arm `unclipped` pays beta times "
        "the log-ratio as it is: a potential if DPO found the KL-regularised optimum. Not tested: an imperfect reward "
        "model, responses of hundreds of tokens, where the clipped token rewards add up to more than the score, and "
        "language models."
    ),
    arms={
        "sequence": "the score at the end and the KL penalty",
        "rto": "the same, and 0.05 times the log-ratio of DPO to the reference at each token, within 0.05",
        "unclipped": "the same, and beta times that log-ratio at each token, unclipped",
    },
    measures={
        "worth": "expected worth of a response at the end, in standard deviations of the uniform policy (exact)",
        "early": "the same after a quarter of the updates",
        "area": "its mean over all updates",
        "tuned": "expected worth under the policy that DPO made (exact)",
    },
    effects=(
        Effect("area", "rto", "sequence", "higher", delta=0.05),
        Effect("area", "unclipped", "sequence", "higher", delta=0.05),
    ),
    run=run,
    methods=("signal:rto", "signal:kl-penalty", "credit:lambda-return", "loss:ppo-clip", "loss:value"),
)
