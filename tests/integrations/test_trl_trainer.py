"""Payoff inside the trainer of TRL: a tiny Llama generates, is scored and updated, and the numbers are compared with ours."""

import functools
import importlib.util
import pickle
from pathlib import Path

import pytest
import torch

pytest.importorskip("datasets")
pytest.importorskip("trl")

import datasets
import transformers
import trl

from payoff.advantages.baselines import RunningMeanBaseline
from payoff.advantages.group import grpo, leave_one_out
from payoff.credit.returns import return_to_go, total
from payoff.grading import signal
from payoff.integrations.trl_rewards import reward_function, reward_functions
from payoff.integrations.trl_trainer import PayoffGRPOTrainer
from payoff.losses.aggregation import constant_length, sequence_mean, token_mean
from payoff.losses.policy_gradient import policy_gradient, ppo_clip
from payoff.losses.regularisers import entropy_bonus
from payoff.losses.reward_difference import prdp
from payoff.parts import Parts, Progress, Settings
from payoff.pipeline import LossOutput, Term, Verdict, everywhere, join, weigh
from payoff.policies.lm import LanguageModel
from payoff.policies.pretrained import HubModel, HubTokenizer
from payoff.trajectories import Channel, Pairs, place_outcome
from payoff.update import update

spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parents[2] / "examples" / "trl" / "tiny.py")
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

ROWS = [{"prompt": f"{a}+{b}=", "reference": str(a + b)} for a, b in ((1, 2), (3, 4), (2, 2), (0, 5))]
SEPARATOR = "#"  # a random model writes a digit, a plus or a separator alike


def digits(response):
    return sum(c.isdigit() for c in response) / 8


def per_step(steps):
    return [0.5 * any(c in step for c in "02468") - 0.1 * ("+" in step) for step in steps]


def correct(response, reference):
    return float(reference in response)


def unsure(response):
    return Verdict(0.0, False, "says nothing") if "=" in response else digits(response)


