"""ArCHer in a sparse world: do critics of whole turns need fewer episodes where success is rare and comes late?

payoff reproduce archer-sparse
"""

from __future__ import annotations

from collections.abc import Mapping

from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.rooms import CHOICES, COMMANDS, DISCOUNT, EPISODES, ROOMS, TOKENS, TURNS, learned

RATES = {"reinforce": 0.3, "ppo": 0.3, "archer": 0.03}
LEAD_ON, LEAD_BACK = 2, 4


def run(arm: str, seed: int, *, updates: int = 60) -> Mapping[str, float]:
    """The same world and the same number of episodes; what is learned from them, and how often, is the arm's."""
    return learned(arm, seed, updates, RATES[arm], LEAD_ON, LEAD_BACK)


RECIPE = Recipe(
    name="archer-sparse",
    claim=(
        "Where reward is sparse and delayed, critics of whole turns that learn off policy need many times fewer episodes than "
        "token-level policy gradients."
    ),
    paper="arXiv:2402.19446",
    test=(
        f"The world and the arms of the recipe `archer`, made sparse: of {COMMANDS} commands ({TOKENS} tokens out of {CHOICES}) "
        f"two lead on and four back to the first room, so that the first policy gets through the {ROOMS} rooms within {TURNS} "
        "turns in 12 of a thousand episodes (42 there); 1 is paid for getting through, nothing before, and later is worth less "
        f"({DISCOUNT:g} a turn). {EPISODES} episodes an iteration, 60 iterations. Learning rates of the policy chosen for each arm "
        "as there, from the same values, on two other worlds of this kind. How sparse was set by that share alone: with one "
        "command that leads on, all episodes of a run hold one or two successes. Not tested: language models, critics that must "
        "generalise, the token baseline; what updates cost besides episodes is not counted."
    ),
    arms={
        "reinforce": "returns to go of tokens, less their mean in the batch",
        "ppo": "PPO with a critic of tokens, GAE 0.95, four steps on each batch, standardised advantages",
        "archer": "twin critics of turns with targets, replay of all episodes, min Q - min V on each token of a new turn",
    },
    measures={
        "success": "probability of getting through within the turns there are, at the end (exact)",
        "area": "its mean over all iterations, the first policy included",
        "episodes": "episodes until it is 0.8; all of them where it never was",
    },
    effects=(
        Effect("area", "archer", "reinforce", "higher", delta=0.05),
        Effect("area", "archer", "ppo", "higher", delta=0.05),
    ),
    run=run,
    methods=("model:archer", "credit:immediate", "credit:lambda-return", "loss:ppo-clip", "loss:policy-gradient", "loss:value"),
)
