"""Tasks: where rollouts start and what is truly wanted of them; graders that make sense for one task only stand beside it."""
