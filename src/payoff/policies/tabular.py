"""A softmax policy over a prefix tree, small enough that everything about it can be enumerated.

It samples and evaluates as any policy does; and exactly: all sequences, their probabilities, values, the KL-regularised optimum,
best-of-n. What needs groups of rollouts, the expectation of an estimator, is in `payoff.exact`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.pipeline import Evaluation, Start
from payoff.policies.prefix_tree import PrefixTree, action_name
from payoff.trajectories import StopReason, Trajectories, fresh_ids


@method("tabular", kind="policy")
class Tabular(nn.Module):
    """A table of logits, one row per prefix: pi(a | prefix) = softmax(logits[start, prefix])_a.

    vocabulary:  K actions. horizon: H, the greatest number of actions.
    stop:        the action that ends a sequence early (itself an action, with log-probability and length); None: all have H.
                 The end of the tree is an end like any other: a sequence that reaches it is finished, not truncated.
    starts:      how many starts have a table of their own (`fields["table"]` of a start says which); with 1, all share it.
    logits:      initial logits [starts, prefixes, K] or [prefixes, K], numbered as in `PrefixTree`; None: normal with standard
                 deviation `spread`, drawn by `seed`. -inf forbids an action for good.
    critic:      also a table of values, starting at 0 and offered as "values".
    step_length: actions per step.

    Offers at every action "entropy", "mean_logp" (the mean of log pi over the vocabulary), "sum_pi_squared" and "logits" [N, T, K]
    (here log pi), and "values" with a critic.
    Raises ValueError for sizes below 1 and logits of another shape.

    >>> policy = Tabular(2, 2, logits=torch.zeros(3, 2))
    >>> policy.sequences().actions.tolist(), policy.probabilities().tolist()
    ([[0, 0], [0, 1], [1, 0], [1, 1]], [0.25, 0.25, 0.25, 0.25])
    """

    def __init__(
        self,
        vocabulary: int = 3,
        horizon: int = 3,
        *,
        stop: int | None = None,
        starts: int = 1,
        logits: Tensor | None = None,
        spread: float = 0.0,
        seed: int = 0,
        critic: bool = False,
        step_length: int = 1,
        dtype: torch.dtype | Literal["float32", "float64"] = "float64",
    ) -> None:
        super().__init__()
        for name, size in (("starts", starts), ("step_length", step_length)):
            if size < 1:
                raise ValueError(f"Tabular: {name} must be at least 1, got {size}")
        self.tree = PrefixTree(vocabulary, horizon, stop)
        self.step_length = step_length
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        shape = (starts, self.tree.prefix_count, vocabulary)
        if logits is None:
            logits = spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        if tuple(logits.shape) not in (shape, shape[1:]):
            raise ValueError(f"Tabular: logits must be [starts, prefixes, K] = {list(shape)}, got {list(logits.shape)}")
        self.logits = nn.Parameter(logits.detach().to(dtype).expand(shape).clone())
        self.critic = nn.Parameter(torch.zeros(shape[:2], dtype=dtype)) if critic else None
        self.offers = frozenset({"entropy", "mean_logp", "sum_pi_squared", "logits"} | ({"values"} if critic else set()))

    # --- as any policy

    def rollout(self, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """n trajectories from every start; one group per start, rows in the order of the starts."""
        device = self.logits.device
        table = torch.tensor([self._own(int(start.fields.get("table", 0))) for start in starts], device=device).repeat_interleave(n)
        group = fresh_ids(len(starts), device).repeat_interleave(n)
        fields = [{**start.fields, "start": start.id} for start in starts for _ in range(n)]
        empty = torch.zeros(len(fields), self.tree.horizon, dtype=torch.int64, device=device)
        return self._act(empty, torch.zeros_like(table), table, group, fields, rng)

    def resume(
        self,
        traj: Trajectories,
        rows: Int[Tensor, " R"],
        at: Int[Tensor, " R"],
        n: int,
        rng: torch.Generator,
        *,
        horizon: int | None = None,
        noisy: int | None = None,
    ) -> Trajectories:
        """n continuations of each prefix traj[rows, :at], with `parent` and `fork` set and the group of the trajectory they leave.

        `horizon` more actions (None: to the end; where that cuts a sequence short it is "truncated"), the first `noisy` of them
        sampled (None: all), the rest the most probable ones, which exist and are not acted.
        Raises ValueError for a prefix at which the sequence has already ended, and for a horizon below 1.
        """
        if horizon is not None and horizon < 1:
            raise ValueError(f"Tabular.resume: horizon must be at least 1, got {horizon}")
        rows, at = rows.repeat_interleave(n), at.repeat_interleave(n)
        prefix = traj.select(rows)
        alive = self.tree.states(prefix.actions, prefix.length)[1]
        ended = (at < 0) | (at > prefix.length) | ~alive.gather(1, at.clamp(0, prefix.width)[:, None])[:, 0]
        if ended.any():
            row = int(ended.nonzero()[0, 0])
            raise ValueError(
                f"Tabular.resume: trajectory {int(prefix.id[row])}, of {int(prefix.length[row])} actions, "
                f"cannot be continued from action {int(at[row])}"
            )
        width = min(prefix.width, self.tree.horizon)
        actions = torch.zeros(len(rows), self.tree.horizon, dtype=torch.int64, device=at.device)
        actions[:, :width] = torch.where(prefix.exists, prefix.actions, 0)[:, :width]
        fields = [dict(item) for item in prefix.items] or [{} for _ in range(len(rows))]
        branch = self._act(actions, at, self._tables(prefix), prefix.group, fields, rng, horizon=horizon, noisy=noisy)
        width = min(width, branch.width)
        context = torch.arange(width, device=at.device) < at[:, None]
        mask, logp = branch.mask.clone(), branch.logp["old"].clone()
        mask[:, :width] = torch.where(context, prefix.mask[:, :width], mask[:, :width])
        if "old" in prefix.logp:
            logp[:, :width] = torch.where(context, prefix.logp["old"][:, :width], logp[:, :width])
        return branch.replace(mask=mask, logp={"old": logp}, parent=prefix.id, fork=at)

    def evaluate(self, traj: Trajectories, want: frozenset[str] = frozenset()) -> Evaluation:
        """Log-probabilities of the recorded actions, with gradient, and what else was wanted of `offers`; 0 beyond the end."""
        unknown = want - self.offers
        if unknown:
            raise ValueError(f"Tabular.evaluate: cannot give {sorted(unknown)}; it offers {sorted(self.offers)}")
        exists, table = traj.exists, self._tables(traj)[:, None]
        state, alive = self.tree.states(traj.actions, traj.length)
        rows = self._log_policy(table, state[:, :-1])
        actions = torch.where(exists, traj.actions, 0).long()
        logp = torch.where(exists, rows.gather(2, actions[..., None])[..., 0], 0)
        more = {}
        if "entropy" in want:
            finite = torch.where(rows > -torch.inf, rows, 0)  # a forbidden action adds nothing, and no NaN
            more["entropy"] = torch.where(exists, -(rows.exp() * finite).sum(2), 0)
        if "mean_logp" in want:
            more["mean_logp"] = torch.where(exists, rows.mean(2), 0)
        if "sum_pi_squared" in want:
            more["sum_pi_squared"] = torch.where(exists, (2 * rows).exp().sum(2), 0)
        if "logits" in want:
            more["logits"] = torch.where(exists[..., None], rows, 0)
        if "values" in want:
            critic: Tensor = self.critic  # type: ignore[assignment]  # there is one, or it would not be offered
            more["values"] = torch.where(alive, critic[table, state], 0)
        return Evaluation(logp, more)

    # --- everything, enumerated

    def sequences(self, start: int = 0) -> Trajectories:
        """All L sequences, each once, in lexicographic order, as one group; extras["leaf"] is their number, 0 to L - 1.

        logp["old"] is this policy's own; their probabilities are `probabilities(start)`.
        """
        actions, length = self.tree.actions, self.tree.length
        table = torch.full_like(length, self._own(start))
        group = fresh_ids(1, length.device).repeat(len(length))
        fields = [{"table": start, "start": str(start)}] * len(length)
        traj = self._recorded(actions, length, table, group, fields)
        traj = traj.replace(extras={"leaf": torch.arange(len(length), device=length.device)})
        with torch.no_grad():
            return traj.replace(logp={"old": self.evaluate(traj).logp})

    def probabilities(self, start: int = 0) -> Float[Tensor, " L"]:
        """The probability of every sequence, differentiable in the logits."""
        return self._log_actions(start).sum(1).exp()

    def occupancy(self, start: int = 0) -> Float[Tensor, " prefixes"]:
        """The probability of passing through every prefix (1 for the empty one), differentiable."""
        return self.tree.through(self.probabilities(start)[:, None].expand(self.tree.actions.shape)).sum(1)

    def q_values(self, reward: Float[Tensor, " L"] | Float[Tensor, "L T"], start: int = 0) -> Float[Tensor, "prefixes K"]:
        """Q(prefix, a): what is expected from action a on, this policy acting; differentiable in the reward and the logits.

        reward: of every sequence, paid at its end [L], or at every action [L, T] (what the prefix already got is left out then).
        Right also where the policy never goes.
        """
        return self.tree.through(self._log_rest(start).exp() * self.tree.to_go(reward))

    def state_values(self, reward: Float[Tensor, " L"] | Float[Tensor, "L T"], start: int = 0) -> Float[Tensor, " prefixes"]:
        """V(prefix) = sum_a pi(a | prefix) Q(prefix, a)."""
        return (self.logits[self._own(start)].softmax(1) * self.q_values(reward, start)).sum(1)

    def soft_values(
        self, reward: Float[Tensor, " L"] | Float[Tensor, "L T"], beta: float, start: int = 0
    ) -> tuple[Float[Tensor, "prefixes K"], Float[Tensor, " prefixes"]]:
        """Soft Q and V: V(prefix) = beta log E_pi[exp(reward to go / beta) | prefix], and Q the same once a is taken.

        V(empty prefix) is the greatest value of E[reward] - beta KL(. || pi). A reward paid at every action must depend on
        nothing later than that action. Raises ValueError unless beta > 0.
        """
        if not beta > 0:
            raise ValueError(f"Tabular.soft_values: beta must be > 0, got {beta}")
        q = self.tree.log_through(self._log_rest(start) + self.tree.to_go(reward) / beta)
        return beta * q, beta * (self.logits[self._own(start)].log_softmax(1) + q).logsumexp(1)

    def optimum(self, reward: Float[Tensor, " L"] | Float[Tensor, "L T"], beta: float, start: int = 0) -> Tabular:
        """The policy that maximises E[reward] - beta KL(policy || this one): p(sequence) proportional to pi exp(reward / beta)."""
        soft, _ = self.soft_values(self.tree.to_go(reward)[:, 0], beta, start)
        return self._like(self.logits[self._own(start)].log_softmax(1) + soft / beta)

    def best_of_n(self, reward: Float[Tensor, " L"], n: int, start: int = 0) -> Float[Tensor, " L"]:
        """The distribution of the best of n independent sequences; of equally good ones each one drawn is as likely.

        P(reward <= r)^n - P(reward < r)^n, shared within a level in proportion to pi. Differentiable in the logits.
        """
        if n < 1:
            raise ValueError(f"Tabular.best_of_n: n must be at least 1, got {n}")
        p = self.probabilities(start)
        _, level = reward.unique(return_inverse=True)  # levels come in increasing order
        mass = p.new_zeros(int(level.max()) + 1).index_add(0, level, p)
        reached = torch.cat([mass.new_zeros(1), mass.cumsum(0)])
        # a^n - b^n = (a - b) (a^(n-1) + ... + b^(n-1)): exact for a rare level, and defined for one without mass
        power = torch.arange(n, device=p.device)
        gain = (reached[1:, None] ** (n - 1 - power) * reached[:-1, None] ** power).sum(1)
        return p * gain[level]

    def matching(self, probabilities: Float[Tensor, " L"]) -> Tabular:
        """The policy whose sequences have these probabilities (best-of-n as a policy, say); uniform at prefixes without mass."""
        mass = self.tree.through(probabilities.detach()[:, None].expand(self.tree.actions.shape))
        return self._like(torch.where(mass.sum(1, keepdim=True) > 0, mass.log(), 0))

    def uniform(self) -> Tabular:
        """The policy on the same tree that takes every action with probability 1 / K (so longer sequences are rarer)."""
        return self._like(torch.zeros_like(self.logits[0]))

    def prefixes(self, traj: Trajectories) -> Int[Tensor, "N T"]:
        """The number of the prefix before every action, its row in a table of values; 0 beyond the end."""
        return self.tree.states(traj.actions, traj.length)[0][:, :-1]

    # --- inside

    def _act(
        self,
        actions: Int[Tensor, "N H"],
        at: Int[Tensor, " N"],
        table: Int[Tensor, " N"],
        group: Int[Tensor, " N"],
        fields: Sequence[Mapping[str, Any]],
        rng: torch.Generator,
        *,
        horizon: int | None = None,
        noisy: int | None = None,
    ) -> Trajectories:
        """Act from position `at` on; what stands before it in `actions` is kept."""
        tree, actions, code = self.tree, actions.clone(), torch.zeros_like(at)
        length = torch.full_like(at, tree.horizon) if horizon is None else (at + horizon).clamp(max=tree.horizon)
        sampled, stopped = torch.zeros_like(actions, dtype=torch.bool), torch.zeros_like(at, dtype=torch.bool)
        logp = torch.zeros(actions.shape, dtype=self.logits.dtype, device=at.device)
        with torch.no_grad():
            for t in range(tree.horizon):
                new = (at <= t) & (t < length)
                if new.any():
                    rows = self._log_policy(table, tree.first(t) + code)
                    draw = torch.multinomial(rows.exp().to(rng.device), 1, generator=rng)[:, 0].to(at.device)
                    chance = new if noisy is None else new & (t < at + noisy)
                    actions[:, t] = torch.where(chance, draw, torch.where(new, rows.argmax(1), actions[:, t]))
                    sampled[:, t] = chance
                    logp[:, t] = torch.where(new, rows.gather(1, actions[:, t : t + 1])[:, 0], 0)
                    if tree.stop is not None:
                        ends = new & (actions[:, t] == tree.stop)
                        stopped, length = stopped | ends, torch.where(ends, t + 1, length)
                code = torch.where(t < length, tree.child(code, actions[:, t]), 0)
        traj = self._recorded(actions, length, table, group, fields)
        whole = stopped | (length == tree.horizon)
        return traj.replace(
            mask=sampled[:, : traj.width],
            stop=torch.where(whole, int(StopReason.finished), int(StopReason.truncated)),
            logp={"old": torch.where(traj.exists, logp[:, : traj.width], 0)},
        )

    def _recorded(
        self,
        actions: Int[Tensor, "N H"],
        length: Int[Tensor, " N"],
        table: Int[Tensor, " N"],
        group: Int[Tensor, " N"],
        fields: Sequence[Mapping[str, Any]],
    ) -> Trajectories:
        """These actions as finished trajectories, with the text they stand for (the stop action is a token and no text)."""
        width = int(length.max()) if len(length) else 1
        position = torch.arange(width, device=length.device).expand(len(length), width)
        exists = position < length[:, None]
        items, names = [], [action_name(a, self.tree.vocabulary) for a in range(self.tree.vocabulary)]
        for own, row, end in zip(fields, actions.tolist(), length.tolist(), strict=True):
            tokens = [names[a] for a in row[:end]]
            response = "".join(name for name, a in zip(tokens, row) if a != self.tree.stop)
            steps = ["".join(tokens[i : i + self.step_length]) for i in range(0, end, self.step_length)]
            items.append({"prompt": "", **own, "response": response, "tokens": tokens, "steps": steps})
        return Trajectories(
            mask=exists,
            length=length,
            group=group,
            step=torch.where(exists, position // self.step_length, -1).int(),
            stop=torch.full_like(length, int(StopReason.finished)),
            actions=torch.where(exists, actions[:, :width], 0),
            items=items,
            extras={"table": table},
        )

    def _log_policy(self, table: Int[Tensor, "..."], prefix: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape K"]:
        """log pi(. | prefix)."""
        return self.logits.log_softmax(2).flatten(0, 1)[table * self.tree.prefix_count + prefix]

    def _log_actions(self, start: int) -> Float[Tensor, "L T"]:
        """log pi of every action of every sequence."""
        logp = self.logits[self._own(start)].log_softmax(1).flatten()[self.tree.edge]
        return torch.where(self.tree.exists, logp, 0)

    def _log_rest(self, start: int) -> Float[Tensor, "L T"]:
        """log-probability of all that follows each action of each sequence."""
        logp = self._log_actions(start)
        after = torch.cat([logp[:, 1:], torch.zeros_like(logp[:, :1])], 1)
        return after.flip(1).cumsum(1).flip(1)

    def _own(self, start: int) -> int:
        """Which table serves the start."""
        if len(self.logits) == 1:
            return 0
        if not 0 <= start < len(self.logits):
            raise ValueError(f"Tabular: there are tables for starts 0 to {len(self.logits) - 1}, not for {start}")
        return start

    def _tables(self, traj: Trajectories) -> Int[Tensor, " N"]:
        """The table of every row; the only one where there is one."""
        return traj.extras["table"] if len(self.logits) > 1 else torch.zeros_like(traj.length)

    def _like(self, logits: Float[Tensor, "prefixes K"]) -> Tabular:
        """Another policy on the same tree."""
        tree = self.tree
        return Tabular(
            tree.vocabulary, tree.horizon, stop=tree.stop, logits=logits, step_length=self.step_length, dtype=logits.dtype
        )


def kl_divergence(p: Float[Tensor, " L"], q: Float[Tensor, " L"]) -> Float[Tensor, ""]:
    """KL(p || q) = sum p log(p / q) of two distributions over sequences; infinite where p goes and q does not.

    >>> round(float(kl_divergence(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))), 6)
    0.143841
    """
    some = p > 0
    return torch.where(some, p * (torch.where(some, p, 1).log() - torch.where(some, q, 1).log()), 0).sum()
