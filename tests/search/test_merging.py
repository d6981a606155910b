"""Merges of specialists: identities, hand-worked entries, the mean of what is dropped, and the measures of distance."""

import pytest
import torch

from payoff.search.merging import change_cosine, change_overlap, largest_updates, merged

WAYS = ("average", "task-arithmetic", "ties", "sce")


def weights(seed, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(3, 4, generator=rng).to(dtype), "b": torch.randn(5, generator=rng).to(dtype), "n": torch.tensor(7)}


@pytest.mark.parametrize("how", WAYS)
def test_one_model_is_itself_and_equal_models_are_theirs(how):
    base, model = weights(0), weights(1)
    alone = merged(base, [model], how=how, keep=1.0)
    assert alone["n"] == 7
    for name in "ab":
        torch.testing.assert_close(alone[name], model[name])
        scale = 0.5 if how == "task-arithmetic" else 1.0
        torch.testing.assert_close(merged(base, [model, model], how=how, keep=1.0, scale=scale)[name], model[name])
    assert merged(weights(0, torch.bfloat16), [weights(1, torch.bfloat16)], how=how)["a"].dtype == torch.bfloat16


def test_the_order_of_models_does_not_matter_and_nothing_given_is_changed():
    base, models = weights(0), [weights(k) for k in (1, 2, 3)]
    before = {name: tensor.clone() for name, tensor in base.items()}
    for how in WAYS:
        one, other = merged(base, models, how=how), merged(base, models[::-1], how=how)
        assert all(torch.allclose(one[name], other[name]) for name in "ab")
    assert all(torch.equal(base[name], before[name]) for name in base)


def test_ties_by_hand():
    base = {"w": torch.zeros(5)}
    taus = [torch.tensor([5.0, -1.0, 3.0, 0.1, 2.0]), torch.tensor([1.0, 4.0, -3.0, 0.2, 4.0])]
    # the largest 3 of each: [5 0 3 0 2] and [0 4 -3 0 4]; signs of the sums + + 0 . +; means of those that agree
    found = merged(base, [{"w": tau} for tau in taus], how="ties", keep=0.6, scale=2.0)["w"]
    assert found.tolist() == [10.0, 8.0, 0.0, 0.0, 6.0]


def test_sce_by_hand():
    base = {"w": torch.zeros(4)}
    taus = [torch.tensor([4.0, 1.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, -2.0, 0.0])]
    # variances 4, 0, 2.25, 0: the first and third stay; squares 17 and 4; signs + and -
    found = merged(base, [{"w": tau} for tau in taus], how="sce", keep=0.5)["w"]
    assert found.tolist() == pytest.approx([4.0, 0.0, -2.0, 0.0])
    third = [torch.tensor([2.0, 0.0]), torch.tensor([4.0, 0.0])]
    # nothing opposed: weighed by 4 and 16 of 20
    assert merged({"w": torch.zeros(2)}, [{"w": tau} for tau in third], how="sce", keep=1.0)["w"][0] == pytest.approx(3.6)


def test_dropping_keeps_the_mean_and_is_drawn_by_the_seed():
    base, model = {"w": torch.zeros(20_000)}, {"w": torch.ones(20_000)}
    found = merged(base, [model], how="average", drop=0.75, seed=1)["w"]
    assert set(found.tolist()) == {0.0, 4.0}
    assert float(found.mean()) == pytest.approx(1.0, abs=0.05)  # 4 standard errors
    assert torch.equal(found, merged(base, [model], how="average", drop=0.75, seed=1)["w"])
    assert not torch.equal(found, merged(base, [model], how="average", drop=0.75, seed=2)["w"])


def test_measures():
    base = {"w": torch.zeros(10), "n": torch.tensor(1)}
    of = lambda *places: {"w": torch.zeros(10).index_fill(0, torch.tensor(places), 1.0), "n": torch.tensor(1)}
    assert change_cosine(base, of(0, 1), of(2, 3)) == 0.0
    assert change_cosine(base, of(0, 1), of(1, 2)) == pytest.approx(0.5)
    assert change_cosine(base, base, of(1)) == 0.0
    assert change_overlap(base, of(0, 1), of(1, 2), share=0.2) == pytest.approx(1 / 3)


def test_models_that_do_not_fit_are_refused():
    base = weights(0)
    for bad, says in (({"a": base["a"]}, "other weights"), ({**base, "b": torch.zeros(2)}, "b is")):
        with pytest.raises(ValueError, match=says):
            merged(base, [bad])
    with pytest.raises(ValueError, match="at least one model"):
        merged(base, [])
    with pytest.raises(ValueError, match="keep must lie"):
        merged(base, [base], keep=0.0)


def test_of_no_update_the_base_is_left_and_of_all_of_it_the_tuned_model():
    base, tuned = weights(0), weights(1)
    for keep, scale, whole in ((0.0, 0.7, base), (1.0, 1.0, tuned), (1.0, 0.0, base)):
        found = largest_updates(base, tuned, keep=keep, scale=scale)
        assert all(torch.equal(found[name], whole[name]) for name in "ab")
        assert found["n"] == 7
    assert largest_updates(weights(0, torch.bfloat16), weights(1, torch.bfloat16))["a"].dtype == torch.bfloat16


def test_updates_are_the_largest_of_each_tensor_not_of_the_whole_model():
    base = {"a": torch.ones(4), "b": torch.zeros(2, 2)}
    tuned = {"a": torch.tensor([1.1, 0.8, 1.0, 1.3]), "b": torch.tensor([[50.0, -90.0], [70.0, 60.0]])}
    found = largest_updates(base, tuned, keep=0.5, scale=0.7)
    # of a changes 0.1, -0.2, 0, 0.3: the second and fourth, times 0.7; of b -90 and 70
    torch.testing.assert_close(found["a"], torch.tensor([1.0, 0.86, 1.0, 1.21]))
    torch.testing.assert_close(found["b"], torch.tensor([[0.0, -63.0], [49.0, 0.0]]))
    # one model of the whole: "ties" takes all its entries from b
    whole = merged(base, [tuned], how="ties", keep=0.5, scale=0.7)
    assert torch.equal(whole["a"], base["a"])
    with pytest.raises(ValueError, match=r"keep must lie in \[0, 1\]"):
        largest_updates(base, tuned, keep=1.5)
    with pytest.raises(ValueError, match="other weights"):
        largest_updates(base, {"a": base["a"]})
