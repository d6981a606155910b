"""Text worlds, gymnasium, and episodes in processes of their own, which may hang, die or raise."""

import abc
import asyncio
import importlib.util
import os
import pickle
import random
import sys
import time
from types import ModuleType, SimpleNamespace

import gymnasium
import pytest
import torch

from payoff.pipeline import Response, Start
from payoff.policies.embedded import transformer
from payoff.policies.turns import rollout_turns
from payoff.tasks.turns.dialogue import Dialogue, outcome_of, turn_dense
from payoff.tasks.turns.gymnasium_text import GymnasiumTextTask
from payoff.tasks.turns.processes import DeadlineError, EnvironmentDiedError, InProcess
from payoff.tasks.turns.text_world import Game, InformEpisode, LogicEpisode, TerseEpisode, TextWorldTask, described, in_signs
from payoff.tasks.turns.verifiers_environments import AskedEpisode, VerifiersTask
from payoff.trajectories import StopReason

HAS_TEXTWORLD = importlib.util.find_spec("textworld") is not None


def fact(name, *things):
    return SimpleNamespace(name=name, arguments=[SimpleNamespace(name=thing) for thing in things])


def test_a_state_is_told_in_plain_words_in_an_order_of_its_own():
    names = {"r_0": "kitchen", "r_1": "cellar", "c_0": "box", "c_1": "chest", "s_0": "shelf"}
    names |= {"o_0": "lamp", "o_1": "key", "d_0": "hatch"}
    facts = [
        *(fact("at", "P", "r_0"), fact("at", "c_0", "r_0"), fact("at", "s_0", "r_0"), fact("at", "c_1", "r_1")),
        *(fact("in", "o_0", "c_0"), fact("closed", "c_0"), fact("on", "o_1", "s_0"), fact("in", "f_0", "I")),
        *(fact("east_of", "r_1", "r_0"), fact("west_of", "r_0", "r_1"), fact("link", "r_0", "d_0", "r_1"), fact("locked", "d_0")),
    ]
    told = "You are in the kitchen. Here: box (closed), shelf (with key). Exits: east through the hatch (locked). You carry: f_0.\n"
    assert described(facts, names) == told
    assert described(facts[::-1], names) == told


def test_a_state_is_told_in_signs_in_an_order_of_its_own():
    sign = {"r_0": "1", "r_1": "2", "c_0": "A", "s_0": "C", "c_1": "B", "d_0": "D", "o_0": "b", "o_1": "a", "k_0": "c", "f_0": "d"}
    facts = [
        *(fact("at", "P", "r_0"), fact("at", "c_0", "r_0"), fact("at", "s_0", "r_0"), fact("at", "c_1", "r_1")),
        *(fact("in", "o_0", "c_0"), fact("open", "c_0"), fact("on", "o_1", "s_0"), fact("in", "f_0", "I"), fact("in", "k_0", "I")),
        *(fact("east_of", "r_1", "r_0"), fact("west_of", "r_0", "r_1"), fact("link", "r_0", "d_0", "r_1"), fact("locked", "d_0")),
    ]
    # Room 1: A is open with b in it, a lies on C; through D, which is locked, to room 2; c and d are carried.
    assert in_signs(facts, sign) == in_signs(facts[::-1], sign) == "1A:bCa>2D#@cd;"
    closed = [fact("closed", "c_0") if f.name == "open" else f for f in facts] + [fact("at", "o_9", "r_0")]
    assert in_signs(closed, sign | {"o_9": "e"}) == "1eA.Ca>2D#@cd;"  # what is in a closed thing is not seen


def test_what_makes_a_quest_impossible_is_paid_nothing():
    episode = LogicEpisode.__new__(LogicEpisode)
    episode.pays, episode._nearest, episode.commands = "progress", 3, lambda: {"eat carrot": SimpleNamespace(name="eat")}
    episode.progress = SimpleNamespace(update=lambda action: None, completed=False, failed=True, winning_policy=None)
    assert episode.respond("eat carrot") == Response("You have lost.\n", 0.0, StopReason.finished)


def test_sizes_that_are_not_there_are_refused():
    for wrong in ({"rooms": 0}, {"quest": 0}, {"games": 0}, {"held_out": 0}):
        with pytest.raises(ValueError, match="turns-textworld: "):
            TextWorldTask(**wrong)
    for wrong in ({"turns": 0}, {"turn_tokens": 0}, {"observation_tokens": 0}, {"concurrency": -1}):
        with pytest.raises(ValueError, match="Dialogue: "):
            Dialogue(Echo, **wrong)


