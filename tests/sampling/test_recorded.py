"""Recorded responses as rollouts of the policy that is trained, and a policy that is kept acting for a while."""

import pytest
import torch

from payoff.pipeline import Start
from payoff.policies.embedded import transformer
from payoff.policies.tabular import Tabular
from payoff.sampling.recorded import Rounds, recorded
from payoff.trajectories import StopReason

RNG = torch.Generator()


def start(name, *answers, **fields):
    return Start(name, {"prompt": name, **fields, "recorded": list(answers)})


def test_tokens_become_the_rollouts_the_policy_would_have_had():
    policy = Tabular(3, 3, stop=2, starts=2, spread=1.0)
    wanted = policy.sequences(1)
    answers = [{"tokens": row[:n].tolist()} for row, n in zip(wanted.actions, wanted.length.tolist(), strict=True)]
    traj = recorded(policy, [start("a", *answers, table=1)], 2, RNG).check()
    for name in ("mask", "length", "actions", "stop"):
        assert getattr(traj, name).equal(getattr(wanted, name)), name
    torch.testing.assert_close(traj.logp["old"], wanted.logp["old"])
    assert len(traj.group.unique()) == 1
    assert not traj.logp["old"].requires_grad


def test_text_is_read_as_the_policy_writes_it():
    policy = transformer(width=8, layers=1, heads=1)
    answers = ({"response": "5;#5.", "label": 1.0}, {"response": "7.", "label": 0.0})
    starts = [start("2+3=", *answers, reference="5"), start("1+1=", {"response": "2.", "label": 1.0})]
    traj = recorded(policy, starts, 2, RNG).check()
    assert traj.length.tolist() == [5, 2, 2]
    assert traj.group[0] == traj.group[1] != traj.group[2]
    assert [item["response"] for item in traj.items] == ["5;#5.", "7.", "2."]
    assert [item["label"] for item in traj.items] == [1.0, 0.0, 1.0]
    assert traj.items[0]["reference"] == "5"
    assert traj.items[0]["start"] == "2+3="
    assert "recorded" not in traj.items[0]
    assert traj.stop.tolist() == [StopReason.finished] * 3
    torch.testing.assert_close(policy.evaluate(traj).logp.detach(), traj.logp["old"])


def test_two_starts_with_one_prompt_are_two_groups():
    policy = transformer(width=8, layers=1, heads=1)
    starts = [start("1+1=", {"response": "2."}, {"response": "3."}), start("1+1=", {"response": "2."}, {"response": "4."})]
    group = recorded(policy, starts, 2, RNG).group
    assert group[0] == group[1] != group[2] == group[3]


def test_a_response_may_have_a_prompt_of_its_own():
    policy = transformer(width=8, layers=1, heads=1)
    traj = recorded(policy, [start("1+1=", {"response": "2."}, {"prompt": "2-3=", "response": "9."})], 1, RNG)
    assert [item["prompt"] for item in traj.items] == ["1+1=", "2-3="]
    assert traj.group[0] == traj.group[1]


def test_mismatched_rows_ask_one_start_what_another_answered():
    policy = transformer(width=8, layers=1, heads=1)
    starts = [start("1+1=", {"response": "2.", "label": 1.0}), start("2+3=", {"response": "55.", "label": 0.0})]
    traj = recorded(policy, starts, 1, RNG, mismatched=True)
    asked = [(item["prompt"], item["response"], item["label"]) for item in traj.items]
    assert asked == [("1+1=", "2.", 1.0), ("1+1=", "55.", None), ("2+3=", "55.", 0.0), ("2+3=", "2.", None)]
    assert traj.extras["mismatched"].tolist() == [False, True, False, True]
    assert traj.group[0] == traj.group[1] != traj.group[2] == traj.group[3]
    with pytest.raises(ValueError, match="mismatched needs at least two starts"):
        recorded(policy, starts[:1], 1, RNG, mismatched=True)


def test_a_response_is_ended_as_the_model_ends_its_own():
    class Ending:
        """Characters, and an end token that has no text."""

        def __init__(self, inner):
            self.inner, self.end, self.ends = inner, inner.pad, frozenset({inner.pad})

        def __getattr__(self, name):
            return getattr(self.inner, name)

    policy = transformer(width=8, layers=1, heads=1)
    policy.tokenizer, end = Ending(policy.tokenizer), policy.tokenizer.pad
    row = {"prompt": "1+1=", "response": "2"}
    assert policy.read([row]).actions.tolist() == [[2]]
    assert policy.read([row], ended=True).actions.tolist() == [[2, end]]
    assert policy.read([{**row, "response": "2."}], ended=True).length.tolist() == [2]  # its stop string has ended it
    traj = recorded(policy, [start("1+1=", {"response": "2"})], 1, RNG)
    assert traj.actions.tolist() == [[2, end]]
    assert traj.items[0]["response"] == "2"


def test_what_cannot_be_read_is_said():
    policy, words = Tabular(2, 2), transformer(width=8, layers=1, heads=1)
    with pytest.raises(ValueError, match="start 'a' brings no responses"):
        recorded(policy, [Start("a", {"prompt": ""})], 1, RNG)
    with pytest.raises(ValueError, match="start 'a' is text, and this policy reads tokens alone"):
        recorded(policy, [start("a", {"response": "ab"})], 1, RNG)
    with pytest.raises(ValueError, match="start 'b' is text, and others are tokens"):
        recorded(words, [start("a", {"tokens": [1]}), start("b", {"response": "2."})], 1, RNG)
    with pytest.raises(ValueError, match="must be a list that is not empty"):
        recorded(policy, [start("a", {"tokens": []})], 1, RNG)


def test_rounds_keep_one_policy_acting_and_a_saved_one_goes_on():
    policy, starts = Tabular(3, 2, spread=1.0), [Start("a", {})]
    sampler = Rounds(Tabular(3, 2), every=3)
    first = {k: v.clone() for k, v in policy.state_dict().items()}
    acting = []
    for call in range(5):
        sampler(policy, starts, 2, torch.Generator().manual_seed(0))
        acting.append(sampler.acting.logits.clone())
        with torch.no_grad():
            policy.logits += 1.0 + torch.arange(3) * (call + 1)
        if call == 3:
            saved = {k: v.clone() for k, v in sampler.state_dict().items()}
    assert all(x.equal(first["logits"]) for x in acting[:3])
    assert not acting[3].equal(first["logits"])
    assert acting[4].equal(acting[3])
    other = Rounds(Tabular(3, 2), every=3)
    other.load_state_dict(saved)
    again = other(policy, starts, 2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.logp["old"], sampler(policy, starts, 2, torch.Generator().manual_seed(0)).logp["old"])
    assert not any(p.requires_grad for p in sampler.parameters())
    with pytest.raises(ValueError, match="every must be at least 1"):
        Rounds(policy, every=0)
