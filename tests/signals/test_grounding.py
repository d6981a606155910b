"""Graders of boxes and points: numbers by hand, matchings that no order changes, and hostile answers."""

import itertools
import json
import random

import pytest
import torch

from payoff.rows import from_rows
from payoff.signals.grounding import affordance, box_format, box_iou, detection, localisation, point_in_box, ramp
from payoff.signals.grounding_stages import ProgressiveLocalisation
from payoff.trajectories import outcome

CAT, DOG = {"bbox_2d": [0, 0, 10, 10], "label": "cat"}, {"bbox_2d": [50, 50, 60, 60], "label": "dog"}
HOSTILE = [
    "",
    "[" * 100_000,
    "[NaN, NaN, NaN, NaN]",
    '[{"bbox_2d": [NaN, 0, 1, 1], "label": "cat"}]',
    '[{"bbox_2d": [0, 0, 1e308, 1e308], "label": "cat"}]',
    '[{"bbox_2d": [10, 10, 0, 0], "label": "cat"}]',
    '[{"bbox_2d": [-5, -5, -9, -9], "label": 7}]',
    '[{"bbox_2d": "all", "label": null}]',
    '[{"bbox_2d": {"x": 1}}]',
    "[null, 3, [], {}]",
    '{"bbox_2d": []}',
    "<answer></answer>",
    '"text"',
]


def write(*items) -> str:
    return json.dumps(list(items))


def moved(item: dict, **changes) -> dict:
    return item | changes


# --- one box


def test_one_box_by_hand_and_in_another_frame():
    assert box_iou("[0, 0, 10, 5]", CAT).value == pytest.approx(0.5)
    assert box_iou("[0, 0, 100, 50]", CAT, (100, 100), (10, 10)).value == pytest.approx(0.5)
    # edges included: 11 x 6 of 11 x 11
    assert box_iou("[0, 0, 10, 5]", CAT, border=1.0).value == pytest.approx(6 / 11)


def test_the_first_box_counts():
    assert box_iou(write(CAT, DOG), CAT).value == 1
    assert box_iou(write(DOG, CAT), CAT).value == 0


def test_the_form_of_one_box():
    good = '<think>a</think>\n<answer>{"bbox_2d": [1, 2, 3, 4]}</answer>'
    assert box_format(good) == 1
    for bad in (good.replace("4]", "4.5]"), good.replace("think", "thing"), good + "!", good + good, good.replace("3, 4", "0, 4")):
        assert box_format(bad) == 0


# --- detection


def test_average_precision_by_hand():
    # right, wrong, right of two: precision 1, 1/2, 2/3; recall 1/2, 1/2, 1: 51 points at 1, 50 at 2/3
    far = moved(CAT, bbox_2d=[90, 90, 99, 99])
    near = moved(CAT, bbox_2d=[20, 20, 30, 30])
    there = [CAT, near]
    assert detection(write(CAT, far, near), there, penalise_count=0.0).value == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert detection(write(CAT, far, near), there).value == pytest.approx((51 + 50 * 2 / 3) / 101 * 2 / 3)
    # half of them: 51 points at 1
    assert detection(write(CAT), there).value == pytest.approx(51 / 101)
    # the wrong one first: precision 0, 1/2
    assert detection(write(far, CAT), [CAT], penalise_count=0.0).value == pytest.approx(1 / 2)


def test_thresholds_from_half_to_nearly_all():
    # IoU 0.72: reaches 0.5, 0.55, 0.6, 0.65, 0.7
    assert detection(write(moved(CAT, bbox_2d=[0, 0, 10, 7.2])), [CAT]).value == pytest.approx(0.5)
    assert detection(write(moved(CAT, bbox_2d=[0, 0, 10, 7.2])), [CAT], thresholds=[0.5]).value == 1


def test_labels_are_averaged_and_must_fit():
    assert detection(write(CAT, moved(DOG, label="cat")), [CAT, DOG]).value == pytest.approx(0.5)
    assert detection(write(CAT, DOG), [CAT, DOG]).value == 1


def test_repeating_every_box_costs_half_with_the_factor_and_nothing_without():
    doubled = write(CAT, CAT)
    assert detection(doubled, [CAT]).value == 0.5
    assert detection(doubled, [CAT], penalise_count=0.0).value == 1


def test_silence_is_right_only_where_there_is_nothing():
    assert detection("[]", []).value == 1
    assert detection("[]", [CAT]).value == 0
    assert detection(write(CAT), []).value == 0
    assert detection("nothing here", []).value == 0


# --- Vision-R1


