"""The worlds of text games and of searches of several sizes: what is remembered, what scripts say, and what is learned from."""

import copy
import random

import pytest
import torch

from payoff.examples import four_answers
from payoff.pipeline import Response
from payoff.recipes import multi_turn_agentic_recipe_demonstrations as few
from payoff.recipes import multi_turn_agentic_recipe_played_games as played
from payoff.recipes import multi_turn_agentic_recipe_text_world as text_world
from payoff.recipes.worlds import search_sizes
from payoff.recipes.worlds.dense_turns import weigher
from payoff.recipes.worlds.games import Node, Remembered
from payoff.trajectories import StopReason


class Counted:
    """A game that admits +a and -a, says what was done so far, and is won by -a after +a."""

    asked: list[tuple[str, str]] = []
    outcome = 0.0

    def __init__(self):
        self.done = ""

    def branch(self):
        return copy.copy(self)

    def read(self, action):
        return action.strip()

    def commands(self):
        return {"+a": None, "-a": None}

    def respond(self, action):
        self.asked.append((self.done, action))
        if self.read(action) not in self.commands():
            return Response("!;", 0.0, None)
        self.done += action
        self.outcome = float(self.done.endswith("+a-a"))
        return Response(self.done, 1.0, StopReason.finished if self.outcome else None)


def test_a_game_is_asked_once_for_every_sequence_of_commands_and_answers_as_it_would_have(monkeypatch):
    monkeypatch.setattr(Counted, "asked", [])
    first = Node(Counted())
    turns = ("zz", "+a", "zz", "zz", "-a")
    for _ in range(3):
        episode, fresh = Remembered(first), Counted()
        for turn in turns:
            before = len(Counted.asked)
            expected = fresh.respond(turn)
            del Counted.asked[before:]
            assert episode.respond(turn) == expected
            assert episode.outcome == fresh.outcome
    assert Counted.asked == [("", "zz"), ("", "+a"), ("+a", "zz"), ("+a", "-a")]
    other = Remembered(first)
    assert [other.respond(turn).observation for turn in ("-a", "+a", "-a")] == ["-a", "-a+a", "-a+a-a"]


def test_a_script_that_makes_sense_is_the_solution_and_any_script_says_what_the_environment_does():
    for k in range(20):
        for useless, skips in ((0.0, 0.0), (0.6, 0.1)):
            task = search_sizes.searches(5, 3)
            start = task.start(random.Random(k).randrange(2**29))
            (prompt, own), *said = search_sizes.scripted(task, random.Random(k), useless=useless, skips=skips)
            assert (prompt, own) == (start.fields["prompt"], False)
            turns, told = [text for text, own in said if own], [text for text, own in said if not own]
            episode = start.environment.begin()
            answers = [episode.respond(turn) for turn in turns]
            assert [answer.observation for answer in answers] == [*told, ""]
            assert answers[-1].stop is StopReason.finished
            if not useless:
                assert turns == start.fields["solution"]


def test_demonstrations_win_and_cost_what_is_said_of_them(monkeypatch):
    task = search_sizes.searches(4, 2)
    monkeypatch.setattr(played, "games", lambda: task)  # any task whose starts have a solution
    found = played.demonstrations(20.0, random.Random(0))
    assert sum(len(text) for play in found for text, own in play if own) == 24  # six tokens each: the first four that reach 20
    draw = random.Random(0)
    for (prompt, _), *said in found:
        start = task.start(draw.randrange(played.GAMES))
        assert prompt == start.fields["prompt"]
        episode = start.environment.begin()
        assert [episode.respond(text).observation for text, own in said if own] == [text for text, own in said if not own]
        assert episode.outcome == 1.0
    for tokens in (14_000, 600):  # shown tokens at their price, and written ones, come to the budget but for less than one search
        for arm, share in few.SHARES.items():
            cost = few.shown(arm, tokens) * 6 * (1 if arm == "at-one-price" else few.PRICE)
            assert 0 <= share * tokens - cost < 60 + 1e-6


@pytest.fixture(scope="module")
def policy():
    """Two letters a turn, from scripts of two sizes, hardly learned."""
    return search_sizes.taught((3, 1), (4, 2), useless=0.5, skips=0.2, steps=2)


def test_one_policy_writes_of_both_sizes_and_is_as_right_as_its_rollouts_are(policy):
    for size in ((3, 1), (4, 2)):
        task = search_sizes.searches(*size)
        share = search_sizes.right(task, policy, 3, questions=30)
        traj = policy.rollout(task.held_out_starts(30), 1, torch.Generator().manual_seed(3))
        assert share == pytest.approx(sum(item["outcome"] for item in traj.items) / 30)
    again = search_sizes.taught((3, 1), (4, 2), useless=0.5, skips=0.2, steps=2)
    assert again is not policy
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), again.parameters(), strict=True))


def test_steps_of_a_quest_are_paid_a_share_in_a_lost_game_and_add_up_to_one_in_a_won_one():
    traj = four_answers()  # of 3, 2, 3 and 1 steps; the first two are of one group, the others of another
    paid = ((1.0, 0.0, 2.0), (1.0, 1.0), (1.0, 0.0, None), (0.0,))
    items = [
        {"turns": [{"said": "", "reward": reward} for reward in rewards], "events": 4, "outcome": outcome}
        for rewards, outcome in zip(paid, (1.0, 0.0, 0.0, 0.0), strict=True)
    ]
    assert [text_world.sub_goals(item) for item in items] == [[1.0, 0.0, 1.0], [1.0, 1.0], [1.0, 0.0, 0.0], [0.0]]
    made = traj.replace(items=items)
    weights = weigher("rloo-dense", text_world.sub_goals, lambda item: item["events"])(made)
    # Sums of rewards: 1, 2/4, 1/4, 0.
    assert weights.value[:, 0].tolist() == pytest.approx([0.5, -0.5, 0.25, -0.25])
