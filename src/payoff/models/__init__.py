"""Models that give rewards: those that learn beside the policy, and those fitted on labelled steps."""
