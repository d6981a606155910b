"""The critic of steps: what it is asked, what its answers pay, and that an answer that does not fit is no verdict."""

import functools
import json

import pytest
import torch

from payoff.build import resolve
from payoff.config import Part
from payoff.pipeline import join
from payoff.rewards import as_signal
from payoff.shaping.judged_steps import vote
from payoff.signals.step_critic import StepCritic
from payoff.trajectories import Trajectories

from .test_judge import says

STEPS = [["1+1=3;", "3+1=4;", "#4."], ["1+1=2;", '#2. "wrong": [9]'], ["#9."]]


def solutions(steps=STEPS, texts=None):
    length = torch.tensor([len(row) for row in steps])
    step = torch.where(torch.arange(3) < length[:, None], torch.arange(3), -1).int()
    return Trajectories(
        mask=step >= 0,
        length=length,
        group=torch.zeros(len(steps), dtype=torch.int64),
        step=step,
        stop=torch.zeros(len(steps), dtype=torch.int64),
        actions=torch.zeros(len(steps), 3, dtype=torch.int64),
        items=[{"prompt": "1+1?", "steps": row} for row in (texts or steps)],
    )


def critic(server, tmp_path, options="", **more):
    place = f"{server.url}/v1#tiny?store={tmp_path}/kept.sqlite&wait=0.001{options}"
    return StepCritic(place, **more)


def test_every_critique_is_a_request_of_its_own_and_votes_are_counted(serve, tmp_path):
    def by_seed(body, number):  # the first two critiques blame the first two steps, the third the first alone
        steps = body["messages"][0]["content"].count("\n1: ") and body["messages"][0]["content"].count('"\n3: ')
        wrong = [] if not steps else [1, 2] if body["seed"] < 2 else [1]
        return says(json.dumps({"wrong": wrong}))

    server = serve(by_seed)
    signal = critic(server, tmp_path, critiques=3)
    traj = solutions()
    found = join({"critique": signal})(traj)
    assert list(found) == ["critique/1", "critique/2", "critique/3"]
    assert found["critique/1"].value.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert found["critique/3"].value.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert vote(found, traj, voting="majority")["flaws"].value[0].tolist() == [-1, -1, 0]
    assert vote(found, traj)["flaws"].value[0].tolist() == [-1, 0, 0]
    assert sorted(body["seed"] for body in server.seen) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert {body["temperature"] for body in server.seen} == {1.0}
    asked = next(body["messages"][0]["content"] for body in server.seen if "1+1=2" in body["messages"][0]["content"])
    assert '1: "1+1=2;"\n2: "#2. \\"wrong\\": [9]"' in asked  # what a step says stays within its quotes
    signal(traj)
    assert len(server.seen) == 9  # answers are kept


def test_principles_pay_the_share_of_what_could_be_had(serve, tmp_path):
    shares = [(3, 4), (0, 1), (5, 5)]
    server = serve(lambda *_: says(json.dumps({"steps": [{"principles": "p", "score": a, "of": b} for a, b in shares]})))
    signal = critic(server, tmp_path, "&form=json_schema&temperature=0.3", say="principles")
    found = signal(solutions(STEPS[:1]))["critique"]
    assert found.value.tolist() == [[0.75, 0, 1]]
    assert found.valid.all()
    (body,) = server.seen
    assert body["temperature"] == 0.3
    assert "seed" not in body
    assert "steps" in body["response_format"]["json_schema"]["schema"]["properties"]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ('{"wrong": [4]}', "there is no step 4; there are 3 (and so after 1 repair)"),
        ('{"wrong": "none"}', "wrong"),
        ("I cannot judge this.", "the judge: "),
    ],
)
def test_an_answer_that_does_not_fit_is_sent_back_and_then_is_no_verdict(serve, tmp_path, answer, told):
    server = serve(lambda *_: says(answer))
    found = critic(server, tmp_path, critiques=1)(solutions(STEPS[:1]))["critique"]
    assert not found.valid.any()
    assert not found.value.any()
    (reason,) = found.reasons.values()
    assert told in reason
    assert len(server.seen) == 2


def test_faults_and_rows_without_their_steps_cost_only_themselves(serve, tmp_path):
    def some(body, number):
        return "cut" if "3+1" in body["messages"][0]["content"] else says('{"wrong": [1]}')

    server = serve(some)
    traj = solutions(texts=[STEPS[0], STEPS[1][:1], STEPS[2]])
    found = critic(server, tmp_path, "&tries=1", critiques=1)(traj)["critique"]
    known = found.valid.expand(3, 3) & traj.exists
    assert known.any(1).tolist() == [False, False, True]
    assert found.value.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    reasons = [found.reasons[id] for id in traj.id[:2].tolist()]
    assert "has 1 texts of steps" in reasons[1]


def test_a_run_file_names_it_and_options_that_do_not_do_are_refused(serve, tmp_path):
    server = serve(lambda *_: says('{"wrong": []}'))
    (tmp_path / "ask.txt").write_text("{steps}\nWhich are wrong? {prompt}")
    part = {
        "name": "step-critic",
        "place": f"{server.url}/v1#tiny?store=off",
        "critiques": 1,
        "template": str(tmp_path / "ask.txt"),
    }
    signal = as_signal(resolve(Part.model_validate(part), ("signal",)), "critique")
    assert set(join({"critique": signal})(solutions())) == {"critique"}
    assert server.seen[0]["messages"][0]["content"].endswith("Which are wrong? 1+1?")
    make = functools.partial(StepCritic, f"{server.url}/v1#tiny?store=off")
    with pytest.raises(ValueError, match="critiques at least 1"):
        make(critiques=0)
    with pytest.raises(ValueError, match="score is an option of judges of whole responses"):
        StepCritic(f"{server.url}/v1#tiny?store=off&score=x")
