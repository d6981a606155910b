"""Rollouts in turns: golden masks, ids that are never encoded again, budgets, failures, and environments of different speeds."""

import threading
import time

import pytest
import torch
from torch import nn

from payoff.pipeline import Response, Start
from payoff.policies.embedded import transformer
from payoff.policies.lm import LanguageModel
from payoff.policies.pretrained import pretrained
from payoff.policies.turn_rows import Dialogue as DialogueProtocol
from payoff.policies.turn_rows import observation_ids
from payoff.tasks.turns.dialogue import Dialogue
from payoff.trajectories import StopReason

FINISHED, TRUNCATED = int(StopReason.finished), int(StopReason.truncated)


class Pieces:
    """Tokens that overlap: `ab` is one token and two, and encoding takes the longest: what was sampled as a, b comes back as ab."""

    pieces = ["a", "b", "ab", ";", "x", "", "!"]
    shown = pieces
    ends = frozenset({5})
    vocabulary = 7

    def encode(self, text):
        ids = []
        while text:
            ids.append(
                max(
                    (i for i, p in enumerate(self.pieces) if p and text.startswith(p)),
                    key=lambda i: len(self.pieces[i]),
                    default=-1,
                )
            )
            if ids[-1] < 0:
                raise ValueError(f"no token for {text[0]!r}")
            text = text[len(self.pieces[ids[-1]]) :]
        return ids

    def decode(self, ids):
        return "".join(self.pieces[i] for i in ids)

    def prompt(self, prompt):
        return prompt, self.encode(prompt)


