"""The process reward model: what it reads, that it learns it, and what of labels, files and padding it refuses or ignores."""

import copy
import dataclasses
import json
import os
import stat

import pytest
import torch
from torch import nn

from payoff.contents import learners
from payoff.models.process import ProcessRewardModel
from payoff.pipeline import join
from payoff.policies.embedded import transformer
from payoff.tasks.chain import Chain, chain_solution, read_solution
from payoff.trajectories import outcome

PROMPTS = ["3-7=", "1+2+3=", "9-4=", "5+5-1="]


def policy(seed=3, **options):
    made = transformer(**{"width": 16, "layers": 1, "heads": 2, "context": 48, "max_tokens": 30, **options})
    torch.manual_seed(seed)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def rows():
    """Right solutions, and the same with the last result of every step changed."""
    right = [{"prompt": p, "response": chain_solution(p)} for p in PROMPTS]
    return right + [{"prompt": r["prompt"], "response": r["response"].replace("=", "=0")} for r in right]


def labelled(made):
    traj = made.read(rows())
    known = torch.arange(int(traj.step.max()) + 1) <= traj.step.max(1).values[:, None]
    label = (torch.arange(8) < 4).float()[:, None].expand(known.shape)
    return traj, torch.where(known, label, torch.nan), known


def fitted(made=None, **options):
    made = made or policy()
    model = ProcessRewardModel(policy=copy.deepcopy(made), **{"epochs": 40, "learning_rate": 0.05, "batch_size": 3, **options})
    model.fit(*labelled(made))
    return made, model


def test_a_step_is_scored_from_the_state_behind_its_last_token():
    made, model = fitted()
    traj = labelled(made)[0]
    probability, exists = model.score(traj)
    assert exists.sum(1).tolist() == [len(item["steps"]) for item in traj.items]
    for row, item in enumerate(traj.items):
        for k in range(len(item["steps"])):
            ids = [*item["prompt_ids"], *made.tokenizer.encode("".join(item["steps"][: k + 1]))]
            with torch.no_grad():
                state = made.model.logits_and_states(torch.tensor([ids]))[1][0, -1]
                expected = model.head(state).sigmoid()
            assert float(probability[row, k]) == pytest.approx(float(expected), abs=1e-5)
    assert (probability[~exists] == 0).all()
    assert probability[exists].std() > 0.05


def test_steps_are_paid_at_their_ends_and_signed_on_request():
    made, model = fitted()
    traj = labelled(made)[0]
    probability, exists = model.score(traj)
    channel = model(traj)["process"]
    assert channel.valid.all()
    assert torch.allclose(outcome(channel, traj)[0], probability.sum(1))
    assert torch.equal(channel.value != 0, (traj.actions == made.tokenizer.encode(";")[0]) & traj.exists | last(traj))
    _, signed = fitted(signed=True)
    assert torch.allclose(
        outcome(signed(traj)["process"], traj)[0], (2 * probability - 1).masked_fill(~exists, 0).sum(1), atol=1e-6
    )


def last(traj):
    return torch.arange(traj.width) == traj.length[:, None] - 1


def test_padding_is_never_read():
    made, model = fitted()
    traj = labelled(made)[0]
    spoiled = dataclasses.replace(
        traj,
        actions=traj.actions.masked_fill(~traj.exists, 10**9),
        logp={"old": traj.logp["old"].masked_fill(~traj.exists, torch.nan)},
    )
    assert not torch.equal(spoiled.actions, traj.actions)
    assert torch.equal(model(spoiled)["process"].value, model(traj)["process"].value)
    again = ProcessRewardModel(policy=copy.deepcopy(made), epochs=40, learning_rate=0.05, batch_size=3)
    again.fit(spoiled, *labelled(made)[1:])
    assert torch.equal(again.head.weight, model.head.weight)


@pytest.mark.parametrize("train_backbone", [False, True])
def test_labels_that_are_not_known_or_of_no_step_change_nothing(train_backbone):
    made = policy()
    traj, labels, exists = labelled(made)
    known = exists.clone()
    known[::3] = False
    known[1, 0] = False
    ends = []
    for fill in (0.0, 1.0, torch.nan):
        model = ProcessRewardModel(policy=copy.deepcopy(made), train_backbone=train_backbone, batch_size=3)
        found = model.fit(traj, labels.masked_fill(~known, fill), known | ~exists)
        assert found["process/steps"] == int(known.sum())
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])
    start = torch.cat([p.detach().flatten() for p in made.parameters()])
    assert torch.equal(ends[0][: len(start)], start) != train_backbone
    assert (ends[0][len(start) :] != 0).any()