STEPS = {"process": [return_to_go, leave_one_out], "digits": [total, leave_one_out]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trl")
    tiny.model(folder / "model", width=16)
    return folder


def options(place, **more):
    given = {
        "output_dir": str(place / "runs"), "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 8,
        "use_cpu": True, "bf16": False, "report_to": [], "beta": 0.0, "logging_steps": 1, "max_steps": 2, "seed": 3,
        "save_strategy": "no", "lr_scheduler_type": "constant", "disable_tqdm": True, "optim": "sgd", "learning_rate": 0.5,
        "max_grad_norm": 0.0, "num_iterations": 1,
    }  # fmt: skip
    return trl.GRPOConfig(**(given | more))


def trainer(place, kind=PayoffGRPOTrainer, rewards=None, rows=ROWS, args=None, callbacks=None, **parts):
    return kind(
        model=str(place / "model"),
        reward_funcs=rewards or [reward_function(join({"process": named(per_step), "digits": named(digits)}))],
        args=args or options(place),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tiny.tokenizer(),
        callbacks=callbacks,
        **parts,
    )


def named(grader):
    return signal(grader, name=grader.__name__)


def trained(made, **how):
    """TRL samples with torch's own generator, so what is to be compared starts from one state of it."""
    torch.manual_seed(11)
    made.train(**how)
    return weights(made.model)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


STEPWISE = {"target": weigh(STEPS), "loss": ppo_clip, "aggregation": token_mean, "separator": SEPARATOR}


class Replayed(LanguageModel):
    """Our language model with the rollouts of another."""

    def rollout(self, starts, n, rng):
        return self.recorded


class Nothing:
    """A task that only has to be there: the rollouts are recorded."""

    def starts(self, n, rng):
        return []

    def truth(self, traj):
        return Channel(torch.zeros(len(traj), 1), torch.zeros(len(traj), 1, dtype=torch.bool))


def our_update(place, traj, terms, **settings):
    """One update of our own loop from the same weights, on the same rollouts: the weights after it."""
    network = transformers.AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    words = HubTokenizer(tiny.tokenizer(), vocabulary=network.config.vocab_size, ends=frozenset({1}))
    policy = Replayed(HubModel(network), words, max_tokens=8, step_separator=SEPARATOR)
    items = [{k: v for k, v in item.items() if k in ("prompt", "prompt_ids", "reference")} for item in traj.items]
    with torch.no_grad():
        step, texts = policy._token_text().texts(traj.actions, traj.length)
        traj = traj.replace(step=step, items=[{**item, **text} for item, text in zip(items, texts, strict=True)])
        policy.recorded = traj.replace(logp={"old": policy.evaluate(traj).logp})
    progress = Progress(optimiser=torch.optim.SGD(policy.parameters(), lr=0.5))
    signal = join({"process": named(per_step), "digits": named(digits)})
    update(Parts(policy, Nothing(), signal, terms), Settings(starts=2, gradient_clip=0.0, **settings), progress)
    return weights(network)


@pytest.mark.slow
def test_one_update_is_that_of_our_own_loop(place):
    theirs = trainer(place, args=options(place, max_steps=1), **STEPWISE)
    before = weights(theirs.model)
    theirs.train()
    batch = theirs.batch
    assert batch.traj.step.max() > 0, "no completion has two steps, so this shows nothing"
    assert batch.targets["policy"].value.shape == batch.traj.mask.shape
    ours = our_update(place, batch.traj, {"policy": Term(weigh(STEPS), ppo_clip, token_mean)})
    after = weights(theirs.model)
    assert moved(before, after) > 1e-3
    assert moved(after, ours) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss_type", "aggregation", "more", "entropy"),
    [
        ("dapo", token_mean, {"beta": 0.2, "use_bias_correction_kl": True}, 0.0),
        ("grpo", sequence_mean, {"beta": 0.2}, 0.1),
        ("dr_grpo", functools.partial(constant_length, max_length=8), {"scale_rewards": "none"}, 0.0),
    ],
)
def test_with_trls_own_convention_the_weights_are_those_of_the_plain_trainer(place, loss_type, aggregation, more, entropy):
    more = {"num_iterations": 2, "max_steps": 3, **more}
    args = options(place, loss_type=loss_type, entropy_coef=entropy, **more)
    plain = trainer(place, trl.GRPOTrainer, [reward_function(digits)], args=args)
    convention = "prime-rl" if loss_type == "dr_grpo" else "trl"
    target = weigh({"digits": [total, functools.partial(grpo, convention=convention)]})
    terms = {"policy": Term(target, ppo_clip, aggregation)}
    if entropy:
        terms["entropy"] = Term(everywhere, entropy_bonus, token_mean, entropy)
    mine = trainer(place, rewards=[reward_function(digits)], args=options(place, **more), terms=terms)
    before = weights(plain.model)
    theirs, ours = trained(plain), trained(mine)
    assert moved(before, theirs) > 1e-3
    assert moved(theirs, ours) < 1e-5
    logged = {key for entry in mine.state.log_history for key in entry}
    assert {"loss/policy", "policy/clip_fraction", "payoff/no_verdict", "payoff/digits", "entropy"} <= logged
    assert ("kl/kl" in logged) == ("beta" in more)


@pytest.mark.slow
def test_without_a_loss_trls_own_reads_our_advantages(place):
    plain = trainer(place, trl.GRPOTrainer, [reward_function(digits)], args=options(place, scale_rewards="none"))
    target = weigh({"digits": [total, functools.partial(grpo, convention="prime-rl")]})
    mine = trainer(place, rewards=[reward_function(digits)], target=target)
    theirs = trained(plain)
    assert moved(theirs, trained(mine)) < 1e-6
    dense = trainer(place, target=weigh(STEPS), separator=SEPARATOR)
    assert moved(theirs, trained(dense)) > 1e-3
    assert dense.batch.targets["advantage"].value.shape[1] > 1