class Scripted(nn.Module):
    """A model that goes on as a function of the ids so far says."""

    vocabulary = choices = 7
    width, context = 4, None

    def __init__(self, script, context=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.script, self.context = script, context
        self.read = []

    device = torch.device("cpu")

    def score(self, packed):
        raise AssertionError("not asked here")

    def frozen(self):
        return self

    def session(self, contexts, copies, room):
        self.read.append([list(c) for c in contexts])
        model = self

        class Session:
            def __init__(self):
                self.rows = [list(c) for c in contexts]
                self.refresh()

            def refresh(self):
                self.logits = torch.full((len(self.rows), 7), -30.0)
                for logits, row in zip(self.logits, self.rows):
                    logits[model.script(row)] = 0.0

            def step(self, tokens):
                self.rows = [[*row, int(t)] for row, t in zip(self.rows, tokens)]
                self.refresh()

            def keep(self, rows):
                self.rows = [list(self.rows[k]) for k in rows.tolist()]
                self.refresh()

        return Session()


def says(*turns):
    """A script that writes these turns (lists of ids) one after the other, told apart by the environment's `x` tokens."""

    def script(ids):
        turn = sum(i == 4 for i in ids[1:])
        last = max((k for k, i in enumerate(ids) if i == 4), default=0)
        return (turns[min(turn, len(turns) - 1)] + [3])[min(len(ids) - last - 1, len(turns[0]))]

    return script


class Replies:
    """An environment that answers from a list, and keeps what it was told."""

    def __init__(self, *replies, outcome=None, told=None, wait=0.0):
        self.replies, self.told, self.wait = list(replies), [] if told is None else told, wait
        self.outcome = outcome
        self.measures = {"known": 0.0}

    def respond(self, text):
        time.sleep(self.wait)
        self.told.append(text)
        reply = self.replies[len(self.told) - 1]
        if isinstance(reply, Exception):
            raise reply
        self.measures = {"known": float(len(self.told))}
        return reply

    def snapshot(self):
        return None


def policy_of(script, **options):
    return LanguageModel(Scripted(script, options.pop("context", None)), Pieces(), **{"max_tokens": 20, "stop": (";",), **options})


def start_of(*replies, prompt="x", **limits):
    """A start whose every episode answers with these replies."""
    return Start("s", {"prompt": prompt}, Dialogue(lambda: Replies(*replies), **{"ends": (), **limits}))


def rolled(policy, start, n=1, seed=0):
    return policy.rollout([start], n, torch.Generator().manual_seed(seed)).check()


GO, END = Response("x", 0.5, None), Response("!", 2.0, StopReason.finished)


@pytest.fixture(scope="module")
def golden():
    """Two turns: a b ; and then b ; where the environment says x between them and ends after the second."""
    policy = policy_of(says([0, 1, 3], [1, 3]))
    return policy, rolled(policy, start_of(GO, END))


def test_what_was_sampled_stays_as_it_was_sampled_even_where_encoding_it_again_gives_other_ids(golden):
    policy, traj = golden
    assert traj.actions[0].tolist() == [0, 1, 3, 4, 1, 3]  # a and b apart, as sampled
    assert policy.tokenizer.encode(policy.tokenizer.decode([0, 1, 3])) == [2, 3]  # the trap: encoded again they are one token
    assert policy.model.read == [[[4]], [[4, 0, 1, 3, 4]]]  # what the second turn reads is the first as it was sampled


def test_only_the_policys_own_tokens_are_masked_in_and_a_step_is_a_turn_with_its_answer(golden):
    _, traj = golden
    assert traj.mask[0].tolist() == [True, True, True, False, True, True]
    assert traj.step[0].tolist() == [0, 0, 0, 0, 1, 1]
    assert traj.stop.tolist() == [FINISHED]
    assert traj.logp["old"][0, 3] == 0
    item = traj.items[0]
    assert item["steps"] == ["ab;", "b;"]
    assert item["response"] == "b;"
    assert item["tokens"] == ["a", "b", ";", "x", "b", ";"]
    assert [turn["observed"] for turn in item["turns"]] == ["x", "!"]
    assert item["failure"] == ""


def test_rewards_lie_at_the_end_of_the_turn_that_earned_them_and_measures_in_the_states(golden):
    _, traj = golden
    assert traj.extras["environment_reward"][0].tolist() == [0, 0, 0, 0.5, 0, 2.0]
    assert traj.extras["known"][0].tolist() == [0, 0, 0, 0, 1, 1, 2]  # changes when the answer stands there


def test_the_end_token_closes_a_turn_without_text():
    traj = rolled(policy_of(says([0, 5])), start_of(END))
    assert traj.actions[0].tolist() == [0, 5]
    assert traj.items[0]["steps"] == ["a"]


def test_a_turn_that_reaches_its_own_limit_is_answered_and_one_that_reaches_the_rollouts_is_not():
    told = []
    start = Start("s", {"prompt": "x"}, Dialogue(lambda: Replies(END, told=told), ends=(), turn_tokens=2))
    traj = rolled(policy_of(says([0, 0, 0])), start)
    assert told == ["aa"]
    assert traj.stop.tolist() == [FINISHED]
    traj = rolled(policy_of(says([0, 0, 0]), max_tokens=2), start_of(END))
    assert traj.stop.tolist() == [TRUNCATED]
    assert traj.items[0]["turns"][0]["observed"] is None
    assert traj.length.tolist() == [2]


def test_budgets_of_turns_tokens_and_context_end_a_rollout_as_truncated():
    script = says(*[[0, 3]] * 9)
    turns = rolled(policy_of(script), start_of(*[GO] * 9, turns=3))
    assert (turns.mask.sum(), len(turns.items[0]["turns"]), int(turns.stop)) == (6, 3, TRUNCATED)
    tokens = rolled(policy_of(script, max_tokens=5), start_of(*[GO] * 9))
    assert (tokens.mask.sum(), int(tokens.stop)) == (5, TRUNCATED)  # the prompt and the environment do not count
    context = rolled(policy_of(script, context=9), start_of(*[GO] * 9))
    assert 1 + context.length == 9  # prompt, and everything said: two whole turns of three, and two tokens of the third
    assert int(context.stop) == TRUNCATED
    long = Response("x" + "b" * 30, 0.0, None)
    whole = rolled(policy_of(says([0, 3], [0, 3]), context=9), start_of(long, END))
    assert (whole.length.tolist(), int(whole.stop)) == ([2], TRUNCATED)  # an answer that does not fit is left out whole
    cut = rolled(policy_of(says([0, 3], [0, 3]), context=9), start_of(Response("xbb", 0.0, None), END, observation_tokens=1))
    assert cut.actions[0].tolist() == [0, 3, 4, 0, 3]


@pytest.mark.parametrize(
    ("replies", "why"),
    [
        ((GO, ValueError("gone")), "ValueError: gone"),
        ((GO, None), "AttributeError"),
        ((GO, Response("x", float("nan"), None)), "reward is nan"),
        ((GO, Response("?", 0.0, None)), "cannot be written: no token for '?'"),
    ],
)
def test_an_environment_that_fails_ends_its_own_rollout_in_error_with_the_reason(replies, why):
    fine, failing = start_of(GO, END), start_of(*replies)
    traj = policy_of(says([0, 3], [1, 3])).rollout([fine, failing], 1, torch.Generator()).check()
    assert traj.stop.tolist() == [FINISHED, int(StopReason.error)]
    assert why in traj.items[1]["failure"]
    assert traj.items[1]["turns"][1]["reward"] is None
    assert traj.items[0]["failure"] == ""
    assert traj.actions[0, :5].tolist() == [0, 3, 4, 1, 3]


def test_starts_without_an_environment_beside_others_and_environments_of_another_kind_are_refused():
    policy = policy_of(says([0, 3]))
    with pytest.raises(ValueError, match="has no environment beside starts"):
        policy.rollout([start_of(END), Start("plain", {"prompt": "x"})], 1, torch.Generator())
    with pytest.raises(ValueError, match="takes no turns of text"):
        policy.rollout([Start("other", {"prompt": "x"}, Replies(END))], 1, torch.Generator())
    assert isinstance(start_of(END).environment, DialogueProtocol)


# --- environments of different speeds


class Slow:
    """Answers when a gate opens; what it says depends on nothing but the turn."""

    lock = threading.Lock()
    order: list = []

    def __init__(self, name, wait):
        self.name, self.wait, self.turn, self.outcome = name, wait, 0, 1.0

    def respond(self, text):
        time.sleep(self.wait)
        with self.lock:
            self.order.append(self.name)
        self.turn += 1
        return Response("x", float(self.turn), StopReason.finished if self.turn == 3 else None)

    def snapshot(self):
        return None


def small(**options):
    policy = transformer(**{"alphabet": "ab;x", "width": 16, "layers": 1, "heads": 2, "context": 60, "max_tokens": 30, **options})
    torch.manual_seed(3)
    for parameter in policy.parameters():
        nn.init.normal_(parameter, std=0.4)
    return policy


def starts_with_speeds(waits, concurrency):
    return [
        Start(str(k), {"prompt": "x"}, Dialogue(lambda k=k, w=w: Slow(k, w), ends=(), turn_tokens=4, concurrency=concurrency))
        for k, w in enumerate(waits)
    ]


def test_slow_environments_are_waited_for_and_stand_and_speak_as_if_all_were_equally_fast():
    policy = small(stop=(";",), step_separator=None)
    Slow.order.clear()
    together = policy.rollout(starts_with_speeds([0.06, 0.0, 0.02], 6), 2, torch.Generator().manual_seed(7)).check()
    assert Slow.order != sorted(Slow.order)  # the fast ones were indeed ahead
    assert Slow.order.index(1) < Slow.order.index(0)
    in_order = policy.rollout(starts_with_speeds([0.0] * 3, 0), 2, torch.Generator().manual_seed(7)).check()
    assert [item["start"] for item in together.items] == ["0", "0", "1", "1", "2", "2"]  # by start, not by finish
    assert torch.equal(together.actions, in_order.actions)
    assert torch.equal(together.mask, in_order.mask)
    assert torch.allclose(together.logp["old"], in_order.logp["old"], atol=1e-5)
    assert together.stop.tolist() == [FINISHED] * 6  # nobody was left behind
    assert len(together.group.unique()) == 3


def test_a_row_writes_the_same_whoever_else_is_written():
    policy = small(stop=(";",), step_separator=None, top_k=3)
    alone = policy.rollout(starts_with_speeds([0.0], 0), 1, torch.Generator().manual_seed(5))
    many = policy.rollout(starts_with_speeds([0.0] * 4, 0), 2, torch.Generator().manual_seed(5))
    n = int(alone.length[0])
    assert torch.equal(alone.actions[0], many.actions[0, :n])


# --- the same policy, asked again


@pytest.fixture(scope="module")
def rollout():
    policy = small(stop=(";",), step_separator=None, critic=True)
    return policy, policy.rollout(starts_with_speeds([0.0] * 3, 0), 4, torch.Generator().manual_seed(1)).check()


def test_recorded_log_probabilities_are_those_evaluated_again_across_turns(rollout):
    policy, traj = rollout
    assert traj.mask.sum() > 40
    assert (~traj.mask & traj.exists).sum() > 10
    again = policy.evaluate(traj, frozenset({"values", "entropy"}))
    assert (again.logp - traj.logp["old"]).abs().max() < 1e-4
    assert again.logp.grad_fn is not None


def test_what_the_environment_says_gets_no_gradient_of_its_own(rollout):
    policy, traj = rollout
    other = traj.replace(logp={"old": torch.where(traj.mask, traj.logp["old"], torch.nan)})
    assert torch.equal(policy.evaluate(other).logp, policy.evaluate(traj).logp)
    assert (policy.evaluate(traj).logp[~traj.mask] == 0).all()


@pytest.mark.parametrize("where", ["inside a turn", "at the end of a turn", "inside the answer's place", "at the start"])
def test_a_prefix_is_continued_with_the_environment_told_the_same_again(rollout, where):
    policy, traj = rollout
    row = int((traj.step.amax(1) == 2).nonzero()[0, 0])
    own = (traj.mask[row] & (traj.step[row] == 1)).nonzero()[:, 0]
    at = {
        "inside a turn": int(own[0]) + 1,
        "at the end of a turn": int(own[-1]) + 1,
        "inside the answer's place": int(own[-1]) + 2,
        "at the start": 0,
    }[where]
    more = policy.resume(traj, torch.tensor([row]), torch.tensor([at]), 3, torch.Generator().manual_seed(2)).check()
    assert torch.equal(more.actions[:, :at], traj.actions[row, :at].expand(3, at))
    assert more.parent.tolist() == [int(traj.id[row])] * 3
    assert more.fork.tolist() == [at] * 3
    assert more.group.tolist() == [int(traj.group[row])] * 3
    for k, item in enumerate(more.items):
        assert [turn["reward"] for turn in item["turns"]] == [1.0, 2.0, 3.0]  # the environment counted all turns, the old ones too
        ends = [int((more.step[k] == s).nonzero()[-1]) for s in range(3)]
        assert more.extras["environment_reward"][k, ends].tolist() == [1.0, 2.0, 3.0]
    assert (policy.evaluate(more).logp - more.logp["old"])[more.own].abs().max() < 1e-4


def test_a_horizon_and_noise_count_own_tokens(rollout):
    policy, traj = rollout
    rows, at = torch.tensor([0, 1]), torch.tensor([0, 0])
    some = policy.resume(traj, rows, at, 2, torch.Generator().manual_seed(2), horizon=6)
    assert ((some.mask.sum(1) == 6) | (some.stop == FINISHED)).all()
    greedy = policy.resume(traj, rows, at, 2, torch.Generator().manual_seed(2), noisy=0)
    assert torch.equal(greedy.actions[0], greedy.actions[1])
    best = policy.resume(traj, rows, at, 2, torch.Generator().manual_seed(9), noisy=0)
    assert torch.equal(greedy.actions, best.actions)


def test_an_environment_that_does_not_repeat_itself_puts_a_continuation_into_error():
    count = iter(range(9))
    start = Start("s", {"prompt": "x"}, Dialogue(lambda: Replies(Response("x" * (1 + next(count)), 0, None), END), ends=()))
    policy = policy_of(lambda ids: 3 if ids[-1] == 0 else 0)
    traj = rolled(policy, start)
    more = policy.resume(traj, torch.tensor([0]), torch.tensor([3]), 1, torch.Generator())
    assert more.stop.tolist() == [int(StopReason.error)]
    assert "in another way" in more.items[0]["failure"]


def test_nothing_can_follow_where_a_rollout_is_over(rollout):
    policy, traj = rollout
    over = int((traj.stop == FINISHED).nonzero()[0, 0])
    with pytest.raises(ValueError, match="it is over"):
        policy.resume(traj, torch.tensor([over]), traj.length[over][None], 1, torch.Generator())
    with pytest.raises(ValueError, match=r"outside 0\.\.length"):
        policy.resume(traj, torch.tensor([over]), torch.tensor([99]), 1, torch.Generator())


# --- pretrained models


def test_a_pretrained_model_speaks_in_the_turns_of_its_chat_template(llama):
    policy = pretrained(model=llama, chat=True, max_tokens=40, stop=("\n",), step_separator=None)
    words = policy.tokenizer
    end = words.tokenizer.convert_tokens_to_ids("<|end|>")
    closed = observation_ids(words, "is 5", end, role="user", most=None, chat=False)
    assert words.tokenizer.decode(closed) == "<|user|>is 5<|end|><|assistant|>"  # the model's own end token is not written twice
    unclosed = observation_ids(words, "is 5", 7, role="user", most=None, chat=False)
    assert unclosed == [end, *closed]
    short = observation_ids(words, "is 5", end, role="user", most=1, chat=False)
    assert words.tokenizer.decode(short).startswith("<|user|>is<|end|>")
    start = Start("s", {"prompt": "What is 3+4?"}, Dialogue(lambda: Replies(Response("is", 0, None), END), ends=(), turn_tokens=6))
    traj = policy.rollout([start], 3, torch.Generator().manual_seed(0)).check()
    assert (traj.step.amax(1) == 1).all()
    assert (policy.evaluate(traj).logp - traj.logp["old"]).abs().max() < 1e-4
