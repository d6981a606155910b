"""A payoff reward as TRL calls it: lists in, a number or None for every completion out. No trainer is needed for that."""

import importlib.util
import pickle
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from payoff.grading import signal
from payoff.integrations import trl_rewards
from payoff.integrations.trl_rewards import RewardFunction, reward_function, reward_functions
from payoff.integrations.trl_rollouts import Call, StepText, fitted, gathered, rollouts, whole_batch
from payoff.pipeline import Verdict, chain, join, on
from payoff.trajectories import Channel, StopReason, outcome, place_steps

spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parents[2] / "examples" / "trl" / "tiny.py")
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)


def correct(response, reference):
    return float(response == reference)


def short(response):
    return Verdict(0.0, False, "empty") if not response else 1.0 / len(response)


def place_in_group(response):
    """Of a group: how many others are shorter."""
    return [float(sum(len(other) < len(mine) for other in response)) for mine in response]


def both(response, reference):
    return {"correct": float(response == reference), "digits": float(sum(c.isdigit() for c in response))}


def per_step(steps):
    return [float(len(step)) for step in steps]


def halved(channel, traj):
    return Channel(channel.value / 2, channel.valid, channel.reasons)


TWO = {"prompts": ["1+1="] * 2 + ["2+3="] * 2, "completions": ["2", "3", "5", ""]}


def test_columns_come_by_name_and_no_verdict_is_none_and_not_zero():
    function = reward_function(join({"correct": signal(correct), "short": signal(short)}), weights={"correct": 1.0, "short": 0.5})
    assert function(**TWO, reference=["2", "2", "5", "5"], level=[1, 1, 2, 2]) == [1.5, 0.5, 1.5, None]
    other = reward_function(correct, fields={"reference": "solution"})
    assert other(**TWO, completion_ids=[[1]] * 4, solution=["2", "2", "5", "5"], reference=["9"] * 4) == [1, 0, 1, 0]


def test_what_trl_adds_reaches_no_grader_and_its_loggers_get_channels_and_reasons():
    told, columns = {}, {}
    function = reward_function(join({"correct": signal(correct), "short": signal(short)}))
    function(
        **TWO, reference=["2", "2", "5", "5"], trainer_state=object(), environments=None,
        log_metric=told.__setitem__, log_extra=columns.__setitem__,
    )  # fmt: skip
    assert told == {
        "payoff/correct": 0.5, "payoff/correct/no_verdict": 0.0, "payoff/short": 1.0, "payoff/short/no_verdict": 0.25,
    }  # fmt: skip
    assert columns == {
        "payoff/correct": [1.0, 0.0, 1.0, 0.0],
        "payoff/short": [1.0, 1.0, 1.0, None],
        "payoff/short/why": [None, None, None, "empty"],
    }


def test_conversations_are_read_as_text_and_stand_in_the_item_as_messages():
    items = []

    def look(item):
        items.append(item)
        return 1.0

    asked = [{"role": "system", "content": "Add."}, {"role": "user", "content": [{"type": "text", "text": "1+1?"}]}]
    answers = [
        [{"role": "assistant", "content": "2"}],
        [{"role": "assistant", "content": None}, {"role": "tool", "content": "3"}, {"role": "assistant", "content": "three"}],
    ]
    assert reward_function(look)(prompts=[asked, asked], completions=answers) == [1.0, 1.0]
    assert [item["prompt"] for item in items] == ["Add.\n1+1?"] * 2
    assert [item["response"] for item in items] == ["2", "three"]
    assert items[1]["messages"] == asked
    assert items[1]["completion"] == answers[1]


def test_names_are_the_rewards_and_pickles_answer_the_same():
    run = reward_function("answer-match")
    assert (run.__name__, reward_function(correct).__name__, reward_function(correct, name="own").__name__) == (
        "answer-match",
        "correct",
        "own",
    )
    given = {**TWO, "reference": ["2", "2", "5", "5"]}
    function = reward_function(chain(signal(correct), on("correct", halved)), tokenizer=tiny.tokenizer(), separator="+")
    assert isinstance(function, RewardFunction)  # and no torch.nn.Module: TRL takes those for reward models
    assert not isinstance(function, torch.nn.Module)
    again = pickle.loads(pickle.dumps(function))
    assert again.__name__ == function.__name__
    assert again(**given) == function(**given) == [0.5, 0.0, 0.5, 0.0]
    assert pickle.loads(pickle.dumps(function))(**given) == [0.5, 0.0, 0.5, 0.0]  # after it has been called