@pytest.mark.slow
def test_micro_batches_accumulated_step_as_one_batch(place):
    whole = trainer(place, args=options(place, max_steps=1), **STEPWISE)
    args = options(place, max_steps=1, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    halves = trainer(place, args=args, **STEPWISE)
    before, once, twice = weights(whole.model), trained(whole), trained(halves)
    assert halves.args.steps_per_generation == 2
    assert torch.equal(whole.batch.traj.actions, halves.batch.traj.actions)
    assert moved(before, once) > 1e-3
    assert moved(once, twice) < 1e-6


@pytest.mark.slow
def test_a_generation_cut_into_two_steps_is_weighed_whole_and_each_step_stands_for_all_of_it(place):
    args = options(place, per_device_train_batch_size=4, steps_per_generation=2, gradient_accumulation_steps=1, max_steps=2)
    made = trainer(place, args=args, target=weigh(STEPS), loss=policy_gradient, aggregation=token_mean, separator=SEPARATOR)
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    rows = [row for row in ROWS[:2] for _ in range(4)]
    first = made._prepare_inputs(rows)
    assert len(first["completion_ids"]) == 4
    assert len(made.batch.traj) == 8
    halves = made._buffered_inputs
    assert torch.allclose(sum(half["payoff_policy_weight"].sum() for half in halves), torch.tensor(1.0))
    with torch.no_grad():
        each = [made._compute_loss(made.model, half) for half in halves]
        tensors = {key: value for key, value in first.items() if isinstance(value, torch.Tensor)}
        everything = {key: torch.cat([h[key] for h in halves]) if value.ndim else value for key, value in tensors.items()}
        everything["payoff_items"] = [item for half in halves for item in half["payoff_items"]]
        made.args.steps_per_generation = 1
        whole = made._compute_loss(made.model, everything)
    assert torch.allclose(sum(each) / 2, whole, atol=1e-6)


@pytest.mark.slow
def test_no_verdict_has_no_gradient_and_is_in_no_statistic(place):
    target = weigh({"unsure": [total, leave_one_out]})
    made = trainer(place, rewards=[reward_function(unsure)], target=target, loss=policy_gradient, aggregation=token_mean)
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    output = made._prepare_inputs([row for row in ROWS[:2] for _ in range(4)])
    traj, (channel,) = made.batch.traj, made.batch.targets.values()
    lost = torch.tensor(["=" in item["response"] for item in traj.items])
    assert 0 < lost.sum() < len(traj)
    assert torch.equal(channel.valid[:, 0], ~lost)
    for group in traj.group.unique():  # leave-one-out over those that are known, by hand
        known = ((traj.group == group) & ~lost).nonzero()[:, 0]
        value = torch.tensor([digits(traj.items[k]["response"]) for k in known.tolist()])
        if len(known) > 1:
            assert torch.allclose(channel.value[known, 0], value - (value.sum() - value) / (len(known) - 1), atol=1e-6)
    row = output["payoff_row"]
    assert (output["payoff_policy_weight"][lost[row]] == 0).all()
    made._compute_loss(made.model, output).backward()
    without = {key: value[~lost[row]] if isinstance(value, torch.Tensor) and value.ndim else value for key, value in output.items()}
    without["payoff_items"] = [item for item, out in zip(output["payoff_items"], lost[row].tolist(), strict=True) if not out]
    gradient = [p.grad.clone() for p in made.model.parameters()]
    made.model.zero_grad()
    made._compute_loss(made.model, without).backward()
    assert all(torch.allclose(a, p.grad, atol=1e-7) for a, p in zip(gradient, made.model.parameters(), strict=True))


@pytest.mark.slow
def test_a_run_that_continues_from_a_checkpoint_ends_where_an_unbroken_one_does(place, tmp_path):
    def run(resume=False):
        args = options(tmp_path, max_steps=4, save_strategy="steps", save_steps=2, num_iterations=1)
        parts = {"target": weigh({"digits": [total, RunningMeanBaseline()]}), "loss": ppo_clip, "aggregation": token_mean}
        made = trainer(place, rewards=[reward_function(digits)], rows=ROWS * 2, args=args, **parts)  # one epoch: see RepeatSampler
        trained(made, resume_from_checkpoint=str(tmp_path / "runs" / "checkpoint-2") if resume else None)
        return made

    whole = run()
    assert (tmp_path / "runs" / "checkpoint-2" / "payoff.pt").exists()
    again = run(resume=True)
    assert again.state.global_step == 4
    states = [[module.state_dict() for module in made._modules()] for made in (whole, again)]
    assert str(states[0]) == str(states[1])
    assert moved(weights(whole.model), weights(again.model)) < 1e-6


@pytest.mark.slow
def test_conversations_plain_functions_several_terms_and_pickled_rewards_train_together(place):
    rows = [{"prompt": [{"role": "user", "content": row["prompt"][:-1]}], "solution": row["reference"]} for row in ROWS]
    given = join({"process": named(per_step), "correct": named(correct)})
    functions = pickle.loads(
        pickle.dumps(reward_functions(given, channels=["process", "correct"], fields={"reference": "solution"}))
    )

    def half(completions, **_):
        return [None if k % 2 else float(len(c[0]["content"])) for k, c in enumerate(completions)]

    def both_ways(rewards, traj):
        rows = torch.arange(len(traj)).reshape(-1, 4)[:, :2]
        return Pairs(rows, torch.ones(len(rows)), torch.ones(len(rows)))

    def closer(evaluation, traj, pairs):
        score = torch.where(traj.own, evaluation.logp, 0).sum(1)
        return LossOutput((score[pairs.index[:, 0]] - score[pairs.index[:, 1]]).square(), {})

    terms = {
        "policy": Term(
            weigh({"process": [return_to_go, leave_one_out], "half": [total, leave_one_out]}, missing="skip"), ppo_clip, token_mean
        ),
        "entropy": Term(everywhere, entropy_bonus, token_mean, 0.01),
        "match": Term(weigh({"correct": [total]}), functools.partial(prdp, beta=1.0), sequence_mean),
        "closer": Term(both_ways, closer, lambda pairs, traj: torch.ones(len(pairs.index)) / len(pairs.index), 0.001),
    }
    made = trainer(place, rewards=[*functions, half], rows=rows, terms=terms, separator=SEPARATOR, args=options(place, beta=0.01))
    before = weights(made.model)
    made.train()
    assert moved(before, weights(made.model)) > 0
    assert set(made.batch.rewards) == {"process", "correct", "half"}
    assert made.batch.rewards["half"].valid.all(1).tolist() == [True, False] * 4
    item = made.batch.traj.items[0]
    assert item["messages"] in [row["prompt"] for row in rows]
    assert item["completion"][0]["content"] == item["response"] == "".join(item["steps"])
    logged = made.state.log_history[0]
    for name in ("rewards/process/mean", "rewards/correct/mean", "rewards/half/mean", "loss/entropy", "loss/match", "loss/closer"):
        assert name in logged, name
    assert "kl" not in made.payoff_terms  # prdp reads the reference itself


class Watching(torch.nn.Module):
    """A signal that learns: it counts what it was shown."""

    def __init__(self, first):
        super().__init__()
        self.learns_first, self.shown = first, []
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, traj):
        number = torch.full((len(traj),), float(self.batches))
        return {"first" if self.learns_first else "later": place_outcome(number, torch.ones(len(traj), dtype=torch.bool), traj)}

    def learn(self, traj, rewards):
        self.shown.append((len(traj), {name: float(channel.value.sum()) for name, channel in rewards.items()}))
        self.batches += 1
        return {"watched": float(self.batches), "nothing": None}


