"""Who is good at what, how far apart policies act, and whether they know when they are right: on tables whose truth is known."""

import math

import pytest
import torch

from payoff.pipeline import Start
from payoff.policies.tabular import Tabular
from payoff.search.specialists import CrossScores, SelfVerification, asked_back, cross_scores, divergences, self_verification
from payoff.trajectories import Channel

DOMAINS = {
    "sums": [Start("s0", {"table": 0, "wanted": 0}), Start("s1", {"table": 1, "wanted": 1})],
    "maps": [Start("m0", {"table": 2, "wanted": 1}), Start("m1", {"table": 0, "wanted": None})],
}


def table(*shares):
    """The chance of the first action in each table."""
    rows = torch.tensor([[p, 1 - p] for p in shares], dtype=torch.float64)
    return Tabular(2, 1, starts=len(shares), logits=rows.clamp(min=1e-30).log()[:, None])


def hit(traj):
    wanted = [item["wanted"] for item in traj.items]
    right = torch.tensor([float(a == w) for a, w in zip(traj.actions[:, 0].tolist(), wanted, strict=True)])
    known = torch.tensor([w is not None for w in wanted])
    return Channel((right * known)[:, None], known[:, None])


def test_the_matrix_says_who_solves_what_and_leaves_out_what_nobody_can_score():
    found = cross_scores(
        {"base": table(0, 1, 1), "adds": table(1, 0, 1), "maps": table(0, 0, 0)}, DOMAINS, 3, torch.Generator().manual_seed(0), hit
    )
    assert found.score[:, :3].tolist() == [[0, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert found.score[:, 3].isnan().all()
    assert found.matrix().tolist() == [[0, 0], [1, 0], [0.5, 1]]
    also = found.also_solved()
    assert also[0].isnan().all()  # who solves nothing shares nothing
    assert also[1:].tolist() == [[0, 1, 0.5], [0, 0.5, 1]]
    assert found.solved_by() == {("adds",): 1 / 3, ("adds", "maps"): 1 / 3, ("maps",): 1 / 3}


def test_a_prompt_without_a_verdict_for_one_of_two_is_in_no_share():
    nan = math.nan
    found = CrossScores(torch.tensor([[1.0, 1.0, nan], [1.0, nan, 1.0]], dtype=torch.float64), ["a", "b"], ["d"] * 3)
    assert found.also_solved().tolist() == [[1, 1], [1, 1]]
    assert found.solved_by() == {("a", "b"): 1.0}


def test_divergences_are_those_of_the_written_chances_and_of_two_steps_the_sum():
    starts = [Start(str(k), {"table": k}) for k in range(2)]
    one, other = table(0.5, 0.9), table(0.8, 0.6)
    found = divergences({"one": one, "other": other}, starts, 4000, torch.Generator().manual_seed(0))
    kl = lambda p, q: p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    wanted = (kl(0.5, 0.8) + kl(0.9, 0.6)) / 2
    assert float(found.rollout[0, 1]) == pytest.approx(wanted, abs=0.03)
    assert float(found.rollout[1, 0]) == pytest.approx((kl(0.8, 0.5) + kl(0.6, 0.9)) / 2, abs=0.03)
    assert float(found.error[0, 1]) == pytest.approx(abs(kl(0.5, 0.8) - kl(0.9, 0.6)) / 2, abs=0.03)  # of two prompts
    assert found.rollout.diagonal().tolist() == [0, 0]
    longer = Tabular(2, 2, spread=0.4, seed=0)
    twice = divergences({"one": longer, "other": longer.uniform()}, [Start("x", {})], 4000, torch.Generator().manual_seed(1))
    p = longer.probabilities().detach()
    assert float(twice.rollout[0, 1]) == pytest.approx(float((p * (4 * p).log()).sum()), abs=0.03)
    assert float(twice.action[0, 1]) == pytest.approx(float(twice.rollout[0, 1]) / 2)
    assert twice.error[0, 1].isnan()


def test_what_the_other_cannot_do_is_infinitely_far():
    never = Tabular(2, 1, logits=torch.tensor([[0.0, -math.inf]]))
    found = divergences({"any": table(0.5), "never": never}, [Start("x", {})], 40, torch.Generator().manual_seed(0))
    assert found.rollout[0, 1] == math.inf
    assert float(found.rollout[1, 0]) == pytest.approx(math.log(2))


def test_shares_of_a_policys_verdicts_on_its_own_answers():
    says = {"aa": True, "ab": True, "ba": False}  # "bb" cannot be read
    starts = [Start(str(k), {"wanted": k % 2}) for k in range(2)]

    class Written(Tabular):
        """Answers 0, 0, 1, 1 to each prompt."""

        def rollout(self, given, n, rng):
            made = super().rollout(given, n, rng)
            return made.replace(actions=torch.tensor([0, 0, 1, 1] * 2)[:, None]) if n == 4 else made

    words = iter(["aa", "bb", "ba", "aa", "aa", "ba", "aa", "bb"])  # right: 1 1 0 0 and 0 0 1 1
    found = self_verification(
        Written(2, 1), starts, 4, torch.Generator(), hit, ask=lambda start, item: start, read=lambda item: says.get(next(words))
    )
    # readable: true of right (1), false of wrong (0), true of wrong (0) | true of wrong, false of wrong, true of right
    assert found == SelfVerification(4 / 6, 1.0, 2 / 4, 0.5, 2 / 8)


def test_answers_without_outcome_are_not_asked_about_and_the_last_word_counts():
    silent = [Start("x", {"wanted": None, "prompt": "?"})]
    assert self_verification(table(0.5), silent, 2, torch.Generator(), hit) == SelfVerification(None, None, None, None, None)
    messages = asked_back(Start("x", {"prompt": [{"role": "user", "content": "?"}]}), {"response": "7"}).fields["prompt"]
    assert [said["role"] for said in messages] == ["user", "assistant", "user"]
    asked = self_verification(table(0.5), [Start("x", {"wanted": 0, "prompt": "?"})], 2, torch.Generator(), hit)
    assert asked.unread == 1.0  # "a" and "b" are neither yes nor no
    assert asked.accuracy is None


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="cross_scores: needs a policy, a prompt"):
        cross_scores({}, DOMAINS, 1, torch.Generator(), hit)
    with pytest.raises(ValueError, match="divergences: needs a policy, a prompt"):
        divergences({"a": table(0.5)}, [], 1, torch.Generator())
    with pytest.raises(ValueError, match="self_verification: needs a prompt"):
        self_verification(table(0.5), DOMAINS["sums"], 0, torch.Generator(), hit)
