"""The client against a server with scripted faults: each ends in a later success or in no verdict with its reason, never a zero."""

import asyncio
import email.utils
import json
import threading
import time

import pytest

from payoff.foreign import foreign_reward
from payoff.foreign.chat_client import content_of, most_tokens
from payoff.foreign.exchange import ExchangeError, retry_after
from payoff.foreign.judge import judge as made

from .conftest import as_json

ROWS = [{"prompt": "1+1?", "response": "2"}, {"prompt": "1+2?", "response": "33"}]
GOOD = '{"score": 0.25, "reason": "so"}'


def says(text, usage=True, **choice):
    told = {"usage": {"prompt_tokens": 10, "completion_tokens": 3}} if usage else {}
    return as_json({"choices": [{"message": {"role": "assistant", "content": text}, **choice}], **told})


@pytest.fixture
def judge():
    """judge(server, ...): the signal, which keeps nothing unless it is told to."""
    quick = {"store": "off", "wait": 0.001, "timeout": 10.0, "tries": 2}
    return lambda server, **more: foreign_reward(f"judge:{server.url}/v1#m", **{**quick, **more})


SHORT = 0.4  # a busy machine may take a while for what is answered at once
FAULTS = {
    "slow": ("hang", f"no answer within {SHORT} s"),
    "dripping": ("drip", f"no answer within {SHORT} s"),
    "429": ((429, {"Retry-After": "0.001"}, b""), "answers 429"),
    "500": ((500, {}, b"oops"), "answers 500 Internal Server Error: oops"),
    "cut": ("cut", "RemoteDisconnected"),
    "half": ("half", "cut in the middle"),
    "malformed": (says('{"score": 0.2'), "not JSON"),
    "no number": (says('{"score": null, "reason": ""}'), "score is null, not a number"),
    "words around": (says(f"Sure! {GOOD}"), "not JSON"),
    "wrong schema": (says('{"grade": 0, "reason": ""}'), "has no 'score'"),
}
FOR_GOOD = {
    "refusal": (as_json({"choices": [{"message": {"content": None, "refusal": "I will not"}}]}), "refuses: I will not"),
    "filtered": (says("", finish_reason="content_filter"), "filter"),
    "cut off": (says('{"score": 0', finish_reason="length"), "cut off at max_tokens"),
    "no completion": (as_json({"error": "x"}), "no chat completion"),
    "not JSON": ((200, {}, b"<html>"), "not JSON"),
    "no such model": ((404, {}, b"no model"), "answers 404"),
}


def waiting(name):
    """How long an answer is waited for: long, where no answer is late."""
    return {"timeout": SHORT} if name in ("slow", "dripping") else {}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_passes_costs_nothing_but_a_try(serve, scores, judge, name):
    server = serve(lambda body, number: FAULTS[name][0] if number == 0 else says(GOOD))
    assert scores(judge(server, **waiting(name)), ROWS[:1]) == ([0.25], [None])
    assert len(server.seen) == 2


@pytest.mark.parametrize("name", [*FAULTS, *FOR_GOOD])
def test_a_fault_that_stays_is_no_verdict_with_its_reason(serve, scores, judge, name):
    answer, told = (FAULTS | FOR_GOOD)[name]
    server = serve(lambda body, number: answer if "33" in json.dumps(body) else says(GOOD))
    numbers, reasons = scores(judge(server, concurrency=1, **waiting(name)), ROWS)
    assert numbers == [0.25, None]
    assert reasons[0] is None
    assert told in reasons[1]
    assert len(server.seen) == 1 + (2 if name in FAULTS else 1)  # what will not pass is not asked again


