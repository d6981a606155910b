"""Worlds of turns in words: what is learned of scripts, what the arms are paid, and that scripts say what the real tasks say."""

import random

import pytest
import torch

from payoff.credit.returns import total
from payoff.policies.embedded import transformer
from payoff.recipes.worlds import dense_turns, repair_turns, tool_turns
from payoff.recipes.worlds.dialogue_learning import imitate, learn, with_critic
from payoff.recipes.worlds.words import CHARACTERS, WordTokenizer, speaker
from payoff.sandbox import Sandbox, SandboxError
from payoff.tasks.turns.search import SearchTask
from payoff.trajectories import StopReason, constant


@pytest.fixture(scope="module", autouse=True)
def sandbox():
    try:
        Sandbox().run_python("")
    except SandboxError as error:
        pytest.skip(str(error))


def test_words_write_any_printable_text_with_the_longest_piece_first_and_refuse_the_rest():
    words = WordTokenizer(["line ", "line 1", "12"])
    assert [words.token(id) for id in words.encode("line 12 line\n")] == ["line 1", "2", " ", *"line\n"]
    assert words.decode([*words.encode(CHARACTERS), words.pad]) == CHARACTERS
    assert words.vocabulary == 3 + len(CHARACTERS) + 1
    with pytest.raises(ValueError, match="is no printable ASCII character"):
        words.encode("caf\u00e9")
    with pytest.raises(ValueError, match="a word is empty"):
        WordTokenizer(["a", ""])


def test_only_what_is_its_own_is_learned_of_a_script():
    policy = speaker(["ask", "told", "say"], context=8, max_tokens=4, width=8, layers=1, heads=1)
    ask, told, say = (policy.tokenizer.encode(word)[0] for word in ("ask", "told", "say"))
    imitate(policy, lambda draw: [("ask", False), ("told", False), ("say", True)], steps=30, batch=2, learning_rate=0.05)
    with torch.no_grad():
        after = policy.model(torch.tensor([[ask, told]])).softmax(-1)[0]
    assert float(after[1, say]) > 0.9  # what follows "told" is its own
    assert float(after[0, told]) < 0.1  # what follows "ask" is not, and was not learned


@pytest.fixture(scope="module")
def searched():
    """Searches by random weights, as many right as wrong ones that reached something."""
    policy = transformer(alphabet="ab1=!?", context=16, width=8, layers=1, heads=1, max_tokens=6, stop=(), step_separator=None)
    task = SearchTask(entities=2, hops=1, terse=True, turns=3)
    return task, policy.rollout(task.held_out_starts(8), 24, torch.Generator().manual_seed(0))


def reached(item):
    """Sub-goals of a search: each needed turn, the first time."""
    return [float(turn["said"] in item["solution"] and turn not in item["turns"][:k]) for k, turn in enumerate(item["turns"])]


def test_what_is_won_is_paid_one_and_what_is_lost_its_share_or_nothing(searched):
    _, traj = searched
    won = torch.tensor([item["outcome"] for item in traj.items])
    share = torch.tensor([sum(reached(item)) / 2 for item in traj.items])
    dense, single = (total(dense_turns.paid(traj, pay, reached, lambda item: 2), traj).value[:, 0] for pay in ("dense", "single"))
    assert 0 < won.sum() < len(won)
    assert float(share[won == 0].max()) == 0.5
    assert torch.equal(single, won)
    assert dense.tolist() == pytest.approx(torch.where(won > 0, 1.0, share).tolist())


def test_a_critic_is_not_asked_what_comes_after_the_limit_of_turns(searched):
    _, traj = searched
    assert (traj.stop == int(StopReason.truncated)).any()
    weigh = dense_turns.weigher("ppo-single", reached, lambda item: 2)
    values = torch.zeros(len(traj), traj.width + 1)
    beyond = values.scatter(1, traj.length[:, None], 100.0)
    plain, told = (weigh(traj.replace(extras={"values": each}))[1].value for each in (values, beyond))
    assert torch.equal(plain[traj.own], told[traj.own])


