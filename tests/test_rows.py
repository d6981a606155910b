import gzip
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.examples import four_answers
from payoff.rows import RowError, from_rows, read_rows, to_rows, write_rows
from payoff.trajectories import StopReason, Trajectories, concatenate, fresh_ids

ROWS = [{"prompt": "1+1=", "response": "2", "reference": "2"}, {"prompt": "naïve ∑\n", "response": "", "reference": None, "k": [1]}]


def put(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def error_of(run):
    with pytest.raises(RowError) as caught:
        run()
    message = str(caught.value)
    assert "\n" not in message
    return message


def recorded() -> Trajectories:
    """Two rollouts: tool text in the middle of one, a branch of the first in the other; log-probabilities unknown off the mask."""
    nan = float("nan")
    return Trajectories(
        mask=torch.tensor([[True, False, True], [True, True, False]]),
        length=torch.tensor([3, 2]),
        group=torch.tensor([40, 40]),
        step=torch.tensor([[0, 1, 2], [0, 0, -1]], dtype=torch.int32),
        stop=torch.tensor([StopReason.finished, StopReason.truncated]),
        actions=torch.tensor([[5, 6, 7], [5, 9, 0]]),
        logp={
            "old": torch.tensor([[-0.1, nan, -2.7], [-0.1, -1e-7, 0.0]]),
            "ref": torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, 0]]),
        },
        id=torch.tensor([900, 901]),
        parent=torch.tensor([-1, 900]),
        fork=torch.tensor([0, 1]),
        items=[{"prompt": "p", "id": "gsm-1", "tokens": ["a", "b", "c"]}, {"prompt": "p", "id": "gsm-2", "tokens": ["a", "d"]}],
        extras={
            "values": torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.0]]),
            "seen": torch.tensor([[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 1], [0, 0]]]),
            "agent": torch.tensor([1, 2]),
        },
    )


def same(a: Trajectories, b: Trajectories) -> bool:
    alike = lambda x, y: x.dtype == y.dtype and torch.equal(x.nan_to_num(-9), y.nan_to_num(-9))
    names = ("mask", "length", "group", "step", "stop", "actions", "id", "parent", "fork")
    pairs = [(getattr(a, n), getattr(b, n)) for n in names if getattr(a, n) is not None or getattr(b, n) is not None]
    for one, two in ((a.logp, b.logp), (a.extras, b.extras)):
        assert list(one) == list(two)
        pairs += [(one[name], two[name]) for name in one]
    return all(alike(x, y) for x, y in pairs) and list(a.items) == list(b.items)


# --- trajectories


def test_text_is_one_action_and_listed_steps_are_one_action_each():
    traj = from_rows([{"response": "a", "steps": ["x", "y", "z"]}, {"response": "b"}, {"response": "c", "steps": []}])
    assert traj.length.tolist() == [3, 1, 1]
    assert traj.step.tolist() == [[0, 1, 2], [0, -1, -1], [0, -1, -1]]
    assert traj.mask.tolist() == [[True] * 3, [True, False, False], [True, False, False]]
    assert traj.check() is traj
    assert traj.items[0]["steps"] == ["x", "y", "z"]


def test_a_field_named_steps_that_is_no_list_is_just_a_field():
    assert from_rows([{"response": "a", "steps": 7}]).length.tolist() == [1]


def test_rows_with_the_same_prompt_share_a_group_unless_they_name_their_own():
    group = from_rows(
        [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}, {"prompt": "a", "group": "g"}, {"prompt": "b", "group": "g"}]
    ).group
    assert group[0] == group[2]
    assert group[3] == group[4]
    assert len(group.unique()) == 3


def test_rows_without_prompt_and_group_are_each_alone():
    assert len(from_rows([{"response": "a"}, {"response": "a"}]).group.unique()) == 2


def test_conversations_are_prompts_like_any_other():
    said = lambda text: [{"role": "user", "content": text}]
    group = from_rows([{"prompt": said("a")}, {"prompt": said("b")}, {"prompt": said("a")}]).group
    assert group[0] == group[2] != group[1]


def test_whole_number_groups_are_kept_and_never_given_again():
    group = from_rows([{"group": 10**9}, {"group": "x"}]).group
    assert group[0] == 10**9
    assert group[1] != 10**9
    assert int(fresh_ids(1)[0]) > 10**9


