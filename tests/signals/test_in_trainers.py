"""Every reward that rows are enough for is a reward function of TRL and of verl: the catalogue as a whole, then several at once.

A step of TRL's own trainer with several signals is in tests/integrations/test_trl.py, beside the other things its import pays for.
"""

import functools
import inspect
import json
import multiprocessing
import os
import pickle
import socket

import numpy as np
import pytest
import torch

from payoff.catalogue import find, index
from payoff.explanations import explain
from payoff.grading import signal
from payoff.integrations.hosted import row_reward
from payoff.integrations.trl_rewards import reward_function
from payoff.integrations.verl_reward import checked_reward, compute_score, extras_of, row_of
from payoff.rewards import RewardError, as_signal
from payoff.rows import from_rows
from payoff.trajectories import outcome

REWARDS = {name: record for (kind, name), record in index().items() if kind in ("grader", "signal")}
BOX = [{"bbox_2d": [0, 0, 10, 10], "label": "cat", "point_2d": [5, 5]}]
CODE = {
    "response": "def solve(x):\n    return x + 1",
    "reference": {"entry_point": "solve", "cases": [{"args": [1], "returns": 2}]},
}
QUERY = {"response": "select 1", "reference": {"setup": "create table t (a)", "query": "select 1"}}
CALLS = '<think>t</think>\n<tool_call>\n{"name": "f", "parameters": {}}\n</tool_call>'
LEAVES = {"a;": 1.0}
# What rows look like: the field, unless a reward's own row below says otherwise.
PLAIN = {
    "prompt": "2+5=",
    "response": "The answer is 7",
    "reference": "7",
    "low": 0,
    "high": 10,
    "labels": ["7", "8"],
    "kind": "match",
}
# Of each reward that needs other fields: a row it judges.
JUDGED = {
    "affordance-r1": {"response": json.dumps(BOX), "reference": BOX},
    "caprl": {"reader_answers": ["A"], "questions": [{"key": "A"}]},
    "choice": {"response": "B", "reference": "B"},
    "chain-needed-steps": {"prompt": "3+4=", "response": "3+4=7;#7."},
    "co-reward": {"pair": "q", "view": 0},
    "code-fraction": CODE,
    "code-tests": CODE,
    "compile-tiers": CODE,
    "cost": {"cost": 3.0},
    "ifeval": {"instructions": [{"id": "punctuation:no_comma"}]},
    "interval-score": {"response": "<answer>[6, 8]</answer>"},
    "medvlm-r1": {"response": "<think>t</think><answer>B</answer>", "reference": "B"},
    "milestones": {"response": "print(1)", "reference": {"expected": ["1"], "metric": "accuracy", "milestones": []}},
    "point-in-box": {"response": json.dumps(BOX), "reference": BOX},
    "reasoning-gym-score": {"entry": {"question": "2+5=", "answer": "7", "metadata": {"source_dataset": "chain_sum"}}},
    "reasoning-sql": QUERY,
    "recorded-degree": {"degree": 1},
    "recorded-label": {"label": 1.0},
    "recorded-rationale": {"rationale": True},
    "recorded-score": {"score": 4.0},
    "resume-grpo": {"response": "<answer>accept</answer>", "reference": "accept"},
    "school-of-reward-hacks": {"family": "self-report", "sum": 7},
    "school-of-reward-hacks-truth": {"family": "self-report", "sum": 7},
    "secrepair": {"response": "checks the bound", "reference": {"description": "checks the bound"}},
    "social-deduction-listening-speaking": {"won": True, "beliefs": [[[0.2], [0.6]]]},
    "social-deduction-speaking": {"beliefs": [[[0.2], [0.6]]]},
    "spell": {"role": "questioner", "success": 0.5},
    "spell-questioner": {"success": 0.5},
    "spell-responder": {"verdicts": [True, True, False]},
    "spell-verifier": {"verdict": True, "verdicts": [True, True, False]},
    "sql-execution": QUERY,
    "sql-parts": QUERY,
    "stated-confidence": {"response": "<confidence>0.5</confidence>"},
    "extreme-confidence": {"response": "<confidence>0.5</confidence>"},
    "toolrl": {"response": CALLS, "reference": CALLS},
    "toolrl-calls": {"response": CALLS, "reference": CALLS},
    "toolrl-format": {"response": CALLS, "reference": CALLS},
    "target-length": {"target_length": 15},
    "tree-leaf": {"response": "a;", "leaf_rewards": LEAVES},
    "tree-proxy": {"response": "a;", "proxy_rewards": LEAVES},
    "tree-steps": {"response": "a;", "step_rewards": {"a;": 1.0}},
    "tulu3-rlvr": {"verifier": "last-number"},
    "turn-dense": {"turns": [{"reward": 1.0}], "outcome": 1.0},
    "turn-outcome": {"outcome": 1.0},
    "turn-rewards": {"turns": [{"reward": 1.0}], "failure": ""},
    "verilog-tests": {"response": "", "reference": {"module": "m", "inputs": {"a": 1}, "outputs": {"y": 1}, "cases": []}},
    "verpo": {"checks": [1, 0]},
    "verpo-tests": CODE,
    "vision-r1": {"response": json.dumps(BOX), "reference": BOX},
    "vision-r1-progressive": {"response": json.dumps(BOX), "reference": BOX},
    "vlm-r1": {"response": json.dumps(BOX), "reference": BOX},
    "vlm-r1-iou": {"response": json.dumps(BOX), "reference": BOX[0]},
    "vlm-r1-weighted": {"response": json.dumps(BOX), "reference": BOX},
}
# What of a row makes it one without a verdict; a reference that is none, where nothing is said. "": this one judges every row.
UNJUDGED = {
    "caprl": {"questions": []},
    "chain-answer": "",
    "chain-answer-lenient": "",
    "chain-answer-noisy": "",
    "chain-format": "",
    "chain-needed-steps": {"prompt": "no sum"},
    "chain-steps": "",
    "co-reward": "",
    "cost": {"cost": -1.0},
    "fine-grained-rlhf": "",
    "format": "",
    "format-length-surrogate": "",
    "format-surrogate": "",
    "ifeval": {"instructions": None},
    "language-consistency": {"response": "7"},
    "length": "",
    "majority-agreement": "",
    "number-in-range": {"low": "?"},
    "reasoning-gym-score": {"entry": {"question": 1}},
    "reasoning-pattern-reward": "",
    "recorded-degree": {"degree": None},
    "recorded-label": {"label": None},
    "recorded-rationale": {"rationale": False},
    "recorded-score": {"score": None},
    "repetition": "",
    "router-r1-format": "",
    "school-of-reward-hacks": {"family": "other"},
    "school-of-reward-hacks-truth": {"family": "other"},
    "self-consistency": "",
    "social-deduction-listening-speaking": {"won": None},
    "social-deduction-speaking": {"beliefs": []},
    "spell": {"role": "judge"},
    "spell-questioner": {"success": None},
    "spell-responder": {"verdicts": []},
    "spell-verifier": {"verdicts": []},
    "stated-confidence": {"response": "7"},
    "extreme-confidence": {"response": "7"},
    "tags": "",
    "target-length": {"target_length": None},
    "think-format": "",
    "toolrl-length": "",
    "tree-filler": "",
    "tree-leaf": {"leaf_rewards": {"a;": None}},
    "tree-proxy": {"proxy_rewards": {"a;": None}},
    "tree-steps": "",
    "turn-dense": {"outcome": None},
    "turn-outcome": {"outcome": None},
    "turn-rewards": {"turns": [{"reward": None}], "failure": "broke"},
    "tulu3-rlvr": {"verifier": None},
    "verpo": {"checks": None},
    "vlm-r1-format": "",
}
OPTIONS = {
    "fine-grained-rlhf": {"score": "repetition"},
    "format": {"pattern": ".*"},
    "format-length-surrogate": {"unit": "words"},
    "tulu3-rlvr": {"unfinished": None},
}
ELSEWHERE = "reads tensors of its own rollouts, a policy or an environment, which a trainer's rows do not hold, or asks a server"
NOT_BY_ROWS = {
    "calm", "count-novelty", "coverage", "demand-coverage", "densegrpo", "digits-class", "digits-ink", "digits-symmetry", "dp-rft",
    "environment-reward", "fgaif", "igpo", "information-gain", "judge", "knn-novelty", "lare", "likelihood-rewards", "log-reward",
    "mixture-direction", "mixture-distance", "mixture-quadratic", "rlpr", "rnd", "soft-rl", "step-critic", "t-reg",
}  # fmt: skip
SANDBOXED = {
    "code-fraction",
    "code-tests",
    "compile-tiers",
    "milestones",
    "reasoning-sql",
    "sql-execution",
    "sql-parts",
    "verpo-tests",
}
BY_ROWS = sorted(name for name, record in REWARDS.items() if not record.needs and name not in NOT_BY_ROWS)


