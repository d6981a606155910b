"""FGAIF: every kind of fact is paid where its piece ends; a weight of 0 pays nothing; an unsure judge leaves just that piece."""

import pytest
import torch

from payoff.rows import from_rows
from payoff.signals.atomic_facts import Fact, judged_facts
from payoff.signals.segment_rewards import cut

SCENE = {"cube": "red", "ball": "green"}
TEXTS = ["red cube,blue ball.", "red cone,", "hello."]


def facts(piece, row):
    words = piece.strip(",.").split()
    return [] if len(words) < 2 else [("existence", words[1]), ("attribute", " ".join(words))]


def judge(asked):
    """True of the scene; of the colour of what is not there nothing can be said."""
    found = []
    for fact in asked:
        scene, words = fact.item["scene"], fact.text.split()
        found.append(words[0] in scene if fact.kind == "existence" else scene[words[1]] == words[0] if words[1] in scene else None)
    return found


def rows():
    return from_rows(
        [
            {"response": text, "scene": SCENE, "steps": [p + "," for p in text.split(",")][:-1] + [text.split(",")[-1]]}
            for text in TEXTS
        ]
    )


def test_each_kind_is_paid_by_itself_where_the_piece_ends():
    traj = rows()
    found = judged_facts(traj, facts=facts, judge=judge)
    assert set(found) == {"existence", "attribute", "relation"}
    per_piece = {kind: channel.value[0, : int(traj.length[0])].sum() for kind, channel in found.items()}
    # "red cube" is there and red (+1, +1), "blue ball" is there and not blue (+1, -1); nothing is said of relations
    assert per_piece == {"existence": 2, "attribute": 0, "relation": 0}
    assert found["existence"].value[1].sum() == -1
    assert [p.text for p in cut(traj, "sub-sentence") if p.row == 0] == ["red cube,", "blue ball."]
    assert not found["attribute"].valid[1].all()
    assert found["existence"].valid.all()
    assert list(found["attribute"].reasons) == [int(traj.id[1])]


def test_saying_nothing_errs_in_nothing():
    found = judged_facts(rows(), facts=facts, judge=judge, sound=0.0)
    paid = torch.stack([channel.value[2].sum() for channel in found.values()])
    assert paid.abs().max() == 0
    assert found["existence"].value[1].sum() == -1


def test_a_weight_of_zero_takes_its_kind_away_and_the_others_stay():
    both = judged_facts(rows(), facts=facts, judge=judge)
    one = judged_facts(rows(), facts=facts, judge=judge, weights={"existence": 2.0, "attribute": 0.0})
    assert set(one) == {"existence", "attribute"}
    torch.testing.assert_close(one["existence"].value, 2 * both["existence"].value)
    assert one["attribute"].value.abs().max() == 0


def test_a_false_fact_counts_whatever_is_unsure_and_a_fact_said_twice_is_judged_once():
    asked: list[Fact] = []

    def listening(some):
        asked.extend(some)
        return [False if "cube" in fact.text else None for fact in some]

    traj = from_rows([{"response": "cube cube"}])
    said = [("existence", "cube"), ("existence", "cube"), ("existence", "fog"), ("weather", "fog")]
    found = judged_facts(traj, facts=lambda piece, row: said, judge=listening)
    assert found["existence"].valid.all()
    assert found["existence"].value.sum() == -1
    assert [fact.text for fact in asked] == ["cube", "fog"]
    with pytest.raises(ValueError, match="asked about 2 facts and gave 1"):
        judged_facts(traj, facts=lambda piece, row: said, judge=lambda some: [True])
