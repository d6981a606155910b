import math

import pytest
import torch

from payoff.pipeline import Start
from payoff.policies.embedded import transformer
from payoff.policies.generation import Choice, generate, sample
from payoff.policies.transformer import Transformer


def open_policy(**options):
    """A fresh model with clearly uneven next-token probabilities."""
    policy = transformer(**{"width": 16, "layers": 2, "heads": 2, "context": 48, "max_tokens": 12, **options})
    torch.manual_seed(3)
    for parameter in policy.model.parameters():
        torch.nn.init.normal_(parameter, std=0.35)
    return policy


def frequencies(probability, count=20_000, **options):
    """How often each id comes out over an even grid of uniform numbers: its probability, to 1 / count."""
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    taken = sample(probability.expand(count, -1), uniform, **options)
    return torch.bincount(taken, minlength=len(probability)).double() / count


P = torch.tensor([0.05, 0.4, 0.0, 0.25, 0.2, 0.1])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.05, 0.4, 0.0, 0.25, 0.2, 0.1]),
        ({"top_k": 1}, [0, 1, 0, 0, 0, 0]),
        ({"top_k": 2}, [0, 40 / 65, 0, 25 / 65, 0, 0]),
        ({"top_k": 6}, [0.05, 0.4, 0.0, 0.25, 0.2, 0.1]),
        ({"top_k": 99}, [0.05, 0.4, 0.0, 0.25, 0.2, 0.1]),
        ({"top_p": 0.39}, [0, 1, 0, 0, 0, 0]),
        ({"top_p": 0.6}, [0, 40 / 65, 0, 25 / 65, 0, 0]),  # 0.4 is not enough, 0.65 is
        ({"top_p": 0.84}, [0, 40 / 85, 0, 25 / 85, 20 / 85, 0]),
        ({"top_p": 0.999}, [0.05, 0.4, 0.0, 0.25, 0.2, 0.1]),
        ({"top_k": 3, "top_p": 0.7}, [0, 40 / 65, 0, 25 / 65, 0, 0]),  # of 0.85, so 0.595 must be reached
        ({"top_k": 4, "top_p": 0.7}, [0, 40 / 85, 0, 25 / 85, 20 / 85, 0]),  # of 0.95: 0.665 needs the third
    ],
)
def test_truncated_distributions_are_exact(options, expected):
    torch.testing.assert_close(frequencies(P, **options), torch.tensor(expected).double(), atol=2e-4, rtol=0)


def test_a_share_that_is_reached_exactly_is_enough():
    probability = torch.tensor([0.5, 0.25, 0.25])
    assert frequencies(probability, top_p=0.5).tolist() == [1, 0, 0]
    assert frequencies(probability, top_p=0.75).tolist()[2] == 0


def test_no_token_of_probability_zero_is_taken_at_either_end():
    probability = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]) / 2
    edge = torch.tensor([0.0, 0.5, math.nextafter(1.0, 0.0)], dtype=torch.float64)
    assert sample(probability.expand(3, -1), edge).tolist() == [1, 3, 3]
    assert sample(probability.expand(3, -1), edge, top_p=0.99).tolist() == [1, 3, 3]


def test_rare_tokens_of_a_large_vocabulary_keep_their_place():
    # Each token owns an interval of [0, 1) as long as its probability; float32 sums would blur those below 1e-7.
    torch.manual_seed(0)
    probability = (3 * torch.randn(50_000)).softmax(-1)
    ends = probability.double().cumsum(0) / probability.double().sum()
    tokens = torch.randint(1, 50_000, (200,))
    assert probability[tokens].min() < 1e-8
    middle = (ends[tokens - 1] + ends[tokens]) / 2
    assert torch.equal(sample(probability.expand(200, -1), middle), tokens)