def test_the_same_seed_gives_the_same_head_and_another_another():
    heads = [fitted(seed=seed, epochs=2)[1].head.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_file_of_labelled_rows_is_fitted_at_once(tmp_path):
    path = tmp_path / "labelled.jsonl"
    made = policy()
    traj, labels, known = labelled(made)
    lines = [{**row, "step_labels": [int(label) for label in labels[i][known[i]]]} for i, row in enumerate(rows())]
    lines[2]["step_labels"][0] = None
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    known[2, 0] = False
    model = ProcessRewardModel(policy=copy.deepcopy(made), labelled=str(path))
    other = ProcessRewardModel(policy=copy.deepcopy(made))
    other.fit(traj, labels, known)
    assert torch.equal(model.score(traj)[0], other.score(traj)[0])
    lines[4]["step_labels"] = [1]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=r"labelled.jsonl: row 5 has 1 step_labels and 2 steps$"):
        ProcessRewardModel(policy=made, labelled=str(path))
    lines[4]["step_labels"] = [1, "good"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=r"row 5: step_labels must be a list of 0, 1 or null"):
        ProcessRewardModel(policy=made, labelled=str(path))
    path.write_text(json.dumps({"prompt": "1+1=", "response": "two", "step_labels": [1]}))
    with pytest.raises(ValueError, match=r"labelled.jsonl: LanguageModel: row 1: .*'t' .* is not one of the characters"):
        ProcessRewardModel(policy=made, labelled=str(path))


def test_stored_text_is_read_as_the_rollout_it_was():
    made = policy()
    traj = made.rollout(Chain(terms=3, held_out=0).starts(3, torch.Generator().manual_seed(0)), 4, torch.Generator().manual_seed(1))
    again = made.read([{"prompt": item["prompt"], "response": item["response"]} for item in traj.items]).check()
    assert torch.equal(again.actions * again.exists, traj.actions * traj.exists)
    for name in ("mask", "length", "step"):
        assert torch.equal(getattr(again, name), getattr(traj, name)), name
    assert torch.allclose(again.logp["old"], traj.logp["old"], atol=1e-4)
    assert torch.equal(again.group[:, None] == again.group, traj.group[:, None] == traj.group)
    for one, two in zip(again.items, traj.items, strict=True):
        assert all(one[key] == two[key] for key in ("prompt", "prompt_ids", "response", "steps", "tokens"))
    for row, said in (
        ({"prompt": "1+1=", "response": ""}, "row 1: a response must be text that is not empty, got ''"),
        ({"response": "1"}, "row 1: .*a prompt must be text"),
        ({"prompt": "1+1=", "response": "1" * 60}, "row 1 has 64 tokens, more than the model's context of 48"),
    ):
        with pytest.raises(ValueError, match=said):
            made.read([row])


@pytest.mark.parametrize("train_backbone", [False, True])
def test_saved_and_loaded_it_scores_the_same(tmp_path, train_backbone):
    made, model = fitted(train_backbone=train_backbone, epochs=3)
    traj = labelled(made)[0]
    path = tmp_path / "prm.pt"
    before = os.umask(0o022)
    try:
        model.save(path)
    finally:
        os.umask(before)
    loaded = ProcessRewardModel(policy=copy.deepcopy(made), weights=str(path), train_backbone=train_backbone)
    assert torch.equal(loaded.score(traj)[0], model.score(traj)[0])
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["prm.pt"]
    other = ProcessRewardModel(policy=copy.deepcopy(made))
    other.load_state_dict(model.state_dict())  # as a resumed run does
    assert torch.equal(other.score(traj)[0], model.score(traj)[0])
    if not train_backbone:
        with pytest.raises(ValueError, match=r"prm\.pt: was fitted on the hidden states of another policy"):
            ProcessRewardModel(policy=policy(seed=4), weights=str(path))
    with pytest.raises(ValueError, match=r"nowhere\.pt: no such file"):
        ProcessRewardModel(policy=made, weights=str(tmp_path / "nowhere.pt"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"prm\.pt: cannot be read"):
        ProcessRewardModel(policy=made, weights=str(path))


def test_it_does_not_score_before_it_knows_anything():
    made = policy()
    model = ProcessRewardModel(policy=made)
    traj, labels, known = labelled(made)
    for use in (lambda: model(traj), lambda: model.score(traj), lambda: model.save("x.pt")):
        with pytest.raises(ValueError, match="nothing has been fitted"):
            use()
    with pytest.raises(ValueError, match="no step is labelled"):
        model.fit(traj, labels, torch.zeros_like(known))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 1\]"):
        model.fit(traj, 2 * labels, known)
    with pytest.raises(ValueError, match="S at least 3, got"):
        model.fit(traj, labels[:, :1], known[:, :1])
    with pytest.raises(ValueError, match="weights or labelled, not both"):
        ProcessRewardModel(policy=made, weights="a", labelled="b")
    assert learners([join({"process": model})]) == []


@pytest.mark.slow
def test_on_the_shipped_checkpoint_the_head_reads_what_a_step_wrote():
    made, rng = transformer(checkpoint="chain"), torch.Generator().manual_seed(0)
    torch.manual_seed(0)

    def sampled(starts):
        traj = made.rollout(Chain().starts(starts, rng), 4, rng)
        shape = len(traj), int(traj.step.max()) + 1
        high, known = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
        for i, item in enumerate(traj.items):
            for k, step in enumerate(read_solution(item["prompt"], item["response"]).steps):
                if step.well_formed:
                    known[i, k], high[i, k] = True, float(step.text[-2] >= "5")
        return traj, high, known

    (traj, high, known), (new, new_high, new_known) = sampled(200), sampled(60)
    model = ProcessRewardModel(policy=made, learning_rate=1e-2, epochs=10)
    model.fit(traj, high, known)
    told = (model.score(new)[0] > 0.5) == (new_high > 0.5)
    assert float(told[new_known].double().mean()) > 0.9
