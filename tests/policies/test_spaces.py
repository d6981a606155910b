"""Spaces as numbers."""

import numpy as np
import pytest
from gymnasium import spaces

from payoff.policies.spaces import ActionNumbers, ObservationVector


def test_every_kind_of_part_stands_at_its_place_and_text_is_left_out():
    space = spaces.Dict(
        grid=spaces.Box(0, 255, (2, 2), dtype=np.uint8),
        bits=spaces.MultiBinary(2),
        several=spaces.MultiDiscrete([2, 3], start=[1, 0]),
        which=spaces.Discrete(3, start=-1),
        mission=spaces.Text(10),
    )
    one = {"grid": np.array([[1, 2], [3, 4]]), "bits": [0, 1], "several": [2, 1], "which": 0, "mission": "go"}
    vector = ObservationVector(space)
    # dicts are in alphabetical order: bits, grid, mission (nothing), several, which
    order = list(space.spaces)
    parts = {"bits": [0, 1], "grid": [1, 2, 3, 4], "mission": [], "several": [0, 1, 0, 1, 0], "which": [0, 1, 0]}
    assert vector([one]).tolist() == [[float(x) for name in order for x in parts[name]]]
    assert vector.size == 14


def test_tuples_and_nested_dicts_are_read_in_order():
    vector = ObservationVector(spaces.Tuple([spaces.Discrete(2), spaces.Dict(x=spaces.Box(-1, 1, (1,)))]))
    assert vector([(1, {"x": [0.5]})]).tolist() == [[0.0, 1.0, 0.5]]


def test_a_batch_of_boxes_is_one_conversion_with_the_same_result():
    vector = ObservationVector(spaces.Box(-1, 1, (2, 2)))
    rows = np.arange(12.0).reshape(3, 2, 2)
    assert vector(rows).tolist() == vector(list(rows)).tolist() == rows.reshape(3, 4).tolist()
    assert vector(rows).dtype == np.float32


def test_actions_are_shifted_or_cut_to_their_space():
    assert ActionNumbers(spaces.Discrete(3, start=2)).for_environment(np.array([0, 2])).tolist() == [2, 4]
    force = ActionNumbers(spaces.Box(np.array([[-1.0], [0.0]]), np.array([[1.0], [2.0]]), dtype=np.float64))
    assert force.for_environment(np.array([[-5.0, 5.0]])).tolist() == [[[-1.0], [2.0]]]
    with pytest.raises(ValueError, match="Discrete or a Box of floats"):
        ActionNumbers(spaces.Box(0, 3, (2,), dtype=np.int64))
