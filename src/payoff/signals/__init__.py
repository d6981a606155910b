"""Rollout to reward: graders of one rollout's fields, and signals that read the tensors of the batch."""