def test_channels_apart_are_scored_once_for_all_of_them():
    calls = []

    def counted(response, reference):
        calls.append(response)
        return both(response, reference)

    digits, right = reward_functions(counted, channels=["digits", "correct"])
    given = {**TWO, "reference": ["2", "2", "5", "5"]}
    assert digits(**given) == [1.0, 1.0, 1.0, 0.0]
    assert right(**given) == [1.0, 0.0, 1.0, 0.0]
    assert len(calls) == 4
    digits(**{**given, "completions": list(given["completions"])})  # another batch, though its texts are equal
    assert len(calls) == 8
    with pytest.raises(KeyError, match="no reward channel 'other'; there are"):
        reward_functions(both, channels=["other"])[0](**given)


def test_groups_are_equal_prompts_and_of_the_trainers_size_where_a_prompt_stands_twice():
    ranks = signal(place_in_group, sees="group")
    given = {"prompts": ["a"] * 4, "completions": ["1", "22", "333", "4444"]}
    assert reward_function(ranks)(**given) == [0, 1, 2, 3]
    assert reward_function(ranks, num_generations=2)(**given) == [0, 1, 0, 1]


def test_steps_lie_on_tokens_where_there_is_a_tokenizer_and_are_actions_where_there_is_none():
    words = tiny.tokenizer()
    texts = ["12;3", "4", ";;5;"]
    ids = [[*words(text)["input_ids"], 1] for text in texts]
    call = Call(["p"] * 3, texts, ids, {})
    traj = rollouts(call, steps=StepText(words, ";"), ends=[1], multiple=4).check()
    assert traj.width == 8
    assert traj.step.tolist()[0] == [0, 0, 0, 1, 1, -1, -1, -1]
    assert [item["steps"] for item in traj.items] == [["12;", "3"], ["4"], [";", ";", "5;"]]
    assert traj.items[0]["tokens"] == ["1", "2", ";", "3", "<end>"]
    assert traj.stop.tolist() == [StopReason.finished] * 3
    text = rollouts(call, separator=";").check()
    assert text.length.tolist() == [2, 1, 3]
    assert [item["steps"] for item in text.items] == [item["steps"] for item in traj.items]
    tokens = rollouts(call)
    assert tokens.length.tolist() == [5, 2, 5]
    assert tokens.step.max() == 0
    for separated in (reward_function(per_step, separator=";"), reward_function(per_step, separator=";", tokenizer=words)):
        assert separated(["p"] * 3, texts, ids) == [4.0, 1.0, 4.0]


def test_graders_of_steps_have_the_response_as_one_step_where_nothing_cuts_it_and_never_the_data_sets():
    asked = {"prompts": ["?"] * 2, "completions": ["7", "look; 7"], "completion_ids": [[1], [2, 3, 4]], "reference": ["7"] * 2}
    for column in ({}, {"steps": [["of", "the", "data"]] * 2}):
        assert reward_function("mgpo")(**asked, **column) == [1.0, 0.0]
        assert reward_function("mgpo", separator="; ")(**asked, **column) == [1.0, 1.0]
        assert reward_function(lambda steps: [float(len(step)) for step in steps], name="by_step")(**asked, **column) == [1.0, 7.0]


def test_tool_text_exists_and_is_not_the_policys():
    call = Call(["p"], ["1;2"], [[4, 14, 5]], {}, prompt_ids=[[3]], acted=[[1, 0, 1]])
    traj = rollouts(call).check()
    assert traj.mask.tolist() == [[True, False, True]]
    assert traj.length.tolist() == [3]
    assert traj.items[0]["prompt_ids"] == [3]


RUN = """
task: chain
policy: tabular
reward: {right: {name: answer-match}, brief: {name: FILE:brief}}
shaping: [{on: brief, do: [{name: FILE:halved}]}]
terms: {policy: {paths: {right: [total, grpo]}, loss: policy-gradient, aggregation: sequence-mean-token-sum}}
"""


@pytest.mark.slow
def test_a_run_files_reward_and_shaping_are_a_reward_function(tmp_path):
    code = tmp_path / "mine.py"
    code.write_text(
        "def brief(response): return 1.0 if len(response) < 2 else 0.0\n"
        "def halved(channel, traj): return channel._replace(value=channel.value / 2)\n"
    )
    path = tmp_path / "answers.yaml"
    path.write_text(RUN.replace("FILE", str(code)))
    function = reward_function(str(path), weights={"right": 1.0, "brief": 1.0})
    assert function.__name__ == "answers"
    assert function(**TWO, reference=["2", "2", "5", "5"]) == [1.5, 0.5, 1.5, 0.5]


