import pytest
import torch

from payoff.losses.distillation import soft_distillation
from payoff.pipeline import Start, Verdict, everywhere
from payoff.policies.tabular import Tabular
from payoff.sampling.hinted_teacher import HintedTeacher, two_attempts

PLAIN, HINTED = 0, 1


def policy(seed: int = 0) -> Tabular:
    """Two letters, two actions; table 0 without the hint and table 1 with it, which says "ab" nearly always."""
    made = Tabular(2, 2, starts=2, spread=0.3, seed=seed)
    with torch.no_grad():
        made.logits[HINTED] = torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.0, 3.0]])
    return made


def right(response: str) -> float:
    return float(response == "ab")


def show(start: Start, good, bad) -> Start:
    return start._replace(fields={**start.fields, "table": HINTED, "good": good["response"], "bad": bad["response"]})


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


STARTS = [Start(str(i), {"table": PLAIN, "prompt": f"{i}?"}) for i in range(6)]


def sampled(**options):
    return HintedTeacher(policy=policy(), checker=right, hinted=show, tries=8, **options)(policy(5), STARTS, 4, rng()).check()


def test_right_replies_come_back_as_rollouts_of_the_bare_start():
    traj = sampled()
    assert len(traj) > 12
    assert {item["response"] for item in traj.items} == {"ab"}
    assert (traj.extras["table"] == PLAIN).all()
    assert all("good" not in item and item["prompt"] == f"{item['start']}?" for item in traj.items)
    starts = {int(group): {traj.items[row]["start"] for row in (traj.group == group).nonzero()[:, 0]} for group in traj.group}
    assert all(len(of) == 1 for of in starts.values())


def test_the_logits_are_those_of_the_teacher_with_the_hint_in_view():
    traj = sampled()
    expected = policy().logits[HINTED].detach().log_softmax(1)[[0, 1]]  # before "a", and after it
    assert torch.allclose(traj.extras["teacher_logits"], expected.expand(len(traj), 2, 2))


def test_a_student_that_has_learned_the_hint_has_nothing_left_to_learn():
    traj, student = sampled(), policy()
    want = frozenset({"logits"})
    assert soft_distillation(student.evaluate(traj, want), traj, everywhere({}, traj)).terms.min() > 0.01
    with torch.no_grad():
        student.logits[PLAIN] = student.logits[HINTED]
    assert soft_distillation(student.evaluate(traj, want), traj, everywhere({}, traj)).terms.abs().max() < 1e-12


@pytest.mark.parametrize("verdict", [0.0, 1.0, None])
def test_without_a_right_and_a_wrong_attempt_nothing_is_taught(verdict):
    sampler = HintedTeacher(policy=policy(), checker=lambda response: verdict, hinted=show)
    student = policy(5)
    traj = sampler(student, STARTS, 2, rng())
    assert len(traj) == 24
    output = soft_distillation(student.evaluate(traj, frozenset({"logits"})), traj, everywhere({}, traj))
    output.terms.sum().backward()
    assert output.terms.abs().max() < 1e-12
    assert student.logits.grad.abs().max() < 1e-12


def test_it_is_shown_a_right_attempt_and_the_most_common_wrong_answer():
    sampler = HintedTeacher(policy=policy(), checker=right)
    items = [{"response": text} for text in ("bb ", "aa", " aa", "ba", "bb", "aa")]
    assert sampler._most_common(items) is items[1]
    seen = []
    spy = HintedTeacher(policy=policy(), checker=right, tries=8, hinted=lambda s, g, b: seen.append((g, b)) or show(s, g, b))
    spy(policy(), STARTS, 1, rng())
    assert seen
    assert all(good["response"] == "ab" != bad["response"] for good, bad in seen)


def test_a_checker_may_be_a_registered_grader_or_give_verdicts():
    sampler = HintedTeacher(policy=policy(), checker="tree-leaf", hinted=show, tries=8)
    starts = [start._replace(fields={**start.fields, "leaf_rewards": {"ab": 1.0}}) for start in STARTS]
    assert {item["response"] for item in sampler(policy(), starts, 2, rng()).items} == {"ab"}
    unsure = HintedTeacher(policy=policy(), checker=lambda response: Verdict(right(response), valid=False), hinted=show)
    assert len(unsure(policy(), STARTS, 2, rng())) == 24  # nothing is known to be right


def test_the_teacher_does_not_change_with_the_policy():
    student = policy()
    sampler = HintedTeacher(policy=student, checker=right)
    with torch.no_grad():
        student.logits += 1
    assert not torch.equal(sampler.teacher.logits, student.logits)
    assert not any(p.requires_grad for p in sampler.parameters())


def test_attempts_are_shown_in_words_without_saying_which_is_right():
    text = two_attempts(Start("a", {"prompt": "1+1="}), {"response": "two"}, {"response": "three"}).fields["prompt"]
    assert text.startswith("1+1=")
    assert text.index("two") < text.index("three")


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="tries must be at least 2"):
        HintedTeacher(policy=policy(), checker=right, tries=1)
    with pytest.raises(LookupError, match="unknown grader"):
        HintedTeacher(policy=policy(), checker="no-such-grader")
