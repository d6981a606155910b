"""The ledger: limits hold at every moment, with many requests under way, and what may have been charged counts as charged."""

import copy
import math
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from payoff.foreign.chat_ledger import ChatLedger, usage_of
from payoff.foreign.exchange import ExchangeError

PRICES = {"prompt_price": 1e6, "completion_price": 2e6}  # 1 for a token of the prompt, 2 for one of the answer


def used(prompt, completion):
    return lambda: {"usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


def failing(charged):
    def send():
        raise ExchangeError("no answer", charged=charged)

    return send


def test_an_answer_costs_what_its_usage_says():
    ledger = ChatLedger(**PRICES)
    ledger.pay(used(10, 3), prompt=20, completion=5)
    ledger.pay(used(1, 0), prompt=20, completion=5)
    assert ledger.totals() == {"requests": 2, "prompt_tokens": 11, "completion_tokens": 3, "cost": 17.0}  # 10 + 2*3 + 1
    assert ledger.counts == {"prompt_tokens": 11, "completion_tokens": 3, "cost": 17.0}


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 1}, {"prompt_tokens": True, "completion_tokens": 1}])
def test_an_answer_without_usage_costs_the_most_it_may(usage):
    ledger = ChatLedger(**PRICES)
    ledger.pay(lambda: {"usage": usage}, prompt=20, completion=5)
    assert usage_of({"usage": usage}) is None
    assert ledger.totals()["cost"] == 30.0  # 20 + 2*5


@pytest.mark.parametrize(("charged", "cost"), [(True, 30.0), (False, 0.0)])
def test_a_failure_costs_the_most_unless_the_server_has_refused(charged, cost):
    ledger = ChatLedger(**PRICES)
    with pytest.raises(ExchangeError, match="no answer"):
        ledger.pay(failing(charged), prompt=20, completion=5)
    assert ledger.totals()["cost"] == cost
    assert ledger.counts["cost"] == cost


def test_nothing_is_sent_that_could_go_over_the_limit():
    ledger = ChatLedger(spend=50.0, **PRICES)
    ledger.pay(used(20, 5), prompt=20, completion=5)  # 30 of 50
    with pytest.raises(ExchangeError, match="the limit of 50 on spending is reached: 30 are spent, and this may cost 21") as raised:
        ledger.pay(lambda: pytest.fail("was sent"), prompt=1, completion=10)
    assert not raised.value.charged
    ledger.pay(used(20, 0), prompt=20, completion=0)  # exactly the rest
    assert ledger.totals()["cost"] == 50.0


def test_what_is_under_way_holds_its_most_and_others_wait_for_what_it_leaves():
    ledger = ChatLedger(spend=35.0, **PRICES)
    answered, at_once, most = threading.Event(), [], []

    def slow():
        at_once.append(1)
        most.append(len(at_once))
        answered.wait(0.02)
        at_once.pop()
        return used(5, 0)()

    with ThreadPoolExecutor(4) as pool:  # each may cost 20 and costs 5: never two at once, and all four are paid
        list(pool.map(lambda _: ledger.pay(slow, prompt=20, completion=0), range(4)))
    assert max(most) == 1
    assert ledger.totals()["cost"] == 20.0


def test_a_file_is_one_purse_for_several_runs_and_the_dead_count(tmp_path):
    path = str(tmp_path / "ledger.sqlite")
    first = ChatLedger(path, spend=50.0, **PRICES)
    first.pay(used(10, 0), prompt=10, completion=0)
    first._enter(30, 0)  # a process that was killed while this was under way
    first.close()
    second = ChatLedger(path, spend=50.0, **PRICES)
    with pytest.raises(ExchangeError, match="40 are spent"):
        second.pay(used(1, 0), prompt=11, completion=0)
    second.pay(used(10, 0), prompt=10, completion=0)
    assert second.totals() == {"requests": 3, "prompt_tokens": 50, "completion_tokens": 0, "cost": 50.0}


@pytest.mark.parametrize("limit", [{"requests_per_minute": 2}, {"tokens_per_minute": 20}])
def test_rates_hold_in_every_window_of_a_minute(limit):
    ledger = ChatLedger(minute=0.08, **limit)
    sent = []

    def send():
        sent.append(time.time())
        return used(10, 0)()

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda _: ledger.pay(send, prompt=40, completion=0), range(5)))  # 40 bytes are taken to be 10 tokens
    at = [at for (at,) in ledger._file.execute("SELECT at FROM requests ORDER BY at")]
    assert all(later - earlier >= 0.08 for earlier, later in zip(at, at[2:], strict=False))
    assert len(sent) == 5


def test_a_request_larger_than_the_rate_is_sent_alone():
    ledger = ChatLedger(tokens_per_minute=5, minute=0.05)
    start = time.monotonic()
    for _ in range(2):
        ledger.pay(used(100, 0), prompt=400, completion=0)
    assert 0.05 <= time.monotonic() - start < 2


def test_a_ledger_that_cannot_be_written_sends_nothing():
    ledger = ChatLedger()
    ledger.close()
    with pytest.raises(ExchangeError, match="nothing is asked, because the ledger cannot be written"):
        ledger.pay(lambda: pytest.fail("was sent"), prompt=1, completion=1)


def test_copies_share_it_and_a_spending_limit_can_be_sent_only_with_a_file(tmp_path):
    ledger = ChatLedger(spend=2.0, **PRICES)
    assert copy.deepcopy([ledger])[0] is ledger
    with pytest.raises(TypeError, match="give the ledger a file"):
        pickle.dumps(ledger)
    assert pickle.loads(pickle.dumps(ChatLedger(calls=3))).calls == 3
    kept = ChatLedger(str(tmp_path / "ledger.sqlite"), spend=2.0, **PRICES)
    kept.pay(used(1, 0), prompt=1, completion=0)
    again = pickle.loads(pickle.dumps(kept))
    assert again.totals()["cost"] == 1.0
    assert again.spend == 2.0


@pytest.mark.parametrize(
    "options",
    [{"calls": -1}, {"prompt_price": -1.0}, {"completion_price": math.inf}, {"spend": math.nan}, {"spend": 1.0}, {"minute": 0.0}],
)
def test_limits_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=r"must be|needs"):
        ChatLedger(**options)