def doubled(rewards, traj):
    """A shaping that reads who sampled, which no reward function is told."""
    assert (traj.logp["old"][traj.mask] < 0).all()
    return {name: channel._replace(value=2 * channel.value) for name, channel in rewards.items()}


doubled.needs = frozenset({"old"})


@pytest.mark.slow
def test_parts_that_learn_see_the_whole_batch_unshaped_once_a_generation_and_not_in_evaluation(place):
    first, later = Watching(True), Watching(False)
    functions = [reward_function(first, name="first"), reward_function(later, name="later")]
    target = weigh({"first": [total], "later": [total]})
    args = options(place, gradient_accumulation_steps=2, per_device_train_batch_size=4)
    made = trainer(place, rewards=functions, args=args, target=target, shapings=[doubled])
    trained(made)
    assert first.shown == [(8, {"first": 0.0}), (8, {"first": 8.0})]  # scored again after it has learnt
    assert later.shown == [(8, {"first": 8.0, "later": 0.0}), (8, {"first": 16.0, "later": 8.0})]
    assert made.batch.rewards["later"].value.sum() == 16.0
    assert [entry["watched"] for entry in made.state.log_history if "watched" in entry] == [1.0, 2.0]
    made.model.eval()
    made._prepare_inputs([row for row in ROWS[:2] for _ in range(4)])
    assert len(first.shown) == len(later.shown) == 2