def exact_distribution(policy, context, temperature=1.0, top_k=0, top_p=1.0):
    """What the next token should follow, from the model's plain forward pass and the definitions."""
    logits = policy.model(torch.tensor([context]))[0, -1].detach().double() / temperature
    probability = logits.softmax(-1)
    kept = probability.argsort(descending=True)[: top_k or 17]
    share = probability[kept] / probability[kept].sum()
    enough = int((share.cumsum(0) < top_p - 1e-9).sum()) + 1
    exact = torch.zeros(17).double()
    exact[kept[:enough]] = share[:enough] / share[:enough].sum()
    return exact


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}, {"temperature": 1.5, "top_k": 9, "top_p": 0.9}]
)
def test_rollouts_follow_the_models_distribution(options):
    from scipy.stats import chisquare

    policy = open_policy(stop=(), max_tokens=2, **options)
    traj = policy.rollout([Start("a", {"prompt": "1+2="})], 6000, torch.Generator().manual_seed(0))
    prompt, (first, second) = traj.items[0]["prompt_ids"], traj.actions.T
    common = int(first.mode().values)
    for context, taken in ((prompt, first), ([*prompt, common], second[first == common])):
        expected = exact_distribution(policy, context, **options) * len(taken)
        seen = torch.bincount(taken, minlength=17).double()
        assert seen[expected == 0].sum() == 0
        usual = expected > 5  # the approximation's condition; what is rarer is counted together
        seen, expected = (torch.cat([x[usual], x[~usual].sum()[None]]) for x in (seen, expected))
        if expected[-1] <= 5:
            assert seen[-1] <= 15
            seen, expected = seen[:-1], expected[:-1] * seen[:-1].sum() / expected[:-1].sum()
        if len(seen) > 1:
            assert chisquare(seen.numpy(), expected.numpy()).pvalue > 0.001


def test_temperature_zero_takes_the_most_likely_token_at_every_place():
    policy = open_policy(stop=(), temperature=0.0)
    traj = policy.rollout([Start("a", {"prompt": "1+2="}), Start("b", {"prompt": "7="})], 2, torch.Generator().manual_seed(0))
    for row, item in enumerate(traj.items):
        ids = list(item["prompt_ids"])
        for action, logp in zip(traj.actions[row], traj.logp["old"][row], strict=True):
            plain = policy.model(torch.tensor([ids]))[0, -1].detach().log_softmax(-1)
            assert int(action) == int(plain.argmax())
            assert float(logp) == pytest.approx(float(plain.max()), abs=1e-5)
            ids.append(int(action))


STARTS = [Start(str(i), {"prompt": text}) for i, text in enumerate(["1+2=", "9-", "3-4+5-6+7-8=", "0=0;"])]


