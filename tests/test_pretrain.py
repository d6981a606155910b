"""Pre-training of the chain policy: what it trains on, that it repeats, and what the shipped checkpoint can do."""

import math
import random
from pathlib import Path

import pytest
import torch

import payoff.pretrain
from payoff.policies.embedded import transformer
from payoff.policies.transformer import CharacterTokenizer, Transformer, load_transformer
from payoff.pretrain import PROMPT_TOKENS, RESPONSE_TOKENS, Stage, _batches, chain_stages, pass_rate, pretrain_chain, solution_loss
from payoff.tasks.chain import ALPHABET, Chain, chain_solution, read_solution
from payoff.tasks.chain_teacher import Noise
from payoff.trajectories import outcome

CHECKPOINT = Path(payoff.pretrain.__file__).parent / "policies" / "checkpoints" / "chain.pt"
TOKENIZER = CharacterTokenizer(ALPHABET)


def batches(stage: Stage, seed: int = 0) -> list[torch.Tensor]:
    return list(_batches(TOKENIZER, stage, torch.Generator().manual_seed(seed), random.Random(seed)))


def texts(batch: torch.Tensor) -> list[tuple[str, str]]:
    rows = [TOKENIZER.decode(row) for row in batch.tolist()]
    return [(row[:PROMPT_TOKENS], row[PROMPT_TOKENS:]) for row in rows]


@pytest.fixture
def small(monkeypatch):
    """Small batches, and no sampling at the end."""
    monkeypatch.setattr(payoff.pretrain, "_BATCH", 8)
    monkeypatch.setattr(payoff.pretrain, "pass_rate", lambda path, rng: path.stat().st_size and 0.5)


@pytest.mark.usefixtures("small")
def test_two_runs_from_one_seed_write_the_same_weights_and_another_seed_others(tmp_path):
    states = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pretrain_chain(out=tmp_path / name, seed=seed, steps_scale=0.0005)
        torch.rand(7)  # what the global generator does meanwhile is of no account
        states.append(load_transformer(tmp_path / name)[0].state_dict())
    same = lambda one, other: all(torch.equal(one[k], other[k]) for k in one)
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


@pytest.mark.usefixtures("small")
def test_it_reports_every_step_and_leaves_threads_and_global_generator_as_they_were(tmp_path):
    torch.set_num_threads(2)
    before, seen = torch.get_rng_state(), []
    try:
        result = pretrain_chain(out=tmp_path / "deep" / "x.pt", steps_scale=0.005, progress=seen.append)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert [(p.stage, p.step, p.steps) for p in seen] == [
        *(("form", step, 6) for step in range(1, 7)),
        ("habits", 1, 1),
        ("rare padding", 1, 1),
    ]
    assert result.losses == {"form": seen[5].loss, "habits": seen[6].loss, "rare padding": seen[7].loss}
    assert result.pass_rate == 0.5
    assert seen[0].loss == pytest.approx(math.log(16), abs=0.1)  # PAD excluded, an untrained model is even over 16 characters


@pytest.mark.usefixtures("small")
def test_an_interrupted_run_leaves_no_file_and_the_former_one_as_it_was(tmp_path):
    (tmp_path / "x.pt").write_text("former")

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_chain(out=tmp_path / "x.pt", steps_scale=0.001, progress=interrupt)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.pt", "former")]


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_length_is_refused_before_anything_is_written(tmp_path, scale):
    with pytest.raises(ValueError, match="steps_scale must be"):
        pretrain_chain(out=tmp_path / "x.pt", steps_scale=scale)
    assert not list(tmp_path.iterdir())


