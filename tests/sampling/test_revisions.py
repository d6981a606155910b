"""A tree of drafts and revisions: who is revised, in whose name, on or off policy, and that trace-back reads it."""

import pytest
import torch

from payoff.pipeline import Start, Verdict
from payoff.policies.tabular import Tabular
from payoff.sampling.revisions import Revisions, told_back
from payoff.shaping.trace_back import trace_back
from payoff.trajectories import place_outcome

BARE, SHOWN = 0, 1
STARTS = [Start(str(k), {"table": BARE, "prompt": f"{k}?"}) for k in range(3)]
WORTH = {"aa": 0.0, "ab": 1.0, "ba": 0.1, "bb": 0.5}


def policy():
    made = Tabular(2, 2, starts=2, spread=0.3, seed=0)
    with torch.no_grad():
        made.logits[BARE] += torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    return made


def score(response):
    return Verdict(WORTH[response], reason=f"{response} is not it")


def shown(start, item, why):
    assert why == f"{item['response']} is not it"
    return start._replace(fields={**start.fields, "table": SHOWN, "prompt": f"{start.fields['prompt']} not {item['response']}"})


def grown(**options):
    made = Revisions(checker=score, revise=shown, **options)
    return made(policy(), STARTS, 4, torch.Generator().manual_seed(2)).check()


def test_what_scores_low_is_revised_in_its_group_and_nothing_else_down_to_the_last_round():
    traj = grown(children=3)
    by_name = {item["draft"]: row for row, item in enumerate(traj.items)}
    depth, group = traj.extras["revision"].tolist(), traj.group.tolist()
    assert len(by_name) == len(traj)
    assert set(depth) == {0, 1, 2}
    assert len(set(group)) == len(STARTS)
    children = dict.fromkeys(range(len(traj)), 0)
    for row, item in enumerate(traj.items):
        if (above := item["revises"]) is not None:
            draft = by_name[above]
            children[draft] += 1
            assert (group[row], depth[row]) == (group[draft], depth[draft] + 1)
    low = [WORTH[item["response"]] < 0.2 for item in traj.items]
    assert children == {row: 3 * (low[row] and depth[row] < 2) for row in range(len(traj))}


def test_revisions_are_of_the_bare_start_by_whom_they_were_sampled_or_on_policy():
    for context in ("without", "with"):
        traj, made = grown(context=context), policy()
        later = traj.select((traj.extras["revision"] > 0).nonzero()[:, 0])
        assert all((item["prompt"] == f"{item['start']}?") == (context == "without") for item in later.items)
        assert (later.extras["table"] == (BARE if context == "without" else SHOWN)).all()
        seen = later.replace(extras={**later.extras, "table": torch.full_like(later.extras["table"], SHOWN)})
        torch.testing.assert_close(made.evaluate(seen).logp.detach(), later.logp["old"])


def test_trace_back_scores_the_tree_from_its_leaves():
    traj = grown(children=2)
    own = torch.tensor([WORTH[item["response"]] for item in traj.items])
    found = trace_back(place_outcome(own, torch.ones(len(traj), dtype=torch.bool), traj), traj)
    assert found.valid.all()

    def worth(name):
        under = [item["draft"] for item in traj.items if item["revises"] == name]
        return sum(map(worth, under)) / len(under) if under else WORTH[traj.items[int(name)]["response"]]

    assert [item["draft"] for item in traj.items] == [str(k) for k in range(len(traj))]
    assert found.value.sum(1).tolist() == pytest.approx([worth(str(k)) for k in range(len(traj))])


def test_without_low_drafts_verdicts_or_words_for_them_there_is_no_revision():
    for options in ({"low": 0.0}, {"checker": lambda response: None}, {"revise": lambda start, item, why: None}):
        made = Revisions(**{"checker": score, "revise": shown, **options})
        assert len(made(policy(), STARTS, 4, torch.Generator().manual_seed(2)).check()) == 12
    with pytest.raises(ValueError, match="children >= 1"):
        Revisions(checker=score, children=0)


def test_messages_go_on_with_the_draft_and_what_was_said():
    told = told_back(Start("a", {"prompt": [{"role": "user", "content": "Add."}]}), {"response": "y"}, "").fields["prompt"]
    assert [said["role"] for said in told] == ["user", "assistant", "user"]
    assert told[1]["content"] == "y"
    assert "it is wrong" in told[2]["content"]
