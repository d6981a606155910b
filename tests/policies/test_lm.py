import dataclasses
import os
import stat

import pytest
import torch

from payoff.catalogue import find
from payoff.pipeline import Start
from payoff.policies.embedded import transformer
from payoff.policies.lm import LanguageModel
from payoff.policies.pretrained import pretrained
from payoff.policies.transformer import CharacterTokenizer, Transformer, save_transformer
from payoff.trajectories import StopReason, concatenate

OWN_PROMPTS = ["1+2=", "9-", "3-4+5-6+7-8=", "0=0;"]
HUB_PROMPTS = ["What is 3+4?", "Step", "Compute 三十六 € and then go on, stop here", "36."]


def own(**options):
    """A fresh transformer with clearly uneven next-token probabilities."""
    policy = transformer(**{"width": 16, "layers": 2, "heads": 2, "context": 48, "max_tokens": 14, **options})
    torch.manual_seed(3)
    for name, parameter in policy.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3 if "value_head" in name else 0.35)
    return policy


@pytest.fixture(params=["own", "llama", "lora"])
def make(request, llama):
    """(policy with these options, starts whose prompts differ in length) for both kinds of model, and for LoRA."""

    def build(**options):
        if request.param == "own":
            stop = options.pop("stop", ("5;", "."))
            return own(stop=stop, **options), [Start(f"s{i}", {"prompt": p, "n": i}) for i, p in enumerate(OWN_PROMPTS)]
        adapters = {"r": 4, "lora_alpha": 16} if request.param == "lora" else None
        stop = options.pop("stop", ("t", "€ ", "\n"))
        policy = pretrained(model=llama, lora=adapters, **{"max_tokens": 14, "stop": stop, **options})
        torch.manual_seed(5)
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
            if "value_head" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        return policy, [Start(f"s{i}", {"prompt": p, "n": i}) for i, p in enumerate(HUB_PROMPTS)]

    return build


def seed(number=0):
    return torch.Generator().manual_seed(number)


def plain(policy, prompt_ids, actions):
    """(logits the actions were chosen from, states before each and after the last), from one unpadded row and no cache."""
    ids = torch.tensor([[*prompt_ids, *actions]])
    with torch.no_grad():
        if isinstance(policy.model, Transformer):
            logits, states = policy.model.logits_and_states(ids)
        else:
            out = policy.model.network(input_ids=ids, output_hidden_states=True)
            logits, states = out.logits, out.hidden_states[-1]
    first = len(prompt_ids) - 1
    return logits[0, first:-1].double(), states[0, first:]


def row_by_row(policy, traj):
    for row in range(len(traj)):
        n = int(traj.length[row])
        actions = traj.actions[row, :n]
        logits, states = plain(policy, traj.items[row]["prompt_ids"], actions.tolist())
        yield row, n, actions, logits / (policy.temperature or 1), states


