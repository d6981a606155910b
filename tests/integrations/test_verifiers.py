"""verifiers: the calls of v1 and of the older rubric restated; and inside the package itself where it is installed."""

import asyncio
import types

import pytest

from payoff.integrations.hosted import row_reward
from payoff.integrations.verifiers import NoVerdictError, payoff_reward, rubric_function, trace_reward


class Task:
    """What a reward method is handed as `task`: verifiers' frozen row of data."""

    prompt_text = "1+1="

    def __init__(self, **fields):
        self.fields = fields

    def model_dump(self, **how):
        assert how == {"mode": "json", "exclude_none": True}
        return {"prompt": self.prompt_text, **self.fields}


class Trace:
    def __init__(self, reply):
        self.last_reply, self.metrics = reply, {}

    def record_metrics(self, values):
        self.metrics |= {name: float(value) for name, value in values.items()}


def invoked(fn, **available):
    """`invoke` of verifiers: the parameters that the function names."""
    import inspect

    return asyncio.run(fn(**{name: available[name] for name in inspect.signature(fn).parameters if name in available}))


def test_a_method_of_a_task_pays_the_reward_and_records_its_channels():
    class Mine:
        correct = trace_reward("answer-match", name="correct")

    trace = Trace("2")
    assert invoked(Mine().correct, trace=trace, task=Task(answer="2"), runtime=None) == 1.0
    assert trace.metrics == {"answer-match": 1.0}
    assert Mine.correct.__name__ == "correct"


def test_a_plugged_function_pays_the_reward_of_the_environment(monkeypatch):
    row_reward.cache_clear()
    monkeypatch.setenv("PAYOFF_REWARD", "answer-match")
    assert invoked(payoff_reward, trace=Trace("3"), task=Task(answer="2")) == 0.0
    assert invoked(payoff_reward, trace=Trace("2"), task=Task(reference="2", answer="9")) == 1.0
    row_reward.cache_clear()


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / "graders.py"
    path.write_text("def judge(response):\n    raise RuntimeError('the judge is down')\n")
    return f"{path}:judge"


def test_no_verdict_is_an_error_and_not_a_reward(broken):
    trace = Trace("2")
    with pytest.raises(NoVerdictError, match="the judge is down"):
        invoked(types.MethodType(trace_reward(broken), object()), trace=trace, task=Task(answer="2"))
    assert trace.metrics == {}


@pytest.mark.parametrize("completion", ["2", [{"role": "assistant", "content": "hm"}, {"role": "assistant", "content": "2"}]])
def test_a_rubric_calls_by_keyword_and_weighs_a_number(completion):
    fn = rubric_function("answer-match", name="correct")
    prompt = [{"role": "user", "content": "1+1="}]
    assert (
        fn(prompt=prompt, completion=completion, answer="2", state={"turn": 1}, info={"level": 3}, task="default", parser=None)
        == 1.0
    )
    assert fn(prompt=prompt, completion="", answer="2") == 0.0
    assert fn.__name__ == "correct"


def test_inside_verifiers_itself(broken, monkeypatch):
    vf = pytest.importorskip("verifiers.v1")
    from verifiers.v1.graph import MessageNode

    monkeypatch.setenv("PAYOFF_REWARD", "answer-match")
    row_reward.cache_clear()

    class Data(vf.TaskData):
        answer: str = ""

    class Method(vf.Task[Data]):
        correct = vf.reward(trace_reward("answer-match", name="correct"), weight=2.0)

    class Plugged(vf.Task[Data]):
        pass

    class Broken(vf.Task[Data]):
        judged = vf.reward(trace_reward(broken, name="judged"))

    def trace(reply):
        node = MessageNode(message=vf.AssistantMessage(content=reply), sampled=True)
        return vf.Trace.model_construct(nodes=[node], rewards={}, metrics={}, extra_usage=[], root_reply=None)

    data = Data(prompt="1+1=", answer="2")
    right, wrong, failed = trace("2"), trace("3"), trace("2")
    asyncio.run(Method(data).score(right))
    assert (right.reward, right.metrics) == (2.0, {"answer-match": 1.0})
    asyncio.run(
        Plugged(data, vf.TaskConfig(rewards={"payoff": {"fn": "payoff.integrations.verifiers:payoff_reward"}})).score(wrong)
    )
    assert wrong.rewards["payoff"].score == 0.0
    with pytest.raises(vf.TaskError, match="the judge is down"):
        asyncio.run(Broken(data).score(failed))
    assert failed.rewards == {"judged": None}  # should have run and did not