def test_dense_turn_rewards_of_a_win_add_up_to_one_and_of_a_loss_to_the_share_of_sub_goals():
    paid = [{"reward": r} for r in (1.0, 0.0, 1.0)]
    assert sum(turn_dense(paid, 1.0, 7).value) == 1.0
    assert sum(turn_dense(paid, 0.0, 4).value) == 0.5
    assert turn_dense(paid[2:], 1.0, 1).value == turn_dense(paid[2:], 1.0, 1, dense=False).value  # one event at the last turn
    assert turn_dense(paid[1:2], 1.0, 3).value == [0.0]  # winning without a sub-goal pays nothing: no potential
    assert not turn_dense(paid, None, 4, "gone").valid


@pytest.mark.exhaustive
@pytest.mark.skipif(not HAS_TEXTWORLD, reason="textworld is not installed")
def test_games_are_made_on_the_spot_and_their_walkthrough_wins_in_both_views(tmp_path):
    task = TextWorldTask(rooms=2, objects=3, quest=3, pays="progress", games=2)
    start = task.start(1)
    assert start.fields["prompt"] == TextWorldTask(rooms=2, objects=3, quest=3).start(1).fields["prompt"]
    game = Game(1, 2, 3, 3)
    for episode in (LogicEpisode(game, "progress", True), InformEpisode(game, "progress", True, str(tmp_path))):
        assert episode.respond("dance on the ceiling").reward == 0.0
        assert episode.outcome == 0.0
        answers = [episode.respond(turn) for turn in start.fields["solution"]]
        assert sum(answer.reward for answer in answers) == start.fields["events"]
        assert answers[-1].stop is StopReason.finished
        assert episode.outcome == 1.0
    assert len(list(tmp_path.glob("*.z8"))) == 1


@pytest.mark.exhaustive
@pytest.mark.skipif(not HAS_TEXTWORLD, reason="textworld is not installed")
def test_signs_are_other_words_for_the_same_games_and_the_way_wins_from_wherever_a_game_has_come():
    draw = random.Random(0)
    for seed in range(12):
        start = TextWorldTask(rooms=3, objects=4, quest=3, view="terse", pays="progress").start(seed)
        assert start.fields["prompt"].startswith("".join(start.fields["solution"]) + ";")
        signs, words = start.environment.begin(), LogicEpisode(Game(seed, 3, 4, 3), "progress", False)
        assert isinstance(signs, TerseEpisode)
        assert signs.respond(">0") == Response("!;", 0.0, None)
        for _ in range(8):
            of_words = {action: said for said, action in words.commands().items()}
            admitted = {said: of_words[action] for said, action in signs.commands().items()}
            assert {len(said) for said in admitted} == {2}
            assert len(admitted) == sum(not said.startswith(("look", "inventory", "examine")) for said in of_words.values())
            command = draw.choice(sorted(admitted))
            told, plain = signs.branch().respond(command), words.respond(admitted[command])
            assert told[1:] == signs.respond(command)[1:] == plain[1:]  # what was tried in a branch changed nothing here
            assert set(signs.progress.state.facts) == set(words.progress.state.facts)
            if plain.stop is not None:
                break
            assert [signs.branch().respond(turn).stop for turn in signs.way()[:1]] in ([None], [StopReason.finished])
        else:
            stops = [signs.respond(turn).stop for turn in signs.way()]
            assert (stops[-1], signs.outcome) == (StopReason.finished, 1.0)


# --- gymnasium


LAKE = {"options": {"is_slippery": False}, "actions": ["left", "down", "right", "up"]}


