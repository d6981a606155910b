"""Rewards to rewards: bounded, squashed, gated, mixed, and charged for length."""
