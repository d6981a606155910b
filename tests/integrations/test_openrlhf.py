"""OpenRLHF is not installed here: its calls are restated as its executors make them (0.11, `openrlhf/utils/agent.py`)."""

import asyncio
import importlib.util
import sys
import types
from copy import deepcopy
from pathlib import Path

import pytest

import payoff.integrations.openrlhf as ours
from payoff.integrations.hosted import row_reward


class AgentInstanceBase:
    pass


class MultiTurnAgentExecutor:
    """The loop of OpenRLHF's executor, without tokens: reset, then steps until done, rewards added up."""

    def __init__(self, agent_instance_cls):
        assert issubclass(agent_instance_cls, AgentInstanceBase)
        self.agent_instance_cls = agent_instance_cls

    async def execute(self, prompt, label, sampling_params, answers):
        instance = self.agent_instance_cls()
        observation = (await instance.reset({"observation": prompt, "label": label}))["observation"]
        total, scores, logs = 0, 0, {}
        for action in answers:
            states = {"observation_text": observation, "action_text": action, "label": label, "sampling_params": sampling_params}
            result = await instance.step(deepcopy(states))
            total += result["rewards"].item()
            scores = result.get("scores", total)
            logs = result.get("extra_logs", {})
            observation = observation + action + result["environment_feedback"]
            if result["done"]:
                break
        return {"reward": total, "scores": scores, "extra_logs": logs, "observation": observation}


@pytest.fixture
def host(monkeypatch):
    agent = types.ModuleType("openrlhf.utils.agent")
    agent.AgentInstanceBase, agent.MultiTurnAgentExecutor = AgentInstanceBase, MultiTurnAgentExecutor
    for name in ("openrlhf", "openrlhf.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "openrlhf.utils.agent", agent)


def fetched(function, query, prompt, label):
    """`SingleTurnAgentExecutor`: one sample at a time, in a thread, and what it reads of the answer."""

    async def call():
        return await asyncio.gather(asyncio.to_thread(function, [query], [prompt], [label]))

    info = asyncio.run(call())[0]
    return {
        "reward": info.get("rewards"),
        "scores": info.get("scores") or info.get("rewards"),
        "extra_logs": info.get("extra_logs") or {},
    }


def test_the_file_itself_is_a_reward_function_for_the_environments_reward(monkeypatch):
    row_reward.cache_clear()
    monkeypatch.setenv("PAYOFF_REWARD", "answer-match")
    spec = importlib.util.spec_from_file_location("reward_func", Path(ours.__file__))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = fetched(module.reward_func, "What is 2+2? 4", "What is 2+2? ", "4")
    assert found["reward"].tolist() == [1.0]
    assert found["scores"].tolist() == [1.0]
    assert {name: x.tolist() for name, x in found["extra_logs"].items()} == {"reward_valid": [1.0], "answer-match": [1.0]}
    assert fetched(module.reward_func, "What is 2+2? 5", "What is 2+2? ", "4")["scores"].tolist() == [0.0]
    row_reward.cache_clear()


@pytest.fixture
def graders(tmp_path):
    path = tmp_path / "graders.py"
    path.write_text(
        "def far(response, reference):\n    return None if response == 'broken' else 3.0 * (response == reference) - 1\n"
    )
    return f"{path}:far"


def test_scores_stay_in_their_range_and_a_missing_verdict_is_the_number_asked_for(graders):
    function = ours.reward_function(graders, invalid=-0.25)
    answer = function(["p4", "p5", "pbroken"], ["p"] * 3, ["4"] * 3, some_new_argument=1)
    assert answer["rewards"].tolist() == [2.0, -1.0, -0.25]
    assert answer["scores"].tolist() == [1.0, 0.0, 0.0]
    assert answer["extra_logs"]["reward_valid"].tolist() == [1.0, 1.0, 0.0]
    assert answer["extra_logs"]["far"].tolist() == [2.0, -1.0, 0.0]


def test_special_tokens_are_cut_from_the_end_alone(graders):
    function = ours.reward_function(graders, drop=("</s>", "<|im_end|>"))
    assert function(["p4<|im_end|></s>"], ["p"], ["4"])["rewards"].tolist() == [2.0]
    assert function(["p</s>4"], ["p"], ["</s>4"])["rewards"].tolist() == [2.0]


def test_the_agent_grades_one_answer_and_is_done(host, graders):
    executor = ours.agent_executor(graders)()
    found = asyncio.run(executor.execute("2+2=", "4", None, ["4", "never asked"]))
    assert (found["reward"], found["observation"]) == (2.0, "2+2=4")
    assert found["extra_logs"]["reward_valid"].tolist() == [1.0]


def test_without_openrlhf_the_agent_says_what_is_missing():
    if importlib.util.find_spec("openrlhf"):
        pytest.skip("OpenRLHF is installed")
    with pytest.raises(ImportError, match="an agent for OpenRLHF needs openrlhf"):
        ours.agent_executor("answer-match")
