"""Critics of whole turns, learned off policy from past episodes; what they make of a turn weighs each of its tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from payoff.catalogue import method
from payoff.trajectories import Rewards, StopReason, Trajectories, per_step, place_steps

Fresh = Callable[[Tensor], Tensor]  # states [n, D] that turns were written in -> states [n, D] behind new turns


class Turns(NamedTuple):
    """Turns of a batch, each an own stretch of a step: where it is, the states around it, and whether the episode ended with it.

    before: the state the turn was written in; after: once it is written, before anything answers; later: where the next one is
    """

    row: Int[Tensor, " n"]
    first: Int[Tensor, " n"]
    number: Int[Tensor, " n"]
    before: Float[Tensor, "n D"]
    after: Float[Tensor, "n D"]
    later: Float[Tensor, "n D"]
    over: Bool[Tensor, " n"]


@method("archer", kind="model", paper="arXiv:2402.19446", needs=("hidden",))
class TurnCritics(nn.Module):
    """Pay every turn its advantage, by twin critics of turns that learn from past episodes too (ArCHer), channel "archer".

    A_k = min(Q1, Q2)(s_k, a_k) - min(V1, V2)(s_k), with a_k the whole turn. Q_i is fitted to r_k + discount (1 - over)
    Vbar_i(s_(k+1)) and V_i to Qbar_i(s_k, a~), a~ a new turn of the policy as it is; each of the twins to its own target, a copy
    that follows by `follow` after every step; squared errors, Adam. With discount 0 it is r - V; with turns of one action the
    advantage of an actor-critic. `immediate` gives it to each token of the turn; with `policy-gradient` and `sequence-sum` that is
    the paper's loss. Its baseline of tokens is a critic of the policy: `subtract-values` behind it, and a term `value` on the same
    path without that.

    size:     of a state; None: that of the policy, of which a run hands over a copy to ask
    by:       the channel whose payments within a turn are r_k
    fresh:    where a~ comes from. None: the recorded turn is a~, so V is of the policies that filled the memory: keep `capacity`
              small. "batch": V is fitted on the turns of the newest batch alone, which the policy as it is wrote, and Q on all
              that are kept. A function: given the states [n, D] that past turns were written in, those behind new turns there
    hidden:   units of a layer of each critic, 0: linear
    updates:  steps of Adam for each batch, each on `batch_size` turns drawn from the last `capacity` episodes, before it is paid
    warm_up:  batches at first for which everything is paid 0, so that only the critics learn
    of:       traj.extras[of] [N, T+1, D] are the states before each action and, at `length`, behind the last

    A turn is what the policy wrote of one step; steps without own actions are none. The last turn of a truncated rollout is valued
    by the state behind it. Turns of unknown reward are not learned from. No gradient goes through what is paid.
    Raises ValueError for options that make no sense and states that are not there, KeyError for a channel that is not.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> _ = torch.manual_seed(0)
    >>> traj = four_answers().replace(extras={"hidden": torch.eye(4).repeat(4, 1, 1)})
    >>> right = place_outcome(torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.ones(4) > 0, traj)
    >>> model = TurnCritics(size=4, hidden=0, learning_rate=0.05, updates=400, gradient_clip=0.0, warm_up=0)
    >>> _ = model.learn(traj, {"correct": right})
    >>> model(traj)["archer"].value.shape, model.worth(traj)[1][0, 2].round(decimals=1)  # V of the state before the third action
    (torch.Size([4, 3]), tensor(1.))
    """

    learns_first = True

    def __init__(
        self,
        *,
        policy: Any = None,
        size: int | None = None,
        by: str = "correct",
        fresh: Fresh | Literal["batch"] | None = None,
        discount: float = 0.9,
        follow: float = 0.1,
        hidden: int = 256,
        learning_rate: float = 2e-5,
        gradient_clip: float = 0.01,
        updates: int = 50,
        batch_size: int = 256,
        capacity: int = 10_000,
        warm_up: int = 20,
        of: str = "hidden",
        seed: int = 0,
    ) -> None:
        super().__init__()
        size = getattr(policy, "width", None) if size is None else size
        if size is None:
            raise ValueError("archer: give size, how many numbers a state has, or a policy that has a width")
        if not 0 <= discount <= 1 or not 0 < follow <= 1 or not learning_rate > 0 or gradient_clip < 0:
            raise ValueError(
                "archer: discount must lie in [0, 1], follow in (0, 1], learning_rate be positive and gradient_clip >= 0, "
                f"got {discount}, {follow}, {learning_rate} and {gradient_clip}"
            )
        if min(size, updates, batch_size, capacity) < 1 or min(hidden, warm_up) < 0:
            raise ValueError("archer: size, updates, batch_size and capacity must be at least 1, hidden and warm_up at least 0")
        self.size, self.by, self.fresh, self.discount, self.follow = size, by, fresh, discount, follow
        self.gradient_clip, self.updates, self.batch_size, self.capacity = gradient_clip, updates, batch_size, capacity
        self.warm_up, self.of, self.batches = warm_up, of, 0
        self.critics = nn.ModuleDict({name: _critic(size, hidden) for name in ("q1", "q2", "v1", "v2")})
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.optimiser = torch.optim.Adam(self.critics.parameters(), lr=learning_rate, fused=True)
        self.rng = torch.Generator().manual_seed(seed)
        self.kept: list[tuple[Turns, Tensor, int]] = []  # turns whose reward is known, their rewards, of how many episodes

    def forward(self, traj: Trajectories) -> Rewards:
        """The channel "archer": A_k at the end of step k."""
        q, v, here = self.worth(traj)
        advantage = torch.where(here, q - v, 0) if self.batches >= self.warm_up else torch.zeros_like(q)
        return {"archer": place_steps(advantage, torch.ones_like(here), traj)}

    @torch.no_grad()
    def worth(self, traj: Trajectories) -> tuple[Float[Tensor, "N S"], Float[Tensor, "N S"], Bool[Tensor, "N S"]]:
        """(the smaller Q of every turn, the smaller V of the state it was written in, which steps are turns)."""
        turns = turns_of(traj, self._states(traj))
        steps = max(int(traj.step.max()) + 1, 1) if traj.step.numel() else 1
        q, v = (torch.zeros(len(traj), steps, device=traj.device) for _ in range(2))
        here = torch.zeros(len(traj), steps, dtype=torch.bool, device=traj.device)
        place = (turns.row, turns.number)
        here[place] = True
        for table, names, state in ((q, ("q1", "q2"), turns.after), (v, ("v1", "v2"), turns.before)):
            table[place] = torch.minimum(*(self.critics[name](state)[:, 0] for name in names)).to(table)
        return q, v, here

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | None]:
        """Keep these episodes and take `updates` steps; metrics: the mean losses of Q and V, and how many turns are kept."""
        if self.by not in rewards:
            raise KeyError(f"archer: no reward channel {self.by!r} to learn from; there are {sorted(rewards)}")
        self.batches += 1
        paid, _, known = per_step(rewards[self.by], traj)
        turns = turns_of(traj, self._states(traj))
        sure = known[turns.row, turns.number]
        reward = paid[turns.row, turns.number][sure].to(turns.before)
        self.kept.append((Turns(*(x[sure] for x in turns)), reward, len(traj)))
        while len(self.kept) > 1 and sum(episodes for *_, episodes in self.kept[1:]) >= self.capacity:
            self.kept.pop(0)
        memory = Turns(*(torch.cat(column) for column in zip(*(turns for turns, _, _ in self.kept), strict=True)))
        rewards_kept = torch.cat([reward for _, reward, _ in self.kept])
        if not len(rewards_kept):
            return {"archer/q": None, "archer/v": None, "archer/turns": 0.0}
        steps = [self._step(memory, rewards_kept, turns) for _ in range(self.updates)]
        losses = torch.tensor(steps, dtype=torch.float64).mean(0).tolist()
        return {"archer/q": losses[0], "archer/v": losses[1], "archer/turns": float(len(rewards_kept))}

    def get_extra_state(self) -> dict[str, Any]:
        """The optimiser, the generator and the turns of past episodes."""
        kept = [(tuple(turns), reward, episodes) for turns, reward, episodes in self.kept]
        return {"optimiser": self.optimiser.state_dict(), "rng": self.rng.get_state(), "batches": self.batches, "kept": kept}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_extra_state`."""
        self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
        self.rng.set_state(state["rng"])
        self.batches = state["batches"]
        self.kept = [(Turns(*turns), reward, episodes) for turns, reward, episodes in state["kept"]]

    def _step(self, turns: Turns, reward: Tensor, newest: Turns) -> tuple[float, float]:
        """One step on turns drawn from memory, each as likely: squared errors of both twins, then the targets follow."""
        some = torch.randint(len(reward), (self.batch_size,), generator=self.rng).to(reward.device)
        state, acted, next_state, paid = turns.before[some], turns.after[some], turns.later[some], reward[some]
        written, redrawn = self._redrawn(state, acted, newest)
        goes_on = (~turns.over[some]).to(state)
        losses = {"q": torch.zeros((), device=state.device), "v": torch.zeros((), device=state.device)}
        with torch.enable_grad():
            for twin in "12":
                with torch.no_grad():
                    wanted_q = paid + self.discount * goes_on * self.targets[f"v{twin}"](next_state)[:, 0]
                    wanted_v = self.targets[f"q{twin}"](redrawn.to(state))[:, 0]
                losses["q"] = losses["q"] + mse_loss(self.critics[f"q{twin}"](acted)[:, 0], wanted_q)
                if len(written):  # else nobody wrote anything, and V stays as it is
                    losses["v"] = losses["v"] + mse_loss(self.critics[f"v{twin}"](written)[:, 0], wanted_v)
            self.optimiser.zero_grad(set_to_none=True)
            (losses["q"] + losses["v"]).backward()
            if self.gradient_clip:
                nn.utils.clip_grad_norm_(self.critics.parameters(), self.gradient_clip)
            self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.targets.parameters()), list(self.critics.parameters()), self.follow)
        return float(losses["q"].detach()), float(losses["v"].detach())

    def _redrawn(self, state: Tensor, acted: Tensor, newest: Turns) -> tuple[Tensor, Tensor]:
        """States, and those behind turns that were written there, which V is fitted on."""
        if self.fresh is None:
            return state, acted
        if callable(self.fresh):
            return state, self.fresh(state)
        if not len(newest.row):
            return state[:0], acted[:0]
        some = torch.randint(len(newest.row), (self.batch_size,), generator=self.rng).to(state.device)
        return newest.before[some], newest.after[some]

    def _states(self, traj: Trajectories) -> Float[Tensor, "N T1 D"]:
        states = traj.extras.get(self.of)
        if states is None or states.shape != (len(traj), traj.width + 1, self.size):
            found = "none" if states is None else f"{list(states.shape)}"
            wanted = [len(traj), traj.width + 1, self.size]
            raise ValueError(f"archer: needs traj.extras[{self.of!r}] [N, T+1, D] = {wanted}, found {found}")
        return states.detach().to(next(self.critics.parameters()))


