"""Three roles of one table: who is asked what, what the rows say of each other, what is remembered, and what the roles are paid."""

import pytest
import torch

from payoff.advantages.roles import role_wise
from payoff.pipeline import Start
from payoff.policies.tabular import Tabular
from payoff.rewards import signal
from payoff.sampling.question_script import Asked, Documents
from payoff.sampling.role_balance import balanced_roles
from payoff.sampling.self_play import SelfPlay
from payoff.signals.self_play import responder, spell

ASK, AIDED, UNAIDED, CHECK = range(4)  # tables of the policy
STARTS = [Start(str(k), {"documents": list("abcdef"[: 2 * k + 2]), "task": "read", "reference": "not this"}) for k in range(3)]


class Letters(Documents):
    """A question is one letter and its answer another; "bb" is in bad form. A verdict is its first letter, and "bb" is none."""

    def ask(self, start, shown, before):
        asked = super().ask(start, shown, before)
        return asked._replace(fields={**asked.fields, "table": ASK, "shown": shown, "before": [one.question for one in before]})

    def read(self, item):
        return None if item["response"] == "bb" else (item["response"][0], item["response"][1])

    def pose(self, start, question, *, documents):
        return start._replace(fields={**start.fields, "table": AIDED if documents else UNAIDED, "asked": question})

    def check(self, start, asked, response):
        return start._replace(fields={**start.fields, "table": CHECK, "held": f"{asked.answer}{response}"})

    def verdict(self, item):
        return None if item["response"] == "bb" else item["response"][0] == "a"


def same(response, reference):
    return float(response[0] == reference)


def policy(**sure):
    """Each table as spread as it comes, or sure of one response."""
    made = Tabular(2, 2, starts=4, spread=0.5, seed=1)
    with torch.no_grad():
        for name, letters in sure.items():
            made.logits[{"ask": ASK, "aided": AIDED, "unaided": UNAIDED, "check": CHECK}[name]] = torch.tensor(
                [[50.0 * (letters[0] == x) for x in "ab"]] + [[50.0 * (letters[1] == x) for x in "ab"]] * 2
            )
    return made


def played(made=None, n=4, seed=0, **options):
    play = SelfPlay(**{"rule": same, "script": Letters(), "verdicts": 3, "documents": 1} | options)
    return play, play(made or policy(), STARTS, n, torch.Generator().manual_seed(seed)).check()


@pytest.fixture(scope="module")
def game():
    return played(policy(), n=4, seed=3)[1]


def of_role(traj, role):
    return [row for row, item in enumerate(traj.items) if item["role"] == role]


def test_a_question_and_its_answers_are_a_group_and_the_verdicts_on_one_answer_another(game):
    group, items = game.group.tolist(), game.items
    questions, answers, checks = (of_role(game, role) for role in ("questioner", "responder", "verifier"))
    assert len({group[row] for row in questions}) == len(questions) == len(STARTS)
    by_group = {group[row]: items[row] for row in questions}
    answered = {key for key, item in by_group.items() if item["success"] is not None}
    assert sorted(group[row] for row in answers) == sorted(key for key in answered for _ in range(4))
    assert len(checks) == 3 * len(answers)
    assert not {group[row] for row in checks} & set(by_group)
    for rows in [[row for row in checks if group[row] == key] for key in {group[row] for row in checks}]:
        assert [items[row]["verdict"] for row in rows] == items[rows[0]]["verdicts"]
    for row in answers:
        asker = by_group[group[row]]
        assert (items[row]["question"], items[row]["reference"], items[row]["start"]) == tuple(asker["response"]) + (
            asker["start"],
        )
        assert items[row]["rule"] == same(items[row]["response"], asker["response"][1])


def test_every_row_is_paid_by_the_reward_of_its_role_and_the_question_for_its_own_answers(game):
    items = game.items
    paid = signal(spell)(game)["spell"]
    for row in of_role(game, "questioner"):
        mine = [item for k, item in enumerate(items) if item["role"] == "responder" and game.group[k] == game.group[row]]
        found = items[row]["success"] or []
        assert found == [responder(item["verdicts"], item["rule"]) for item in mine]
        assert items[row]["well_formed"] == (items[row]["response"] != "bb")
    assert paid.valid[of_role(game, "questioner")].all()
    advantage = role_wise(paid, game).value[:, 0]
    assert abs(float(advantage[of_role(game, "questioner")].sum())) < 1e-6  # the batch's questions are compared with each other
    assert len(balanced_roles({"played": paid}, game, verifier_share=0.0)) <= len(items) - len(of_role(game, "verifier"))


def test_the_log_probabilities_are_those_of_what_each_role_was_shown(game):
    seen = {"questioner": ASK, "responder": AIDED, "verifier": CHECK}
    assert game.extras["table"].tolist() == [seen[item["role"]] for item in game.items]
    torch.testing.assert_close(policy().evaluate(game).logp.detach(), game.logp["old"])


