"""Branch and bound with SCIP: which variable to branch on, at every node of a search for a proof; small instances made on the spot.

What acts is in `payoff.policies.branching`. The package `pyscipopt` is imported where an instance is solved, and nowhere else.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from payoff._extras import require
from payoff.catalogue import method
from payoff.pipeline import Response, Start
from payoff.trajectories import Channel, Trajectories, place_outcome

VARIABLE_NUMBERS, CONSTRAINT_NUMBERS = 8, 3  # of a node's graph: columns of `Node.variables` and `Node.constraints`
_HELD_OUT = 2**30  # training seeds lie below, held-out seeds from here on
_LARGE = 1e15  # SCIP's bounds beyond this mean infinity


class Node(NamedTuple):
    """One node of the search as a bipartite graph; what does not change in an instance is in `Instance.edges`.

    variables:   [n, 8]: price over the largest price, value in the relaxation, distance of it from a whole number, 1 where the
                 variable may be branched on, 1 where it is fixed, share of constraints that it is in, value less 1/2, depth / n
    constraints: [m, 3]: bound over the sum of coefficients, slack in the relaxation over the bound, 1 where there is none
    """

    variables: np.ndarray
    constraints: np.ndarray


class Solved(NamedTuple):
    """What came of a search: nodes that SCIP has processed, whether the optimum is proven, and every branching.

    gains: how much each branching raised the bound of its children on average, as a share of the objective at the root; a child
           without solution counts as raised to the best known objective. Known when the search is over
    """

    nodes: int
    proven: bool
    steps: list[tuple[Node, int]]
    gains: list[float]
    objective: float


class Instance:
    """A mixed-integer program in binary variables: minimise price . x subject to sign (edges x) <= sign bound.

    The environment's side of a start. It cannot be stepped from outside: `solve` hands every node to `choose`.

    >>> instance = Instance([3.0, 2.0], [[1.0, 1.0]], [1.0], covers=True)
    >>> instance.edges.tolist(), instance.snapshot()
    ([[1.0, 1.0]], None)
    """

    def __init__(
        self, price: Sequence[float], rows: Sequence[Sequence[float]], bound: Sequence[float], *, covers: bool, limit: int = 500
    ) -> None:
        self.price, self.rows, self.bound = np.array(price, float), np.array(rows, float), np.array(bound, float)
        self.covers, self.limit = covers, limit

    @property
    def edges(self) -> np.ndarray:
        """[m, n]: every coefficient over the largest of its constraint."""
        return self.rows / np.abs(self.rows).max(1, keepdims=True)

    def respond(self, action: Any) -> Response:
        """Not possible: the solver asks, and `solve` hands its questions on."""
        raise TypeError("branching: the solver asks the policy; use a policy that solves, such as `branching`")

    def snapshot(self) -> None:
        """None: a search comes back by repeating its branchings."""

    def solve(self, choose: Callable[[Node, list[int]], int]) -> Solved:
        """Solve by branch and bound; `choose` is given every node that must be branched on and its candidates, and gives one.

        Depth-first with a best first child, without presolving, cuts, heuristics and propagation, so that the tree is the
        choices' doing alone; the same choices give the same tree. Stops after `limit` nodes. What `choose` raises is raised here.
        """
        scip = require("pyscipopt", "branching")
        model = scip.Model()
        model.hideOutput()
        x = [model.addVar(name=f"x{j}", vtype="B", obj=float(p)) for j, p in enumerate(self.price)]
        for row, bound in zip(self.rows, self.bound, strict=True):
            total = scip.quicksum(float(a) * x[j] for j, a in enumerate(row) if a)
            model.addCons(total >= float(bound) if self.covers else total <= float(bound))
        off = scip.SCIP_PARAMSETTING.OFF
        for setter in (model.setPresolve, model.setHeuristics, model.setSeparating):
            setter(off)
        for name, value in (("propagating/maxrounds", 0), ("propagating/maxroundsroot", 0), ("conflict/enable", False)):
            model.setParam(name, value)
        model.setParam("nodeselection/dfs/stdpriority", 10**6)
        model.setParam("limits/nodes", self.limit)
        watch = _Watch(scip, self, choose)
        model.includeBranchrule(watch.rule, "payoff", "asks the policy", priority=10**7, maxdepth=-1, maxbounddist=1.0)
        model.includeEventhdlr(watch.events, "payoff-bounds", "what the children's bounds are")
        model.optimize()
        if watch.error is not None:
            raise watch.error
        objective = model.getPrimalbound()
        return Solved(
            nodes=int(model.getNTotalNodes()),
            proven=model.getStatus() == "optimal",
            steps=watch.steps,
            gains=watch.gains(objective),
            objective=float(objective),
        )


class _Watch:
    """The two places at which SCIP calls: the rule that branches, and the events that tell what became of the children."""

    def __init__(self, scip: Any, instance: Instance, choose: Callable[[Node, list[int]], int]) -> None:
        self.steps: list[tuple[Node, int]] = []
        self.error: Exception | None = None
        self.nodes: dict[int, int] = {}  # SCIP's number of a node -> which branching it was
        self.bounds: list[float] = []  # of each branched node
        self.children: dict[int, list[float]] = {}
        outer = self
        degree = (instance.rows != 0).mean(0)
        price = instance.price / max(np.abs(instance.price).max(), 1e-12)
        size = len(price)
        capacity = np.maximum(np.abs(instance.rows).sum(1), 1e-12)

        class Rule(scip.Branchrule):
            def branchexeclp(self, allowaddcons: bool) -> dict[str, Any]:
                try:
                    return self._branched()
                except Exception as error:  # SCIP would print it and go on
                    outer.error = error
                    self.model.interruptSolve()
                    return {"result": scip.SCIP_RESULT.DIDNOTRUN}

            def _branched(self) -> dict[str, Any]:
                model = self.model
                found, _, _, _, count, _ = model.getLPBranchCands()
                candidates = {int(variable.name[3:]): variable for variable in found[:count]}  # "t_x7" is x7
                values, fixed = np.zeros(size), np.zeros(size)
                for variable in model.getVars(transformed=True):
                    j = int(variable.name[3:])
                    values[j] = variable.getLPSol()
                    fixed[j] = variable.getLbLocal() == variable.getUbLocal()
                free = np.zeros(size)
                free[list(candidates)] = 1
                node = model.getCurrentNode()
                depth = np.full(size, node.getDepth() / size)
                columns = (price, values, np.abs(values - values.round()), free, fixed, degree, values - 0.5, depth)
                slack = (instance.rows @ values - instance.bound) * (1 if instance.covers else -1)
                rows = (instance.bound / capacity, slack / np.maximum(np.abs(instance.bound), 1e-12), (slack < 1e-6).astype(float))
                seen = Node(np.stack(columns, 1).astype(np.float32), np.stack(rows, 1).astype(np.float32))
                chosen = choose(seen, sorted(candidates))
                if chosen not in candidates:
                    raise ValueError(f"branching: variable {chosen} cannot be branched on; candidates are {sorted(candidates)}")
                outer.nodes[int(node.getNumber())] = len(outer.steps)
                outer.bounds.append(float(model.getLPObjVal()))
                outer.steps.append((seen, chosen))
                model.branchVar(candidates[chosen])
                return {"result": scip.SCIP_RESULT.BRANCHED}

        kinds = (scip.SCIP_EVENTTYPE.NODEFEASIBLE, scip.SCIP_EVENTTYPE.NODEINFEASIBLE, scip.SCIP_EVENTTYPE.NODEBRANCHED)

        class Events(scip.Eventhdlr):
            def eventinit(self) -> None:
                for kind in kinds:
                    self.model.catchEvent(kind, self)

            def eventexit(self) -> None:
                for kind in kinds:
                    self.model.dropEvent(kind, self)

            def eventexec(self, event: Any) -> None:
                node = event.getNode()
                parent = node.getParent()
                if parent is not None:
                    number = int(parent.getNumber())
                    bound = math.inf if event.getType() == scip.SCIP_EVENTTYPE.NODEINFEASIBLE else float(node.getLowerbound())
                    outer.children.setdefault(number, []).append(bound)

        self.rule, self.events = Rule(), Events()

    def gains(self, objective: float) -> list[float]:
        root = max(abs(self.bounds[0]), 1e-9) if self.bounds else 1.0
        gains = [0.0] * len(self.steps)
        for number, step in self.nodes.items():
            met = [objective if bound >= _LARGE or bound > objective else bound for bound in self.children.get(number, [])]
            met += [objective] * (2 - len(met))  # cut off before it was looked at: its bound is past the best objective
            gains[step] = max(sum(min(b, _LARGE) - self.bounds[step] for b in met) / len(met), 0.0) / root
        return gains


@method("branching", kind="task")
@dataclass(frozen=True)
class Branching:
    """Instances of an integer program to be solved by branch and bound with few nodes (ReviBranch's task, small).

    problem:     "knapsack": choose items of the greatest worth, every one of `constraints` weights at most half of all;
                 "set-cover": choose the cheapest sets so that every one of `constraints` elements is in one
    variables:   items, or sets; seeds: how many instances there are to train on (0: no limit); held-out ones are others
    limit:       nodes at most; a search that reaches it is truncated

    Truth: minus the binary logarithm of the nodes of a search, at its end: one more is half the nodes. Needs `pyscipopt`.
    Raises ValueError for sizes that make no instance, and another problem.

    >>> start = Branching(variables=6, constraints=2).held_out_starts(1)[0]
    >>> start.environment.rows.shape, start.environment.covers
    ((2, 6), False)
    """

    problem: Literal["knapsack", "set-cover"] = "knapsack"
    variables: int = 12
    constraints: int = 4
    seeds: int = 0
    limit: int = 500

    def __post_init__(self) -> None:
        if self.problem not in ("knapsack", "set-cover"):
            raise ValueError(f'branching: problem must be "knapsack" or "set-cover", got {self.problem!r}')
        if self.variables < 2 or min(self.constraints, self.limit) < 1 or self.seeds < 0:
            raise ValueError(
                "branching: variables must be at least 2, constraints and limit at least 1, seeds at least 0, "
                f"got {self.variables}, {self.constraints}, {self.limit} and {self.seeds}"
            )

    def start(self, seed: int) -> Start:
        """The instance of this seed, always the same."""
        draw = random.Random(f"branching {self.problem} {self.variables} {self.constraints} {seed}")
        n, m = self.variables, self.constraints
        if self.problem == "knapsack":
            rows = [[float(draw.randint(1, 100)) for _ in range(n)] for _ in range(m)]
            price = [-float(draw.randint(1, 100)) for _ in range(n)]
            bound = [sum(row) // 2 for row in rows]
        else:
            rows = []
            for _ in range(m):
                size = draw.randint(2, max(2, n // 4))
                members = set(draw.sample(range(n), size))
                rows.append([float(j in members) for j in range(n)])
            price, bound = [float(draw.randint(4, 6)) for _ in range(n)], [1.0] * m
        instance = Instance(price, rows, bound, covers=self.problem == "set-cover", limit=self.limit)
        return Start(f"branching:{seed}", {"prompt": f"{self.problem} {seed}", "seed": seed}, instance)

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n seeds drawn evenly from those to train on."""
        drawn = torch.randint(self.seeds or _HELD_OUT, (n,), generator=rng, device=rng.device)
        return [self.start(seed) for seed in drawn.tolist()]

    def held_out_starts(self, n: int) -> Sequence[Start]:
        """The first n of the seeds that are never trained on."""
        return [self.start(_HELD_OUT + i) for i in range(n)]

    def truth(self, traj: Trajectories) -> Channel:
        """-log2 of the nodes each search took; unknown where a rollout does not say."""
        nodes = [item.get("nodes") for item in traj.items]
        value = torch.tensor([-math.log2(k) if k else 0.0 for k in nodes], dtype=torch.float64, device=traj.device)
        return place_outcome(value, torch.tensor([k is not None for k in nodes], device=traj.device), traj)