def test_the_same_seed_gives_the_same_rows_bit_for_bit_and_another_seed_others():
    policy = open_policy(top_p=0.9)
    once, again, other = (policy.rollout(STARTS, 3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(once.actions, again.actions)
    assert torch.equal(once.logp["old"], again.logp["old"])
    assert [item["response"] for item in once.items] == [item["response"] for item in again.items]
    assert [item["response"] for item in once.items] != [item["response"] for item in other.items]


def test_the_generator_moves_by_one_draw_however_long_the_rows_get():
    after = []
    for limit in (1, 12):
        rng = torch.Generator().manual_seed(4)
        open_policy(max_tokens=limit).rollout(STARTS, 2, rng)
        after.append(rng.get_state())
    once = torch.Generator().manual_seed(4)
    torch.randint(2**62, (), generator=once)
    assert torch.equal(after[0], after[1])
    assert torch.equal(after[0], once.get_state())


def test_a_rows_tokens_do_not_depend_on_when_the_other_rows_end():
    # With ";" as a further stop most rows end early and leave the batch; what is left of each row must not change.
    free = open_policy(stop=()).rollout(STARTS, 8, torch.Generator().manual_seed(0))
    cut = open_policy(stop=(";", "#", "3")).rollout(STARTS, 8, torch.Generator().manual_seed(0))
    assert len(set(cut.length.tolist())) > 4
    for row, length in enumerate(cut.length.tolist()):
        assert torch.equal(cut.actions[row, :length], free.actions[row, :length])
        torch.testing.assert_close(cut.logp["old"][row, :length], free.logp["old"][row, :length], atol=1e-5, rtol=0)


def test_the_first_rows_stay_when_more_starts_are_added():
    policy = open_policy()
    few, many = (policy.rollout(STARTS[:count], 3, torch.Generator().manual_seed(0)) for count in (2, 4))
    assert [item["response"] for item in few.items] == [item["response"] for item in many.items[:6]]


class Scripted:
    """A model whose next token is written down: row by row, what is not yet said of its line."""

    device, context, width = torch.device("cpu"), None, 1

    def __init__(self, lines, vocabulary):
        self.lines, self.vocabulary, self.choices, self.kept = lines, vocabulary, vocabulary, []

    def score(self, tokens, rows, columns):
        raise NotImplementedError

    def frozen(self):
        raise NotImplementedError

    def session(self, contexts, copies, room):
        self.rows = torch.arange(len(self.lines))
        self.said = 0
        self._say()
        return self

    def _say(self):
        logits = torch.full((len(self.rows), self.vocabulary), -1e4)
        for place, row in enumerate(self.rows.tolist()):
            line = self.lines[row]
            logits[place, line[min(self.said, len(line) - 1)]] = 0.0
        self.logits = logits

    def step(self, tokens):
        assert tokens.tolist() == [line[min(self.said, len(line) - 1)] for line in (self.lines[r] for r in self.rows.tolist())]
        self.said += 1
        self._say()

    def keep(self, rows):
        self.kept.append(len(rows))
        self.rows, self.logits = self.rows[rows], self.logits[rows]


def test_rows_that_end_are_written_whole_and_leave_the_batch():
    from payoff.policies.token_text import TokenText
    from payoff.policies.transformer import CharacterTokenizer

    words = CharacterTokenizer("abcdef.")
    lines = [[0, 6], [1, 1, 1, 6], [6], [2, 2, 6], [3, 3, 3, 3, 3]]
    model = Scripted(lines, 8)
    text = TokenText(words, 8, ["."], None, torch.device("cpu"))
    out = generate(model, text, Choice(), [[0]] * 5, [5] * 5, torch.Generator().manual_seed(0))
    assert out.count.tolist() == [2, 4, 1, 3, 5]
    assert out.finished.tolist() == [True, True, True, True, False]
    assert [out.tokens[i, :n].tolist() for i, n in enumerate(out.count.tolist())] == lines
    assert model.kept == [4, 3, 2, 1]


def test_few_ended_rows_of_many_stay_until_leaving_pays_and_write_nothing_more():
    from payoff.policies.token_text import TokenText
    from payoff.policies.transformer import CharacterTokenizer

    words = CharacterTokenizer("abcdef.")
    lines = [[0] * i + [6] for i in range(40)]
    model = Scripted(lines, 8)
    text = TokenText(words, 8, ["."], None, torch.device("cpu"))
    out = generate(model, text, Choice(), [[0]] * 40, [60] * 40, torch.Generator().manual_seed(0))
    assert out.count.tolist() == list(range(1, 41))
    assert out.finished.all()
    assert all((out.tokens[i, :i] == 0).all() and out.tokens[i, i] == 6 for i in range(40))
    assert len(model.kept) < 30


def test_a_row_without_room_leaves_before_the_model_is_asked_for_more():
    # 40 tokens of 48 are taken in one row of 20 rows: fewer than one in sixteen, yet its next position does not exist.
    policy = open_policy(stop=(), max_tokens=30)
    starts = [Start("long", {"prompt": "1" * 40}), *(Start(str(i), {"prompt": "1" * 5}) for i in range(19))]
    traj = policy.rollout(starts, 1, torch.Generator().manual_seed(0))
    assert traj.length.tolist() == [8] + [30] * 19
    torch.testing.assert_close(policy.evaluate(traj).logp, traj.logp["old"], atol=1e-4, rtol=0)


def test_a_model_that_gives_nan_is_caught_with_the_start_named():
    from payoff.pipeline import NonFiniteError

    policy = open_policy()
    with torch.no_grad():
        policy.model.head.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"writing token 0 of a response to start '0'.* gave nan"):
        policy.rollout(STARTS, 2, torch.Generator().manual_seed(0))


def test_cache_memory_is_bounded_by_the_context():
    model = Transformer(vocabulary=5, context=10, width=8, layers=1, heads=1)
    assert model.session([[0, 1], [2]], 3, 500).capacity == 10