def test_a_batch_holds_whole_responses_of_similar_lengths_within_the_context():
    stage = Stage("all sorts", 16, 1e-3, [(1.0, Noise(superfluous=0.3))])
    all_of_it = batches(stage)
    assert [len(batch) for batch in all_of_it] == [128] * 16
    for batch in all_of_it:
        assert batch.shape[1] <= PROMPT_TOKENS + RESPONSE_TOKENS
        for prompt, response in texts(batch):
            reading = read_solution(prompt, response)
            assert reading.answer is not None
            assert reading.missing == 0
    padding = sum(int((batch == TOKENIZER.pad).sum()) for batch in all_of_it) / sum(batch.numel() for batch in all_of_it)
    assert padding < 0.02
    widths = [batch.shape[1] for batch in all_of_it]
    assert widths != sorted(widths)  # long and short batches come in turn, not one after the other


def test_teachers_of_a_stage_take_over_at_their_share():
    stage = Stage("two", 20, 1e-3, [(0.65, Noise()), (0.35, Noise(wrong_answer=1.0))])
    right = [all(response == chain_solution(prompt) for prompt, response in texts(batch)) for batch in batches(stage)]
    assert right == [True] * 13 + [False] * 7


def test_held_out_prompts_are_never_trained_on(monkeypatch):
    seen = set()
    original = Chain.starts

    def spy(self, n, rng):
        starts = original(self, n, rng)
        seen.update(start.fields["prompt"] for start in starts)
        return starts

    monkeypatch.setattr(Chain, "starts", spy)
    batch_prompts = {prompt for batch in batches(Stage("x", 3, 1e-3, [(1.0, Noise())])) for prompt, _ in texts(batch)}
    assert batch_prompts <= seen
    assert not batch_prompts & {start.fields["prompt"] for start in Chain().held_out_starts()}


def test_the_loss_is_on_the_solution_only_and_padding_does_not_touch_it():
    torch.manual_seed(0)
    rows = [TOKENIZER.encode("3-7+7-5-9-4=" + text) for text in ("3-7=6;#6.", "#6.")]
    padded = torch.tensor([rows[0], rows[1] + [TOKENIZER.pad] * 6])
    model = Transformer(vocabulary=17, context=84, width=16, layers=1, heads=2)
    logp = [torch.log_softmax(model(torch.tensor([row]))[0], -1) for row in rows]
    by_hand = [logp[i][t - 1, row[t]] for i, row in enumerate(rows) for t in range(PROMPT_TOKENS, len(row))]
    assert len(by_hand) == 9 + 3
    loss = solution_loss(model(padded[:, :-1]), padded, TOKENIZER.pad)
    torch.testing.assert_close(loss, -sum(by_hand) / 12)


def test_the_later_stages_believe_the_same_wrong_facts_and_the_last_hardly_pads():
    form, habits, last = chain_stages(random.Random(0))
    assert habits.teachers[0][1].hard == last.teachers[0][1].hard
    assert len(last.teachers[0][1].hard) == 45
    assert form.teachers[1][1].hard == {}
    assert last.teachers[0][1].superfluous == habits.teachers[0][1].superfluous / 8


@pytest.mark.slow
def test_the_shipped_checkpoint_is_small_and_solves_about_a_third_in_the_right_form():
    assert CHECKPOINT.stat().st_size < 3_000_000
    model, tokenizer = load_transformer(CHECKPOINT)
    assert (tokenizer.alphabet, model.context) == (ALPHABET, PROMPT_TOKENS + RESPONSE_TOKENS)
    task, policy = Chain(), transformer(checkpoint="chain")
    traj = policy.rollout(task.held_out_starts(), 1, torch.Generator().manual_seed(0))
    passed = outcome(task.truth(traj), traj)[0].mean().item()
    assert 0.2 < passed < 0.4
    assert pass_rate(CHECKPOINT, torch.Generator().manual_seed(0)) == passed
    readings = [read_solution(item["prompt"], item["response"]) for item in traj.items]
    assert sum(reading.answer is not None for reading in readings) > 250
    padding = sum(step.repeated or step.superfluous for reading in readings for step in reading.steps)
    assert 0 < padding < 0.05 * sum(len(reading.steps) for reading in readings)  # the habit that a sum of steps blows up is rare
