"""Rooms in a row, passed by commands of several tokens, and three ways to learn them: two of tokens and one of whole turns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from payoff.credit.returns import immediate, lambda_return, return_to_go
from payoff.losses.policy_gradient import policy_gradient, ppo_clip
from payoff.losses.value import value_loss
from payoff.models.turn_critics import TurnCritics
from payoff.pipeline import Evaluation
from payoff.sets import statistics
from payoff.trajectories import Channel, Trajectories, place_outcome

ROOMS, TOKENS, CHOICES, TURNS, DISCOUNT, EPISODES = 3, 3, 3, 8, 0.9, 16
COMMANDS = CHOICES**TOKENS
SIZE = ROOMS + 1 + ROOMS * COMMANDS  # a state of the critics: a room, or a room and what was said in it
ONWARD, BACK = 3, 2


class World:
    """Rooms in a row: in each, so many commands of three tokens lead on, so many back to the first, the others to nowhere."""

    def __init__(self, seed: int, onward: int = ONWARD, back: int = BACK) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.leads = torch.arange(ROOMS)[:, None].repeat(1, COMMANDS)
        for room in range(ROOMS):
            some = torch.randperm(COMMANDS, generator=rng)[: onward + back]
            self.leads[room, some[:onward]], self.leads[room, some[onward:]] = room + 1, 0

    def success(self, policy: Writer) -> float:
        """The chance to get through the last room within the turns there are (exact)."""
        moves = torch.zeros(ROOMS + 1, ROOMS + 1, dtype=torch.float64)
        moves[:-1] = torch.zeros(ROOMS, ROOMS + 1, dtype=torch.float64).scatter_add(1, self.leads, policy.commands().double())
        moves[-1, -1] = 1
        return float(torch.matrix_power(moves, TURNS)[0, -1])


class Writer(nn.Module):
    """A policy that writes a command token by token: a table for every room and every beginning of a command."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(ROOMS, (COMMANDS - 1) // (CHOICES - 1), CHOICES))
        self.values = nn.Parameter(torch.zeros(ROOMS, (COMMANDS - 1) // (CHOICES - 1)))

    def places(self, command: Tensor) -> tuple[Tensor, Tensor]:
        """Which beginning each token of a command is written behind, and the token, both [..., TOKENS]."""
        tokens = torch.stack([command // CHOICES**k % CHOICES for k in reversed(range(TOKENS))], -1)
        begun = [(command // CHOICES ** (TOKENS - k)) + (CHOICES**k - 1) // (CHOICES - 1) for k in range(TOKENS)]
        return torch.stack(begun, -1), tokens

    def logp(self, room: Tensor, command: Tensor) -> Tensor:
        """log-probabilities of the tokens, [..., TOKENS]."""
        place, token = self.places(command)
        rows = self.logits.log_softmax(2)[room[..., None], place]
        return rows.gather(-1, token[..., None])[..., 0]

    @torch.no_grad()
    def commands(self) -> Tensor:
        """The probability of every command in every room, [ROOMS, COMMANDS]."""
        every = torch.arange(COMMANDS).expand(ROOMS, COMMANDS)
        return self.logp(torch.arange(ROOMS)[:, None].expand(every.shape), every).sum(2).exp()


def rollout(world: World, policy: Writer, rng: torch.Generator) -> Trajectories:
    """Episodes; a turn is three tokens and what the world answers, the episode's last turn the one that leads through."""
    chance = policy.commands()
    room, rooms, said = torch.zeros(EPISODES, dtype=torch.int64), [], []
    for _ in range(TURNS):
        here = room.clamp(max=ROOMS - 1)
        command = torch.multinomial(chance[here], 1, generator=rng)[:, 0]
        rooms.append(room)
        said.append(command)
        room = torch.where(room < ROOMS, world.leads[here, command], room)
    table, command = torch.stack([*rooms, room], 1), torch.stack(said, 1)
    length = (TOKENS + 1) * (table[:, :-1] < ROOMS).sum(1)
    position = torch.arange((TOKENS + 1) * TURNS).repeat(EPISODES, 1)
    exists, turn, within = position < length[:, None], position // (TOKENS + 1), position % (TOKENS + 1)
    own = exists & (within < TOKENS)
    start, now = table.gather(1, turn).clamp(max=ROOMS - 1), command.gather(1, turn)
    begun, token = policy.places(now)
    at = within.clamp(max=TOKENS - 1)[..., None]
    states = torch.zeros(EPISODES, position.shape[1] + 1, SIZE)
    states.scatter_(2, torch.cat([start, table[:, -1:]], 1)[..., None], 1)  # before a turn: its room
    behind = (ROOMS + 1 + start * COMMANDS + now)[..., None]
    spoken = torch.zeros(EPISODES, position.shape[1], SIZE).scatter_(2, behind, 1)
    states[:, :-1] = torch.where((within == TOKENS)[..., None], spoken, states[:, :-1])
    over = torch.arange(position.shape[1] + 1) == length[:, None]
    last = torch.nn.functional.one_hot(table[:, -1], SIZE).float()
    states = torch.where(over[..., None], last[:, None], states)
    traj = Trajectories(
        mask=own,
        length=length,
        group=torch.zeros(EPISODES, dtype=torch.int64),
        step=torch.where(exists, turn, -1).int(),
        stop=torch.zeros(EPISODES, dtype=torch.int64),
        actions=token.gather(2, at)[..., 0],
        extras={"hidden": states, "room": start, "command": now, "begun": begun.gather(2, at)[..., 0]},
    )
    with torch.no_grad():
        return traj.replace(logp={"old": evaluate(policy, traj).logp})


def evaluate(policy: Writer, traj: Trajectories) -> Evaluation:
    """What the policy says of these tokens, and its critic of the states they were written in."""
    room, begun = traj.extras["room"], traj.extras["begun"]
    logp = policy.logits.log_softmax(2)[room, begun].gather(2, traj.actions[..., None])[..., 0]
    values = torch.where(traj.mask, policy.values[room, begun], 0)
    # The answer of the world has no value of its own: it takes that of the state behind it.
    values = torch.where(traj.exists & ~traj.mask, torch.nn.functional.pad(values[:, 1:], (0, 1)), values)
    return Evaluation(torch.where(traj.mask, logp, 0), {"values": torch.nn.functional.pad(values, (0, 1))})


def learned(arm: str, seed: int, updates: int, rate: float, onward: int = ONWARD, back: int = BACK) -> dict[str, float]:
    """Chances of success along the way, at one learning rate; success, area and episodes as the recipes have them."""
    world, rng, policy = World(seed, onward, back), torch.Generator().manual_seed(seed), Writer()
    torch.manual_seed(seed)
    optimiser = torch.optim.Adam(policy.parameters(), lr=rate)

    def anew(states: Tensor) -> Tensor:
        room = states.argmax(1)
        command = torch.multinomial(policy.commands()[room], 1, generator=rng)[:, 0]
        return torch.nn.functional.one_hot(ROOMS + 1 + room * COMMANDS + command, SIZE).float()

    options: dict[str, Any] = {
        "size": SIZE,
        "hidden": 0,
        "learning_rate": 0.05,
        "gradient_clip": 0.0,
        "seed": seed,
        "warm_up": 0,
        "batch_size": 128,
    }
    critics = TurnCritics(by="goal", fresh=anew, discount=DISCOUNT, **options)
    found = [world.success(policy)]
    for _ in range(updates):
        traj = rollout(world, policy, rng)
        reached = traj.extras["hidden"][torch.arange(EPISODES), traj.length][:, ROOMS]
        goal = place_outcome(reached, torch.ones(EPISODES, dtype=torch.bool), traj)
        if arm == "archer":
            hierarchical(traj, goal, policy, critics, optimiser, rng)
        else:
            on_policy(arm, traj, goal, policy, optimiser)
        found.append(world.success(policy))
    first = next((k for k, chance in enumerate(found) if chance >= 0.8), updates)
    return {"success": found[-1], "area": sum(found) / len(found), "episodes": float(EPISODES * first)}


def on_policy(arm: str, traj: Trajectories, goal: Channel, policy: Writer, optimiser: torch.optim.Optimizer) -> None:
    """One step of REINFORCE less the mean of what is to come, or four of PPO with a critic of tokens."""
    decay = DISCOUNT ** (1 / (TOKENS + 1))  # so that a turn is discounted as a turn of the critics is
    if arm == "reinforce":
        weight = return_to_go(goal, traj, discount=decay)
        own = statistics(weight.value, torch.zeros_like(traj.actions), traj.mask)
        advantage = Channel(torch.where(traj.mask, weight.value - own.mean.to(weight.value), 0), weight.valid)
        _descend(optimiser, _mean(policy_gradient(evaluate(policy, traj), traj, advantage).terms))
        return
    with torch.no_grad():
        values = evaluate(policy, traj).more["values"]
    target = lambda_return(goal, traj.replace(extras={"values": values}), discount=decay, trace=0.95)
    gap = torch.where(traj.mask, target.value - values[:, :-1], 0)
    spread = statistics(gap, torch.zeros_like(traj.actions), traj.mask, ddof=0).std
    advantage = Channel(gap / torch.where(spread > 0, spread, 1).to(gap), target.valid)
    for _ in range(4):
        said = evaluate(policy, traj)
        _descend(optimiser, _mean(ppo_clip(said, traj, advantage).terms) + _mean(value_loss(said, traj, target).terms))


def hierarchical(
    traj: Trajectories, goal: Channel, policy: Writer, critics: TurnCritics, optimiser: torch.optim.Optimizer, rng: torch.Generator
) -> None:
    """The critics learn from all episodes; then three steps on new turns in states of past episodes, weighed by what they say."""
    critics.learn(traj, {"goal": goal})
    rooms = torch.cat([turns.before.argmax(1) for turns, _, _ in critics.kept])
    for _ in range(3):
        room = rooms[torch.randint(len(rooms), (EPISODES * TURNS,), generator=rng)]
        command = torch.multinomial(policy.commands()[room], 1, generator=rng)[:, 0]
        turns = _turns(policy, room, command)
        weight = immediate(critics(turns)["archer"], turns)
        said = Evaluation(torch.cat([policy.logp(room, command), torch.zeros(len(room), 1)], 1), {})
        _descend(optimiser, _mean(policy_gradient(said, turns, weight).terms))


def _turns(policy: Writer, room: Tensor, command: Tensor) -> Trajectories:
    """Turns that were written anew, each a trajectory of its own, with the world's answer left open."""
    n, width = len(room), TOKENS + 1
    states = torch.zeros(n, width + 1, SIZE)
    states[:, 0] = torch.nn.functional.one_hot(room, SIZE)
    states[:, TOKENS] = torch.nn.functional.one_hot(ROOMS + 1 + room * COMMANDS + command, SIZE)
    own = (torch.arange(width) < TOKENS).repeat(n, 1)
    tokens = torch.cat([policy.places(command)[1], torch.zeros(n, 1, dtype=torch.int64)], 1)
    zeros, length = torch.zeros(n, dtype=torch.int64), torch.full((n,), width)
    return Trajectories(own, length, zeros, torch.zeros(n, width).int(), zeros, tokens, extras={"hidden": states})


def _mean(terms: Tensor) -> Tensor:
    return terms.sum(1).mean()


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
