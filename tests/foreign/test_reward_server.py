"""Reward servers: what is sent, which answers count, and that every fault is no verdict with its reason, never a 0."""

import json
import threading

import pytest

from payoff.foreign import RewardError, foreign_reward
from payoff.foreign.exchange import ExchangeError
from payoff.foreign.reward_server import read_answer
from payoff.pipeline import Verdict
from payoff.rewards import resolve_reward

from .conftest import as_json

ROWS = [{"prompt": f"p{k}", "response": "x" * k, "reference": str(k)} for k in range(5)]


def lengths(body, number):
    return as_json({"rewards": [len(response) for response in body["responses"]]})


def test_a_request_holds_three_lists_and_the_answer_one(serve, scores):
    server = serve(lengths)
    signal = resolve_reward(server.url + "/score")
    assert scores(signal, ROWS) == ([0.0, 1.0, 2.0, 3.0, 4.0], [None] * 5)
    references = {"references": ["0", "1", "2", "3", "4"]}
    assert server.seen == [{"prompts": ["p0", "p1", "p2", "p3", "p4"], "responses": [r["response"] for r in ROWS], **references}]
    assert signal.name == server.url.removeprefix("http://") + "/score"
    assert "authorization" not in server.headers[0]


def test_conversations_and_missing_fields_are_sent_as_they_are(serve, scores):
    server = serve(lengths)
    talk = [{"role": "user", "content": "hi"}]
    numbers, reasons = scores(
        foreign_reward(server.url), [{"prompt": talk, "response": "a"}, {"prompt": "p"}, {"response": "\ud800"}]
    )
    assert numbers == [1.0, None, 1.0]
    assert "'response'" in reasons[1]
    assert server.seen == [{"prompts": [talk, None], "responses": ["a", "\ud800"], "references": [None, None]}]


def test_requests_are_as_large_and_as_many_at_a_time_as_asked(serve, scores):
    gate = threading.Barrier(3, timeout=5)

    def answer(body, number):
        gate.wait()
        return lengths(body, number)

    server = serve(answer)
    rows = [{"prompt": "p", "response": "x" * k} for k in range(18)]
    assert scores(foreign_reward(server.url + "#batch=2&concurrency=3"), rows)[0] == [float(k) for k in range(18)]
    assert [len(body["responses"]) for body in server.seen] == [2] * 9
    assert server.most == 3


@pytest.mark.parametrize(
    ("answer", "numbers", "told"),
    [
        ({"scores": [1, 2.5, None]}, [1.0, 2.5, None], "no verdict"),
        ({"results": [{"score": 1}, {"score": 0}, {"score": None, "reason": "no ink"}]}, [1.0, 0.0, None], "no ink"),
        ({"results": [{"score": 1}, {"score": 0}, 3]}, [1.0, 0.0, None], "not an object with a score"),
        ({"rewards": [1, 2, "3"]}, [1.0, 2.0, None], "gave a str"),
        ({"rewards": [1, 2, True]}, [1.0, 2.0, None], "gave a bool"),
        ({"rewards": [1, 2, [3]]}, [1.0, 2.0, None], "gave a list"),
        ({"rewards": [1, 2, float("nan")]}, [1.0, 2.0, None], "gave nan"),
        ({"rewards": [1, 2, 10**400]}, [1.0, 2.0, None], "too large"),
        ({"rewards": [1, 2]}, [None] * 3, "2 values under 'rewards' for 3 responses"),
        ({"rewards": 1}, [None] * 3, "a int under 'rewards'"),
        ({"reward": [1, 2, 3]}, [None] * 3, "none of rewards, scores, results; it has reward"),
        ({"rewards": [1, 2, 3], "scores": [1, 2, 3]}, [None] * 3, "#answer=rewards"),
        ([1, 2, 3], [None] * 3, "a JSON list, not an object"),
    ],
)
def test_only_answers_of_the_three_shapes_count(serve, scores, answer, numbers, told):
    found, reasons = scores(foreign_reward(serve(lambda *_: as_json(answer)).url), ROWS[:3])
    assert found == numbers
    assert told in reasons[2]


def test_of_several_shapes_one_can_be_named(serve, scores):
    server = serve(lambda *_: as_json({"rewards": [1], "scores": [2]}))
    assert scores(foreign_reward(server.url + "#answer=scores"), ROWS[:1])[0] == [2.0]
    numbers, reasons = scores(foreign_reward(server.url + "#answer=results"), ROWS[:1])
    assert numbers == [None]
    assert "no 'results'; it has rewards, scores" in reasons[0]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty"),
        (b"<html>", "not JSON"),
        (b'{"rewards": [1], "rewards": [2]}', "stands twice"),
        (b"[" * 100_000, "not JSON"),
        (b'{"rewards": ["\xff"]}', "not JSON"),
    ],
)
def test_what_is_no_json_is_no_verdict_and_not_asked_again(serve, scores, data, told):
    server = serve(lambda *_: (200, {}, data))
    numbers, reasons = scores(foreign_reward(server.url), ROWS[:1])
    assert numbers == [None]
    assert told in reasons[0]
    assert len(server.seen) == 1


