"""Searches over steps: the tree's bookkeeping, what it finds with a true value, labels out of it, and rounds of self-training."""

import copy
import math

import pytest
import torch

from payoff.credit.quality import quality, quality_gains
from payoff.credit.returns import return_to_go
from payoff.models.merged_steps import HierarchicalProcessModel, Spans
from payoff.models.process import ProcessRewardModel
from payoff.pipeline import Start
from payoff.policies.embedded import transformer
from payoff.policies.tabular import Tabular
from payoff.search.one_step import prefixes, scored_by, step_on
from payoff.search.self_training import self_training_round
from payoff.search.step_beam import step_beam
from payoff.search.tree_labels import (
    _example,
    _first_letter,
    balanced,
    checked_leaves,
    compress,
    items,
    leaf_shares,
    quality_targets,
)
from payoff.search.value_tree import SearchTree, answers, search_tree
from payoff.trajectories import Channel, outcome, place_outcome

RIGHT = {"bab", "abb"}


def reward(traj):
    worth = torch.tensor([float(item["response"] in RIGHT) for item in traj.items])
    return {"right": place_outcome(worth, torch.ones(len(traj), dtype=torch.bool), traj)}


def true_value(policy):
    """The policy's chance to end rightly, from every prefix."""
    leaves = outcome(reward(policy.sequences())["right"], policy.sequences())[0].double()
    table = policy.state_values(leaves).detach()

    def value(traj, at):
        state, alive = policy.tree.states(traj.actions, torch.minimum(at, traj.length))
        here = state.gather(1, at[:, None])[:, 0]
        return torch.where(alive.gather(1, at[:, None])[:, 0], table[here], outcome(reward(traj)["right"], traj)[0].double())

    return value


@pytest.fixture(scope="module")
def searched():
    policy, rng = Tabular(2, 3, spread=0.5, seed=1), torch.Generator().manual_seed(0)
    tree = search_tree(policy, [Start("s", {}), Start("t", {})], true_value(policy), rng, iterations=6, end_gate=2.0)
    return policy, tree


def test_a_tree_is_what_it_says(searched):
    policy, tree = searched
    value = true_value(policy)
    assert torch.equal(tree.own[2:], value(tree.traj, tree.at)[2:])
    child = tree.parent >= 0
    assert torch.equal(tree.depth[child], tree.depth[tree.parent[child]] + 1)
    assert (tree.parent[child] < torch.arange(len(tree.at))[child]).all()
    assert torch.equal(tree.over, tree.at == 3)
    for node in child.nonzero()[:, 0].tolist():  # a child begins as its parent does
        at = int(tree.at[tree.parent[node]])
        assert torch.equal(tree.traj.actions[node, :at], tree.traj.actions[tree.parent[node], :at])
    inner = torch.zeros_like(tree.over).index_fill(0, tree.parent[child], True)
    for node in inner.nonzero()[:, 0].tolist():  # every value above is its children's mean by their visits
        below = tree.parent == node
        weight = tree.visits[below].double()
        assert float(tree.value[node]) == pytest.approx(float((weight * tree.value[below]).sum() / weight.sum()))
        assert int(tree.visits[node]) - int(weight.sum()) in (0, 1)  # one visit may have been before it had children
    assert tree.visits[:2].tolist() == [6, 6]


def test_with_every_leaf_visited_once_the_start_is_worth_their_plain_mean():
    policy = Tabular(4, 1)  # one step: all children are leaves
    worth = torch.tensor([0.0, 0.1, 0.4, 0.7])
    value = lambda traj, at: worth[traj.actions[:, 0]]
    tree = search_tree(policy, [Start("s", {})], value, torch.Generator().manual_seed(3), iterations=4, proposals=4)
    assert tree.visits[1:].tolist() == [1, 1, 1, 1]  # the unvisited come first
    assert float(tree.value[0]) == pytest.approx(float(tree.own[1:].mean()))


def test_a_visited_child_never_goes_before_an_unvisited_one_and_after_that_the_bound_decides():
    policy = Tabular(2, 1, logits=torch.zeros(1, 2))
    value = lambda traj, at: torch.where(traj.actions[:, 0] == 1, 0.85, 0.1)
    tree = search_tree(policy, [Start("s", {})], value, torch.Generator().manual_seed(0), iterations=40, proposals=8)
    good = tree.own[1:] > 0.5
    assert (tree.visits[1:] >= 1).all()
    assert float(tree.visits[1:][good].double().mean()) > 2 * float(tree.visits[1:][~good].double().mean())
    n, total = tree.visits[1:].double(), math.log(40)
    bound = tree.own[1:] + 0.7 * (2 * total / n).sqrt()
    assert float(bound.max() - bound.min()) < 0.8  # no child was left far behind