# --- what is recorded is what is evaluated


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6, "top_k": 8},
        {"temperature": 1.4, "top_p": 0.8},
        {"temperature": 0.0},
        {"stop": ()},
        {"max_tokens": 1},
    ],
    ids=str,
)
def test_recorded_and_evaluated_log_probabilities_are_those_of_the_unpadded_row(make, options):
    policy, starts = make(**options)
    traj = policy.rollout(starts, 6, seed()).check()
    if options.get("stop") is None and options.get("temperature", 1) and "max_tokens" not in options:
        assert len(set(traj.length.tolist())) >= 3
        assert set(traj.stop.tolist()) == {StopReason.finished, StopReason.truncated}
    evaluated = policy.evaluate(traj).logp
    for row, n, actions, logits, _ in row_by_row(policy, traj):
        expected = logits.log_softmax(-1)[torch.arange(n), actions].float()
        torch.testing.assert_close(traj.logp["old"][row, :n], expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(evaluated[row, :n], expected, atol=1e-4, rtol=0)
        assert (traj.logp["old"][row, n:] == 0).all()
        assert (evaluated[row, n:] == 0).all()


def test_more_is_what_the_unpadded_row_gives(make):
    policy, starts = make(critic=True, temperature=0.7)
    assert policy.offers == {"entropy", "mean_logp", "sum_pi_squared", "logits", "hidden", "layers", "values"}
    traj = policy.rollout(starts, 4, seed())
    more = policy.evaluate(traj, policy.offers).more
    assert set(more) == policy.offers
    choices = 16 if isinstance(policy.model, Transformer) else policy.model.vocabulary
    for row, n, _, logits, states in row_by_row(policy, traj):
        logp = logits.log_softmax(-1)
        entropy = -(logp.exp() * logp).sum(-1)
        with torch.no_grad():
            values = policy.value_head(states)[:, 0]
        for name, expected, count in (
            ("entropy", entropy.float(), n),
            ("mean_logp", logp[:, :choices].mean(-1).float(), n),
            ("sum_pi_squared", logits.softmax(-1).square().sum(-1).float(), n),
            ("logits", logits.float(), n),
            ("hidden", states, n + 1),
            ("values", values, n + 1),
        ):
            torch.testing.assert_close(more[name][row, :count], expected, atol=1e-4, rtol=1e-4)
            assert (more[name][row, count:] == 0).all()
    assert more["values"].shape == more["hidden"].shape[:2] == (len(traj), traj.width + 1)


@pytest.mark.parametrize("want", ["entropy", "mean_logp", "sum_pi_squared", "hidden", "values", None])
def test_each_thing_wanted_alone_is_what_it_is_beside_the_others(make, want):
    policy, starts = make(critic=True)
    traj = policy.rollout(starts, 2, seed())
    together = policy.evaluate(traj, policy.offers)
    alone = policy.evaluate(traj, frozenset({want} - {None}))
    torch.testing.assert_close(alone.logp, together.logp, atol=1e-5, rtol=0)
    assert set(alone.more) == {want} - {None}
    for name, value in alone.more.items():
        torch.testing.assert_close(value, together.more[name], atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_unpadded_rows(make):
    policy, starts = make(critic=True)
    traj = policy.rollout(starts, 2, seed())
    weight = torch.rand(traj.mask.shape)
    learned = [p for p in policy.parameters() if p.requires_grad]
    whole = policy.evaluate(traj, frozenset({"entropy", "values"}))
    score = (weight * whole.logp + whole.more["entropy"]).sum() + whole.more["values"].square().sum()
    gradient = torch.autograd.grad(score, learned, allow_unused=True)
    total = [torch.zeros_like(p) for p in learned]
    for row in range(len(traj)):
        one = policy.evaluate(traj.select(torch.tensor([row])), frozenset({"entropy", "values"}))
        n = one.logp.shape[1]
        part = (weight[row, :n] * one.logp + one.more["entropy"]).sum() + one.more["values"].square().sum()
        for sum_, g in zip(total, torch.autograd.grad(part, learned, allow_unused=True), strict=True):
            sum_ += 0 if g is None else g
    moved = 0
    for expected, g in zip(total, gradient, strict=True):
        torch.testing.assert_close(torch.zeros_like(expected) if g is None else g, expected, atol=2e-3, rtol=2e-3)
        moved += int((expected != 0).any())
    assert moved > len(learned) / 2


def spoiled(traj, extra=3):
    """The same trajectories, wider, with nonsense wherever nothing exists."""
    n = len(traj)
    fill = lambda tensor, value: torch.cat([tensor, tensor.new_full((n, extra), value)], 1)
    beyond = ~fill(traj.exists, False)
    return dataclasses.replace(
        traj,
        mask=fill(traj.mask, False),
        step=fill(traj.step, -1),
        actions=fill(traj.actions, 0).masked_fill(beyond, 10**9),
        logp={"old": fill(traj.logp["old"], 0).masked_fill(beyond, torch.nan)},
    )


def test_nothing_beyond_a_rows_end_is_read(make):
    policy, starts = make(critic=True)
    traj = policy.rollout(starts, 3, seed())
    before, after = policy.evaluate(traj, policy.offers), policy.evaluate(spoiled(traj), policy.offers)
    assert torch.equal(after.logp[:, : traj.width], before.logp)
    assert (after.logp[:, traj.width :] == 0).all()
    for name, value in before.more.items():
        assert torch.equal(after.more[name][:, : value.shape[1]], value)
        assert (after.more[name][:, value.shape[1] :] == 0).all()
    rows, at = torch.tensor([0, 4]), torch.tensor([1, 0])
    again, once = (policy.resume(t, rows, at, 2, seed(1)) for t in (spoiled(traj), traj))
    assert torch.equal(again.actions, once.actions)
    assert torch.equal(again.logp["old"], once.logp["old"])


def test_the_order_of_rows_and_the_other_rows_change_nothing(make):
    policy, starts = make()
    traj = policy.rollout(starts, 3, seed())
    order = torch.tensor([7, 2, 11, 0, 5])
    torch.testing.assert_close(
        policy.evaluate(traj.select(order)).logp,
        policy.evaluate(traj).logp[order, : int(traj.length[order].max())],
        atol=1e-5,
        rtol=0,
    )


def test_text_that_a_tool_wrote_is_context_and_has_no_log_probability(make):
    policy, starts = make(stop=(), critic=True)
    traj = policy.rollout(starts, 2, seed())
    mask = traj.mask.clone()
    mask[0, 2:5] = False
    mask[3, :] = False  # nothing acted at all
    mask[5, 0] = mask[5, -1] = False
    held = traj.replace(mask=mask)
    before, after = policy.evaluate(traj, policy.offers), policy.evaluate(held, policy.offers)
    torch.testing.assert_close(after.logp, torch.where(mask, before.logp, 0), atol=1e-5, rtol=0)
    torch.testing.assert_close(policy.evaluate(held).logp, after.logp, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.more["entropy"], torch.where(mask, before.more["entropy"], 0), atol=1e-5, rtol=0)
    for name in ("values", "hidden"):  # a state exists whether or not the policy acts in it
        torch.testing.assert_close(after.more[name], before.more[name], atol=1e-5, rtol=1e-5)
    silent = held.select(torch.tensor([3]))
    assert (policy.evaluate(silent).logp == 0).all()


def test_only_acted_places_reach_the_head(make, monkeypatch):
    policy, starts = make()
    traj = policy.rollout(starts, 2, seed())
    own_head = isinstance(policy.model, Transformer)
    head = policy.model.head if own_head else policy.model.network.get_output_embeddings()
    seen, linear = [], torch.nn.functional.linear

    def counting(x, weight, bias=None):
        if weight is head.weight:
            seen.append(x.shape[:-1].numel())
        return linear(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", counting)
    policy.evaluate(traj)
    assert seen == [int(traj.mask.sum())]


# --- rollouts


def test_a_rollout_says_what_it_is(make):
    policy, starts = make()
    traj = policy.rollout(starts, 3, seed()).check()
    assert len(traj) == 12
    assert torch.equal(traj.group[::3].repeat_interleave(3), traj.group)
    assert len(set(traj.group.tolist())) == 4
    assert len(set(traj.id.tolist())) == 12
    assert traj.parent is None
    assert traj.fork is None
    assert torch.equal(traj.mask, traj.exists)
    again = policy.rollout(starts, 3, seed())
    assert not set(again.id.tolist()) & set(traj.id.tolist())
    assert not set(again.group.tolist()) & set(traj.group.tolist())
    for row, item in enumerate(traj.items):
        start = starts[row // 3]
        assert item["start"] == start.id
        assert item["prompt"] == start.fields["prompt"]
        assert item["n"] == row // 3
        assert item["prompt_ids"] == policy.tokenizer.prompt(item["prompt"])[1]
        ids = traj.actions[row, : traj.length[row]].tolist()
        assert item["response"] == policy.tokenizer.decode(ids)
        assert len(item["tokens"]) == len(ids)
        ends_so = any(stop in item["response"] for stop in policy.stop) or ids[-1] in policy.tokenizer.ends
        assert ends_so == (traj.stop[row] == StopReason.finished)
        before_last = policy.tokenizer.decode(ids[:-1])
        assert not any(stop in before_last for stop in policy.stop)


def test_a_first_token_that_ends_the_response_is_a_response_of_one_action():
    policy = own(stop=tuple("0123456789+-=;#."))
    traj = policy.rollout([Start("a", {"prompt": "1="})], 5, seed())
    assert traj.length.tolist() == [1] * 5
    assert (traj.stop == StopReason.finished).all()


def test_steps_are_cut_at_the_separator_and_numbered_on_the_tokens():
    policy = own(stop=(), step_separator=";", max_tokens=30)
    traj = policy.rollout([Start("a", {"prompt": "1="})], 40, seed())
    assert max(len(item["steps"]) for item in traj.items) >= 3
    for row, item in enumerate(traj.items):
        pieces = [piece + ";" for piece in item["response"].split(";")]
        pieces[-1] = pieces[-1][:-1]
        assert item["steps"] == [piece for piece in pieces if piece]
        sizes = torch.bincount(traj.step[row, : traj.length[row]].long()).tolist()
        assert sizes == [len(step) for step in item["steps"]]


def test_a_response_ends_at_the_models_context():
    policy = own(stop=(), max_tokens=100)  # context 48
    traj = policy.rollout([Start("a", {"prompt": "1" * 40}), Start("b", {"prompt": "12"})], 2, seed())
    assert traj.length.tolist() == [8, 8, 46, 46]
    assert (traj.stop == StopReason.truncated).all()
    policy.evaluate(traj, frozenset({"entropy"}))
    with pytest.raises(ValueError, match=r"start 'a' has 48 tokens and leaves no room in a context of 48"):
        policy.rollout([Start("a", {"prompt": "1" * 48})], 2, seed())
    with pytest.raises(ValueError, match="rows of 85 tokens are longer than the model's context of 48"):
        policy.evaluate(traj.replace(items=[{**item, "prompt_ids": [1] * 40} for item in traj.items]))


def test_rows_that_hold_only_text_of_their_prompt_are_evaluated(make):
    policy, starts = make()
    traj = policy.rollout(starts, 2, seed())
    bare = traj.replace(items=[{"prompt": item["prompt"]} for item in traj.items])
    assert torch.equal(policy.evaluate(bare).logp, policy.evaluate(traj).logp)


# --- resume


def test_a_continuation_keeps_its_prefix_and_belongs_to_its_parent(make):
    policy, starts = make(stop=())
    traj = policy.rollout(starts, 3, seed())
    mask = traj.mask.clone()
    mask[7, 1] = False  # tool text in a prefix stays what it is
    traj = traj.replace(mask=mask, logp={"old": torch.where(mask, traj.logp["old"], 0)})
    rows = torch.tensor([7, 0, 0, 10])
    at = torch.tensor([5, 0, 3, 13]).minimum(traj.length[rows] - 1)
    new = policy.resume(traj, rows, at, 2, seed(1)).check()
    assert len(new) == 8
    rows, at = rows.repeat_interleave(2), at.repeat_interleave(2)
    assert torch.equal(new.parent, traj.id[rows])
    assert torch.equal(new.fork, at)
    assert torch.equal(new.group, traj.group[rows])
    assert not set(new.id.tolist()) & set(traj.id.tolist())
    evaluated = policy.evaluate(new).logp
    for i, (row, place) in enumerate(zip(rows.tolist(), at.tolist(), strict=True)):
        assert torch.equal(new.actions[i, :place], traj.actions[row, :place])
        assert torch.equal(new.mask[i, :place], traj.mask[row, :place])
        assert torch.equal(new.logp["old"][i, :place], traj.logp["old"][row, :place])
        assert new.own[i].nonzero()[:, 0].tolist() == list(range(place, int(new.length[i])))
        assert new.items[i]["prompt"] == traj.items[row]["prompt"]
        assert new.items[i]["start"] == traj.items[row]["start"]
        assert new.items[i]["response"] == policy.tokenizer.decode(new.actions[i, : new.length[i]].tolist())
    torch.testing.assert_close(evaluated, new.logp["old"], atol=1e-4, rtol=0)
    concatenate([traj, new]).check()


def test_horizon_bounds_what_is_added_and_the_token_limit_what_there_is(make):
    policy, starts = make(stop=())
    traj = policy.rollout(starts, 1, seed())
    rows, at = torch.tensor([0, 1, 2]), torch.tensor([2, 0, 12])
    ends = list(policy.tokenizer.ends)
    new = policy.resume(traj, rows, at, 1, seed(1), horizon=5)
    for length, limit, last in zip(new.length.tolist(), [7, 5, 14], new.actions[range(3), new.length - 1].tolist(), strict=True):
        assert length == limit or last in ends
    assert (new.stop[new.length == torch.tensor([7, 5, 14])] == StopReason.truncated).any()


def test_noisy_actions_are_sampled_and_those_after_them_are_the_most_likely(make):
    policy, starts = make(stop=())
    traj = policy.rollout(starts, 1, seed())
    new = policy.resume(traj, torch.tensor([0, 2]), torch.tensor([3, 1]), 24, seed(1), noisy=2)
    followed = 0
    for row, n, actions, logits, _ in row_by_row(policy, new):
        greedy = logits.argmax(-1)
        first = int(new.fork[row]) + 2
        assert torch.equal(actions[first:n], greedy[first:n])
        followed += int(torch.equal(actions[first - 2 : first], greedy[first - 2 : first]))
    assert followed < 24
    certain = policy.resume(traj, torch.tensor([0]), torch.tensor([3]), 3, seed(1), noisy=0)
    assert torch.equal(certain.actions, certain.actions[:1].expand(3, -1))


def test_a_truncated_row_goes_on_from_its_end():
    policy = own(stop=(".",), max_tokens=20)
    traj = policy.rollout([Start("a", {"prompt": "1="})], 1, seed())
    short = policy.resume(traj, torch.tensor([0]), torch.tensor([0]), 6, seed(1), horizon=4)
    open_ = (short.stop == StopReason.truncated).nonzero()[:, 0]
    longer = policy.resume(short, open_, short.length[open_], 1, seed(2), horizon=4)
    assert (longer.length > 4).all()
    assert torch.equal(longer.actions[:, :4], short.actions[open_])


def test_a_stop_string_that_began_in_the_prefix_ends_the_continuation():
    policy = own(stop=("12",), temperature=0.0)
    traj = policy.rollout([Start("a", {"prompt": "="})], 1, seed())
    actions = traj.actions.clone()
    actions[0, 0] = 1
    with torch.no_grad():  # now 2 is always the most likely
        policy.model.head.weight.zero_()
        policy.model.norm.weight.zero_()
        policy.model.norm.bias.fill_(1.0)
        policy.model.head.weight[2] = 1.0
    new = policy.resume(dataclasses.replace(traj, actions=actions), torch.tensor([0]), torch.tensor([1]), 1, seed())
    assert new.items[0]["response"] == "12"
    assert new.stop.tolist() == [StopReason.finished]


def test_a_continuation_that_cannot_be_is_refused():
    policy = own(stop=(".",), max_tokens=6)
    traj = policy.rollout([Start("a", {"prompt": "1="})], 30, seed())
    over, full = (int((traj.stop == stop).nonzero()[0]) for stop in (StopReason.finished, StopReason.truncated))
    for row, at, said in (
        (over, int(traj.length[over]), "at its end .* where it is over"),
        (full, 6, "at 6 leaves no room"),
        (full, 7, "outside 0..length = 0..6"),
        (full, -1, "outside 0..length"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            policy.resume(traj, torch.tensor([row]), torch.tensor([at]), 1, seed())
        assert str(int(traj.id[row])) in str(caught.value)
    for options in ({"horizon": 0}, {"noisy": -1}):
        with pytest.raises(ValueError, match="resume needs rows"):
            policy.resume(traj, torch.tensor([full]), torch.tensor([1]), 1, seed(), **options)
    with pytest.raises(ValueError, match="resume needs rows"):
        policy.resume(traj, torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 1, seed())


# --- reference, critic, options


def test_a_reference_is_the_policy_before_training(make):
    policy, starts = make()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:  # as a fresh adapter is
                parameter.zero_()
    traj = policy.rollout(starts, 2, seed())
    before = policy.evaluate(traj).logp.detach()
    frozen = policy.reference()
    torch.testing.assert_close(frozen.evaluate(traj).logp, before, atol=1e-6, rtol=0)
    optimiser = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):
        optimiser.zero_grad()
        policy.evaluate(traj).logp.sum().backward()
        optimiser.step()
    assert (policy.evaluate(traj).logp - before).abs().max() > 1e-2
    torch.testing.assert_close(frozen.evaluate(traj).logp, before, atol=1e-6, rtol=0)
    assert not frozen.evaluate(traj).logp.requires_grad
    assert not any(p.requires_grad for p in frozen.parameters())
    assert torch.equal(frozen.rollout(starts, 2, seed()).actions, traj.actions)


def test_a_fresh_critic_values_everything_at_zero_and_passes_no_gradient_to_the_model_yet():
    policy = transformer(width=16, layers=1, heads=2, critic=True, max_tokens=6)
    traj = policy.rollout([Start("a", {"prompt": "1="})], 3, seed())
    values = policy.evaluate(traj, frozenset({"values"})).more["values"]
    assert (values == 0).all()
    (values - 1)[:, 0].square().sum().backward()
    assert policy.value_head.bias.grad.abs() > 0
    assert all(p.grad is None or (p.grad == 0).all() for p in policy.model.parameters())


def test_weights_and_critic_come_back_through_the_state():
    policy, other = own(critic=True), transformer(width=16, layers=2, heads=2, context=48, critic=True, seed=9)
    other.load_state_dict(policy.state_dict())
    traj = policy.rollout([Start("a", {"prompt": "1="})], 3, seed())
    for want in (frozenset(), frozenset({"values"})):
        a, b = policy.evaluate(traj, want), other.evaluate(traj, want)
        assert torch.equal(a.logp, b.logp)
        assert all(torch.equal(a.more[name], b.more[name]) for name in want)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"temperature": -0.5}, "temperature must be at least 0, got -0.5"),
        ({"temperature": float("nan")}, "temperature must be at least 0, got nan"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.2}, "top_p must be above 0 and at most 1, got 1.2"),
        ({"stop": ("",)}, "stop must be strings that are not empty"),
        ({"step_separator": ""}, "step_separator must be a string that is not empty, or None"),
    ],
)
def test_impossible_options_are_named(options, said):
    tokenizer = CharacterTokenizer("ab")
    with pytest.raises(ValueError, match=said):
        LanguageModel(Transformer(vocabulary=3, context=4, width=8, heads=1, layers=1), tokenizer, **options)