def part_of(name):
    options = dict(OPTIONS.get(name, {}))
    if name in SANDBOXED:
        options["isolation"] = "process"  # what any machine gives; the levels are tested with the sandbox
    part = find(name, REWARDS[name].kind)
    return functools.partial(part, **options) if options else part


def rows_of(name):
    """Two rows of one start: one that is judged, and one that cannot be (where there is such a thing)."""
    good = {**PLAIN, **JUDGED.get(name, {})}
    change = UNJUDGED.get(name, {"reference": None})
    return good, None if change == "" else {**good, **change}


def test_what_is_not_for_rows_exists_and_reads_something_else():
    assert set(REWARDS) >= NOT_BY_ROWS
    for name in NOT_BY_ROWS:
        assert "response" not in inspect.signature(find(name, REWARDS[name].kind)).parameters, f"{name}: not {ELSEWHERE}"


@functools.cache
def asked(name):
    """What TRL is given for a reward's rows, by the function and by its pickle, and what both are called."""
    good, bad = rows_of(name)
    rows = [good, bad or {**good, "view": 1}]  # of another wording of the question, for what compares those
    made = part_of(name)
    function = reward_function(made().eval() if inspect.isclass(made) else as_signal(made, name), separator=";", name=name)
    again = pickle.loads(pickle.dumps(function))
    columns = {key: [row.get(key) for row in rows] for key in {**good, **(bad or {})} if key not in ("prompt", "response")}
    given = {"prompts": [row["prompt"] for row in rows], "completions": [row["response"] for row in rows], **columns}
    return function(**given), again(**given), {function.__name__, again.__name__}


