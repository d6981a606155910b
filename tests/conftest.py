"""Shapes and types of every payoff function are checked while the tests run; computations use one thread, so that they repeat."""

import gc
import os
import sys
from pathlib import Path

gc.disable()  # while ten thousand tests are collected, of which nothing is garbage

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import jaxtyping  # noqa: E402

sys.path.append(str(Path(__file__).parent))  # where `type_checks` is
jaxtyping.install_import_hook("payoff", "type_checks.first_calls")

import torch  # noqa: E402

torch.set_num_threads(1)


def pytest_collection_finish():
    gc.freeze()
    gc.enable()