@pytest.mark.parametrize("fault", ["cut", "half", (429, {}, b""), (500, {}, b"oops"), (503, {"Retry-After": "0"}, b"")])
def test_what_may_pass_is_asked_again(serve, scores, fault):
    server = serve(lambda body, number: fault if number < 2 else lengths(body, number))
    signal = foreign_reward(server.url + "#wait=0.01")
    assert scores(signal, ROWS[:3])[0] == [0.0, 1.0, 2.0]
    assert signal.stats["requests"] == 3
    assert signal.stats["retries"] == 2


def test_a_server_that_stays_broken_gives_no_verdicts_and_is_then_tried_once_each(serve, scores):
    server = serve(lambda *_: (500, {}, b"out of\nmemory"))
    signal = foreign_reward(server.url + "#wait=0.001&batch=1&concurrency=1")
    numbers, reasons = scores(signal, ROWS)
    assert numbers == [None] * 5
    assert reasons[0] == "answers 500 Internal Server Error: out of memory (4 tries)"
    assert len(server.seen) == 4 + 4
    server.answer = lengths
    assert scores(signal, ROWS)[0] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert not signal.grader.exchange.dead


def test_a_mistake_of_ours_is_not_asked_again(serve, scores):
    server = serve(lambda *_: (404, {}, b'{"detail": "no such model"}'))
    numbers, reasons = scores(foreign_reward(server.url), ROWS[:1])
    assert numbers == [None]
    assert len(server.seen) == 1
    assert reasons[0].startswith("answers 404")
    assert "no such model" in reasons[0]


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_a_server_that_does_not_finish_is_given_up(serve, scores, quick, fault):
    server = serve(lambda *_: fault)
    numbers, reasons = scores(foreign_reward(server.url + "#timeout=0.3&tries=2&wait=0.01"), ROWS[:1])
    assert numbers == [None]
    assert reasons[0] == "no answer within 0.3 s (2 tries)"
    assert quick() < 3


def test_an_answer_too_large_is_not_read(serve, scores):
    server = serve(lambda *_: (200, {}, b" " * 2000 + b'{"rewards": [1]}'))
    numbers, reasons = scores(foreign_reward(server.url + "#largest=1000"), ROWS[:1])
    assert numbers == [None]
    assert reasons[0] == "the answer is larger than 1000 bytes"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirection_is_never_followed(serve, scores, monkeypatch, status):
    monkeypatch.setenv("PAYOFF_REWARD_KEY", "secret")
    other = serve(lengths)
    server = serve(lambda *_: (status, {"Location": other.url + "/steal"}, b""))
    numbers, reasons = scores(foreign_reward(server.url), ROWS[:1])
    assert numbers == [None]
    assert f"answers {status}, go to {other.url}/steal" in reasons[0]
    assert not other.seen


def test_nobody_there_is_no_verdict(serve, scores):
    server = serve(lengths)
    server.close()
    numbers, reasons = scores(foreign_reward(server.url + "#tries=2&wait=0.001"), ROWS)
    assert numbers == [None] * 5
    assert "ConnectionRefusedError" in reasons[0]


def test_the_key_comes_from_the_environment_and_shows_in_no_reason(serve, scores, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    server = serve(lambda *_: (401, {}, b"wrong key: secret"))
    numbers, reasons = scores(foreign_reward(server.url + "#key_from=MY_KEY"), ROWS[:1])
    assert server.headers[0]["authorization"] == "Bearer secret"
    assert numbers == [None]
    assert reasons[0].endswith("wrong key: ***")


def test_equal_rows_are_sent_once_with_the_cache_and_failures_again(serve, scores):
    server = serve(
        lambda body, number: as_json({"rewards": [None if number == 0 and r == "x" else len(r) for r in body["responses"]]})
    )
    signal = foreign_reward(server.url, cache=True)
    assert scores(signal, [*ROWS[:3], *ROWS[:3]])[0] == [0.0, None, 2.0] * 2
    assert scores(signal, ROWS[:3])[0] == [0.0, 1.0, 2.0]
    assert [body["responses"] for body in server.seen] == [["", "x", "xx"], ["x"]]


def test_a_query_belongs_to_the_server(serve, scores):
    server = serve(lengths)
    signal = foreign_reward(server.url + "/score?model=rm#batch=8")
    assert scores(signal, ROWS[:1])[0] == [0.0]
    assert signal.grader.exchange.url.endswith("/score?model=rm")


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("http://", "no address"),
        ("http://host:port/x", "reward"),
        ("https://me:secret@host/x", "no user or password"),
        ("http://host/x#timeout=0", "timeout must be above 0"),
        ("http://host/x#tries=0", "tries must be above 0"),
        ("http://host/x#concurrency=0", "at least 1"),
        ("http://host/x#answer=reward", "answer must be one of rewards, scores, results"),
        ("http://host/x#timout=1", "did you mean timeout"),
    ],
)
def test_mistakes_are_said_before_anything_is_sent(spec, told):
    with pytest.raises(RewardError) as raised:
        resolve_reward(spec)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_result_may_say_why_there_is_no_score():
    assert read_answer({"results": [{"score": None, "reason": "a\nb"}]}, 1) == [Verdict(0.0, False, "a\\nb")]
    with pytest.raises(ExchangeError):
        read_answer(json.loads("{}"), 0)
