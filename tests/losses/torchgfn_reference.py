"""Losses and gradients of torchgfn on given trajectories and tables, as JSON: runs in an environment of its own, without payoff.

python torchgfn_reference.py CASE.json  ->  {"method": {"loss": x, "gradient": [...]}} on standard output
"""

import json
import sys

import torch
from gfn.containers import Trajectories
from gfn.estimators import DiscretePolicyEstimator, ScalarEstimator
from gfn.gflownet import (
    DBGFlowNet,
    FMGFlowNet,
    HalfSquaredLoss,
    LinexLoss,
    LogPartitionVarianceGFlowNet,
    ModifiedDBGFlowNet,
    RelativeLogPartitionVarianceGFlowNet,
    RelativeTrajectoryBalanceGFlowNet,
    ShiftedCoshLoss,
    SubTBGFlowNet,
    TBGFlowNet,
)
from gfn.gym import HyperGrid
from gfn.preprocessors import Preprocessor

torch.set_default_dtype(torch.float64)


class Cell(Preprocessor):
    """The number of the cell."""

    def __init__(self, side, dimensions):
        super().__init__(output_dim=1)
        self.place = side ** torch.arange(dimensions - 1, -1, -1)

    def preprocess(self, states):
        return (states.tensor * self.place).sum(-1, keepdim=True).clamp(min=0)


class Rows(torch.nn.Module):
    """Columns of one shared table, by the number of the cell."""

    def __init__(self, table, columns):
        super().__init__()
        self.table, self.columns = table, columns
        self.input_dim = 1

    def forward(self, cell):
        return self.table[cell[..., 0].long()][..., self.columns]


def main(case):
    side, dimensions = case["side"], case["dimensions"]
    env = HyperGrid(dimensions, side, reward_fn_kwargs=case["reward"], validate_modes=False)
    table = torch.nn.Parameter(torch.tensor(case["table"]))  # forward logits, backward logits, log-flow
    prior = torch.nn.Parameter(torch.tensor(case["prior"]), requires_grad=False)
    actions, length = torch.tensor(case["actions"]), torch.tensor(case["length"])
    k, width = dimensions + 1, actions.shape[1]
    cells = torch.zeros(width + 1, len(actions), dimensions, dtype=torch.long)
    acts = torch.full((width, len(actions), 1), -1, dtype=torch.long)
    for t in range(width):
        here = t < length
        acts[t, here, 0] = actions[here, t]
        moved = cells[t] + torch.nn.functional.one_hot(actions[:, t], k)[:, :dimensions]
        over = ~here | (actions[:, t] == dimensions)
        cells[t + 1] = torch.where(over[:, None], env.sf, moved)
    trajectories = Trajectories(env, env.states_from_tensor(cells), env.actions_from_tensor(acts), terminating_idx=length)
    seen = Cell(side, dimensions)
    columns = torch.arange(table.shape[1])
    forward = DiscretePolicyEstimator(Rows(table, columns[:k]), k, preprocessor=seen)
    backward = DiscretePolicyEstimator(Rows(table, columns[k : 2 * k - 1]), k, preprocessor=seen, is_backward=True)
    flow = ScalarEstimator(Rows(table, columns[-1:]), preprocessor=seen)
    reference = DiscretePolicyEstimator(Rows(prior, columns[:k]), k, preprocessor=seen)
    edges = torch.nn.Parameter(torch.tensor(case["edges"]))  # log-flows of edges, for flow matching
    number = lambda: torch.nn.Parameter(torch.tensor(case["log_z"]))
    relative = {"pf": forward, "prior_pf": reference}
    found = {
        "tb": TBGFlowNet(forward, backward, logZ=number()),
        "tb-linex": TBGFlowNet(forward, backward, logZ=number(), loss_fn=LinexLoss(0.5)),
        "tb-cosh": TBGFlowNet(forward, backward, logZ=number(), loss_fn=ShiftedCoshLoss()),
        "variance": LogPartitionVarianceGFlowNet(forward, backward),
        "db": DBGFlowNet(forward, backward, flow),
        "db-half": DBGFlowNet(forward, backward, flow, loss_fn=HalfSquaredLoss()),
        "fl": DBGFlowNet(forward, backward, flow, forward_looking=True),
        "subtb": SubTBGFlowNet(forward, backward, flow, weighting="geometric_within", lamda=0.8),
        "subtb-fl": SubTBGFlowNet(forward, backward, flow, weighting="geometric_within", lamda=0.8, forward_looking=True),
        "subtb-db": SubTBGFlowNet(forward, backward, flow, weighting="ModifiedDB"),
        "prefix": ModifiedDBGFlowNet(forward, backward),
        "relative": RelativeTrajectoryBalanceGFlowNet(**relative, logZ=number()),
        "relative-variance": RelativeLogPartitionVarianceGFlowNet(**relative),
    }
    answers = {}
    for name, method in found.items():
        loss = method.loss_from_trajectories(env, trajectories, recalculate_all_logprobs=True)
        (gradient,) = torch.autograd.grad(loss, table)
        answers[name] = {"loss": float(loss), "gradient": gradient.flatten().tolist()}
    matching = FMGFlowNet(DiscretePolicyEstimator(Rows(edges, columns[:k]), k, preprocessor=seen))
    states = trajectories.to_states_container()
    inner = matching.flow_matching_loss(env, states.intermediary_states)
    ends = matching.reward_matching_loss(env, states.terminating_states, env.log_reward(states.terminating_states))
    answers["fm"] = {"loss": float(inner.detach()), "ends": float(ends.detach())}
    answers["log_reward"] = env.log_reward(env.states_from_tensor(torch.tensor(case["cells"]))).tolist()
    return answers


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        print(json.dumps(main(json.load(file))))