@pytest.mark.slow
def test_text_of_tools_and_masked_completions_are_not_trained_on(place):
    words = tiny.tokenizer()
    texts = ["12#3", "4#56", "7+8#", "9"] * 2

    def fixed(prompts, trainer):
        ids = [[*words(text)["input_ids"], *([1] if k % 4 else [])] for k, text in enumerate(texts)]
        return {
            "prompt_ids": [words(prompt)["input_ids"] for prompt in prompts],
            "completion_ids": ids,
            "logprobs": [[0.0] * len(row) for row in ids],
            "env_mask": [[int(k != 1) for k in range(len(row))] for row in ids],
        }

    args = options(place, mask_truncated_completions=True)
    made = trainer(place, args=args, rollout_func=fixed, **STEPWISE)
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    output = made._prepare_inputs([row for row in ROWS[:2] for _ in range(4)])
    traj = made.batch.traj.check()
    assert [item["response"] for item in traj.items] == texts
    assert traj.length.tolist() == [4, 5, 5, 2] * 2
    acted = [[], [0, 2, 3, 4], [0, 2, 3, 4], [0]]  # the first was cut off, and the second token is a tool's
    assert [row.nonzero()[:, 0].tolist() for row in traj.mask] == acted * 2
    back = torch.argsort(output["payoff_row"])
    weight = output["payoff_policy_weight"][back]
    assert torch.equal(weight > 0, traj.mask)
    assert torch.allclose(weight.sum(), torch.tensor(1.0))
    assert made.batch.rewards["process"].value[0].tolist() == pytest.approx([0, 0, 0.5, 0, 0])  # "12#" has an even digit, "3" none
    assert torch.isfinite(made._compute_loss(made.model, output))


def test_the_correction_for_another_sampler_multiplies_tokens_and_not_the_divergence():
    ratio = torch.tensor([[0.5, 2.0]])
    corrected = lambda name, terms, given=ratio: PayoffGRPOTrainer._corrected(
        None, name, terms, {"importance_sampling_ratio": given}
    )
    terms = torch.tensor([[1.0, 3.0]])
    assert corrected("policy", terms).tolist() == [[0.5, 6.0]]
    assert corrected("kl", terms) is terms
    assert corrected("policy", terms, None) is terms
    with pytest.raises(ValueError, match="vllm_importance_sampling_correction=False"):
        corrected("policy", torch.ones(1))


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({}, "give either target"),
        ({"target": weigh(STEPS), "loss": ppo_clip}, "loss and aggregation come together"),
        ({"terms": {}}, "terms is empty"),
        ({**STEPWISE, "args": {"epsilon": 0.1}}, "epsilon=0.1 is read by TRL's loss, which payoff's replaces"),
        ({**STEPWISE, "args": {"loss_type": "grpo"}}, "loss_type='grpo' is read by TRL's loss"),
        ({**STEPWISE, "loss": prdp}, "set beta > 0 and TRL loads a reference"),
        (
            {**STEPWISE, "loss": prdp, "args": {"beta": 0.1, "gradient_accumulation_steps": 2}},
            "term 'policy' compares rollouts, and TRL shuffles a generation before it cuts it",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_generated(place, parts, says):
    parts = dict(parts)
    args = options(place, **parts.pop("args", {}))
    with pytest.raises(ValueError) as caught:
        trainer(place, args=args, **parts)
    assert says in str(caught.value)