def test_perfect_is_three_and_an_unreadable_answer_nothing():
    for stage in (0, 1, 2):
        assert localisation(write(CAT, DOG), [CAT, DOG], stage=stage).value == 3
    assert localisation("a cat and a dog", [CAT, DOG]).value == 0


def test_stages_by_hand():
    # GIoU of [0, 0, 10, 8] with the cat is 0.8
    near = write(moved(CAT, bbox_2d=[0, 0, 10, 8]))
    assert localisation(near, [CAT], stage=0).value == pytest.approx(0.8 + 1 + 1)
    assert localisation(near, [CAT], stage=1).value == pytest.approx(1 + 1 + 1)
    assert localisation(near, [CAT], stage=2).value == pytest.approx(0.8 + 1 + 1)
    # 0.7 is no hit in stage 2, and its precision is cut to 0
    further = write(moved(CAT, bbox_2d=[0, 0, 10, 7]))
    assert localisation(further, [CAT], stage=1).value == pytest.approx(0.7 + 1 + 1)
    assert localisation(further, [CAT], stage=2).value == pytest.approx(0 + 0 + 1)


def test_recall_below_half_is_nothing_and_above_three_quarters_all():
    there = [moved(CAT, bbox_2d=[20 * k, 0, 20 * k + 10, 10]) for k in range(5)]
    found = [localisation(write(*there[:k]), there).value - 2 for k in range(1, 6)]
    assert found == pytest.approx([0, 0, 0.6, 1, 1])


def test_no_order_matters():
    rng = random.Random(3)
    box = lambda: (lambda x, y: [x, y, x + rng.randint(1, 30), y + rng.randint(1, 30)])(rng.randint(0, 60), rng.randint(0, 60))
    there = [{"bbox_2d": box(), "label": rng.choice("ab")} for _ in range(3)]
    given = [{"bbox_2d": box(), "label": rng.choice("ab")} for _ in range(4)]
    scores = {
        round(localisation(write(*g), list(t), stage=0).value, 9)
        for g, t in itertools.product(itertools.permutations(given), itertools.permutations(there))
    }
    assert len(scores) == 1


def test_more_boxes_than_there_are_cost_nothing_here_as_in_the_paper():
    extra = [moved(CAT, bbox_2d=[k, 80, k + 5, 95]) for k in range(30)]
    assert localisation(write(CAT, *extra), [CAT]).value == 3
    assert detection(write(CAT, *extra), [CAT]).value == pytest.approx(1 / 31)


def test_where_nothing_is_to_be_found_words_are_the_right_form():
    assert localisation("none", []).value == 3
    assert localisation("[]", []).value == 2
    assert localisation(write(CAT), []).value == 0


def test_a_broken_list_is_salvaged_but_not_well_formed():
    assert localisation(write(CAT)[:-1], [CAT]).value == 2


def test_the_ramp_is_the_identity_between_its_ends_and_again_on_its_own_ends():
    x = torch.tensor([0.0, 0.49, 0.5, 0.6, 0.75, 0.76, 1.0])
    assert ramp(x, 0.5, 0.75).tolist() == pytest.approx([0, 0, 0.5, 0.6, 0.75, 1, 1])
    assert ramp(torch.tensor([0.0, 1.0]), 0.5, 0.75).tolist() == [0, 1]


def test_progressive_rules_switch_and_survive_a_checkpoint():
    near = write(moved(CAT, bbox_2d=[0, 0, 10, 7]))
    traj = from_rows([{"response": near, "reference": [CAT]}, {"response": near}, {"response": "x", "reference": 7}])
    bad = from_rows([{"response": near, "reference": [CAT], "shown": [0, 1], "image": [1, 1]}])
    signal = ProgressiveLocalisation(switch=2)
    values = []
    for _ in range(3):
        value, valid = outcome(signal(traj)["vision-r1"], traj)
        values.append(round(float(value[0]), 6))
        assert valid.tolist() == [True, False, False]
        signal.learn(traj, {})
    assert values == [2.7, 2.7, 1.0]
    other = ProgressiveLocalisation(switch=2)
    other.load_state_dict(signal.state_dict())
    assert other.stage == 2
    assert not outcome(signal(bad)["vision-r1"], bad)[1].any()


# --- Affordance-R1

HANDLE = {"bbox_2d": [0, 0, 90, 90], "point_2d": [40, 40], "affordance": "hold"}
LID = {"bbox_2d": [200, 200, 290, 290], "point_2d": [240, 240], "affordance": "hold"}


def acts(*items, thought: str = "a") -> str:
    return f"<think>{thought}</think>\n<rethink>b</rethink>\n<answer>{write(*items)}</answer>"


def test_perfect_is_ten():
    assert affordance(acts(HANDLE, LID), [HANDLE, LID], "hold").value == 10