def test_a_mended_answer_counts_and_the_judge_is_shown_its_answer_and_the_error(serve, scores, judge):
    server = serve(lambda body, number: says(['{"score": 7, "reason": ""}', "seven", GOOD][number]))
    signal = judge(server, repairs=2)
    assert scores(signal, ROWS[:1])[0] == [0.25]
    assert [m["role"] for m in server.seen[2]["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    assert server.seen[2]["messages"][:3] == server.seen[1]["messages"]
    assert server.seen[1]["messages"][1]["content"] == '{"score": 7, "reason": ""}'
    assert "score is 7, not at most 1" in server.seen[1]["messages"][2]["content"]
    assert "not JSON" in server.seen[2]["messages"][4]["content"]
    assert (signal.stats["repairs"], signal.stats["requests"], signal.stats["retries"]) == (2, 3, 0)


def test_it_is_mended_so_often_and_no_more(serve, scores, judge):
    for repairs in (0, 3):
        server = serve(lambda body, number: says("good!"))
        numbers, reasons = scores(judge(server, repairs=repairs), ROWS[:1])
        assert numbers == [None]
        assert ("after 3 repairs" in reasons[0]) == (repairs == 3)
        assert len(server.seen) == repairs + 1


def test_a_judge_that_falls_silent_while_it_mends_leaves_both_reasons(serve, scores, judge):
    server = serve(lambda body, number: says("good!") if number == 0 else (400, {}, b""))
    _, reasons = scores(judge(server), ROWS[:1])
    assert "answers 400" in reasons[0]
    assert "not JSON" in reasons[0]


def test_retry_after_is_waited_for_be_it_seconds_or_a_date(serve, scores, judge):
    seconds = iter(["0.15", email.utils.formatdate(time.time() - 5, usegmt=True)])
    server = serve(lambda body, number: (429, {"Retry-After": next(seconds)}, b"") if number < 2 else says(GOOD))
    start = time.monotonic()
    assert scores(judge(server, tries=3, wait=30.0), ROWS[:1])[0] == [0.25]
    assert 0.15 <= time.monotonic() - start < 10
    assert retry_after(email.utils.formatdate(time.time() + 60, usegmt=True)) == pytest.approx(60, abs=2)
    assert [retry_after(text) for text in ("", "nan", "-1", "soon")] == [None] * 4


def test_the_spending_limit_ends_the_asking_and_the_rest_has_no_verdict(serve, scores, judge):
    server = serve(lambda body, number: says(GOOD))
    prices = {"prompt_price": 0.0, "completion_price": 1e5}  # 0.1 a token of an answer: 0.3 each, and 0.5 at most
    rows = [{"prompt": str(k), "response": "x"} for k in range(6)]
    signal = judge(server, spend=1.2, max_tokens=5, concurrency=3, **prices)
    numbers, reasons = scores(signal, rows)
    # 0.3 n + 0.5 <= 1.2 lets the third one pass and no fourth
    assert sorted(x is None for x in numbers) == [False] * 3 + [True] * 3
    assert 0 not in numbers
    lost = [why for why in reasons if why]
    assert all("the limit of 1.2 on spending is reached: 0.9 are spent" in why for why in lost)
    assert len(lost) == 3
    assert signal.stats["cost"] == pytest.approx(0.9)
    assert len(server.seen) == 3


def test_what_the_server_refuses_costs_nothing_and_what_is_cut_counts_in_full(serve, scores, judge):
    answers = [(500, {}, b""), "cut", says(GOOD), says(GOOD, usage=False)]
    server = serve(lambda body, number: answers[number])
    signal = judge(server, tries=3, concurrency=1, max_tokens=5, completion_price=1e6)
    scores(signal, ROWS)
    assert signal.stats["cost"] == pytest.approx(0 + 5 + 3 + 5)


def test_a_recording_repeats_a_run_without_a_server_failures_included(serve, scores, judge, tmp_path):
    rows = [*ROWS, {"prompt": "p", "response": "mend me"}, {"prompt": "p", "response": "cut"}, {"prompt": "p", "response": "cut"}]

    def answer(body, number):
        text = json.dumps(body)
        return "cut" if '\\"cut\\"' in text else says("hm" if "mend me" in text and len(body["messages"]) == 1 else GOOD)

    server, file = serve(answer), str(tmp_path / "said.jsonl")
    first = scores(judge(server, record=file), rows)
    assert [x is None for x in first[0]] == [False, False, False, True, True]
    asked = len(server.seen)
    again = judge(server, replay=file)
    assert scores(again, rows) == first
    assert scores(judge(server, replay=file, concurrency=1), rows[::-1]) == (first[0][::-1], first[1][::-1])
    numbers, reasons = scores(again, [{"prompt": "new", "response": "x"}])
    assert numbers == [None]
    assert f"not in the recording {file}" in reasons[0]
    assert len(server.seen) == asked
    assert again.stats["requests"] == 0
    lines = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    # two rows, one with its repair, and the cut one once
    assert sorted(sorted(line)[0] for line in lines) == ["answer"] * 4 + ["failure"]


def test_a_recording_holds_what_came_from_the_store_too(serve, scores, judge, tmp_path):
    server = serve(lambda body, number: says(GOOD))
    kept, file = str(tmp_path / "kept.sqlite"), str(tmp_path / "said.jsonl")
    scores(judge(server, store=kept), ROWS)
    scores(judge(server, store=kept, record=file, calls=0), ROWS)
    assert scores(judge(server, replay=file), ROWS)[0] == [0.25, 0.25]
    assert len(server.seen) == 2


def test_the_most_that_a_request_may_take():
    assert most_tokens({"max_tokens": 7}, b"abc") == (3, 7)
    assert most_tokens({"max_tokens": 7, "max_completion_tokens": 9, "n": 3}, b"") == (0, 27)
    assert most_tokens({}, b"") == (0, 0)


@pytest.mark.parametrize("answer", [None, [], {"choices": 3}, {"choices": [3]}, {"choices": [{"message": "x"}]}])
def test_an_answer_of_another_shape_is_no_completion(answer):
    with pytest.raises(ExchangeError, match="no chat completion"):
        content_of(answer)


def test_whoever_asks_no_more_than_so_many_requests_are_on_their_way(serve, scores, judge):
    def answer(body, number):
        time.sleep(0.03)
        return says(GOOD)

    server = serve(answer)
    signal = judge(server, concurrency=2)
    rows = [[{"prompt": f"{k}", "response": "2"}] for k in range(5)]
    threads = [threading.Thread(target=scores, args=(signal, row)) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(server.seen), server.most) == (5, 2)


def test_an_event_loop_goes_on_while_answers_are_waited_for(serve):
    over = threading.Event()

    def answer(body, number):
        over.wait(5)
        return says(f"{body['messages'][0]['content']} {GOOD}")

    server = serve(answer)
    client = made(f"{server.url}/v1#m", store="off", concurrency=2, timeout=5.0).client

    async def several():
        asked = [client.answer_async({"model": "m", "messages": [{"role": "user", "content": str(k)}]}) for k in range(4)]
        waiting = asyncio.gather(*asked, client.answer_async({"model": "m", "messages": [{"role": "user", "content": "no"}]}))
        while len(server.seen) < 2:  # the loop runs while nothing has been answered
            await asyncio.sleep(0.001)
        over.set()
        return await waiting

    assert asyncio.run(several()) == [f"{k} {GOOD}" for k in (0, 1, 2, 3, "no")]
    assert server.most == 2
