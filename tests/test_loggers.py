"""Metrics reach the dashboards people have, and a missing one is named."""

import sys
import types

import pytest

from payoff._extras import MissingExtraError
from payoff.loggers import open_logger


def test_tensorboard_gets_every_known_number_at_its_update(tmp_path):
    logger = open_logger("tensorboard", tmp_path, "arm-seed-0")
    for update in range(3):
        logger.log({"update": update, "truth": None if update == 1 else 0.5 * update, "reward": 1.0}, update)
    logger.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("truth")] == [(0, 0.0), (2, 1.0)]
    assert [e.step for e in events.Scalars("reward")] == [0, 1, 2]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_dashboards_are_opened_fed_and_closed(tmp_path, monkeypatch, name):
    calls = []
    fake = types.ModuleType(name)
    fake.init = lambda **options: calls.append(("init", options))
    fake.log = lambda metrics, step: calls.append(("log", metrics, step))
    fake.finish = lambda: calls.append(("finish",))
    monkeypatch.setitem(sys.modules, name, fake)
    logger = open_logger(name, tmp_path, "arm-seed-0")
    logger.log({"truth": None, "reward": 2.0}, 7)
    logger.close()
    assert calls[0][0] == "init"
    assert calls[0][1]["name"] == "arm-seed-0"
    assert calls[1:] == [("log", {"reward": 2.0}, 7), ("finish",)]


def test_a_dashboard_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises((MissingExtraError, ImportError), match="trackio"):
        open_logger("trackio", tmp_path, "x")
