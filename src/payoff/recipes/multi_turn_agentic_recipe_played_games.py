"""Multi-turn agentic recipe in a text world: a few plays to imitate and then reinforcement, or either alone, at one budget?

payoff reproduce multi-turn-agentic-recipe-played-games
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache

import torch

from payoff.advantages.group import grpo
from payoff.credit.returns import total
from payoff.policies.lm import LanguageModel
from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.dialogue_learning import Script, imitate, learn
from payoff.recipes.worlds.games import OBJECTS, QUEST, ROOMS, SETTING, TURNS, RememberedTask, taught
from payoff.trajectories import Channel, Trajectories, outcome

GAMES, HELD_OUT, PLAYS = 128, 48, 4  # games to train on, games to be judged on, and how often each of these is played
PRICE = 10  # tokens that the policy writes for one that is shown to it
SHARES = {"reinforcement": 0.0, "tenth": 0.1, "third": 1 / 3, "demonstrations": 1.0}  # of the budget, shown
STEPS = 100


@lru_cache(maxsize=1)
def games() -> RememberedTask:
    """Games in signs; one and the same for every run, so that they remember together."""
    return RememberedTask(rooms=ROOMS, objects=OBJECTS, quest=QUEST, turns=TURNS, games=GAMES, held_out=HELD_OUT, view="terse")


def demonstrations(tokens: float, draw: random.Random) -> list[Script]:
    """Plays by the shortest way of games to train on, whose own tokens come to about so many."""
    found, own = list[Script](), 0
    while own < tokens:
        start = games().start(draw.randrange(GAMES))
        episode, said = start.environment.begin(), [(start.fields["prompt"], False)]  # type: ignore[union-attr]
        for command in start.fields["solution"]:
            said += [(command, True), (episode.respond(command).observation, False)]
            own += len(command)
        found.append(said)
    return found


def won(policy: LanguageModel, seed: int) -> float:
    """Share of plays that are won, of games that nobody was trained on."""
    with torch.no_grad():
        traj = policy.rollout(games().held_out_starts(HELD_OUT), PLAYS, torch.Generator().manual_seed(seed))
    return float(outcome(games().truth(traj), traj)[0].double().mean())


def outcome_alone(traj: Trajectories) -> Channel:
    """GRPO on the quest."""
    return grpo(total(games().truth(traj), traj), traj)


def run(arm: str, seed: int, *, tokens: int = 10_000) -> Mapping[str, float]:
    """Games of textworld, played by a small transformer, with one budget for all ways to teach it."""
    torch.set_num_threads(1)
    policy, share = taught(), SHARES[arm]
    if share:
        found = demonstrations(share * tokens / PRICE, random.Random(seed))
        imitate(policy, lambda draw: draw.choice(found), steps=STEPS, batch=32, seed=seed)
    before = won(policy, seed)
    if share < 1:
        learn(games(), policy, outcome_alone, seed, tokens=round((1 - share) * tokens), learning_rate=2.5e-4)
    return {"won": won(policy, seed), "before": before}


RECIPE = Recipe(
    name="multi-turn-agentic-recipe-played-games",
    claim=(
        "At one budget, a small share of demonstrations and then reinforcement learning makes a better player of text games than "
        "either demonstrations or reinforcement alone."
    ),
    paper="arXiv:2510.01132",
    test=(
        f"{SETTING} {GAMES} games to train on, judged on {HELD_OUT} others, each played {PLAYS} times. The budget is counted in "
        f"tokens that the policy writes itself, and a token that it is shown costs {PRICE} of them, a price that was fixed "
        f"before anything was run. Demonstrations are plays by the shortest way of games to train on, {STEPS} steps of "
        "supervised learning on whatever number of them is bought (batches of 32, Adam, from 3e-3 to 0). Reinforcement is GRPO "
        "on the quest (8 games of 8 rollouts an update, ppo-clip, token mean, Adam at 2.5e-4, no KL penalty), its learning rate "
        "that of multi-turn-agentic-recipe-text-world. The small share is a tenth; the third is there to compare with, and the "
        "claim says nothing of it. This was made because on searches (multi-turn-agentic-recipe-demonstrations) few "
        "demonstrations left nothing to learn; before it was fixed, reinforcement alone and demonstrations alone were looked at "
        "with seed 0, in 14,000 tokens and 256 games (0.61 and 0.90), and the smaller numbers are for time. Not tested: "
        "language models, other prices and shares, plays that are not the best, and longer quests."
    ),
    arms={
        "reinforcement": "all of the budget for reinforcement",
        "tenth": "a tenth for demonstrations, then reinforcement",
        "third": "a third for demonstrations, then reinforcement",
        "demonstrations": "all of the budget for demonstrations",
    },
    measures={
        "won": "share of plays that are won in the end, of games that nobody was trained on",
        "before": "the same before reinforcement",
    },
    effects=(
        Effect("won", "tenth", "reinforcement", "higher", delta=0.03),
        Effect("won", "tenth", "demonstrations", "higher", delta=0.03),
    ),
    run=run,
    methods=("advantage:grpo", "loss:ppo-clip", "task:turns-textworld"),
)
