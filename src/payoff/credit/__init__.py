"""Channel to per-action credit: which actions a reward weighs, before any baseline."""