@pytest.mark.parametrize("name", BY_ROWS)
def test_it_is_a_reward_function_of_trl(name):
    paid, again, called = asked(name)
    assert called == {name}
    assert again == paid  # the same in a process that got it pickled
    assert len(paid) == 2
    assert all(x is None or isinstance(x, float) for x in paid)
    assert paid[0] is not None or name == "verilog-tests", "the good row must be judged"
    if rows_of(name)[1] is None:
        assert None not in paid
    else:
        assert paid[1] is None, "no verdict is None, and not 0"


class Letters:
    """A tokenizer whose ids are code points."""

    def decode(self, ids, skip_special_tokens=True):
        return "".join(map(chr, ids))


def score(row, reward, weights, by_step):
    """What verl is given for a row: by its function, or by its reward manager, which knows the tokens and so the steps."""
    if not by_step:
        return compute_score("s", row["response"], row["reference"], row, reward=reward, weights=weights)
    ids = torch.tensor([ord(letter) for letter in row["response"]])
    fields = {"reward_model": {"ground_truth": row["reference"]}, "extra_info": row, "raw_prompt": row["prompt"]}
    traj = row_of(ids, torch.ones(len(ids)), fields, Letters(), separator=";")
    return extras_of(checked_reward(reward, weights, "").of(traj)[0], tokens=True)