class Learner(torch.nn.Module):
    def forward(self, traj):
        return {"learnt": place_steps(torch.ones(len(traj), 1), torch.ones(len(traj), 1, dtype=torch.bool), traj)}

    def learn(self, traj, rewards):
        return {}


def test_what_a_reward_function_cannot_do_alone_is_refused():
    with pytest.raises(ValueError, match="Learner learns from the batches that are trained on"):
        reward_function(Learner())(**TWO)
    assert reward_function(Learner().eval())(**TWO) == [1.0] * 4

    def unlikely(rewards, traj):
        return rewards

    unlikely.needs = frozenset({"old"})
    with pytest.raises(ValueError, match=r"correct needs \['old'\], which TRL hands to no reward function"):
        reward_function(correct, unlikely)
    with pytest.raises(ValueError, match="separator must be a string that is not empty"):
        reward_function(correct, separator="", tokenizer=tiny.tokenizer())


# --- several processes


def test_a_group_that_is_spread_over_processes_is_scored_whole_in_each(monkeypatch):
    prompts, texts = ["a"] * 4 + ["b"] * 4, ["1", "22", "333", "4444", "1", "22", "333", "4444"]
    ids = [[len(text)] * len(text) for text in texts]
    sizes = [len(text) for text in texts]
    cuts = [slice(0, 3), slice(3, 8)]
    calls = [Call(prompts[s], texts[s], ids[s], {"size": sizes[s]}) for s in cuts]
    asked = []

    def ranked(response, size):
        asked.append(list(response))
        assert size == [len(text) for text in response]
        return place_in_group(response)

    for mine, (call, expected) in enumerate(zip(calls, ([0, 1, 2], [3, 0, 1, 2, 3]), strict=True)):
        function = reward_function(signal(ranked, sees="group"), num_generations=4)
        monkeypatch.setattr(trl_rewards, "gathered", lambda part, mine=mine: (calls, mine))
        asked.clear()
        assert function(call.prompts, call.completions, call.completion_ids, **call.columns) == expected
        assert asked == [texts[:4]] if mine == 0 else [texts[:4], texts[4:]]
        assert function.scoring.last.traj.length.tolist() == sizes[cuts[mine]]
    alone = reward_function(signal(lambda response: float(len(response))))  # of single items nothing is fetched
    monkeypatch.setattr(trl_rewards, "gathered", None)
    assert alone(calls[0].prompts, calls[0].completions) == [1, 2, 3]


def test_the_batch_of_all_processes_has_ids_and_groups_of_its_own(monkeypatch):
    from payoff.integrations import trl_rollouts

    def part(prompts, texts, why):
        call = Call(prompts, texts, [[7] * len(t) for t in texts], {}, prompt_ids=[[ord(p)] for p in prompts])
        traj = rollouts(call, num_generations=2).replace(
            id=torch.arange(len(texts)), group=torch.zeros(len(texts), dtype=torch.int64)
        )
        valid = torch.ones(len(texts), 1, dtype=torch.bool)
        valid[0] = False
        return traj, [{"r": Channel(torch.arange(len(texts))[:, None].float(), valid, {0: why})}]

    parts = [part("aab", ["1", "22", "3"], "first"), part("bcc", ["4444", "5", "6"], "second")]
    for mine in (0, 1):
        monkeypatch.setattr(trl_rollouts, "gathered", lambda part, mine=mine: (parts, mine))
        whole = whole_batch(*parts[mine], num_generations=2)
        assert whole.own.tolist() == [[0, 1, 2], [3, 4, 5]][mine]
        assert len(set(whole.traj.id.tolist())) == 6
        group = whole.traj.group.tolist()
        assert [group.index(g) for g in group] == [0, 0, 2, 2, 4, 4]
        channel = whole.rewards[0]["r"]
        assert channel.value[:, 0].tolist() == [0, 1, 2, 0, 1, 2]
        assert {whole.traj.id.tolist().index(id): why for id, why in channel.reasons.items()} == {0: "first", 3: "second"}
        assert outcome(channel, whole.traj)[1].tolist() == [False, True, True] * 2


def test_one_process_gathers_itself_and_widths_are_fitted_without_inventing_numbers():
    assert gathered({"x": 1}) == ([{"x": 1}], 0)
    wide = fitted(
        {"r": Channel(torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool)), "c": Channel(torch.ones(1, 1), torch.ones(1, 1) > 0)},
        4,
    )
    assert wide["r"].value.tolist() == [[1, 1, 0, 0]]
    assert wide["r"].valid.tolist() == [[False, False, True, True]]
    assert wide["c"].value.shape == (1, 1)
    assert fitted(wide, 2)["r"].value.tolist() == [[1, 1]]