def test_learning_ends_with_the_reason_where_a_truth_is_not_known(searched):
    task, _ = searched

    class Broken:
        starts = task.starts

        def truth(self, traj):
            reasons = dict.fromkeys(traj.id.tolist(), "the sandbox is gone")
            return constant(torch.zeros(len(traj)), torch.zeros(len(traj), dtype=torch.bool), reasons)

    policy = transformer(alphabet="ab1=!?", context=16, width=8, layers=1, heads=1, max_tokens=6, stop=(), step_separator=None)
    with pytest.raises(RuntimeError, match="the sandbox is gone"):
        learn(Broken(), with_critic(policy), lambda traj: traj, 0, tokens=10, starts=1, rollouts=2)


# --- scripts and the real tasks


def said_and_told(script):
    """The turns of a script and what it has the task say to each."""
    own = [text for text, flag in script[1:] if flag]
    return own, [text for text, flag in script[1:] if not flag]


def test_scripts_of_tool_calls_tell_what_the_sandbox_tells_and_fit_the_policy():
    items = [tool_turns.task().start(seed).fields for seed in range(6)]
    words, draw, right = WordTokenizer(tool_turns.words()), random.Random(0), 0
    for item in items:
        script = tool_turns.script(item, draw)
        own, told = said_and_told(script)
        episode = tool_turns.task().start(item["seed"]).environment.begin()
        assert [episode.respond(turn).observation for turn in own[:-1]] == told
        right += episode.respond(own[-1]).reward
        assert sum(len(words.encode(text)) for text, _ in script) <= 112
    assert 0 < right < len(items)


def test_a_call_is_a_sub_goal_once_whatever_the_order_of_its_numbers_and_an_error_is_none():
    turn = lambda said, reward=0.0: {"said": said, "reward": reward}
    said = [turn("call: to_base(12, 3)\n"), turn("call: lcm(4, 6)\n"), turn("call: lcm(6, 4)\n"), turn("call: lcm(6\n")]
    item = {"solution": ["call: lcm(6, 4)\n", "call: to_base(12, 2)\n", "answer: 1100\n"]}
    assert tool_turns.sub_goals({**item, "turns": said}) == [0.0, 1.0, 0.0, 0.0]
    assert tool_turns.sub_goals({**item, "turns": [turn("call: to_base(12, 2)\n"), turn("answer: 1100\n", 1.0)]}) == [1.0, 1.0]
    assert tool_turns.sub_goals({**item, "turns": [turn("call: to_base(2, 12)\n"), turn("answer: 12\n")]}) == [0.0, 0.0]


def test_scripts_of_repairs_tell_what_the_task_tells_and_fit_the_policy():
    known = repair_turns.repairs(12)
    words, draw = WordTokenizer(repair_turns.words(repair_turns.repairs())), random.Random(0)
    starts = {start.fields["prompt"]: start for start in map(repair_turns.task().start, range(12))}
    outcomes = set()
    for repair in known:
        script = repair_turns.script(repair, draw)
        own, told = said_and_told(script)
        episode = starts[repair.prompt].environment.begin()
        assert [episode.respond(turn).observation for turn in own[:-1]] == told
        outcomes.add(episode.respond(own[-1]).reward)
        assert sum(len(words.encode(text)) for text, _ in script) <= 192
    assert outcomes == {0.0, 1.0}


def test_every_way_a_file_can_be_broken_is_known_to_the_scripts_and_one_edit_repairs_it():
    known = repair_turns.repairs(40)
    assert len(known) == len({repair.prompt for repair in known}) > 20
    assert all(repair.right not in repair.wrong and len(repair.wrong) > 1 for repair in known)
    start = repair_turns.task().start(3)
    right = next(repair.right for repair in known if repair.prompt == start.fields["prompt"])
    episode = start.environment.begin()
    assert [episode.respond(turn).reward for turn in (right, right, "submit")] == [1.0, 0.0, 1.0]  # progress is paid once
