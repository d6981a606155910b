"""Rewards and terms of a run file, where another trainer trains."""

import pytest

from payoff.config import ConfigError
from payoff.integrations.hosted import REWARD, HostedRun, RowReward, pairs_of, row_reward, text_row
from payoff.rewards import RewardError
from payoff.rows import from_rows

GRADERS = """
def right(response, reference):
    if response == "broken":
        raise RuntimeError("the parser broke")
    return float(response == reference)

def two(response):
    return {"long": float(len(response)), "short": 1.0}

def by_step(steps):
    return [float(len(step)) for step in steps]

class Best:
    sees = "group"

    def __call__(self, traj):
        raise AssertionError("nobody has the group here")
"""


@pytest.fixture
def run_file(tmp_path):
    (tmp_path / "graders.py").write_text(GRADERS)

    def write(text, name="run.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


RUN = """
reward: {correct: graders.py:right, length: length}
shaping: [{on: length, do: [{name: clamp, low: 0, high: 2}]}]
terms: {policy: {paths: {correct: [total, rloo], length: [total, rloo]}, mix: {correct: 1, length: -0.5}, loss: ppo-clip}}
"""


def test_one_number_is_the_terms_mix_of_the_shaped_channels(run_file):
    reward = RowReward(run_file(RUN))
    right, wrong, steps = reward(
        [{"response": "4", "reference": "4"}, {"response": "5", "reference": "4"}, {"steps": ["a", "b", "c"], "reference": "abc"}]
    )
    assert (right.reward, right.valid, right.channels) == (0.5, True, {"correct": (1.0, True), "length": (1.0, True)})
    assert wrong.reward == -0.5
    assert steps.channels["length"] == (2.0, True)  # three actions, clamped


def test_a_missing_verdict_is_told_and_never_a_number(run_file):
    (graded,) = RowReward(run_file(RUN))([{"response": "broken", "reference": "4"}])
    assert (graded.reward, graded.valid) == (0.0, False)
    assert graded.channels == {"correct": (0.0, False), "length": (1.0, True)}
    assert "the parser broke" in graded.reason


def test_the_channels_do_not_depend_on_the_row(run_file):
    reward = RowReward(run_file(RUN))
    rows = [{"response": "broken", "reference": "4"}, {"response": "4", "reference": "4"}]
    assert len({tuple(reward([row])[0].channels) for row in rows}) == 1


def test_a_grader_of_several_channels_needs_their_weights(run_file):
    file = run_file("reward: {q: graders.py:two}")
    with pytest.raises(RewardError, match="gives several channels, q/long, q/short: say the weight of each"):
        RowReward(file)([{"response": "abc"}])
    (graded,) = RowReward(file, weights={"q/long": 1, "q/short": 10})([{"response": "abc"}])
    assert graded.reward == 13.0
    assert list(graded.channels) == ["q/long", "q/short"]


def test_what_is_paid_before_the_end_is_kept_where_it_is_paid(run_file):
    reward = RowReward(run_file("reward: {process: graders.py:by_step}"))
    two, one = reward([{"steps": ["ab", "c"]}, {"steps": ["abc"]}])
    assert two.payments == {"process": [(0, 2.0), (1, 1.0)]}
    assert (two.reward, one.reward) == (3.0, 3.0)


def test_a_reward_that_sees_its_group_is_left_to_whoever_has_the_group(run_file):
    file = run_file(
        """
reward: {correct: graders.py:right, best: graders.py:Best}
terms: {policy: {paths: {correct: [total, rloo], best: [total]}, mix: {correct: 1, best: 2}, loss: ppo-clip}}
"""
    )
    reward = RowReward(file)
    assert (set(reward.signals), set(reward.left_out), reward.weights) == ({"correct"}, {"best"}, {"correct": 1.0})
    assert reward([{"response": "4", "reference": "4"}])[0].reward == 1.0


def test_a_reward_by_name_that_sees_a_group_is_refused(tmp_path, monkeypatch):
    from payoff.grading import signal
    from payoff.integrations import hosted

    monkeypatch.setattr(
        hosted, "resolve_reward", lambda spec: signal(lambda response: [0.0] * len(response), name="rank", sees="group")
    )
    with pytest.raises(RewardError, match="sees a whole group, and this trainer hands over single rows"):
        RowReward("rank")


def test_an_arm_of_a_run_file_is_one_of_its_designs(run_file):
    file = run_file(
        """
task: {name: chain, terms: 6}
policy: {name: transformer, checkpoint: chain}
reward: {correct: graders.py:right}
arms:
  answer: {terms: {policy: {paths: {correct: [total, rloo]}, loss: dual-clip}}}
  other: {reward: {length: length}, terms: {policy: {paths: {length: [total, rloo]}, loss: ppo-clip}}}
"""
    )
    assert RowReward(f"{file}#answer").weights == {"correct": 1.0}
    assert RowReward(f"{file}#other").weights == {"length": 1.0}
    assert HostedRun(f"{file}#answer").loss().__name__ == "dual_clip"
    with pytest.raises(ConfigError, match="no arm 'els'; there are answer, other"):
        HostedRun(f"{file}#els")


def test_the_target_of_a_term_weighs_its_channels(run_file):
    run = HostedRun(run_file(RUN))
    traj = from_rows([{"prompt": "p", "response": r, "reference": "4"} for r in ("4", "5")])
    rewards = {name: channel for signal in run.signals.values() for name, channel in signal(traj).items()}
    rewards = {"correct": rewards["correct"], "length": rewards["length"]}
    for shaping in run.shapings:
        rewards = shaping(rewards, traj)
    assert run.target()(rewards, traj).value.flatten().tolist() == [1.0, -1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rewards: {}", "unknown key 'rewards'; did you mean reward?"),
        ("[1]", "must be a mapping of sections, is a list"),
        ("reward: {a: no-such-reward}", "reward.a: unknown signal or grader"),
        ("reward: {a: length}\nterms: {t: {paths: {a: [rloo2]}, loss: ppo-clip}}", "terms.t.paths.a: unknown credit"),
        ("reward: {a: length}\nterms: {t: {paths: {a: [total]}, loss: ppo-clap}}", "terms.t.loss: unknown loss"),
        ("reward: {a: length}\nterms: {t: {paths: 3, loss: ppo-clip}}", "terms.t.paths"),
    ],
)
def test_mistakes_in_the_file_are_lines_that_say_where(run_file, text, message):
    def everything():
        run = HostedRun(run_file(text))
        return run.signals, run.target(), run.loss()

    with pytest.raises(ConfigError, match=message.replace(".", r"\.").replace("?", r"\?")):
        everything()


