"""Shapes and types of every payoff function are checked while the tests run; computations use one thread, so that they repeat."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import jaxtyping

sys.path.append(str(Path(__file__).parent))  # where `type_checks` is
jaxtyping.install_import_hook("payoff", "type_checks.first_calls")

import torch  # noqa: E402

torch.set_num_threads(1)