def test_with_a_value_to_go_by_search_finds_what_sampling_rarely_does():
    logits = torch.tensor([[1.0, 0.0]]).repeat(7, 1)  # b is rare
    policy, rng = Tabular(2, 3, logits=logits), torch.Generator().manual_seed(0)
    count_b = lambda traj, at: ((traj.actions == 1) & (torch.arange(traj.width) < at[:, None])).sum(1) / at.clamp(min=1)
    starts = [Start(str(i), {}) for i in range(4)]
    tree = search_tree(policy, starts, count_b, rng, iterations=16, proposals=6, exploration=0.1, end_gate=2.0)
    found = [item["response"] for item in answers(tree, policy, rng).items]
    beam = step_beam(policy, starts, count_b, rng, width=3, proposals=6)
    assert sum(text == "b" * 3 for text in found) >= 2
    assert sum(item["response"] == "b" * 3 for item in beam.traj.items) >= 3
    assert float(policy.probabilities().detach()[-1]) < 0.03


def test_a_confident_value_ends_the_search_and_the_policy_the_answer():
    policy, rng = Tabular(2, 3), torch.Generator().manual_seed(0)
    sure = lambda traj, at: torch.full((len(traj),), 0.95)
    tree = search_tree(policy, [Start("s", {})], sure, rng, iterations=9)
    assert tree.depth[tree.chosen].tolist() == [1]
    assert len(tree.at) == 4
    found = answers(tree, policy, rng)
    assert torch.equal(found.actions[0, :1], tree.traj.actions[tree.chosen[0], :1])
    assert found.length.tolist() == [3]


def test_a_prover_ranks_what_the_policys_own_value_cannot_tell_apart():
    policy = Tabular(2, 3, logits=torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]] + [[0.0, 0.0]] * 3))
    flat = lambda traj, at: torch.zeros(len(traj), dtype=torch.float64)
    own = true_value(policy)
    found = step_beam(policy, [Start("s", {})], flat, torch.Generator().manual_seed(1), prover=own, width=2, proposals=6)
    assert found.traj.items[0]["response"] in RIGHT
    nothing = step_beam(policy, [Start("s", {})], flat, torch.Generator().manual_seed(1), prover=own, alpha=0.0, width=1)
    assert float(nothing.score[0]) == 0.0


def small():
    torch.manual_seed(3)
    made = transformer(width=16, layers=1, heads=2, context=24, max_tokens=9, stop=["."], step_separator=";")
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def test_steps_of_a_language_model_end_where_its_separator_stands():
    policy, rng = small(), torch.Generator().manual_seed(0)
    traj = policy.rollout([Start("a", {"prompt": "1+2="})] * 1, 1, rng)
    found = step_on(policy, traj, torch.tensor([0]), 40, rng)
    semicolon = policy.tokenizer.encode(";")[0]
    for row in range(40):
        at = int(found.at[row])
        written = found.traj.actions[row, :at].tolist()
        assert semicolon not in written[:-1]
        assert written[-1] == semicolon or at == int(found.traj.length[row])
    short = step_on(policy, traj, torch.tensor([0]), 40, rng, horizon=3)
    assert int(short.at.max()) == 3
    assert torch.equal(short.over, short.at == short.traj.length)
    cut = prefixes(found.traj, found.at)
    assert all(len(item["steps"]) == 1 and item["response"] == item["steps"][0] for item in cut.items)
    assert torch.equal(cut.length, found.at)
    again = step_on(policy, cut, cut.length, 1, rng) if not found.over.any() else None
    assert again is None or (again.at > cut.length).all()


# --- labels


def test_the_share_of_a_node_is_the_mean_of_its_subtrees_by_their_leaves(searched):
    _, tree = searched
    right, known = checked_leaves(tree, reward)
    found = leaf_shares(tree, right, known)
    ends = tree.over & known
    for node in range(len(tree.at)):
        below = [i for i in range(len(tree.at)) if ends[i] and node in _path(tree, i)]
        assert int(found.leaves[node]) == len(below)
        assert float(found.share[node]) == pytest.approx(sum(float(right[i]) for i in below) / max(len(below), 1))


def _path(tree, node):
    path = []
    while node >= 0:
        path.append(node)
        node = int(tree.parent[node])
    return path


