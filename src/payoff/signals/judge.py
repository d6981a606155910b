"""What a language model behind a server thinks of a response, as a reward of a run file."""

from __future__ import annotations

from payoff.catalogue import method
from payoff.foreign.judge import JudgeReward


@method("judge", kind="signal")
class JudgedResponses(JudgeReward):
    """Pay at the end the number that a chat model gives the response, or its share of won comparisons.

    The judge of `payoff score --reward judge:...`: one client, cache, ledger and spending limit for all its requests. Refused, lost
    and malformed answers are asked again, and then leave the rollout without verdict, never with a 0. In [0, 1] unless a schema of
    your own says otherwise. Costs a request for each different response, many at a time. Gamed by whatever the model likes: length,
    confidence, text that speaks to the judge (it is quoted, and the template says so); `payoff audit` puts such texts before it.

    place: BASE_URL#MODEL?NAME=VALUE&NAME=VALUE, the options those of `payoff.foreign.judge.judge`; in a run file also all in one
           text, "judge:BASE_URL#MODEL?..."

    It sees the group with `against=group`. Raises ValueError for an address, a file or an option that does not do.

    >>> JudgedResponses("http://localhost:8000/v1#tiny?store=off").sees
    'item'
    """
