import copy

import pytest
import torch

from payoff.examples import four_answers
from payoff.models.hidden_states import load_heads, save_heads, states_after, step_ends
from payoff.models.process import ProcessRewardModel
from payoff.models.ranker import AnswerRanker
from payoff.policies.embedded import transformer


@pytest.fixture(scope="module")
def policy():
    return transformer(width=8, layers=1, heads=1)


def test_a_step_ends_at_its_last_position_whatever_padding_says():
    traj = four_answers()
    step = torch.where(traj.exists, torch.tensor([0, 0, 1]), -1)
    last, exists = step_ends(traj.replace(step=step))
    #  lengths 3, 2, 3, 1: two steps, one, two, one
    assert last.tolist() == [[1, 2], [1, 0], [1, 2], [0, 0]]
    assert exists.tolist() == [[True, True], [True, False], [True, True], [True, False]]


def test_states_are_those_of_the_rollout_read_alone_and_have_a_gradient(policy):
    rows = [{"prompt": "3-7=", "response": text} for text in ("#6.", "3-7=6;#6.", "#")]
    traj = policy.read(rows)
    places = torch.stack([torch.zeros_like(traj.length), traj.length], 1)
    states = states_after(policy, traj, places, batch_size=2)
    for row in range(3):
        alone = policy.evaluate(policy.read([rows[row]]), frozenset({"hidden"})).more["hidden"][0]
        assert torch.allclose(states[row], alone[[0, int(traj.length[row])]], atol=1e-6)
    assert states.requires_grad


def test_what_is_not_this_models_file_for_this_policy_is_refused_in_one_line(policy, tmp_path):
    ranker = AnswerRanker(policy=copy.deepcopy(policy))
    ranker.fitted.fill_(True)
    ranker.save(tmp_path / "ranker.pt")
    state = torch.load(tmp_path / "ranker.pt", weights_only=True)

    def refused(content, said, name="strange.pt"):
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=said) as found:
            AnswerRanker(policy=copy.deepcopy(policy), weights=str(tmp_path / name))
        assert "\n" not in str(found.value)

    refused({"format": state["format"]}, "was not saved by this model")
    refused({**state, "state": {"head.weight": 1.0}}, "was not saved by this model")
    refused(
        {**state, "state": {k: x for k, x in state["state"].items() if k != "middle"}}, r"middle is missing there and \[8\] here"
    )
    refused({**state, "state": {**state["state"], "more": torch.ones(1)}}, r"more is \[1\] there and missing here")
    other = transformer(width=8, layers=1, heads=1, seed=5)
    with pytest.raises(ValueError, match="hidden states of another policy"):
        AnswerRanker(policy=other, weights=str(tmp_path / "ranker.pt"))
    with pytest.raises(ValueError, match="was not saved by this model"):  # of the same policy, but another model
        ProcessRewardModel(policy=copy.deepcopy(policy), weights=str(tmp_path / "ranker.pt"))


def test_heads_with_their_own_backbone_fit_any_policy_of_that_shape(policy, tmp_path):
    save_heads(tmp_path / "deep" / "heads.pt", "example", {"weight": torch.arange(3.0)}, policy, trained=True)
    found = load_heads(
        tmp_path / "deep" / "heads.pt", "example", {"weight": torch.zeros(3)}, transformer(width=8, layers=1, heads=1, seed=5)
    )
    assert found["weight"].tolist() == [0.0, 1.0, 2.0]