def test_qualities_of_a_path_are_those_of_the_credit():
    #  r = (0, 1, 0, 0) of four steps: 1/4, then 1/4 - 3/4 / 3 = 0, then 0 + 1 / 2, then 1/2 + 1/2
    assert quality(torch.tensor([[0.0, 1.0, 0.0, 0.0]]), torch.ones(1, 4, dtype=torch.bool)).tolist() == [[0.25, 0.0, 0.5, 1.0]]
    every = torch.ones(1, 5, dtype=torch.bool)
    assert quality(torch.zeros(1, 5), every)[0].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert (quality(torch.full((1, 5), 0.5), every) == 0).all()
    error = torch.rand(50, 5, generator=torch.Generator().manual_seed(0))
    assert (quality(error, every.expand(50, 5)) - 0.5).abs().max() <= 0.5
    tree = _example()
    targets, known = quality_targets(tree, *checked_leaves(tree, _first_letter))
    assert known.tolist() == [False] + [True] * 6
    wrong_then_wrong, right_then_right = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 0.0]])
    two = torch.ones(1, 2, dtype=torch.bool)
    assert targets[[1, 3]].tolist() == quality(wrong_then_wrong, two)[0].tolist()
    assert targets[[2, 5]].tolist() == quality(right_then_right, two)[0].tolist()