@pytest.mark.parametrize(
    ("starts", "n", "said"),
    [
        ([], 2, "at least one start"),
        ([Start("a", {"prompt": "1"})], 0, "n >= 1, got 1 starts and n = 0"),
        ([Start("a", {"question": "1"})], 1, "start 'a' has no field 'prompt'; it has \\['question'\\]"),
        ([Start("a", {"prompt": ""})], 1, "prompt of start 'a' is empty"),
        ([Start("a", {"prompt": "1x"})], 1, "'x' .* is not one of the characters"),
        ([Start("a", {"prompt": 3})], 1, "a prompt must be text, got int"),
        ([Start("a", {"prompt": "1"}, environment=object())], 1, "has an environment"),
    ],
)
def test_impossible_starts_are_named(starts, n, said):
    policy = own()
    with pytest.raises(ValueError, match=said):
        policy.rollout(starts, n, seed())


def test_what_is_not_offered_is_not_given():
    policy = own()
    traj = policy.rollout([Start("a", {"prompt": "1="})], 1, seed())
    with pytest.raises(
        ValueError,
        match=r"cannot give \['values'\]; offers \['entropy', 'hidden', 'layers', 'logits', 'mean_logp', 'sum_pi_squared'\]",
    ):
        policy.evaluate(traj, frozenset({"values", "entropy"}))
    with pytest.raises(ValueError, match="no items, so their prompts are not known"):
        policy.evaluate(dataclasses.replace(traj, items=()))