@pytest.mark.parametrize("name", [name for name in BY_ROWS if REWARDS[name].sees == "item"])
def test_it_is_a_reward_function_of_verl(name, tmp_path):
    good, bad = rows_of(name)
    target = name
    if name in OPTIONS or name in SANDBOXED:  # options are a run file's
        target = str(tmp_path / "run.yaml")
        options = {**OPTIONS.get(name, {}), **({"isolation": "process"} if name in SANDBOXED else {})}
        (tmp_path / "run.yaml").write_text(json.dumps({"reward": {name: {"name": name, **options}}}))
    by_step = "steps" in inspect.signature(find(name, REWARDS[name].kind)).parameters
    row_reward.cache_clear()
    channels = {"sql-parts": {f"{name}/{part}": 1.0 for part in ("execution", "syntax", "schema", "bigrams", "format")}}
    weights = channels.get(name) if target != name else None
    scored = [score(row, target, weights, by_step) for row in (good, bad or good)]
    if by_step:  # verl's function knows the text alone, and cuts it
        told = compute_score("s", good["response"], good["reference"], good, reward=target, step_separator=";")
        assert {key: told[key] for key in ("score", "reward_valid")} == {key: scored[0][key] for key in ("score", "reward_valid")}
    assert [*scored[0]] == [*scored[1]]
    assert [type(x) for x in scored[0].values()] == [type(x) for x in scored[1].values()]
    np.array([list(row.values()) for row in scored], dtype=object)
    assert scored[0]["reward_valid"] == 1.0 or name == "verilog-tests"
    assert scored[1]["reward_valid"] == float(bad is None)
    assert scored[1]["score"] == scored[0]["score"] or bad is not None
    assert (scored[1]["reward_reason"] == "") == (bad is None)


@pytest.mark.parametrize("name", [name for name in BY_ROWS if REWARDS[name].sees != "item"])
def test_what_sees_more_than_a_row_is_refused_by_verl_and_not_scored_wrongly(name):
    with pytest.raises(RewardError, match="sees a whole"):
        compute_score("s", "7", "7", {}, reward=name)


@pytest.mark.parametrize("name", BY_ROWS)
def test_it_says_why(name):
    """Of what is judged and of what is not, and the same numbers as in training."""
    rows = [row for row in rows_of(name) if row is not None]
    told = explain(part_of(name), [{**row, "steps": row["response"].split(";")} for row in rows])
    assert all(len(one.reason) >= 5 for one in told)
    if REWARDS[name].sees == "item" and name != "verilog-tests":
        assert (told[0].value is not None) == (asked(name)[0][0] is not None)
        assert len(rows) == 1 or not (isinstance(told[1].value, float) and told[1].value != 0)


def test_trl_is_given_what_the_signal_says():
    """One number, the sum of the channels, as `payoff score` would write them."""
    for name in ("answer-match", "rlcr", "toolrl", "vision-r1", "ifeval", "majority-agreement"):
        rows = [row for row in rows_of(name) if row is not None]
        rows = rows if len(rows) == 2 else rows * 2
        traj = from_rows(rows)
        channels = as_signal(part_of(name), name)(traj)
        ends = [outcome(channel, traj) for channel in channels.values()]
        total = torch.stack([value for value, _ in ends]).sum(0).tolist()
        known = torch.stack([valid for _, valid in ends]).all(0).tolist()
        assert asked(name)[0] == [x if ok else None for x, ok in zip(total, known, strict=True)]


# --- inside the trainers themselves


