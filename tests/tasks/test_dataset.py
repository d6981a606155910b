import json

import pytest
import torch

from payoff.rows import RowError, from_rows, write_rows
from payoff.tasks.dataset import Dataset, Epochs
from payoff.trajectories import outcome, place_outcome

ROWS = [{"prompt": f"{k}+1=", "reference": str(k + 1)} for k in range(10)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def prompts(starts):
    return [start.fields["prompt"] for start in starts]


def test_every_epoch_has_every_number_once_in_another_order():
    epochs, rng = Epochs(7, "m"), generator()
    drawn = epochs.draw(21, rng)
    first, second, third = drawn[:7], drawn[7:14], drawn[14:]
    assert sorted(first) == sorted(second) == sorted(third) == list(range(7))
    assert first != second
    assert second != third


def test_the_order_follows_from_the_generator_however_it_is_cut():
    whole = Epochs(7, "m").draw(20, generator(3))
    pieces, rng = Epochs(7, "m"), generator(3)
    assert [k for n in (1, 6, 9, 0, 4) for k in pieces.draw(n, rng)] == whole
    assert Epochs(7, "m").draw(20, generator(4)) != whole


def test_an_epoch_goes_on_where_its_state_was_saved(tmp_path):
    unbroken, rng = Epochs(7, "m"), generator()
    before, after = unbroken.draw(10, rng), None
    saved, place = {k: v.clone() for k, v in unbroken.state_dict().items()}, rng.get_state()
    after = unbroken.draw(15, rng)
    torch.save(saved, tmp_path / "state.pt")
    resumed, rng = Epochs(7, "m"), torch.Generator()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    rng.set_state(place)
    assert resumed.draw(15, rng) == after != before


def test_a_state_of_other_data_is_refused():
    other = Epochs(7, "other")
    other.load_state_dict(Epochs(7, "m").state_dict())
    with pytest.raises(ValueError, match="data has changed since the checkpoint"):
        other.draw(1, generator())


def test_training_never_meets_a_held_out_prompt():
    task = Dataset(ROWS * 2, held_out=0.3)
    held, trained = set(prompts(task.held_out_starts())), set(prompts(task.starts(50, generator())))
    assert len(held) == 3
    assert held | trained == {row["prompt"] for row in ROWS}
    assert not held & trained
    assert len(task) == 14


def test_which_prompts_are_held_out_does_not_depend_on_their_order():
    held = prompts(Dataset(ROWS, held_out=4).held_out_starts())
    assert len(held) == 4
    assert prompts(Dataset(ROWS[::-1], held_out=4).held_out_starts()) == held
    assert prompts(Dataset(ROWS, held_out=4).held_out_starts(2)) == held[:2]


def test_a_file_of_its_own_may_be_held_out_and_is_not_trained_on(tmp_path):
    write_rows(tmp_path / "train.jsonl", ROWS)
    write_rows(tmp_path / "test.jsonl", [ROWS[3], {"prompt": "9+9=", "reference": "18"}])
    task = Dataset(str(tmp_path / "train.jsonl"), held_out=str(tmp_path / "test.jsonl"))
    assert prompts(task.held_out_starts()) == ["3+1=", "9+9="]
    assert len(task) == 9


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_the_users_own_columns_become_prompt_and_reference(tmp_path, name):
    write_rows(tmp_path / name, [{"question": f"q{k}", "answer": f"a{k}", "level": str(k)} for k in range(4)])
    task = Dataset(str(tmp_path / name), prompt="question", reference="answer", held_out=0)
    fields = {start.id: start.fields for start in task.starts(4, generator())}
    assert fields[f"{name}:2"] == {"question": "q1", "answer": "a1", "level": "1", "prompt": "q1", "reference": "a1"}


def test_only_the_first_rows_are_read_when_asked():
    assert len(Dataset(ROWS, limit=4, held_out=0)) == 4


def test_nothing_held_out_cannot_be_evaluated_on():
    with pytest.raises(ValueError, match="nothing is held out"):
        Dataset(ROWS, held_out=0).held_out_starts()


def rollouts():
    return from_rows([{"prompt": "1+1=", "response": "2", "reference": "2"}, {"prompt": "2+1=", "response": "5", "reference": "3"}])


def test_without_a_truth_the_truth_is_unknown():
    traj = rollouts()
    channel = Dataset(ROWS).truth(traj)
    assert not channel.valid.any()
    assert channel.reasons == dict.fromkeys(traj.id.tolist(), "the data set has no truth")


def right(response, reference):
    return float(response == reference)


def signal_of_truth(traj):
    value = torch.tensor([float(item["response"] == "2") for item in traj.items])
    return {"t": place_outcome(value, value > -1, traj)}


def two_channels(traj):
    return {**signal_of_truth(traj), "u": signal_of_truth(traj)["t"]}


@pytest.mark.parametrize("truth", [right, signal_of_truth, f"{__file__}:right", "reasoning-gym:chain_sum"])
def test_the_truth_may_be_a_grader_a_signal_or_the_name_of_one(truth):
    traj = rollouts()
    value, valid = outcome(Dataset(ROWS, truth=truth).truth(traj), traj)
    assert (value.tolist(), valid.tolist()) == ([1.0, 0.0], [True, True])


def test_a_truth_is_one_channel():
    with pytest.raises(ValueError, match=r"the truth must be one channel, gives \['t', 'u'\]"):
        Dataset(ROWS, truth=two_channels).truth(rollouts())


def test_a_conversation_is_a_prompt_like_any_other():
    said = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    task = Dataset(said, held_out=0.2)
    held = {json.dumps(p) for p in prompts(task.held_out_starts())}
    assert len(held) == 2
    assert not held & {json.dumps(p) for p in prompts(task.starts(8, generator()))}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": "gone.jsonl"}, "gone.jsonl: no such file"),
        ({"data": []}, "rows: holds no rows"),
        ({"prompt": "question"}, "rows row 1: has no field 'question'; it has: prompt, reference"),
        ({"reference": "gold"}, "rows row 1: has no field 'gold'"),
        ({"data": [{"prompt": ""}]}, "rows row 1: its prompt is empty"),
        ({"held_out": 1.0}, "held_out must be a share from 0 to below 1"),
        ({"held_out": 10}, "held_out must leave prompts to train on: 10 of 10"),
        ({"held_out": -1}, "held_out must leave prompts to train on"),
        ({"truth": "no-such-grader"}, 'unknown reward "no-such-grader"'),
    ],
)
def test_bad_options_are_one_line(options, says):
    with pytest.raises(ValueError) as caught:
        Dataset(**{"data": ROWS, **options})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_held_out_whole_leaves_nothing(tmp_path):
    write_rows(tmp_path / "r.jsonl", ROWS)
    with pytest.raises(ValueError, match="all 10 rows are held out"):
        Dataset(str(tmp_path / "r.jsonl"), held_out=str(tmp_path / "r.jsonl"))


def test_errors_name_the_file(tmp_path):
    write_rows(tmp_path / "r.jsonl", [{"question": "q", "reference": "r"}])
    with pytest.raises(
        RowError, match=r"r.jsonl line 1: has no field 'prompt'; it has: question, reference; try --map prompt=question"
    ):
        Dataset(str(tmp_path / "r.jsonl"))
