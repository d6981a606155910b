#!/usr/bin/env bash
# Several rewards that stay apart until they are weighed, verdicts that may be missing, and steps: payoff's trainer in verl.
# 2 nodes of 8 GPUs, Ray, vLLM over 2 GPUs. On the first node: ray start --head; on the second: ray start --address=FIRST:6379;
# then on the first:
#   RUN=/shared/rewards.yaml DATA=~/data/gsm8k MODEL=Qwen/Qwen2.5-7B-Instruct bash channels.sh [more overrides]
# RUN is read by verl's driver and by its reward workers on every node: put it where all see it under one path.
set -euo pipefail
RUN=${RUN:-$(cd "$(dirname "$0")" && pwd)/rewards.yaml}
DATA=${DATA:-$HOME/data/gsm8k}
MODEL=${MODEL:-Qwen/Qwen2.5-7B-Instruct}

python -m verl.trainer.main_ppo \
  trainer.v1.trainer_mode=payoff_sync \
  +payoff.reward="$RUN" \
  reward.reward_manager.name=payoff \
  reward.num_workers=16 \
  algorithm.adv_estimator=grpo \
  algorithm.use_kl_in_reward=False \
  actor_rollout_ref.actor.policy_loss.loss_mode=payoff/run \
  +ray_kwargs.ray_init.runtime_env.env_vars.PAYOFF_REWARD="$RUN" \
  actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm \
  actor_rollout_ref.actor.loss_scale_factor=4096 \
  data.train_files="$DATA/train.parquet" \
  data.val_files="$DATA/test.parquet" \
  data.train_batch_size=512 \
  data.max_prompt_length=1024 \
  data.max_response_length=4096 \
  actor_rollout_ref.model.path="$MODEL" \
  actor_rollout_ref.model.use_remove_padding=True \
  actor_rollout_ref.model.enable_gradient_checkpointing=True \
  actor_rollout_ref.actor.optim.lr=1e-6 \
  actor_rollout_ref.actor.ppo_mini_batch_size=128 \
  actor_rollout_ref.actor.use_dynamic_bsz=True \
  actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384 \
  actor_rollout_ref.actor.fsdp_config.param_offload=False \
  actor_rollout_ref.actor.use_kl_loss=False \
  actor_rollout_ref.rollout.name=vllm \
  actor_rollout_ref.rollout.n=16 \
  actor_rollout_ref.rollout.tensor_model_parallel_size=2 \
  actor_rollout_ref.rollout.gpu_memory_utilization=0.6 \
  actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True \
  trainer.n_gpus_per_node=8 \
  trainer.nnodes=2 \
  trainer.logger='["console"]' \
  trainer.project_name=payoff \
  trainer.experiment_name=channels \
  trainer.test_freq=5 \
  trainer.save_freq=20 \
  "$@"