# --- the embedded model by its options


def test_the_policies_are_found_by_name():
    assert find("transformer", "policy") is transformer
    assert find("pretrained", "policy") is pretrained


def test_a_checkpoint_brings_its_shape_and_another_shape_is_refused(tmp_path):
    path = str(tmp_path / "m.pt")
    policy = own()
    before = os.umask(0o022)
    try:
        save_transformer(path, policy.model, policy.tokenizer)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644
    assert os.listdir(tmp_path) == ["m.pt"]
    loaded = transformer(checkpoint=path, width=16, max_tokens=14, stop=("5;", "."))
    traj = policy.rollout([Start("a", {"prompt": "1="})], 3, seed())
    assert torch.equal(loaded.evaluate(traj).logp, policy.evaluate(traj).logp)
    for options, said in (
        ({"width": 32}, "width is 16, not 32"),
        ({"layers": 1}, "layers is 2, not 1"),
        ({"alphabet": "01"}, "alphabet is '0123456789"),
        ({"context": 84}, "context is 48, not 84"),
    ):
        with pytest.raises(ValueError, match=f"m.pt: the checkpoint's {said}"):
            transformer(checkpoint=path, **options)


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint 'chian': there is no such file, and the shipped ones are \["):
        transformer(checkpoint="chian")
    with pytest.raises(ValueError, match=r"gone.pt: no such checkpoint file"):
        transformer(checkpoint=str(tmp_path / "gone.pt"))


def test_fresh_weights_come_from_their_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    a, b, c = (transformer(width=8, layers=1, heads=1, seed=s).state_dict() for s in (3, 3, 4))
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["model.head.weight"], c["model.head.weight"])


def test_a_text_the_alphabet_cannot_write_is_refused_as_stop_or_separator():
    with pytest.raises(ValueError, match="stop '!' can never be written"):
        transformer(stop=("!",))
    with pytest.raises(ValueError, match=r"step_separator '\\n' can never be written"):
        transformer(step_separator="\n")
    with pytest.raises(ValueError, match=r"stop '\.' can never be written"):
        transformer(alphabet="01;")
    with pytest.raises(ValueError, match="device 'gpu7' cannot be used"):
        transformer(device="gpu7")