def test_recorded_trajectories_come_back_exactly():
    traj = recorded()
    rows = json.loads(json.dumps(to_rows(traj)))
    assert rows[0]["tokens"] == [5, 6, 7]
    assert rows[1]["stop"] == "truncated"
    assert same(from_rows(rows), traj)


def test_padding_does_not_reach_the_rows():
    traj = recorded()
    dirty = traj.replace(
        actions=torch.where(traj.exists, traj.actions, 77),
        logp={name: torch.where(traj.exists, x, torch.nan) for name, x in traj.logp.items()},
        extras={"values": torch.where(torch.arange(4) <= traj.length[:, None], traj.extras["values"], torch.nan)},
    )
    assert to_rows(dirty) == to_rows(traj)


def test_continuous_actions_come_back_exactly():
    traj = four_answers()
    traj = traj.replace(actions=torch.where(traj.exists[..., None], torch.randn(4, 3, 2), 0), items=())
    rows = to_rows(traj)
    assert "tokens" not in rows[0]
    assert same(from_rows(rows), traj.replace(items=[{}] * 4))


def test_text_rows_come_back_as_they_were():
    rows = [{"prompt": "p", "response": "ab", "steps": ["a", "b"], "id": "x"}, {"prompt": "q", "response": "c", "group": 3}]
    assert to_rows(from_rows(rows)) == rows


def test_text_with_branches_or_fewer_steps_than_actions_is_written_as_recorded():
    traj = from_rows([{"response": "ab", "steps": ["a", "b"]}])
    traj = traj.replace(items=[{"response": "ab"}])
    assert same(from_rows(to_rows(traj)), traj)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_rows_and_trajectories_are_inverse(data):
    n = data.draw(st.integers(1, 4))
    number = st.integers(0, 9)
    rows = []
    for i in range(n):
        t = data.draw(st.integers(1, 4))
        each = lambda strategy, t=t: data.draw(st.lists(strategy, min_size=t, max_size=t))
        row = {"prompt": data.draw(st.text(max_size=3)), "id": i, "group": data.draw(number), "tokens": each(number)}
        row |= {"mask": each(st.integers(0, 1)), "step": each(number), "logp": {"old": each(st.floats(-9, 0, width=32))}}
        row |= {"stop": data.draw(st.sampled_from(["finished", "illegal"]))}
        rows.append(row)
    traj = from_rows(rows)
    assert same(from_rows(to_rows(traj)), traj)
    assert [r["logp"] for r in to_rows(traj)] == [r["logp"] for r in rows]


def test_recorded_rows_need_only_tokens():
    traj = from_rows([{"tokens": [3, 1]}, {"tokens": [2], "logp": None}])
    assert traj.actions.tolist() == [[3, 1], [2, 0]]
    assert traj.step.tolist() == [[0, 0], [0, -1]]
    assert traj.stop.tolist() == [0, 0]
    assert traj.id[0] != traj.id[1]


def test_a_plain_list_of_log_probabilities_means_those_of_who_acted():
    assert list(from_rows([{"tokens": [3, 1], "logp": [-1.0, -2.0]}]).logp) == ["old"]


def test_text_and_recorded_rows_stand_in_one_batch():
    traj = from_rows([{"tokens": [3, 1]}, {"response": "x"}])
    assert traj.actions.tolist() == [[3, 1], [-1, 0]]
    assert same(concatenate([traj]), traj)


