"""Rewards that a language model writes: asked for, tried in the sandbox, mended and chosen."""