ASKED = [{"id": "length_constraints:number_words", "num_words": 1, "relation": "at least"}, {"id": "punctuation:no_comma"}]


@pytest.mark.slow
def test_verls_reward_loop_with_several_signals(tmp_path):
    pytest.importorskip("verl")
    from omegaconf import OmegaConf
    from verl import DataProto
    from verl.trainer.ppo.reward import load_reward_manager

    import payoff.integrations.verl_plugin  # noqa: F401

    row_reward.cache_clear()
    names = ["math-answer", "last-number", "ifeval", "repetition", "length", "stated-confidence"]
    run = tmp_path / "run.yaml"
    run.write_text(json.dumps({"reward": {name: {"name": name} for name in names}}))
    weights = {"math-answer": 1.0, "ifeval": 0.5}
    config = OmegaConf.create(
        {
            "reward": {"reward_manager": {"source": "register", "name": "payoff"}, "custom_reward_function": {"path": None}},
            "payoff": {"reward": str(run), "weights": weights},
        }
    )
    manager = load_reward_manager(config, Letters(), reward_router_address=None, reward_model_tokenizer=None)
    texts = ["7", "so,", "it is 7"]
    width = max(map(len, texts))
    responses = torch.tensor([[ord(letter) for letter in text.ljust(width, "\0")] for text in texts])
    columns = {
        "data_source": ["s"] * 3,
        "reward_model": [{"ground_truth": "7"}] * 3,
        "extra_info": [{"instructions": ASKED}, {"instructions": ASKED}, {"instructions": None}],
        "raw_prompt": ["3+4="] * 3,
    }
    data = DataProto.from_dict(
        {"prompts": responses[:, :1], "responses": responses, "attention_mask": torch.cat([responses[:, :1], responses], 1) > 0},
        {name: np.array([None, *values], dtype=object)[1:] for name, values in columns.items()},
    )
    found = [manager.loop.run_until_complete(manager.run_single(data[i : i + 1])) for i in range(3)]
    extra = [row["reward_extra_info"] for row in found]
    assert [row["reward_score"] for row in found] == [1.5, 0.25, 0.0]  # the third has no instructions, so no verdict
    assert [row["reward_valid"] for row in extra] == [1.0, 1.0, 0.0]
    assert len({tuple(row) for row in extra}) == 1
    assert [row["length"] for row in extra] == [1.0, 3.0, 7.0]
    assert [row["stated-confidence_valid"] for row in extra] == [0.0] * 3


def place_among(response):
    """Of a group: how many others are shorter."""
    return [float(sum(len(other) < len(mine) for other in response)) for mine in response]


def scored_here(rank, port, answer):
    """What one of two processes, which has three of the group's four completions or one of them, is given."""
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "ACCELERATE_TORCH_DEVICE": "cpu"}
    from accelerate import PartialState

    try:
        PartialState._reset_state()  # a trainer may have run in the process that this one was forked from
        state = PartialState(cpu=True)
        assert (state.num_processes, torch.distributed.get_backend()) == (2, "gloo")
        function = reward_function(signal(place_among, sees="group"), num_generations=4)
        mine = [["1", "22", "333"], ["4444"]][rank]
        answer.send(function(prompts=["a"] * len(mine), completions=mine))
        torch.distributed.barrier()
    except BaseException as error:
        answer.send(repr(error))
        raise


@pytest.mark.slow
def test_a_group_that_two_processes_share_is_scored_whole_in_both():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")  # a new interpreter would spend seconds on imports
    pairs = [context.Pipe(duplex=False) for _ in range(2)]
    processes = [context.Process(target=scored_here, args=(rank, port, pairs[rank][1])) for rank in range(2)]
    for process in processes:
        process.start()
    try:
        assert [line.recv() if line.poll(60) else "nothing" for line, _ in pairs] == [[0.0, 1.0, 2.0], [3.0]]
    finally:
        for process in processes:
            process.join(10)
            process.kill()