def turns_of(traj: Trajectories, states: Float[Tensor, "N T1 D"]) -> Turns:
    """Every step's own stretch with the states around it, row by row in order.

    >>> from payoff.examples import four_answers
    >>> turns = turns_of(four_answers(), torch.arange(4.0).repeat(4, 1)[..., None])
    >>> turns.row.tolist(), turns.before[:3, 0].tolist(), turns.after[:3, 0].tolist(), turns.over[:3].tolist()
    ([0, 0, 0, 1, 1, 2, 2, 2, 3], [0.0, 1.0, 2.0], [1.0, 2.0, 3.0], [False, False, True])
    """
    n, width, device = len(traj), traj.width, traj.device
    steps = max(int(traj.step.max()) + 1, 1) if traj.step.numel() else 1
    position, number = torch.arange(width, device=device).expand(n, width), traj.step.clamp(min=0).long()
    first = torch.full((n, steps), width, device=device).scatter_reduce(1, number, torch.where(traj.own, position, width), "amin")
    last = torch.full((n, steps), -1, device=device).scatter_reduce(1, number, torch.where(traj.own, position, -1), "amax")
    row, step = (last >= 0).nonzero(as_tuple=True)
    final = torch.ones_like(row, dtype=torch.bool)
    final[:-1] = row[1:] != row[:-1]
    start = first[row, step]
    behind = torch.where(final, traj.length[row], start.roll(-1))
    over = final & (traj.stop[row] != StopReason.truncated)
    return Turns(row, start, step, states[row, start], states[row, last[row, step] + 1], states[row, behind], over)


def _critic(size: int, hidden: int) -> nn.Module:
    if not hidden:
        return nn.Linear(size, 1)
    return nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))
