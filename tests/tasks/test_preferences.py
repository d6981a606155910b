"""Rows of preferences in every usual layout, as starts with their responses."""

import json

import pytest
import torch

from payoff.losses.preferences import dpo
from payoff.policies.tabular import Tabular
from payoff.rows import RowError, write_rows
from payoff.sampling.recorded import recorded
from payoff.tasks.preferences import GoalConditioned, Preferences
from payoff.tasks.recorded_rows import Names, recorded_row, with_goal
from payoff.trajectories import Pairs

USER, SYSTEM = {"role": "user", "content": "1+1="}, {"role": "system", "content": "Add."}


def said(text):
    return {"role": "assistant", "content": text}


def answers(row, **options):
    return [answer["response"] for answer in recorded_row(row, **options)["recorded"]]


def every(task):
    return task.starts(len(task), torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "1+1=", "chosen": "2", "rejected": "3"}, "1+1="),
        ({"chosen": "1+1= 2", "rejected": "1+1= 3"}, "1+1="),  # the space belongs to the answers
        ({"prompt": [USER], "chosen": [said("2")], "rejected": [said("3")]}, [USER]),
        ({"prompt": [SYSTEM, USER], "chosen": [SYSTEM, USER, said("2")], "rejected": [SYSTEM, USER, said("3")]}, [SYSTEM, USER]),
        ({"chosen": [USER, said("2")], "rejected": [USER, said("3")]}, [USER]),
        ({"prompt": "1+1=", "chosen": [USER, said("2")], "rejected": [USER, said("3")]}, [USER]),
        ({"prompt": "1+1=", "chosen": [said("2")], "rejected": [said("3")]}, [USER]),
        ({"prompt": [SYSTEM], "chosen": [USER, said("2")], "rejected": [USER, said("3")]}, [SYSTEM, USER]),
    ],
)
def test_every_layout_of_a_pair_is_one_prompt_and_two_answers(row, prompt):
    found = recorded_row({**row, "source": "here"})
    assert found["prompt"] == prompt
    assert [(a["response"].strip(), a["label"]) for a in found["recorded"]] == [("2", 1.0), ("3", 0.0)]
    assert found["source"] == "here"
    assert not {"chosen", "rejected"} & set(found)


def test_tokens_scores_and_single_answers():
    found = recorded_row({"prompt": "x", "chosen": [0, 1], "rejected": [2], "score_chosen": 7, "score_rejected": 2.5})
    assert [(a["tokens"], a["score"]) for a in found["recorded"]] == [([0, 1], 7.0), ([2], 2.5)]
    found = recorded_row({"prompt": "x", "responses": ["a", "b", "c"], "scores": [1, 3, 2]})
    assert [(a["response"], a["label"]) for a in found["recorded"]] == [("a", 1.0), ("b", 3.0), ("c", 2.0)]
    for label in (True, 1, "true", "1"):
        assert recorded_row({"prompt": "x", "completion": "a", "label": label})["recorded"][0]["label"] == 1.0
    assert recorded_row({"prompt": [USER], "completion": [said("3")], "label": "False"})["recorded"][0]["label"] == 0.0
    names = Names(prompt="question", chosen="good", rejected="bad")
    assert recorded_row({"question": "x", "good": "a", "bad": "b"}, names)["prompt"] == "x"


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"prompt": "x", "chosen": "a"}, "needs 'chosen' and 'rejected'"),
        ({"prompt": "x", "chosen": "a", "rejected": ""}, "has an empty answer"),
        ({"chosen": "a", "rejected": "b"}, "has no prompt"),
        ({"prompt": "x", "chosen": "a", "rejected": [1]}, "must all be texts"),
        ({"prompt": "x", "chosen": 1, "rejected": 2}, "they are int, int"),
        ({"prompt": "x", "responses": ["a"], "scores": [1, 2]}, "1 responses and 2 scores"),
        ({"prompt": "x", "completion": "a", "label": "maybe"}, "must be true or false, is 'maybe'"),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "score_chosen": "high"}, "a score must be a number"),
        ({"chosen": [USER, said("2")], "rejected": [SYSTEM, said("3")]}, "differ in more than their last message"),
        ({"chosen": [said("2"), USER], "rejected": [said("2"), USER]}, "must end with a text of the assistant"),
        ({"chosen": [said("2")], "rejected": [said("3")]}, "has no prompt, and its answers hold none"),
    ],
)
def test_a_row_that_is_none_of_them_is_named(row, fault):
    good = {"prompt": "x", "chosen": "a", "rejected": "b"}
    with pytest.raises(RowError, match="rows row 2: ") as raised:
        Preferences([good, row], held_out=0)
    assert fault in str(raised.value)


def test_files_are_read_as_they_come(tmp_path):
    rows = [{"prompt": f"{k}+1=", "chosen": str(k + 1), "rejected": "0", "margin": float(k)} for k in range(10)]
    for name in ("pairs.jsonl", "pairs.parquet"):
        write_rows(tmp_path / name, rows)
        task = Preferences(str(tmp_path / name), held_out=0.2)
        assert len(task) == 8
        assert len(task.held_out_starts()) == 2
        assert {start.fields["prompt"] for start in [*every(task), *task.held_out_starts()]} == {r["prompt"] for r in rows}
    (tmp_path / "bad.jsonl").write_text(json.dumps(rows[0]) + "\n" + json.dumps({"prompt": "x"}) + "\n")
    with pytest.raises(RowError, match=r"bad\.jsonl row 2: needs 'chosen'"):
        Preferences(str(tmp_path / "bad.jsonl"))
    assert len(Preferences(str(tmp_path / "bad.jsonl"), limit=1, held_out=0)) == 1