def test_no_rows_are_no_trajectories():
    assert len(from_rows([])) == 0


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"tokens": []}, "row 8: tokens is empty"),
        ({"tokens": ["a", "b"]}, "row 8: tokens must be numbers"),
        ({"tokens": [1.5]}, "row 8: tokens must be a list of token ids"),
        ({"tokens": 5}, "row 8: tokens must be a list of token ids"),
        ({"tokens": "12"}, "row 8: tokens must be numbers"),
        ({"tokens": [1, 2], "mask": [1]}, "row 8: mask must hold 2 numbers"),
        ({"tokens": [1, 2], "logp": [-1.0]}, "row 8: logp must hold 2 numbers"),
        ({"tokens": [1, 2], "logp": [-1.0, None]}, "row 8: a log-probability 'old' of an action is missing or positive"),
        ({"tokens": [1, 2], "logp": [-1.0, 0.5]}, "row 8: a log-probability 'old' of an action is missing or positive"),
        ({"tokens": [1, 2], "step": [0, -1]}, "row 8: step must be whole numbers from 0"),
        ({"tokens": [1], "id": "gsm-1"}, "row 8: id of a recorded trajectory must be a whole number, is 'gsm-1'"),
        ({"tokens": [1], "id": 2**63}, "row 8: id of a recorded trajectory must be a whole number"),
        ({"tokens": [1], "stop": "length"}, "row 8: stop must be one of finished, truncated, illegal, error, is 'length'"),
        ({"actions": [[1.0], [2.0, 3.0]]}, "row 8: actions must be numbers in lists of equal length"),
    ],
)
def test_rows_that_contradict_themselves_are_named(row, says):
    assert says in error_of(lambda: from_rows([row], source="file.jsonl", first=8))


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ({"logp": {"old": [-1.0]}}, {"logp": {"ref": [-1.0]}}, "logp ['old', 'ref'] is in some rows and missing in others"),
        ({"extras": {"v": [1.0]}}, {"extras": {"v": [1.0, 2.0]}}, "extras 'v' must be one number, or as many as actions"),
        ({"actions": [[1.0]]}, {"actions": [[1.0, 2.0]]}, "have shape [2] each, others [1]"),
    ],
)
def test_rows_that_contradict_one_another_are_named(first, second, says):
    fill = lambda row: row if "actions" in row else {"tokens": [1], **row}
    assert says in error_of(lambda: from_rows([fill(first), fill(second)]))


# --- files


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson", "rows.jsonl.gz", "rows.parquet"])
def test_rows_survive_a_file(tmp_path, name):
    path = tmp_path / name
    assert write_rows(path, ROWS) == 2
    read = list(read_rows(path))
    assert [{k: v for k, v in row.items() if k != "k" or v} for row in read] == ROWS
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.csv.gz"])
def test_text_survives_a_table_of_text(tmp_path, name):
    rows = [{"prompt": 'a,"b"\tc\nd', "response": "2", "steps": ["x", "y"]}, {"prompt": "", "response": "ü", "steps": ["z"]}]
    write_rows(tmp_path / name, rows)
    assert list(read_rows(tmp_path / name)) == rows


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.parquet"])
def test_recorded_trajectories_survive_a_file_exactly(tmp_path, name):
    traj = recorded()
    write_rows(tmp_path / name, to_rows(traj))
    assert same(from_rows(list(read_rows(tmp_path / name))), traj)


def test_a_json_array_and_json_lines_both_read_as_json(tmp_path):
    assert list(read_rows(put(tmp_path / "a.json", json.dumps(ROWS, indent=1)))) == ROWS
    assert list(read_rows(put(tmp_path / "b.json", "\n".join(map(json.dumps, ROWS))))) == ROWS


def test_a_byte_order_mark_and_blank_lines_are_skipped(tmp_path):
    path = put(tmp_path / "rows.jsonl", b'\xef\xbb\xbf{"a": 1}\n\n{"a": 2}\n')
    assert list(read_rows(path)) == [{"a": 1}, {"a": 2}]


def test_rows_are_read_one_at_a_time(tmp_path):
    path = put(tmp_path / "rows.jsonl", '{"a": 1}\nbroken')
    rows = read_rows(path)
    assert next(rows) == {"a": 1}
    assert "line 2" in error_of(lambda: next(rows))


def test_a_column_may_be_called_otherwise(tmp_path):
    path = put(tmp_path / "rows.jsonl", '{"question": "q", "answer": "a"}')
    (row,) = read_rows(path, fields={"prompt": "question", "reference": "answer"}, required=["prompt"])
    assert row == {"question": "q", "answer": "a", "prompt": "q", "reference": "a"}


def test_not_a_number_is_written_as_null(tmp_path):
    write_rows(tmp_path / "r.jsonl", [{"x": float("nan"), "y": {"z": [float("inf"), 1.0]}, "t": torch.tensor([1, 2])}])
    assert (tmp_path / "r.jsonl").read_text() == '{"x": null, "y": {"z": [null, 1.0]}, "t": [1, 2]}\n'


def test_half_a_surrogate_pair_survives(tmp_path):
    write_rows(tmp_path / "r.jsonl", [{"x": "\ud83d"}])
    assert list(read_rows(tmp_path / "r.jsonl")) == [{"x": "\ud83d"}]


def test_parquet_joins_chunks_of_different_columns_and_types(tmp_path, monkeypatch):
    monkeypatch.setattr("payoff.row_files._CHUNK", 1)
    rows = [
        {"reward": {"a": None}, "reason": {"a": "late"}},
        {"reward": {"a": 1.5}, "reason": {}, "more": "x"},
        {"reward": {"a": 2}},
    ]
    write_rows(tmp_path / "r.parquet", rows)
    assert [row["reward"]["a"] for row in read_rows(tmp_path / "r.parquet")] == [None, 1.5, 2.0]


