"""Alarms: their rate of false alarms by simulation, what raises each one, and the same alarms live, resumed and afterwards."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from payoff.audit.alarm_conditions import FINDINGS, NAMES
from payoff.audit.alarms import Alarms, Thresholds, watch, watching
from payoff.audit.trends import polynomials, stands_out
from payoff.intervals import t_quantile


def noise(sd=0.1, n=64, seed=0):
    return np.random.default_rng(seed).normal(0, sd, n)


def rows(n=64, **columns):
    """One row per update; a column is a list or a number for all."""
    given = {name: list(column) if np.ndim(column) else [column] * n for name, column in columns.items()}
    return [{"update": k, **{name: column[k] for name, column in given.items()}} for k in range(n)]


def names(history, **options):
    return {alarm.name for alarm in watch(history, **options)}


UP = np.linspace(0, 2, 64)


# --- the test


def test_polynomials_are_orthonormal_on_points_at_any_distance_and_rise():
    x = (0.0, 1.0, 2.0, 5.0, 6.0, 10.0, 11.0, 20.0, 21.0, 30.0, 44.0)
    q = polynomials(x, 6)
    np.testing.assert_allclose(q.T @ q, np.eye(6), atol=1e-12)
    assert (np.diff(q[:, 1]) > 0).all()
    assert q[0, 2] > 0 > q[4, 2]


def test_a_trend_worked_by_hand():
    # On 6 points x = 0..5: centred -2.5 -1.5 -.5 .5 1.5 2.5, squares 17.5. y = x + e with e = (1,-1,0,0,1,-1) minus nothing:
    # slope = sum (x - 2.5) y / 17.5 = (17.5 + (-2.5 + 1.5 + 1.5 - 2.5)) / 17.5 = 15.5 / 17.5; over 5 units: 4.42857.
    x = [0, 1, 2, 3, 4, 5]
    found = stands_out(x, [1, 0, 2, 3, 5, 4])
    assert found.change == pytest.approx(5 * 15.5 / 17.5)
    # Six points leave degrees 2..5 for noise: their squares sum to the residual's. Total: sum y^2 - mean part - slope part
    # = 55 - 37.5 - 15.5^2 / 17.5 = 3.771429; t = (15.5 / sqrt(17.5)) / sqrt(3.771429 / 4) = 3.81586 with 4 degrees of freedom.
    assert found.p_rise == pytest.approx(0.0094, abs=1e-4)
    assert found.p_fall == pytest.approx(1 - found.p_rise)


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_a_shift_a_scale_and_the_unit_of_time_change_no_p_and_a_mirror_exchanges_them(degree):
    x, y = np.arange(30.0), noise(1.0, 30) + 0.01 * np.arange(30)
    plain = stands_out(x.tolist(), y.tolist(), degree)
    other = stands_out((x * 16 + 5).tolist(), (y * 3 + (7 if degree else 0)).tolist(), degree)
    assert other.p_rise == pytest.approx(plain.p_rise)
    mirrored = stands_out(x.tolist(), (-y).tolist(), degree)
    assert (mirrored.p_rise, mirrored.p_fall) == pytest.approx((plain.p_fall, plain.p_rise))


def test_too_few_points_say_nothing_constants_are_no_trend_and_a_lone_outlier_hides_one():
    assert stands_out(range(5), [1, 2, 3, 4, 5]) is None
    assert stands_out([3] * 9, list(range(9))) is None
    flat = stands_out(range(9), [0.1] * 9)
    assert (flat.p_rise, flat.p_fall, flat.change) == (1, 1, 0)
    assert stands_out(range(9), [0.1] * 9, degree=0).p_rise == 0
    last = [0.0] * 31 + [1.0]
    assert stands_out(range(32), last).p_rise > 0.1


def rejected(draw, level, *, n=32, times=3000, degree=1):
    """The share of series without any change that stand out at a level: where t passes the level's quantile, all series at once.

    Of the first forty the test itself is asked, which must say the same.
    """
    series = np.stack([draw(n) for _ in range(times)])
    c = series @ polynomials(tuple(float(k) for k in range(n)), degree + 9)
    t = c[:, degree] / np.sqrt(np.mean(c[:, degree + 1 :] ** 2, axis=1))
    beyond = t >= t_quantile(1 - level, 8.0)
    assert [stands_out(range(n), y.tolist(), degree).p_rise <= level for y in series[:40]] == beyond[:40].tolist()
    return beyond.mean()


def correlated(generator, phi):
    def draw(n):
        x = generator.normal(size=n + 40).tolist()
        for t in range(1, n + 40):
            x[t] += phi * x[t - 1]
        return np.array(x[40:])

    return draw


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_white_noise_stands_out_exactly_as_often_as_stated(degree):
    generator = np.random.default_rng(degree)
    # 3000 trials at 5 %: 0.05 +- 3.3 * sqrt(0.05 * 0.95 / 3000) = 0.0131
    assert abs(rejected(lambda n: generator.normal(size=n), 0.05, degree=degree) - 0.05) < 0.0131


@pytest.mark.parametrize(
    ("kind", "most"),
    [("heavy tails", 0.013), ("shares of sixteen", 0.016), ("growing variance", 0.016), ("correlated 0.3", 0.023)],
)
def test_noise_of_other_kinds_stands_out_hardly_more_often(kind, most):
    generator = np.random.default_rng(1)
    draw = {
        "heavy tails": lambda n: generator.standard_t(3, n),
        "shares of sixteen": lambda n: generator.binomial(16, 0.1, n) / 16,
        "growing variance": lambda n: generator.normal(size=n) * np.linspace(0.2, 2, n),
        "correlated 0.3": correlated(generator, 0.3),
    }[kind]
    assert rejected(draw, 0.01) < most


def test_strong_correlation_inflates_short_windows_and_not_long_ones():
    # What docs/alarms.md states: about 0.034 of 0.01 at 32 updates with correlation 0.6; 0.02 at most at 256 even with 0.9.
    generator = np.random.default_rng(2)
    short = rejected(correlated(generator, 0.6), 0.01, times=6000)
    assert 0.02 < short < 0.045
    assert rejected(correlated(generator, 0.6), 0.01, n=256, times=2000) < 0.019
    assert rejected(correlated(generator, 0.9), 0.01, n=256, times=2000) < 0.034
    # A least-squares line with independent errors would take half of such series for trends (one-sided 1 %, t above 2.46).
    x, draw = np.arange(32.0) - 15.5, correlated(generator, 0.6)
    y = np.stack([draw(32) for _ in range(2000)])
    slope = (y - y.mean(1, keepdims=True)) @ x / (x @ x)
    left = y - y.mean(1, keepdims=True) - slope[:, None] * x
    naive = slope / np.sqrt((left**2).sum(1) / 30 / (x @ x)) > 2.457
    assert naive.mean() > 2.5 * short


# --- the rate of alarms


def everything(generator, n, *, rising=0.0, flat=0.9, invalid=0.06):
    """A run in which nothing changes but the reward, if it is asked to rise; flat groups and invalid verdicts around a share."""
    share = generator.binomial(16, 0.4, n) / 16
    return rows(
        n,
        reward=generator.normal(1, 0.3, n) + rising * np.arange(n),
        truth_train=share,
        checker=generator.binomial(16, 0.3, n) / 16,
        length=generator.normal(50, 5, n),
        entropy=generator.gamma(8, 0.05, n),
        zero_spread=generator.binomial(8, flat, n) / 8,
        invalid=generator.binomial(16, invalid, n) / 16,
        kl=generator.gamma(9, 0.1, n),
        **{"reward/a": generator.normal(0, 1, n), "reward/b": generator.normal(0, 1, n)},
    )


@pytest.mark.slow
def test_a_run_whose_truth_only_fluctuates_raises_each_kind_as_rarely_as_stated():
    # The worst case: the reward really rises, so the fall of truth alone decides; the other shares stand at their bounds. 40 runs
    # of 80 updates, one false alarm in 200 updates allowed: 16 of each kind at most on average.
    generator = np.random.default_rng(3)
    counts = dict.fromkeys(NAMES, 0)
    for _ in range(40):
        for alarm in watch(
            everything(generator, 80, rising=0.5), window=16, run_length=200, bound=(0.0, 1000.0), thresholds=Thresholds(fall=0.0)
        ):
            counts[alarm.name] += 1
    assert max(counts.values()) <= 16 + 3 * math.sqrt(16), counts
    assert min(counts[name] for name in FINDINGS) >= 4, counts


@pytest.mark.slow
def test_a_run_in_which_nothing_changes_is_left_alone():
    # Nothing stands at its bound, so every alarm needs two coincidences: where one false alarm of each kind in 800 updates is
    # allowed, 1 600 updates raise at most two of all kinds.
    generator = np.random.default_rng(4)
    found = [alarm for _ in range(4) for alarm in watch(everything(generator, 400, flat=0.5, invalid=0.02), run_length=800)]
    assert len(found) <= 2, found


def test_more_updates_between_false_alarms_mean_a_lower_level():
    # 8 rows between looks of the shortest window, twice as many for each next one: (1 + 1/2 + 1/4 + 1/8) p / 8 = 1 / 5000
    assert Alarms().level == pytest.approx(8 / 5000 / 1.875)
    assert Alarms(window=16, run_length=100).level == pytest.approx(4 / 100 / 1.875)


# --- what raises each


@pytest.mark.parametrize(
    ("columns", "raised"),
    [
        ({"truth": 0.9 - UP / 4}, {"reward-truth-part"}),
        ({"checker": 0.9 - UP / 4}, {"checker-part"}),
        ({"truth": 0.2 + UP / 4, "checker": 0.2 + UP / 4}, set()),
        ({"truth": 0.5 + 0 * UP}, set()),
        ({"entropy": np.exp(-3 * UP)}, {"entropy-collapse"}),
        ({"entropy": np.exp(-UP)}, set()),  # a seventh of its start is left
        ({"zero_spread": UP / 2}, {"groups-flat"}),
        ({"invalid": UP / 10}, {"invalid-rising"}),
        ({"invalid": 0.04 * UP / 2}, set()),
        ({"kl": (np.exp(2 * UP) - 1) ** 2}, {"kl-runaway"}),
        ({"kl": 10 * UP**2}, set()),  # a constant speed
        ({"reward/a": 2 * UP, "reward/b": -UP}, {"component-dominance"}),
        ({"reward/a": UP, "reward/b": UP / 2}, set()),
    ],
)
def test_each_alarm_is_raised_by_what_it_is_for(columns, raised):
    columns = {name: column * (1 + noise(0.02, seed=k)) for k, (name, column) in enumerate(columns.items())}
    assert names(rows(reward=UP + noise(0.1, seed=9), **columns)) == raised


def test_a_falling_reward_parts_with_nothing():
    assert names(rows(reward=-UP + noise(0.1), truth=0.9 - UP / 4 + noise(0.02, seed=1))) == set()


def test_length_that_the_reward_follows_from_batch_to_batch_explains_its_rise_and_other_length_does_not():
    shaken = 40 + 10 * UP + noise(4, seed=1)
    assert names(rows(reward=0.1 * shaken + noise(0.05), length=shaken)) == {"length-drift"}
    assert names(rows(reward=UP + noise(0.3), length=shaken)) == set()  # both rise; from batch to batch they do not agree
    (alarm,) = watch(rows(reward=0.1 * shaken + noise(0.05), length=shaken))
    assert alarm.evidence["slope"] == pytest.approx(0.1, rel=0.1)
    assert alarm.evidence["share"] == pytest.approx(1, abs=0.15)


def test_shorter_answers_explain_as_well():
    shaken = 40 - 10 * UP + noise(4, seed=1)
    assert names(rows(reward=-0.1 * shaken + noise(0.05), length=shaken)) == {"length-drift"}


def test_a_reward_at_its_bound_is_saturated_and_without_a_bound_nobody_knows():
    near = 1 - np.abs(noise(0.005))
    assert names(rows(reward=near), bound=(0.0, 1.0)) == {"saturation"}
    assert names(rows(reward=1.0), bound=(0.0, 1.0)) == {"saturation"}
    assert names(rows(reward=near)) == set()
    assert names(rows(reward=near - 0.1), bound=(0.0, 1.0)) == set()
    assert "saturation" in Alarms().unwatched()


def test_weights_decide_which_channel_makes_the_rise():
    channels = {"reward/a": 2 * UP + noise(), "reward/b": -UP + noise(seed=1), "reward/c": UP + noise(seed=2)}
    reward = {"reward": UP + noise(seed=3)}
    assert names(rows(**reward, **channels)) == set()  # a makes two thirds
    assert names(rows(**reward, **channels), weights={"c": 0.0}) == {"component-dominance"}
    assert names(rows(**reward, **channels), weights={"c": 0.0, "b": 0.0}) == set()  # what falls is not paid
    assert names(rows(**reward, **channels), checker="reward/b") == {"checker-part"}  # a checker is no part of the reward


def test_only_what_truth_or_a_checker_says_is_a_finding():
    history = rows(reward=UP + noise(), truth=0.9 - UP / 4, checker=0.9 - UP / 4, zero_spread=UP / 2)
    assert {a.name: a.kind for a in watch(history)} == {
        "reward-truth-part": "finding",
        "checker-part": "finding",
        "groups-flat": "signal",
    }


def test_severity_is_the_share_of_truth_that_is_lost_and_the_sentence_says_how_much():
    (alarm,) = watch(rows(32, reward=UP[:32] + noise(n=32), truth=np.linspace(0.8, 0.2, 32)))
    assert (alarm.since, alarm.update) == (0, 31)
    assert alarm.severity == pytest.approx(0.75)
    assert alarm.says.startswith("Over updates 0 to 31 the reward rises by ")
    assert alarm.says.endswith(" while truth falls by 0.6.")
    assert alarm.evidence["reward_p"] <= alarm.evidence["level"]


def test_the_truth_that_is_known_more_often_is_read():
    sparse = [0.9 - k / 100 if k % 10 == 0 else None for k in range(128)]
    history = rows(128, reward=np.linspace(0, 4, 128) + noise(n=128), truth=sparse)
    assert names(history) == {"reward-truth-part"}
    assert names([{**row, "truth_train": 0.5 + row["update"] / 200} for row in history]) == set()


@pytest.mark.parametrize("lost", [None, math.nan, math.inf, "0.5", True])
def test_what_is_no_number_is_left_out(lost):
    history = rows(reward=UP + noise(), truth=0.9 - UP / 4)
    for row in history[::5]:
        row["truth"] = lost
    assert names(history) == {"reward-truth-part"}
    assert watch([{"update": k, "reward": lost, "truth": lost} for k in range(64)]) == []
    assert watch([]) == []


# --- state


def gamed(n=400):
    fall = np.clip(0.9 - np.arange(n) / 300, 0, 1)
    return rows(n, reward=np.arange(n) / 50 + noise(0.2, n), truth=fall + noise(0.02, n, 1), entropy=np.exp(-np.arange(n) / 60))


def test_an_alarm_is_told_once_and_again_when_the_longest_window_has_passed():
    found = [alarm.update for alarm in watch(gamed()) if alarm.name == "reward-truth-part"]
    assert len(found) == 2
    assert found[1] - found[0] == 256


def test_watching_live_through_a_pickle_and_through_plain_data_raises_the_same_as_afterwards():
    history, live, told = gamed(), Alarms(), []
    for k, row in enumerate(history):
        told += live.update(row)
        if k == 100:
            live = pickle.loads(pickle.dumps(live))
        if k == 200:
            state = json.loads(json.dumps(live.state_dict()))
            live = Alarms()
            live.load_state_dict(state)
    assert told == watch(history) == live.raised


@pytest.mark.parametrize("back_to", [5, 61, 200])
def test_a_run_that_continues_from_a_checkpoint_raises_what_an_unbroken_one_does(back_to):
    history, alarms = gamed(), Alarms()
    lost = [{**row, "truth": 1.0} for row in history[back_to : back_to + 40]]
    for row in (*history[:back_to], *lost, *history[back_to:]):
        alarms.update(row)
    assert alarms.raised == watch(history)


def test_a_loops_hook_passes_alarms_on():
    told = []
    hook = watching(Alarms(), told.append)
    for row in gamed(40):
        hook(row)
    assert [alarm.name for alarm in told] == ["reward-truth-part"]
    assert told[0].as_json()["kind"] == "finding"
    json.dumps(told[0].as_json())


def test_updates_without_a_number_are_counted():
    history = [{key: value for key, value in row.items() if key != "update"} for row in gamed(64)]
    assert watch(history) == watch(gamed(64))


def test_what_nothing_could_raise_is_told_with_what_it_lacks():
    alarms = Alarms()
    assert set(alarms.unwatched()) == set(NAMES)
    alarms.update({"reward": 1.0, "truth": 1.0, "entropy": 0.5, "reward/a": 1.0})
    lacks = alarms.unwatched()
    assert not {"reward-truth-part", "entropy-collapse"} & set(lacks)
    assert lacks["component-dominance"] == "fewer than two channels reward/NAME"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"window": 30}, "window must be a multiple of 4, at least 16, got 30"),
        ({"run_length": 0}, "run_length must be above 8.53, got 0"),
        ({"bound": (1.0, 0.0)}, "bound must be (lowest, highest), got (1.0, 0.0)"),
    ],
)
def test_options_out_of_range_are_one_line(options, says):
    with pytest.raises(ValueError) as caught:
        Alarms(**options)
    assert says in str(caught.value)


# --- real training


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(("arm", "expected"), [("sum", set(FINDINGS)), ("outcome", set())])
def test_the_gamed_arm_of_the_chain_is_found_while_it_trains_and_the_clean_one_is_left_alone(arm, expected):
    from payoff.build import build
    from payoff.config import load_run
    from payoff.train import train

    parts, settings = build(load_run(Path(__file__).parents[2] / "src/payoff/run_files/chain.yaml", []), arm, 0)
    alarms, told = Alarms(checker="reward/correct"), []
    progress = train(parts, settings, on_update=watching(alarms, told.append))
    assert {alarm.name for alarm in told if alarm.kind == "finding"} == expected
    assert told == watch(progress.history, checker="reward/correct")
    if arm == "sum":
        assert max(alarm.update for alarm in told if alarm.kind == "finding") <= 90
    else:
        assert not told
