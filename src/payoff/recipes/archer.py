"""ArCHer: do critics of whole turns that learn from past episodes need fewer episodes than token-level policy gradients?

payoff reproduce archer
"""

from __future__ import annotations

from collections.abc import Mapping

from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.rooms import CHOICES, COMMANDS, DISCOUNT, EPISODES, ROOMS, TOKENS, TURNS, learned

RATES = {"reinforce": 0.3, "ppo": 0.3, "archer": 0.03}


def run(arm: str, seed: int, *, updates: int = 40) -> Mapping[str, float]:
    """The same world and the same number of episodes; what is learned from them, and how often, is the arm's."""
    return learned(arm, seed, updates, RATES[arm])


RECIPE = Recipe(
    name="archer",
    claim=(
        "Critics of whole turns that learn off policy, with a policy gradient of the tokens under them, reach a given success on "
        "multi-turn tasks with many times fewer episodes than token-level policy gradients."
    ),
    paper="arXiv:2402.19446",
    test=(
        f"{ROOMS} rooms in a row, one at most passed in a turn; a command is {TOKENS} tokens out of {CHOICES}; three of "
        f"{COMMANDS} commands lead on, two back to the first room, the others nowhere; 1 is paid for getting through "
        f"within {TURNS} turns, and later is worth less ({DISCOUNT:g} a turn, for all arms). The policy has a table for "
        f"each room and beginning of a command, uniform at first; {EPISODES} episodes an iteration. REINFORCE takes one "
        "step an iteration, PPO four, ArCHer 50 of its critics, which are linear in tables, and three of the actor on new "
        "turns in past states. Learning rates of the policy were chosen for each arm from 0.03, 0.1 and 0.3, for ArCHer "
        "from 0.03 and 0.1, on two other worlds, by the area; at 0.1 ArCHer had settled on commands in one of them before "
        "it met a success. A first world, of four rooms and fewer commands that lead on, was so sparse that neither "
        "REINFORCE nor PPO met a success in most worlds; it was made easier before ArCHer had been run. Not tested: "
        "language models, critics that must generalise, the token baseline; what updates cost besides episodes is not "
        "counted."
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