def test_a_gymnasium_environment_is_played_in_words():
    task = GymnasiumTextTask("FrozenLake-v1", success=1.0, intro="Cross the lake.\n", **LAKE)
    start = pickle.loads(pickle.dumps(task.start(0)))
    assert start.fields["prompt"] == "Cross the lake.\nActions: left, down, right, up. Write one a line.\n0\n"
    episode = start.environment.begin()
    assert episode.respond("fly").observation.startswith("Not understood")
    way = [episode.respond(f" {turn.upper()}\n") for turn in ("down", "down", "right", "right", "down", "right")]
    assert [r.observation for r in way] == ["4\n", "8\n", "9\n", "10\n", "14\n", "15\n"]
    assert (way[-1].reward, way[-1].stop, episode.outcome) == (1.0, StopReason.finished, 1.0)
    fallen = start.environment.begin()
    assert [fallen.respond(turn).stop for turn in ("down", "right")] == [None, StopReason.finished]
    assert fallen.outcome == 0.0


class Echo(gymnasium.Env):
    """Text in, text out; over after two steps."""

    action_space = gymnasium.spaces.Text(20)
    observation_space = gymnasium.spaces.Text(20)

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return f"seed {seed}", {}

    def step(self, action):
        self.count += 1
        return f"you said {action}", float(len(action)), False, self.count == 2, {}


def test_an_environment_with_actions_of_text_is_told_what_was_written():
    episode = GymnasiumTextTask(Echo).start(4).environment.begin()
    assert episode.first == "seed 4\n"
    assert episode.respond("hi\n") == ("you said hi\n", 2.0, None)
    assert episode.respond("you").stop is StopReason.truncated
    assert episode.outcome == 5.0  # the return, where no success is named


def test_actions_of_another_kind_or_too_few_names_are_refused():
    with pytest.raises(ValueError, match="must be a Text or Discrete space"):
        GymnasiumTextTask("MountainCarContinuous-v0").start(0)
    with pytest.raises(ValueError, match="2 actions are named"):
        GymnasiumTextTask("FrozenLake-v1", actions=["go", "stay"]).start(0)


# --- processes