def test_useless_boxes_in_good_form_have_seven():
    useless = [moved(HANDLE, bbox_2d=[500, 500, 501, 501], point_2d=[900, 900])]
    assert affordance(acts(*useless), [HANDLE], "hold").value == 7


def test_a_repeated_item_halves_the_places_and_loses_the_count():
    assert affordance(acts(HANDLE, HANDLE), [HANDLE], "hold").value == 10 - 1.5 - 1


def test_places_by_hand():
    # 15 lower: IoU with edges 76/91 cut twice ... 91*76/(91*106) = 0.717 > 0.65; mean distance 7.5 < 10; point 30 away is not < 30
    lower = moved(HANDLE, bbox_2d=[0, 15, 90, 105], point_2d=[40, 70])
    assert affordance(acts(lower), [HANDLE], "hold").value == 9
    # a point near the reference's but outside of its own box does not count
    outside = moved(HANDLE, bbox_2d=[0, 45, 90, 90])
    # IoU 46/91, mean distance 45/4 = 11.25, point outside
    assert affordance(acts(outside), [HANDLE], "hold").value == 7


def test_places_do_not_depend_on_order():
    other = moved(LID, bbox_2d=[195, 200, 290, 290])
    scores = {
        affordance(acts(*g), list(t), "hold").value
        for g, t in itertools.product(itertools.permutations([HANDLE, other, LID]), itertools.permutations([HANDLE, LID]))
    }
    assert len(scores) == 1


def test_names_repetition_and_form_are_parts_of_their_own():
    assert affordance(acts(HANDLE), [HANDLE], "open").value == 9
    assert affordance(acts(HANDLE), [HANDLE], "open", 0.81).value == 10
    assert affordance(acts(HANDLE), [HANDLE], "hold", 0.8).value == 9
    assert affordance(acts(HANDLE, thought="x. so. so. so."), [HANDLE], "hold").value == 9
    assert affordance(acts(HANDLE, thought="x. so. so."), [HANDLE], "hold").value == 10
    bare = {"bbox_2d": HANDLE["bbox_2d"], "point_2d": HANDLE["point_2d"]}
    assert affordance(acts(bare), [HANDLE], "hold").value == 8


# --- points


def test_points_by_hand():
    assert point_in_box("[10, 10]", [CAT, DOG]).value == 1
    assert point_in_box('[{"point_2d": [10.5, 10]}]', [CAT, DOG]).value == 0
    assert point_in_box('the {"point_2d": [55, 55]}', [CAT, DOG]).value == 1
    assert point_in_box("[100, 100]", [CAT], (1000, 1000), (100, 100)).value == 1
    assert point_in_box("there", [CAT]).value == 0


# --- all


@pytest.mark.parametrize("response", HOSTILE)
def test_hostile_answers_earn_nothing_and_are_no_error(response):
    assert box_iou(response, CAT).value == 0
    assert box_format(response) == 0
    assert detection(response, [CAT]).value == 0
    assert localisation(response, [CAT]).value <= 1  # at most its form
    assert affordance(response, [HANDLE], "hold").value <= 1  # at most for not repeating itself
    assert point_in_box(response, [CAT]).value == 0


def test_thousands_of_boxes_are_read_in_a_moment():
    many = write(*[moved(CAT, bbox_2d=[k, 0, k + 10, 10]) for k in range(5000)])
    there = [moved(CAT, bbox_2d=[20 * k, 0, 20 * k + 10, 10]) for k in range(50)]
    assert localisation(many, there).value == 3
    assert detection(many, there).value < 0.01
    assert affordance(acts(*[HANDLE] * 5000), [HANDLE], "hold").value == pytest.approx(4 + 3 / 120 + 1 + 1)


@pytest.mark.parametrize(
    "reference", [None, "a cat", 7, [7], {"bbox_2d": [1, 1, 0, 0]}, [CAT, {"label": "dog"}], [[float("nan")] * 4]]
)
def test_a_reference_that_cannot_be_read_is_no_fault_of_the_policy(reference):
    for grader in (box_iou, detection, localisation, affordance, point_in_box):
        assert not grader(write(CAT), reference).valid


def test_a_reference_may_be_text():
    assert detection(write(CAT), write(CAT)).value == 1


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="stage must be"):
        localisation("[]", [CAT], stage=3)
    with pytest.raises(ValueError, match="thresholds of IoU"):
        detection("[]", [CAT], thresholds=[])
    with pytest.raises(ValueError, match="penalise_count"):
        detection("[]", [CAT], penalise_count=-1.0)
    with pytest.raises(ValueError, match="two positive numbers"):
        box_iou("[0, 0, 1, 1]", CAT, (0, 0), (1, 1))
