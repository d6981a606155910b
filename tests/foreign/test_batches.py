"""What every reward from elsewhere has in common: it can be copied and sent, and its files are known."""

import copy
import pickle

import pytest
import torch

from payoff.contents import sees
from payoff.foreign import files_of, foreign_reward
from payoff.foreign.options import accepted, split_options
from payoff.rows import from_rows
from payoff.trajectories import outcome

ROWS = [{"prompt": "p", "response": "<think>a</think>b"}, {"prompt": "p", "response": "b"}, {"prompt": "p"}]
THINKS = "trl:trl.rewards:think_format_reward"


def numbers(signal, traj):
    value, valid = outcome(signal(traj)[signal.name], traj)
    return [v if ok else None for v, ok in zip(value.tolist(), valid.tolist(), strict=True)]


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copied", "pickled"])
def test_a_twin_grades_alike_and_counts_for_itself(twin):
    signal = foreign_reward(THINKS, cache=True)
    traj = from_rows(ROWS)
    assert numbers(twin(signal), traj) == numbers(signal, traj) == [1.0, 0.0, None]
    assert signal.stats["graded"] == 2


def test_servers_and_judges_can_be_sent_too(tmp_path):
    for spec in ("http://host/score", f"judge:http://host/v1#m?store={tmp_path}/kept.sqlite"):
        assert pickle.loads(pickle.dumps(foreign_reward(spec))).name == foreign_reward(spec).name


def test_a_verdict_lies_at_the_end_whatever_lies_beyond():
    rows = [{"prompt": "p", "response": "<think>a</think>b", "steps": ["x"] * 3}, {"prompt": "p", "response": "b"}]
    channel = foreign_reward(THINKS)(from_rows(rows))["think_format_reward"]
    assert channel.value.tolist() == [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert channel.valid.all()


def test_a_row_without_a_verdict_is_worth_nothing_and_unknown_at_its_end():
    traj = from_rows(ROWS)
    channel = foreign_reward(THINKS)(traj)["think_format_reward"]
    assert channel.valid.tolist() == [[True], [True], [False]]
    assert channel.value[2].tolist() == [0.0]
    assert channel.reasons == {int(traj.id[2]): "there is no 'response', which think_format_reward reads"}


def test_the_group_is_seen_only_by_what_asks_for_it(tmp_path):
    assert sees(foreign_reward(THINKS)) == "item"
    assert sees(foreign_reward(THINKS, sees="group")) == "group"
    with pytest.raises(ValueError, match="cannot be remembered"):
        foreign_reward(THINKS, sees="group", cache=True)


def test_reasons_are_found_by_the_trajectory_when_ids_repeat():
    traj = from_rows(ROWS).replace(id=torch.tensor([7, 7, 8]))
    assert numbers(foreign_reward(THINKS), traj) == [1.0, 0.0, None]


def test_the_files_of_a_reward_are_those_it_is_made_of(tmp_path):
    for name in ("r.py", "t.txt", "config.json"):
        (tmp_path / name).write_text("")
    assert files_of(f"trl:{tmp_path}/r.py:f?scale=2") == files_of(f"verl:{tmp_path}/r.py") == [tmp_path / "r.py"]
    assert files_of(f"judge:http://h/v1#m?template={tmp_path}/t.txt") == [tmp_path / "t.txt"]
    assert files_of(f"hf:{tmp_path}?batch=2") == sorted(tmp_path.iterdir())
    assert files_of("http://host/r.py") == files_of("answer-match") == files_of("hf:some/name") == []


def test_options_are_read_as_what_their_default_is():
    def make(place, *, n=1, x=1.0, on=False, name=""): ...

    assert split_options("a?b=1?c=2&d=%26%3D+") == ("a?b=1", {"c": "2", "d": "&=+"})
    assert accepted(make, {"n": "2", "x": "1e-3", "on": "TRUE", "name": "7"}) == {"n": 2, "x": 0.001, "on": True, "name": "7"}
    for wrong in ({"n": "2.5"}, {"x": "much"}, {"on": "maybe"}, {"nmae": "x"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            accepted(make, wrong)
    for wrong in ("a?b", "a?=1", "a?b=1&b=2"):
        with pytest.raises(ValueError, match=r"NAME=VALUE|twice"):
            split_options(wrong)
