"""Whatever the installed verl and TRL know by name stands in our pages, with what gives it here."""

import inspect
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def lacking(page: str, names, under: str = "## The same in TRL and verl") -> list[str]:
    """Those of the names that the page does not show as code under this heading."""
    text = (DOCS / page).read_text(encoding="utf-8").split(under + "\n")[1].split("\n## ")[0]
    shown = {word for code in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"[A-Za-z0-9_-]+", code)}
    return sorted(name for name in names if name not in shown)


@pytest.fixture(scope="module")
def verl():
    return pytest.importorskip("verl.trainer.ppo.core_algos")


def foreign(registry) -> list[str]:
    return [name for name in (str(getattr(key, "value", key)) for key in registry) if not name.startswith("payoff/")]


def compared(source: str, variable: str) -> set[str]:
    """The words that a program compares a variable with."""
    tests = re.findall(rf"\b{variable} (?:==|in) (\"[^\"]*\"|\[[^\]]*\]|\([^)]*\))", source)
    return {word for test in tests for word in re.findall(r"\"([^\"]+)\"", test)}


def trl(trainer: str) -> str:
    """The source of a trainer, read without importing it."""
    found = find_spec("trl")
    if found is None or not found.submodule_search_locations:
        pytest.skip("TRL is not installed")
    return (Path(found.submodule_search_locations[0]) / "trainer" / f"{trainer}_trainer.py").read_text(encoding="utf-8")


def test_every_advantage_estimator_of_verl_is_on_the_page(verl):
    names = foreign(verl.ADV_ESTIMATOR_REGISTRY)
    assert len(names) >= 14
    assert lacking("estimators.md", names) == []


def test_every_policy_loss_of_verl_is_on_the_page(verl):
    names = foreign(verl.POLICY_LOSS_REGISTRY)
    assert len(names) >= 12
    assert lacking("losses.md", names) == []


def test_every_aggregation_and_divergence_of_verl_is_on_the_page(verl):
    aggregations = compared(inspect.getsource(verl.agg_loss), "loss_agg_mode")
    divergences = compared(inspect.getsource(verl.kl_penalty_forward), "kl_penalty") - {"full"}  # not implemented there
    assert len(aggregations) >= 5
    assert len(divergences) >= 7
    assert lacking("losses.md", aggregations | divergences) == []


def test_every_loss_type_of_trl_is_on_the_page():
    names = compared(trl("grpo"), "loss_type")
    assert len(names) >= 8
    assert lacking("losses.md", names | compared(trl("grpo"), "importance_sampling_level")) == []


def test_every_preference_loss_of_trl_is_on_its_page_or_named_as_missing():
    names = compared(trl("dpo"), "loss_type") | compared(trl("kto"), "loss_type")
    assert len(names) >= 16
    beyond = lacking("preferences.md", names, under="log-probability per action:\n")
    assert lacking("losses.md", beyond) == []
    assert beyond == ["aot_unpaired", "sft"]


def test_every_way_of_scaling_rewards_of_trl_is_on_the_page():
    names = compared(trl("grpo"), "scale_rewards") | compared(trl("grpo"), "multi_objective_aggregation")
    assert names == {"group", "none", "batch", "sum_then_normalize", "normalize_then_sum"}
    assert lacking("estimators.md", names) == []