def test_bad_form_what_is_known_without_documents_and_a_question_cut_off_are_not_answered():
    bad = played(policy(ask="bb"))[1]
    known = played(policy(ask="ab", unaided="bb"))[1]  # the answer b, given unaided
    asked = played(policy(ask="ab", unaided="aa"))[1]
    counted = played(policy(ask="ab", unaided="bb"), unaided=0)[1]
    for traj, rows, form in (
        (bad, 3, (False, True)),
        (known, 3, (True, False)),
        (asked, 51, (True, True)),
        (counted, 51, (True, True)),
    ):
        assert len(traj) == rows  # 3 (1 + 4 + 4 * 3)
        assert (traj.items[0]["well_formed"], traj.items[0]["grounded"]) == form
    assert [spell(**_given(traj.items[0])) for traj in (bad, known)] == [-1.0, -0.5]
    assert "reference" not in bad.items[0]  # the start's own is the answer to another question

    class CutOff(Tabular):
        def rollout(self, starts, n, rng):
            traj = super().rollout(starts, n, rng)
            return traj.replace(stop=torch.ones_like(traj.stop))

    cut = CutOff(2, 2, starts=4)
    cut.load_state_dict(policy(ask="bb").state_dict())
    assert not spell(**_given(played(cut)[1].items[0])).valid


def _given(item):
    return {name: item[name] for name in ("role", "success", "well_formed", "grounded")}


def test_solved_questions_are_shown_with_their_documents_and_new_ones_until_there_are_no_more():
    made = policy(ask="ab", aided="bb", unaided="aa")
    play = SelfPlay(rule=same, script=Letters(), verdicts=0, documents=2, memory=2)
    shown, before = [], []
    # bb is in bad form, aa is known unaided, and nobody answers a to ba
    for seed, letters in enumerate(("ab", "ab", "bb", "aa", "ba")):
        with torch.no_grad():
            made.logits[ASK] = policy(ask=letters).logits[ASK]
        items = play(made, STARTS, 1, torch.Generator().manual_seed(seed)).items[:3]
        shown.append([len(item["shown"]) for item in items])
        before.append([item["before"] for item in items])
    # solved: ab; the same again; then nothing. 2, 4 and 6 documents, two at a time, none twice
    assert shown == [[2, 2, 2], [2, 4, 4], [2, 4, 4], [2, 4, 4], [2, 4, 4]]
    assert before == [[[]] * 3] + [[["a"]] * 3] * 4
    with torch.no_grad():
        made.logits[AIDED] = policy(aided="aa").logits[AIDED]
        made.logits[UNAIDED] = policy(unaided="bb").logits[UNAIDED]
    play(made, STARTS, 1, torch.Generator().manual_seed(9))  # ba is solved by a
    assert [[one.question for one in play.remembered(start)] for start in STARTS] == [["a", "b"]] * 3
    assert [len(one.documents) for one in play.remembered(STARTS[2])] == [2, 4]
    assert [len(item["shown"]) for item in play(made, STARTS, 1, torch.Generator()).items[:3]] == [2, 4, 6]
    short = SelfPlay(rule=same, script=Letters(), verdicts=0, memory=1, unaided=0)
    for letters in ("ab", "bb", "ba"):
        short(policy(ask=letters, aided="aa" if letters == "ba" else "bb"), STARTS[:1], 1, torch.Generator())
    assert [one.question for one in short.remembered(STARTS[0])] == ["b"]
    again = SelfPlay(rule=same, script=Letters())
    again.load_state_dict(play.state_dict())
    assert again.solved == play.solved
    assert played(made, memory=0, n=1)[0].solved == {}


def test_questions_never_solved_are_not_remembered_and_verdicts_can_solve_what_the_rule_denies():
    wrong = policy(ask="ab", aided="aa", unaided="aa", check="bb")
    denied, traj = played(wrong)
    assert denied.solved == {}
    assert traj.items[0]["success"] == [0.0] * 4  # no verdict can be read
    granted, traj = played(policy(ask="ab", aided="aa", unaided="aa", check="aa"))
    assert traj.items[0]["success"] == [1.0] * 4
    assert {key: [one.question for one in kept] for key, kept in granted.solved.items()} == {
        ("read", str(k)): ["a"] for k in range(3)
    }


def test_the_words_show_what_each_role_may_see_and_are_read_behind_the_thinking():
    words, start = Documents(), Start("x", {"documents": ["one {question}", "two", "three"]})
    first = words.ask(start, [0, 2], []).fields["prompt"]
    assert "one {question}\n\nthree" in first
    assert "two" not in first
    outdone = words.ask(start, [1], [Asked((0,), "Which?", "this")]).fields["prompt"]
    assert "Question: Which?\nAnswer: this" in outdone
    bare = words.pose(start, "Which?", documents=False).fields["prompt"]
    assert bare.startswith("Question: Which?")
    checked = words.check(start, Asked((), "Which?", "this"), "<think>that</think>so <answer> those </answer>").fields["prompt"]
    assert "First answer: this\n\nSecond answer: those\n" in checked
    said = "<think><question>no</question></think><question>{}</question><answer>1</answer>"
    assert words.read({"response": said.format("Which?")}) == ("Which?", "1")
    assert words.read({"response": said.format(" ")}) is None
    verdicts = ("<verdict>no</verdict> <verdict> Yes </verdict>", "<verdict>perhaps</verdict>", "no")
    assert [words.verdict({"response": one}) for one in verdicts] == [True, None, None]


def test_mistakes_are_named():
    for options in ({"verdicts": -1}, {"memory": -1}, {"unaided": -1}, {"documents": 0}):
        with pytest.raises(ValueError, match="spell: verdicts, memory and unaided"):
            SelfPlay(**options)