def test_a_rationale_is_one_more_response_to_a_prompt_of_its_own():
    row = {"prompt": "1+1=", "chosen": "2", "rejected": "3", "rationale": "It is even."}
    why = "{prompt}{chosen}, not {rejected}, because "
    last = recorded_row(row, why=why)["recorded"][-1]
    assert last == {
        "prompt": "1+1=2, not 3, because ",
        "response": "It is even.",
        "label": None,
        "score": None,
        "rationale": True,
        "degree": None,
    }
    assert answers(row) == ["2", "3"]
    chat = {"prompt": [USER], "chosen": [said("2")], "rejected": [said("3")], "rationale": "It is even."}
    assert recorded_row(chat, why=why)["recorded"][-1]["prompt"] == [{"role": "user", "content": "user: 1+1=2, not 3, because "}]
    with pytest.raises(ValueError, match="a rationale must be a text about two texts"):
        recorded_row({**row, "rationale": 3}, why=why)


SCORED = [
    {"prompt": "p", "chosen": [0], "rejected": [1], "score_chosen": 9, "score_rejected": 8},
    {"prompt": "p", "chosen": [1], "rejected": [2], "score_chosen": 8, "score_rejected": 3},
    {"prompt": "p", "chosen": [0], "rejected": [1], "score_chosen": 5, "score_rejected": 5},
    {"prompt": "p", "chosen": [0], "rejected": [1], "score_chosen": 1, "score_rejected": 5},
    {"prompt": "p", "chosen": [0], "rejected": [1]},
]


def test_goals_double_the_pairs_whose_scores_agree_with_them():
    task = GoalConditioned(SCORED, held_out=0, goal="<{goal}>")
    found = sorted((s.fields["prompt"], s.fields["recorded"][0]["tokens"], s.fields["recorded"][1]["tokens"]) for s in every(task))
    assert found == [("<3>p", [2], [1]), ("<8>p", [1], [0]), ("<8>p", [1], [2]), ("<9>p", [0], [1])]
    for start in every(task):  # the goal's own reward -(g - r)^2 is the greater for the better one
        better, worse = start.fields["recorded"]
        goal = start.fields["goal"]
        assert (goal - better["score"]) ** 2 < (goal - worse["score"]) ** 2
        assert (better["label"], worse["label"]) == (1.0, 0.0)


def test_held_out_prompts_ask_for_the_best():
    rows = [{**SCORED[0], "prompt": f"p{k}"} for k in range(5)]
    task = GoalConditioned(rows, held_out=2, goal="<{goal}>", best=10.0)
    assert all(start.fields["prompt"].startswith("<10>p") for start in task.held_out_starts())
    assert len(task) == 6
    trained = {start.fields["prompt"][3:] for start in every(task)}
    assert not trained & {start.fields["prompt"][4:] for start in task.held_out_starts()}


def test_a_policy_that_ignores_goals_gets_no_gradient_where_it_starts():
    policy = Tabular(3, 1)
    starts = every(GoalConditioned(SCORED, held_out=0))
    traj = recorded(policy, starts, 2, torch.Generator())
    traj = traj.replace(logp={"ref": traj.logp["old"]})
    pairs = Pairs(torch.arange(len(traj)).view(-1, 2), torch.ones(len(starts)), torch.ones(len(starts)))
    dpo(policy.evaluate(traj), traj, pairs).terms.sum().backward()
    assert policy.logits.grad.abs().max() < 1e-12


def test_goals_are_said_where_instructions_stand():
    assert with_goal("x", "g ") == "g x"
    assert with_goal([USER], "g") == [{"role": "system", "content": "g"}, USER]
    assert with_goal([SYSTEM, USER], "g") == [{"role": "system", "content": "Add.\ng"}, USER]
    with pytest.raises(ValueError, match="goal must hold"):
        GoalConditioned(SCORED, goal="be good")
    with pytest.raises(ValueError, match="nothing is left"):
        GoalConditioned(SCORED[2:], held_out=0)


def test_degrees_take_more_and_more_key_words_on_one_scale():
    row = {"prompt": "p", "chosen": "The red fox sleeps.", "rejected": "A dog."}
    found = recorded_row(row, degrees=2)["recorded"]
    assert [(a["response"], a["label"], a["degree"]) for a in found] == [
        ("The red fox sleeps.", 1.0, 0),
        ("A dog.", 0.0, 3),
        ("The sleeps.", None, 1),
        ("The.", None, 2),
        ("A.", None, 4),
        ("A.", None, 5),
    ]
    assert [a["degree"] for a in recorded_row(row)["recorded"]] == [None, None]
    with pytest.raises(ValueError, match="degrees must be at least 0, and are of two texts"):
        recorded_row({"prompt": "p", "chosen": [1], "rejected": [2]}, degrees=1)
