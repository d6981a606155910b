"""Preference losses inside TRL's own `DPOTrainer`, against its own losses and against numbers of a model called by hand."""

import functools
import importlib.util
from pathlib import Path

import pytest
import torch

pytest.importorskip("datasets")
pytest.importorskip("trl")

import datasets
import transformers
import trl

from payoff.integrations.trl_dpo import PayoffDPOTrainer
from payoff.losses.aggregation import token_mean
from payoff.losses.policy_gradient import policy_gradient, ppo_clip
from payoff.losses.preferences import dpo, ipo, robust_dpo
from payoff.pipeline import LossOutput, Term, everywhere

spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parents[2] / "examples" / "trl" / "tiny.py")
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

ROWS = [
    {"prompt": f"{a}+{b}=", "chosen": f"{a};{a + b}", "rejected": f"{a + b + 1}"} for a, b in ((1, 2), (3, 4), (12, 12), (0, 5))
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trl")
    tiny.model(folder / "model", width=16)
    return folder


def trainer(place, kind=PayoffDPOTrainer, parts=None, **more):
    given = {
        "output_dir": str(place / "runs"), "per_device_train_batch_size": 4, "use_cpu": True, "bf16": False, "report_to": [],
        "logging_steps": 1, "max_steps": 2, "seed": 3, "save_strategy": "no", "lr_scheduler_type": "constant",
        "disable_tqdm": True, "optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0,
    }  # fmt: skip
    return kind(
        model=str(place / "model"),
        args=trl.DPOConfig(**(given | more)),
        train_dataset=datasets.Dataset.from_list(ROWS),
        processing_class=tiny.tokenizer(),
        **(parts or {}),
    )


def trained(made):
    torch.manual_seed(11)
    made.train()
    return {name: p.detach().clone() for name, p in made.model.named_parameters()}


def moved(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "theirs"),
    [
        (functools.partial(dpo, beta=0.1), {}),
        (
            functools.partial(robust_dpo, beta=0.5, flip_rate=0.1),
            {"loss_type": ["robust"], "beta": 0.5, "label_smoothing": 0.1},
        ),
        (functools.partial(ipo, beta=0.2, per="action"), {"loss_type": ["ipo"], "beta": 0.2}),
    ],
)
def test_training_with_our_loss_is_training_with_trls_loss_of_that_name(place, loss, theirs):
    plain = trainer(place, trl.DPOTrainer, **theirs, gradient_accumulation_steps=2, per_device_train_batch_size=2)
    mine = trainer(place, parts={"loss": loss}, gradient_accumulation_steps=2, per_device_train_batch_size=2)
    before = {name: p.detach().clone() for name, p in plain.model.named_parameters()}
    expected, found = trained(plain), trained(mine)
    assert moved(before, expected) > 1e-3
    assert moved(expected, found) < 1e-5
    logs = mine.state.log_history[0]
    for name in ("loss/pairs", "pairs/accuracy", "logps/chosen", "entropy", "num_tokens"):
        assert name in logs
    for name in ("logps/chosen", "logps/rejected", "entropy", "num_tokens"):
        assert logs[name] == pytest.approx(plain.state.log_history[0][name], abs=1e-5)


@pytest.mark.slow
def test_a_loss_gets_the_responses_tokens_their_steps_and_pairs_of_chosen_and_rejected(place):
    seen = []

    def looked(evaluation, traj, pairs):
        seen.append((evaluation, traj.check(), pairs))
        return LossOutput(-(evaluation.logp * traj.mask).sum(1)[pairs.index[:, 0]], {})

    terms = {"plain": Term(everywhere, policy_gradient, token_mean, 0.0)}
    made = trainer(place, parts={"loss": looked, "terms": terms, "separator": ";"}, max_steps=1)
    network = transformers.AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    trained(made)
    ((evaluation, traj, pairs),) = seen
    words = tiny.tokenizer()
    assert pairs.index.tolist() == [[k, k + 4] for k in range(4)]
    assert torch.equal(traj.group[pairs.index[:, 0]], traj.group[pairs.index[:, 1]])
    assert "ref" not in traj.logp  # nothing reads it, so the reference is not asked
    texts = [words.decode(ids[:n]) for ids, n in zip(traj.actions.tolist(), traj.length.tolist(), strict=True)]
    by_chosen = {row["chosen"] + "<end>": row for row in ROWS}
    for k in range(4):
        row = by_chosen[texts[k]]
        assert texts[k + 4] == row["rejected"] + "<end>"
        cut = row["chosen"].index(";") + 1
        assert traj.step[k, : traj.length[k]].tolist() == [0] * cut + [1] * (int(traj.length[k]) - cut)
        prompt = words(row["prompt"])["input_ids"]
        ids = torch.tensor([prompt + traj.actions[k, : traj.length[k]].tolist()])
        with torch.no_grad():
            each = network(input_ids=ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])
        assert torch.allclose(evaluation.logp[k, : traj.length[k]], each[:, 0], atol=1e-5)
        assert (evaluation.logp[k, traj.length[k] :] == 0).all()


@pytest.mark.parametrize(
    ("parts", "options", "says"),
    [
        ({"loss": dpo}, {"beta": 0.3}, "beta=0.3 is read by TRL's loss, which payoff's replaces"),
        ({"loss": dpo}, {"loss_type": ["ipo"]}, "loss_type=['ipo'] is read by TRL's loss"),
        ({"loss": dpo}, {"precompute_ref_log_probs": True}, "precompute_ref_log_probs keeps sums over responses"),
        ({"loss": ppo_clip}, {}, "the losses need ['old']"),
        ({"loss": dpo, "terms": {"pairs": Term(everywhere, dpo, token_mean)}}, {}, '"pairs" is the name of the term'),
    ],
)
def test_what_would_not_act_is_refused(place, parts, options, says):
    with pytest.raises(ValueError) as caught:
        trainer(place, parts=parts, **options)
    assert says in str(caught.value)
