"""The run files for verl say what verl's own configuration understands."""

import shlex
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # importing verl takes seconds
EXAMPLES = Path(__file__).parents[2] / "examples" / "verl"
SCRIPTS = sorted(EXAMPLES.glob("*.sh"))


def overrides_of(script: Path) -> list[str]:
    """What the script hands to verl, its variables filled in as on a machine of ours."""
    text = script.read_text(encoding="utf-8").replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.startswith("python -m verl.trainer.main_ppo"))
    for name, value in {"RUN": str(EXAMPLES / "rewards.yaml"), "DATA": "/data", "MODEL": "/model"}.items():
        line = line.replace(f"${name}", value)
    return [word for word in shlex.split(line)[3:] if word != "$@"]


@pytest.fixture(scope="module")
def composed():
    verl = pytest.importorskip("verl")
    from hydra import compose, initialize_config_dir

    def config(script):
        with initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
            return compose("ppo_trainer", overrides_of(script))

    return config


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_verl_composes_and_validates_the_overrides(composed, script):
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config
    from verl.workers.config import ActorConfig

    config = composed(script)
    assert not need_critic(config)
    assert not need_reference_policy(config)
    validate_config(config, use_reference_policy=False, use_critic=False)
    config.actor_rollout_ref.model.path = ""  # there is no model here to read the configuration of
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert isinstance(actor, ActorConfig)
    assert actor.policy_loss.loss_mode.startswith("payoff/")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_name_of_ours_that_a_script_uses_is_one_that_verl_will_find(composed, script):
    from payoff.integrations.method_names import estimator_names, loss_names
    from payoff.integrations.verl_plugin import TRAINER_MODES

    config = composed(script)
    estimator, loss = config.algorithm.adv_estimator, config.actor_rollout_ref.actor.policy_loss.loss_mode
    assert estimator in estimator_names() or estimator == "grpo"
    assert loss in loss_names()
    assert config.trainer.v1.trainer_mode in ("sync", *(f"payoff_{mode}" for mode in TRAINER_MODES))
    assert config.reward.reward_manager.name in ("naive", "payoff")


def test_the_reward_function_that_a_script_names_is_what_verl_loads(composed):
    from verl.trainer.ppo.reward import get_custom_reward_fn

    score = get_custom_reward_fn(composed(EXAMPLES / "one_reward.sh"))
    found = score(data_source="gsm8k", solution_str="4", ground_truth="4", extra_info={"index": 0, "split": "train"})
    assert (found["score"], found["reward_valid"]) == (1.0, 1.0)


def test_the_section_and_the_environment_of_the_channels_script_reach_those_who_read_them(composed):
    from payoff.integrations.verl_reward import section

    config = composed(EXAMPLES / "channels.sh")
    run = str(EXAMPLES / "rewards.yaml")
    assert section(config) == {"reward": run}
    assert run == config.ray_kwargs.ray_init.runtime_env.env_vars.PAYOFF_REWARD


def test_the_run_file_of_the_examples_can_be_had():
    from payoff.integrations.hosted import HostedRun, RowReward

    run = HostedRun(EXAMPLES / "rewards.yaml")
    run.target(), run.loss()
    reward = RowReward(str(EXAMPLES / "rewards.yaml"))
    assert (reward.weights, reward.left_out) == ({"correct": 1.0, "length": -0.0001}, {})
