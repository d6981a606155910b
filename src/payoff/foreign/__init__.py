"""Rewards of other people as signals, by name: functions of TRL and verl, reward models, reward servers and judges.

A row without a verdict stays without one, with the reason: an answer that cannot be read is never a 0.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

from payoff.catalogue import nearest
from payoff.foreign.batches import RowBatches
from payoff.foreign.options import accepted, split_options
from payoff.rewards import RewardError, one_line

KINDS = {  # beginning of a name -> (module, what makes the grader, what parts the place from its options)
    "trl:": ("payoff.foreign.trl_function", "trl_function", "?"),
    "verl:": ("payoff.foreign.verl_function", "verl_function", "?"),
    "hf:": ("payoff.foreign.reward_model", "reward_model", "?"),
    "judge:": ("payoff.foreign.judge", "judge", "?"),
    "http://": ("payoff.foreign.reward_server", "reward_server", "#"),
    "https://": ("payoff.foreign.reward_server", "reward_server", "#"),
}
IN_PROCESSES = ("trl:", "verl:")


def is_foreign(spec: str) -> bool:
    """Whether a reward's name begins as one of other people does: trl:, verl:, hf:, judge:, http:// or https://.

    >>> is_foreign("trl:trl.rewards:think_format_reward"), is_foreign("answer-match")
    (True, False)
    """
    return spec.startswith(tuple(KINDS))


def foreign_reward(
    spec: str, *, workers: int = 0, deadline: float | None = None, cache: bool = False, **options: Any
) -> RowBatches:
    """The reward of other people that a text names, as a signal.

    spec: trl:FILE.py:FUNCTION or trl:package.module:function      a reward function as TRL calls it, or what makes one
          verl:FILE.py:FUNCTION or verl:package.module:function    a `compute_score` as verl calls it
          hf:FOLDER_OR_NAME                                        a sequence-classification model of transformers
          http://HOST/PATH or https://HOST/PATH                    a reward server
          judge:BASE_URL#MODEL                                     a chat model behind an OpenAI-compatible server
          Options follow as ?NAME=VALUE&NAME=VALUE; those of a reward server after #, for what follows ? is its own.
    workers, deadline: processes that call a function, and the seconds one call may take (trl: and verl: alone)
    cache:   verdicts are remembered by the row, in memory
    options: the same options as in the text, and stronger: `format`, `batch`, `dtype`, `timeout` ... and, for a function that
             makes a TRL reward or for `compute_score`, its own arguments

    Raises RewardError, in one line and with the nearest name there is, for a name that leads nowhere and an option that is not one.

    >>> from payoff.rows import from_rows
    >>> thinks = foreign_reward("trl:trl.rewards:think_format_reward")
    >>> rewards = thinks(from_rows([{"prompt": "1+1=", "response": "<think>easy</think>2"}, {"prompt": "1+1=", "response": "2"}]))
    >>> rewards["think_format_reward"].value[:, 0].tolist()
    [1.0, 0.0]
    """
    kind = next((kind for kind in KINDS if spec.startswith(kind)), None)
    if kind is None:
        like = nearest(spec.partition(":")[0], [name.partition(":")[0] for name in KINDS])
        hint = f"; did you mean {like[0]}:?" if like else f"; one begins with {', '.join(KINDS)}"
        raise RewardError(f"reward {json.dumps(spec)}: not a reward from elsewhere{hint}")
    module, maker, mark = KINDS[kind]
    try:
        if kind not in IN_PROCESSES and (workers or deadline is not None):
            raise ValueError("takes neither worker processes nor a deadline; its own options are batch, concurrency and timeout")
        place, written = split_options(spec if mark == "#" else spec.removeprefix(kind), mark)
        if not place:
            raise ValueError("names nothing after its beginning")
        make = getattr(importlib.import_module(module), maker)
        given = accepted(make, {**written, **options})
        grader = make(place, **given)
        return RowBatches(grader, workers=workers, deadline=deadline, cache=cache)
    except RewardError:
        raise
    except (LookupError, ImportError, OSError, ValueError, TypeError, RuntimeError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
        raise RewardError(f"reward {json.dumps(spec)}: {one_line(message)}") from None


def files_of(spec: str) -> list[Path]:
    """The files here that such a reward is made of: what it gives may change when one of them does. None for what lies elsewhere.

    >>> files_of("trl:trl.rewards:think_format_reward")
    []
    """
    kind = next((kind for kind in KINDS if spec.startswith(kind)), "")
    if kind not in ("trl:", "verl:", "hf:", "judge:"):
        return []
    place, options = split_options(spec.removeprefix(kind))
    named = [options.get(name, "") for name in ("template", "body", "schema", "replay")] if kind == "judge:" else []
    if kind in IN_PROCESSES and (match := re.match(r"(.+\.py)(?::|$)", place)):
        named = [match[1]]
    folder = Path(place).expanduser()
    inside = sorted(folder.iterdir()) if kind == "hf:" and folder.is_dir() else []
    return [path for path in (*(Path(name).expanduser() for name in named if name), *inside) if path.is_file()]


__all__ = ["RewardError", "RowBatches", "files_of", "foreign_reward", "is_foreign"]
