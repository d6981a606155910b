"""What acts: a language model, a table. Every one is a `payoff.pipeline.Policy`."""
