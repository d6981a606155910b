"""Graders found by name, and the one line that says why they are not."""

import pickle
import sys
from pathlib import Path

import pytest

from payoff.grading import (
    CallableImportError,
    CallableNotFoundError,
    load_callable,
)

# --- graders by name


def test_a_function_is_found_by_module_and_by_file(tmp_path, monkeypatch):
    assert load_callable("math:sqrt")(4) == 2
    assert load_callable("pathlib:Path.joinpath") is Path.joinpath
    (tmp_path / "rewards_of_mine.py").write_text("import neighbour\ndef reward(response): return neighbour.weight\n")
    (tmp_path / "neighbour.py").write_text("weight = 5\n")
    assert load_callable(f"{tmp_path}/rewards_of_mine.py:reward")(1) == 5
    assert load_callable(f"{tmp_path}/rewards_of_mine.py")(1) == 5  # the only public function
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "rewards_of_mine", raising=False)
    assert load_callable("rewards_of_mine.py:reward") is load_callable(f"{tmp_path}/rewards_of_mine.py:reward")
    assert load_callable("rewards_of_mine:reward")(1) == 5


def test_a_function_loaded_from_a_file_pickles_and_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "changing.py"
    path.write_text("def f(response): return 1\n")
    old = load_callable(str(path))
    assert pickle.loads(pickle.dumps(old)) is old
    path.write_text("def f(response): return 22\n")
    assert (load_callable(str(path))("x"), old("x")) == (22, 1)


def broken(tmp_path, text):
    path = tmp_path / "broken.py"
    path.write_text(text)
    return f"{path}:f"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import os\n\nx = 1 / 0\n", "broken.py:3: ZeroDivisionError: division by zero"),
        ("def f(:\n", "broken.py:1: SyntaxError: invalid syntax"),
        ("def g():\n    return undefined\n\ng()\n", "broken.py:2: NameError: name 'undefined' is not defined"),
        ("import no_such_package_at_all\n", "broken.py:1: ModuleNotFoundError: No module named 'no_such_package_at_all'"),
        ("import sys\nsys.exit(3)\n", "broken.py:2: SystemExit: 3"),
        ("raise ValueError('two\\nlines')\n", r"broken.py:1: ValueError: two\nlines"),
        ("x = '\0'\n", "broken.py: SyntaxError: source code string cannot contain null bytes"),
    ],
)
def test_a_file_that_raises_is_named_with_line_and_exception(tmp_path, text, says):
    with pytest.raises(CallableImportError) as caught:
        load_callable(broken(tmp_path, text))
    message = str(caught.value)
    assert message == f"{tmp_path}/{says}"
    assert isinstance(caught.value, ImportError)
    assert not [name for name in sys.modules if name.startswith("payoff_file_broken_")]


@pytest.mark.parametrize(
    ("text", "spec", "says"),
    [
        ("def correct(): ...\n", "{}:corect", "{}: has no 'corect'; did you mean 'correct'?"),
        ("def correct(): ...\n", "{}:zzz", "{}: has no 'zzz'"),
        ("table = {{}}\n".replace("{{}}", "{}"), "{}:table", "{}: 'table' is a dict, which cannot be called"),
        ("def one(): ...\ndef two(): ...\n", "{}", "{}: defines several functions (one, two): say which, as in {}:one"),
        ("from math import sqrt\ndef _hidden(): ...\n", "{}", "{}: defines no function"),
    ],
)
def test_a_function_that_a_file_lacks_is_named_with_what_there_is(tmp_path, text, spec, says):
    path = tmp_path / "rewards.py"
    path.write_text(text)
    with pytest.raises(CallableNotFoundError) as caught:
        load_callable(spec.replace("{}", str(path)))
    assert str(caught.value) == says.replace("{}", str(path))
    assert isinstance(caught.value, LookupError)


def test_files_and_modules_that_do_not_exist_are_named(tmp_path):
    (tmp_path / "rewards.py").write_text("")
    (tmp_path / "folder.py").mkdir()
    for spec, says in [
        (f"{tmp_path}/reward.py:f", "reward.py: no such file; did you mean 'rewards.py'?"),
        (f"{tmp_path}/nowhere/at/all.py", "nowhere/at/all.py: no such file"),
        (f"{tmp_path}/folder.py:f", "folder.py: not a file"),
        ("no_such_package_at_all.graders:f", "no_such_package_at_all.graders: there is no module 'no_such_package_at_all' here"),
        ("payoff.no_such_module:f", "payoff.no_such_module: there is no module 'payoff.no_such_module' here"),
        ("math:sqroot", "math: has no 'sqroot'; did you mean 'sqrt'?"),
        ("just_a_word", "'just_a_word' names no function: write package.module:function or path/to/file.py:function"),
        ("not-a-module:f", "'not-a-module:f' names no function"),
        ("", "'' names no function"),
    ]:
        with pytest.raises(CallableNotFoundError) as caught:
            load_callable(spec)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_module_that_raises_is_named_with_the_exception(tmp_path, monkeypatch):
    (tmp_path / "a_module_that_raises.py").write_text("import another_missing_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CallableImportError, match="a_module_that_raises: ModuleNotFoundError: No module named 'another_missing"):
        load_callable("a_module_that_raises:f")
