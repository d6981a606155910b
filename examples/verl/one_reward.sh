#!/usr/bin/env bash
# One reward, one of payoff's estimators and one of its losses in verl's own trainer: 8 GPUs of one node, Ray, vLLM.
#   DATA=~/data/gsm8k MODEL=Qwen/Qwen2.5-3B-Instruct bash one_reward.sh [more overrides]
# Before: pip install "payoff[verl]" on every node, and `payoff doctor --verl` on one of them.
set -euo pipefail
DATA=${DATA:-$HOME/data/gsm8k}
MODEL=${MODEL:-Qwen/Qwen2.5-3B-Instruct}

python -m verl.trainer.main_ppo \
  algorithm.adv_estimator=payoff/rloo \
  algorithm.use_kl_in_reward=False \
  actor_rollout_ref.actor.policy_loss.loss_mode=payoff/dual-clip \
  actor_rollout_ref.actor.clip_ratio_low=0.2 \
  actor_rollout_ref.actor.clip_ratio_high=0.28 \
  actor_rollout_ref.actor.loss_agg_mode=token-mean \
  reward.custom_reward_function.path=pkg://payoff.integrations.verl_reward \
  reward.custom_reward_function.name=compute_score \
  +reward.custom_reward_function.reward_kwargs.reward=answer-match \
  +reward.custom_reward_function.reward_kwargs.invalid=nan \
  data.train_files="$DATA/train.parquet" \
  data.val_files="$DATA/test.parquet" \
  data.train_batch_size=256 \
  data.max_prompt_length=512 \
  data.max_response_length=2048 \
  actor_rollout_ref.model.path="$MODEL" \
  actor_rollout_ref.model.use_remove_padding=True \
  actor_rollout_ref.model.enable_gradient_checkpointing=True \
  actor_rollout_ref.actor.optim.lr=1e-6 \
  actor_rollout_ref.actor.ppo_mini_batch_size=64 \
  actor_rollout_ref.actor.use_dynamic_bsz=True \
  actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384 \
  actor_rollout_ref.actor.use_kl_loss=False \
  actor_rollout_ref.rollout.name=vllm \
  actor_rollout_ref.rollout.n=8 \
  actor_rollout_ref.rollout.tensor_model_parallel_size=1 \
  actor_rollout_ref.rollout.gpu_memory_utilization=0.6 \
  actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True \
  trainer.v1.trainer_mode=sync \
  trainer.n_gpus_per_node=8 \
  trainer.nnodes=1 \
  trainer.logger='["console"]' \
  trainer.project_name=payoff \
  trainer.experiment_name=one_reward \
  trainer.test_freq=5 \
  trainer.save_freq=20 \
  "$@"