def test_data_sets_on_disk_are_read_by_split(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS[:1])
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data, "test": datasets.Dataset.from_list(ROWS[:1] * 2)}).save_to_disk(str(tmp_path / "two"))
    assert list(read_rows(tmp_path / "one")) == ROWS[:1]
    assert len(list(read_rows(tmp_path / "two"))) == 1
    assert len(list(read_rows(tmp_path / "two", split="test"))) == 2
    assert error_of(lambda: list(read_rows(tmp_path / "two", split="dev"))).endswith("has no split 'dev'; it has: train, test")


def test_a_data_set_that_the_hub_does_not_give_is_named(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    message = error_of(lambda: list(read_rows("nobody/nothing-at-all")))
    assert message.startswith("nobody/nothing-at-all is no file here, and as a data set of the hub it cannot be loaded")


# --- bad input: file name -> content -> what the one line says

BAD = {
    "malformed line": (
        "r.jsonl",
        '{"a": 1}\n{"a": 1',
        "r.jsonl line 2: is not JSON: Expecting ',' delimiter at column 8, near '{\"a\": 1'",
    ),
    "two objects on a line": ("r.jsonl", '{"a": 1} {"a": 2}', "r.jsonl line 1: is not JSON: Extra data at column 10"),
    "a list": (
        "r.jsonl",
        "[1, 2]",
        "r.jsonl line 1: must be an object {...}, is a list; one JSON array of rows goes into a .json file",
    ),
    "text": ("r.jsonl", '{"a": 1}\n"b"', "r.jsonl line 2: must be an object {...}, is text"),
    "null": ("r.jsonl", "null", "r.jsonl line 1: must be an object {...}, is null"),
    "nothing": ("r.jsonl", "", "r.jsonl: holds no rows"),
    "blank lines": ("r.jsonl", "\n \n", "r.jsonl: holds no rows"),
    "latin 1": ("r.jsonl", '{"a": 1}\n{"a": "é"}'.encode("latin-1"), "r.jsonl line 2: is not UTF-8 (byte 0xe9 at column 8)"),
    "nested deeply": ("r.jsonl", "[" * 100_000, "r.jsonl line 1: is nested too deeply"),
    "no gzip": ("r.jsonl.gz", '{"a": 1}', "r.jsonl.gz: is damaged after line 0: Not a gzipped file"),
    "half a gzip": ("r.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 9)[:-9], "r.jsonl.gz: is damaged after line"),
    "an array with a number": ("r.json", "[{}, 3]", "r.json item 2: must be an object {...}, is a number"),
    "a broken array": ("r.json", '[{"a": 1},\n{"a" 2}]', "r.json: is not JSON: Expecting ':' delimiter at line 2 column 6"),
    "cells missing": ("r.csv", "a,b\n1,2\n3\n", "r.csv line 3: has 1 cells, the header has 2"),
    "cells too many": ("r.csv", "a,b\n1,2,3\n", "r.csv line 2: has 3 cells, the header has 2"),
    "a column twice": ("r.csv", "a,a\n1,2\n", "r.csv line 1: the header names a column twice: 'a'"),
    "a column by nothing": ("r.csv", "a,\n1,2\n", "r.csv line 1: the header names a column by nothing"),
    "only a header": ("r.csv", "a,b\n", "r.csv: holds no rows"),
    "an open quote": ("r.csv", 'a,b\n1,"2\n', "r.csv line 2: is not CSV: unexpected end of data"),
    "no parquet": ("r.parquet", "hello", "r.parquet: is not Parquet: "),
    "an unknown suffix": ("r.xlsx", "hello", "r.xlsx: the suffix names no format known here; allowed are .jsonl"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line_that_names_the_place(case, tmp_path):
    name, content, says = BAD[case]
    path = put(tmp_path / name, content)
    assert error_of(lambda: list(read_rows(path))).removeprefix(f"{tmp_path}/").startswith(says)


def test_a_missing_column_suggests_what_is_there(tmp_path):
    path = put(tmp_path / "r.jsonl", '{"prompt": 1, "answer": 2}\n')
    message = lambda **options: error_of(lambda: list(read_rows(path, **options))).removeprefix(f"{tmp_path}/")
    assert (
        message(required=["reference"])
        == "r.jsonl line 1: has no field 'reference'; it has: prompt, answer; try --map reference=answer"
    )
    assert message(required=["promt"]).endswith("; did you mean 'prompt'?")
    assert message(fields={"reference": "anser"}).startswith("r.jsonl line 1: has no field 'anser' (asked for as 'reference')")


def test_a_file_that_is_not_there_is_found_by_a_near_name(tmp_path):
    put(tmp_path / "rollouts.jsonl", "{}")
    assert error_of(lambda: read_rows(tmp_path / "rollout.jsonl")).endswith(
        f"no such file; did you mean {tmp_path}/rollouts.jsonl?"
    )
    assert error_of(lambda: read_rows(tmp_path / "gone" / "r.jsonl")).endswith(f"no such file; there is no folder {tmp_path}/gone")


def test_a_folder_is_no_file(tmp_path):
    assert "is a folder, and not one saved by `datasets`" in error_of(lambda: read_rows(tmp_path))
    (tmp_path / "out.jsonl").mkdir()
    assert "is a folder, and a file is to be written" in error_of(lambda: write_rows(tmp_path / "out.jsonl", ROWS))


def test_nothing_is_overwritten_unasked(tmp_path):
    path = put(tmp_path / "r.jsonl", "precious")
    assert "only overwritten when asked to" in error_of(lambda: write_rows(path, ROWS))
    assert path.read_text() == "precious"
    write_rows(path, ROWS, overwrite=True)
    assert list(read_rows(path)) == ROWS


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("r.xlsx", "names no format to write"),
        ("r.json", "names no format"),
        ("r", "names no format"),
        ("gone/r.csv", "there is no folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(tmp_path, name, says):
    assert says in error_of(lambda: write_rows(tmp_path / name, ROWS))


def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path):
    path = put(tmp_path / "r.jsonl", "precious")

    def rows():
        yield ROWS[0]
        raise KeyError("mid-way")

    with pytest.raises(KeyError):
        write_rows(path, rows(), overwrite=True)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["r.jsonl"]


def test_what_no_file_can_hold_is_named_with_its_row(tmp_path):
    assert "r.jsonl row 2: cannot be written as JSON: a object has no JSON" in error_of(
        lambda: write_rows(tmp_path / "r.jsonl", [{}, {"x": object()}])
    )
    assert "Parquet cannot hold field 'x'" in error_of(lambda: write_rows(tmp_path / "r.parquet", [{"x": 1}, {"x": "a"}]))


def test_a_full_disk_is_one_line_and_overwrites_nothing(tmp_path):
    """The file-size limit of a child process makes write() fail in the middle of the file, as a full disk does."""
    path = put(tmp_path / "r.jsonl", "precious")
    script = f"""
        import resource
        from payoff.row_files import RowError, write_rows
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            write_rows({str(path)!r}, ({{"x": "y" * 1000}} for _ in range(100)), overwrite=True)
        except RowError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout == f"{path}: cannot be written: file too large; nothing was overwritten\n"
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["r.jsonl"]


@pytest.fixture
def as_nobody(tmp_path):
    if os.geteuid() != 0:
        yield  # an ordinary user's own permission bits already bind
        return
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        if parent.stat().st_uid == 0 and "pytest" in parent.name:
            parent.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_no_permission_is_one_line(tmp_path, request):
    path = put(tmp_path / "r.jsonl", "{}")
    path.chmod(0)
    request.addfinalizer(lambda: tmp_path.chmod(0o755))
    for folder in tmp_path.parents[:2]:  # which a test worker makes for itself alone
        folder.chmod(0o755)
    request.getfixturevalue("as_nobody")
    assert error_of(lambda: list(read_rows(path))) == f"{path}: cannot be read: permission denied"
    if os.geteuid() != 65534:
        tmp_path.chmod(0o555)
    assert (
        error_of(lambda: write_rows(tmp_path / "new.jsonl", ROWS))
        == f"{tmp_path}/new.jsonl: no permission to write into {tmp_path}"
    )


def test_errors_name_rows_of_a_file_that_contradict_themselves(tmp_path):
    path = put(tmp_path / "r.jsonl", '{"tokens": [1]}\n{"tokens": "x"}\n')
    assert error_of(lambda: from_rows(list(read_rows(path)), source="r.jsonl")).startswith("r.jsonl row 2: tokens must be numbers")
