"""Which prompts and which rollouts are trained on."""