def test_a_wrong_step_out_of_a_right_place_falls_by_what_was_still_needed():
    tree = _example()
    right = torch.tensor([False] * 6 + [True])  # bb alone
    soft, _ = quality_targets(tree, right, tree.over, errors="soft")
    hard, _ = quality_targets(tree, right, tree.over)
    #  b: m = 1, hard r = 0: 1/2; soft r = 1/2: 0. ba: no right leaf, m of b: 1/2 - 1/2 / 2 = 1/4. bb: 1
    assert hard.tolist() == [0.0, 0.0, 0.5, 0.0, 0.0, 0.25, 1.0]
    assert soft.tolist() == [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    none, known = quality_targets(tree, torch.zeros_like(right), tree.over)
    assert (none == 0).all()
    assert known.sum() == 6


def test_gains_of_quality_add_up_and_an_unknown_step_hides_what_follows():
    from payoff.examples import four_answers

    traj = four_answers()
    scores = Channel(torch.tensor([[0.9, 0.2, 0.7]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    gains = quality_gains(scores, traj)
    final = quality((1 - scores.value)[:1], torch.ones(1, 3, dtype=torch.bool))[0, 2]
    assert float(return_to_go(gains, traj).value[0, 0]) == pytest.approx(float(final))
    flipped = quality_gains(scores._replace(value=1 - scores.value), traj, scores="error")
    assert torch.allclose(flipped.value, gains.value)
    hidden = scores._replace(
        valid=torch.tensor([[True, False, True]]).repeat(4, 1), value=scores.value.masked_fill(scores.value == 0.2, torch.nan)
    )
    seen = quality_gains(hidden, traj)
    assert seen.valid[0].tolist() == [True, False, False]
    assert torch.equal(seen.value[0], torch.tensor([float(gains.value[0, 0]), 0.0, 0.0]))
    with pytest.raises(ValueError, match=r"scores must lie in 0..1, got 1.5"):
        quality_gains(scores._replace(value=scores.value + 0.6), traj)


def test_compression_changes_the_old_parent_alone():
    tree = _wide()
    right, known = checked_leaves(tree, _first_letter_b)
    before = leaf_shares(tree, right, known)
    parent = compress(tree, torch.Generator().manual_seed(0), chance=1.0)
    moved = (parent != tree.parent).nonzero()[:, 0].tolist()
    assert len(moved) == 4  # one child of every inner node; the start has no parent to give one to
    after = leaf_shares(tree, right, known, parent)
    old = {int(tree.parent[node]) for node in moved}
    for node in range(len(parent)):
        assert int(before.leaves[node]) - int(after.leaves[node]) == (node in old)
        if node not in old:
            assert float(before.share[node]) == float(after.share[node])
    made = items(tree, after.share, after.leaves > 0, parent)
    merged = [i for i, row in enumerate(made.row.tolist()) if row in moved]
    assert [(int(made.begin[i]), int(made.end[i]), int(made.height[i])) for i in merged] == [(0, 2, 1)] * 4
    assert torch.equal(compress(tree, torch.Generator(), chance=0.0), tree.parent)
    assert torch.equal(compress(tree, torch.Generator(), chance=1.0, least=5), tree.parent)


def _wide():
    """All prefixes of at most two of four letters."""
    first = torch.arange(4)
    traj = Tabular(4, 2).sequences().select(torch.cat([torch.tensor([0]), 4 * first, torch.arange(16)]))
    parent = torch.cat([torch.tensor([-1]), torch.zeros(4, dtype=torch.int64), 1 + torch.arange(16) // 4])
    depth = torch.tensor([0] + [1] * 4 + [2] * 16)
    zero = torch.zeros(21, dtype=torch.float64)
    return SearchTree(traj, depth, parent, 0 * depth, depth, depth == 2, zero, zero, 0 * depth, torch.tensor([5]), 0)


def _first_letter_b(traj):
    return {
        "b": place_outcome(((traj.actions[:, 0] + traj.actions[:, -1]) % 2).double(), torch.ones(len(traj), dtype=torch.bool), traj)
    }


def test_balance_keeps_the_rare_label_whole_and_a_tenth_at_least_of_the_others():
    one, rng = torch.ones(110, dtype=torch.int64), torch.Generator().manual_seed(0)
    label = torch.tensor([0.0] * 100 + [0.5] * 8 + [1.0] * 2, dtype=torch.float64)
    found = balanced(type(items(_example(), torch.zeros(7), torch.ones(7) > 0))(one, one, one, label, one), rng)
    assert torch.bincount((2 * found.label).long()).tolist() == [10, 2, 2]


def test_merged_stretches_let_a_mistake_be_put_right():
    """Fine labels say the step that corrects is good; coarse ones say so of the two together, which is all a merged item shows."""
    policy = small()
    texts = ["1+2=4;2+2=3;#3.", "1+2=3;3+0=3;#3.", "1+2=4;4+0=4;#4."]
    traj = policy.read([{"prompt": "1+2=", "response": text} for text in texts])
    labels = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    known = torch.ones(3, 3, dtype=torch.bool)
    model = HierarchicalProcessModel(policy=policy, epochs=40, learning_rate=0.3, level="merged")
    assert model.fit(traj, labels, known)["process/steps"] == 9 + 6  # every node with at least two steps has a coarse item
    score = model.score(traj)[0]
    for k in range(3):  # what two steps come to together is told apart: the mistake of the first row is put right
        assert score[labels[:, k] > 0.5, k].min() > score[labels[:, k] < 0.5, k].max()
    plain = HierarchicalProcessModel(policy=policy, merged=False)
    assert plain.fit(traj, labels, known)["process/steps"] == 9
    spans = Spans(torch.tensor([0]), torch.tensor([0]), torch.tensor([12]), torch.tensor([1.0]))
    assert model.fit_spans(traj, spans)["process/steps"] == 1
    with pytest.raises(ValueError, match=r"hrm-hnc: labels must lie in \[0, 1\], got 2"):
        model.fit_spans(traj, spans._replace(label=torch.tensor([2.0])))


def test_a_hierarchical_model_is_saved_and_loaded(tmp_path):
    policy = small()
    traj = policy.read([{"prompt": "1+2=", "response": "1+2=3;#3."}, {"prompt": "1+2=", "response": "1+2=4;#4."}])
    model = HierarchicalProcessModel(policy=policy, epochs=20, learning_rate=0.1, level="both")
    model.fit(traj, torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.ones(2, 2, dtype=torch.bool))
    model.save(tmp_path / "model.pt")
    again = HierarchicalProcessModel(policy=policy, weights=str(tmp_path / "model.pt"), level="both")
    assert torch.equal(model.score(traj)[0], again.score(traj)[0])
    with pytest.raises(ValueError, match="was not saved by this model"):
        ProcessRewardModel(policy=policy, weights=str(tmp_path / "model.pt"))


# --- rounds


def test_rounds_of_self_training_teach_the_policy_what_search_found_and_the_model_what_the_tree_says():
    policy = small()
    model = ProcessRewardModel(policy=copy.deepcopy(policy), learning_rate=0.05, epochs=20)
    low = lambda traj: (traj.actions.gather(1, traj.length[:, None] - 1) == policy.tokenizer.encode(".")[0])[:, 0].float()
    ends = lambda traj: {"r": place_outcome(low(traj), torch.ones(len(traj), dtype=torch.bool), traj)}
    starts = [Start(str(i), {"prompt": f"{i}+2="}) for i in range(4)]
    rng = torch.Generator().manual_seed(0)
    options = {"learning_rate": 3e-3, "epochs": 6, "iterations": 4, "end_gate": 2.0, "traces": 2}
    asked = lambda: float(low(policy.rollout(starts, 100, torch.Generator().manual_seed(1))).mean())
    before = asked()
    first, second = (self_training_round(policy, model, starts, ends, rng, **options) for _ in range(2))
    assert first.metrics["search/traces"] > 0
    assert int(torch.bincount(first.tree.start[first.traces]).max()) <= 2
    assert first.metrics["process/steps"] > 0
    assert asked() > before + 0.1
    traces = second.tree.traj.select(second.traces)
    assert (low(traces) == 1).all()
    assert scored_by(model)(traces, traces.length).min() > 0
