"""Reward at inference time: what a policy is made to give without being trained."""
