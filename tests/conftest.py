"""Shapes and types of every payoff function are checked while the tests run; computations use one thread, so that they repeat."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import jaxtyping

with jaxtyping.install_import_hook("payoff", "beartype.beartype"):
    import payoff.pipeline
    import payoff.sets
    import payoff.trajectories  # noqa: F401

# The hook stays on for the rooms that the tests import themselves.
jaxtyping.install_import_hook("payoff", "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)