def test_of_several_terms_a_trainer_must_be_told_which(run_file):
    run = HostedRun(
        run_file(
            "reward: {a: length}\nterms: {s: {paths: {a: [total]}, loss: ppo-clip}, t: {paths: {a: [total]}, loss: dual-clip}}"
        )
    )
    with pytest.raises(ConfigError, match="there are s, t: say which"):
        run.target()
    assert run.loss("t").__name__ == "dual_clip"
    with pytest.raises(ConfigError, match="no term 'u'; there are s, t"):
        run.target("u")


def test_the_environment_names_the_reward_where_nothing_else_does(monkeypatch):
    row_reward.cache_clear()
    monkeypatch.delenv(REWARD, raising=False)
    with pytest.raises(RewardError, match="in the environment as PAYOFF_REWARD"):
        row_reward()
    monkeypatch.setenv(REWARD, "answer-match")
    assert row_reward().name == "answer-match"
    row_reward.cache_clear()


def test_a_row_from_another_trainer_is_text_whatever_its_fields_are_called():
    row = text_row("4", "4", {"tokens": [1], "steps": ["a"], "group": 3, "id": 7, "response": "old"})
    assert row == {"id": 7, "response": "4", "reference": "4", "steps": ["4"]}
    assert pairs_of({"b": 1, "a": 2}) == (("a", 2.0), ("b", 1.0))


def test_steps_of_a_text_row_are_those_of_what_was_written():
    steps = lambda fields, **how: text_row("look; then 7", "7", fields, **how)["steps"]
    assert steps({}) == ["look; then 7"]
    assert steps({}, separator="; ") == ["look; ", "then 7"]
    assert steps({"steps": ["look", "7"]}) == ["look", "7"]  # a tool's text may stand between
    for other in (["7", "look"], ["a solution", "of the data set"], [], [""], "look", [7], None):
        assert steps({"steps": other}) == ["look; then 7"], other