MODULE = """
import os, time
from payoff.pipeline import Response

class Odd:
    outcome = 0.5
    measures = {"known": 1.0}
    def respond(self, text):
        if text == "h;": time.sleep(60)
        if text == "d;": os._exit(3)
        if text == "r;": raise KeyError("lost")
        return Response("x", 1.0, None)
    def snapshot(self): return None
"""


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """An environment that hangs, dies or raises when told to, in a module that other processes can import."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "payoff_test_odd_environment.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    import payoff_test_odd_environment

    yield payoff_test_odd_environment.Odd
    sys.path.remove(str(folder))


def test_a_deadline_is_kept_by_killing_and_takes_nobody_else_with_it(odd, monkeypatch):
    monkeypatch.setattr("payoff.tasks.turns.processes._START", "fork")  # which spares each process its imports
    make = InProcess(odd, 1.0)
    hanging, fine = make(), make()
    process = hanging._worker.process
    started = time.monotonic()
    with pytest.raises(DeadlineError, match="no answer within 1 s"):
        hanging.respond("h;")
    assert time.monotonic() - started < 20
    assert not process.is_alive()
    assert fine.respond("a;") == Response("x", 1.0, None)
    assert (fine.measures, fine.outcome) == ({"known": 1.0}, 0.5)
    with pytest.raises(EnvironmentDiedError, match="KeyError: 'lost'"):
        fine.respond("r;")
    assert fine.respond("a;").reward == 1.0  # raising does not end the process
    number = fine._worker.process.pid
    fine.close()
    again = make()
    assert again._worker.process.pid == number != os.getpid()  # used again
    with pytest.raises(EnvironmentDiedError, match="died"):
        again.respond("d;")
    with pytest.raises(EnvironmentDiedError, match="gone"):
        again.respond("a;")


@pytest.mark.exhaustive
def test_rollouts_whose_environment_hangs_or_dies_have_no_verdict_and_say_why(odd):
    dialogue = Dialogue(InProcess(odd, 1.0), ends=(), turn_tokens=2, concurrency=3, turns=2)
    policy = transformer(alphabet="ahdr;x", width=8, layers=1, heads=1, context=16, max_tokens=6, stop=(";",), step_separator=None)
    with torch.no_grad():
        policy.model.head.weight.zero_()  # every token is as likely: some of the letters come up
    starts = [Start("s", {"prompt": "x"}, dialogue)]
    traj = rollout_turns(policy, starts, 24, torch.Generator().manual_seed(3)).check()
    why = {}
    for item in traj.items:
        why |= {turn["said"]: item["failure"] for turn in item["turns"] if turn["reward"] is None and item["failure"]}
    expected = {
        "h;": "DeadlineError: no answer within 1 s",
        "d;": "EnvironmentDiedError: the environment's process died",
        "r;": "EnvironmentDiedError: KeyError: 'lost'",
    }
    assert why
    assert why == {said: expected[said] for said in why}
    truth = outcome_of(traj)
    failed = torch.tensor([bool(item["failure"]) for item in traj.items])
    known = truth.valid.expand(traj.mask.shape).gather(1, (traj.length - 1)[:, None])[:, 0]
    assert torch.equal(known, ~failed)
    assert 0 < int(failed.sum()) < 24
    assert set(truth.reasons) == set(traj.id[failed].tolist())


def test_a_deadline_must_be_positive_and_episodes_can_be_sent_to_other_processes():
    with pytest.raises(ValueError, match="deadline"):
        InProcess(Echo, 0)
    start = GymnasiumTextTask("FrozenLake-v1", deadline=30, **LAKE).start(0)
    copy = pickle.loads(pickle.dumps(start)).environment
    assert (copy.concurrency, copy.make.deadline) == (8, 30.0)


# --- verifiers: its client, its types and the calls of its loop restated


class Environment:
    """A loop as in verifiers: ask, answer, ask again; a rubric at the end."""

    def __init__(self, rows=5, error=None):
        self.rows, self.error, self.rubric = rows, error, self

    def get_dataset(self):
        return [{"prompt": [{"role": "user", "content": f"guess {k}"}], "answer": str(k)} for k in range(self.rows)]

    async def rollout(self, input, client, model, sampling_args):
        prompt, state = list(input["prompt"]), {"error": None, "reward": None, "tries": 0}
        while True:
            response = await client.get_response(prompt=prompt, model=model, tools=None, sampling_args=sampling_args, state=state)
            state["tries"] += 1
            if self.error:
                state["error"] = self.error
                return state
            prompt = [*prompt, response.message, {"role": "user", "content": [{"type": "text", "text": "higher;"}]}]
            if response.message.content == input["answer"] or state["tries"] == 3:
                state["right"] = response.message.content == input["answer"]
                return state

    async def score_rollout(self, state):
        state["reward"] = 1.0 / state["tries"] if state["right"] else 0.0


@pytest.fixture
def host(monkeypatch):
    clients, types = ModuleType("verifiers.clients"), ModuleType("verifiers.types")

    class Client(abc.ABC):
        def __init__(self, given):
            self.given = given

        @abc.abstractmethod
        def setup_client(self, config): ...

    clients.Client = Client
    types.ResponseMessage, types.Response = SimpleNamespace, SimpleNamespace
    for module in (ModuleType("verifiers"), clients, types):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_a_verifiers_environment_runs_its_own_loop_and_asks_the_policy_for_each_reply(host):
    task = VerifiersTask(Environment, held_out=2, deadline=20)
    starts = task.starts(3, torch.Generator().manual_seed(0))
    assert sorted(start.fields["reference"] for start in starts) == ["0", "1", "2"]
    assert [start.fields["reference"] for start in task.held_out_starts(9)] == ["3", "4"]
    start = starts[0]
    assert start.fields["prompt"][0]["content"] == f"guess {start.fields['reference']}"
    episode = start.environment.begin()
    assert episode.respond("9") == ("higher;", 0.0, None)
    assert episode.respond(start.fields["reference"]) == ("", 0.5, StopReason.finished)
    assert episode.outcome == 0.5
    left = start.environment.begin()  # one that the budget ends: its loop is cancelled
    left.respond("9")
    left.close()
    left._thread.join(10)
    assert not left._thread.is_alive()


def test_what_a_verifiers_environment_raises_or_records_as_an_error_is_raised(host):
    start = VerifiersTask(lambda: Environment(error=ValueError("no judge")), held_out=1, deadline=20).held_out_starts(1)[0]
    with pytest.raises(ValueError, match="no judge"):
        start.environment.begin().respond("9")

    async def stuck(ask):
        await ask([])
        await asyncio.sleep(60)

    episode = AskedEpisode(stuck, 0.3)
    with pytest.raises(TimeoutError, match=r"within 0\.3 s"):
        episode.respond("a")
    with pytest.raises(ValueError, match="no rows"):
        VerifiersTask(lambda: Environment(rows=0)).starts(1, torch.Generator())
