"""Classifiers of facts: heads that read, after each step, whether what it states of each kind holds, is false, or is not there."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from payoff.catalogue import method
from payoff.models.hidden_states import step_ends
from payoff.trajectories import Rewards, Trajectories, per_step, place_steps

SOUND, FLAWED, ABSENT = 0, 1, 2


@method("fact-classifiers", kind="model", paper="arXiv:2404.05046", needs=("hidden",))
class FactClassifiers(nn.Module):
    """Pay every step, for each kind of fact, what a classifier that learned a judge's labels makes of it (FGAIF).

    For each kind a head on the state behind the step's last token gives the classes sound, flawed and absent; the likeliest pays
    `sound`, `flawed` or `absent` there, in a channel of the kind's name; times weights[kind]. With `soft` the mean of these numbers
    under the head's probabilities is paid instead. Where steps are sub-sentences, these are the paper's three reward models, on one
    backbone; the signal `fgaif` asks the judge every time and cuts the text itself.

    size:  of a state; None: that of the policy, of which a run hands over a copy to ask
    kinds: one head each; weights: 1 for each where not given
    by:    reward channels to learn from in a run, "by/kind" each: 1 sound, -1 flawed, 0 absent (what the signal `fgaif` pays by
           default, scored beside this and not trained on), steps without a verdict left out; before the batch is paid
    of:    traj.extras[of] [N, T+1, D] are the states before each action and, at `length`, behind the last

    No gradient goes into the states. Unfitted heads know nothing: `absent`, or the mean of the three with `soft`.
    Raises ValueError for options that make no sense, states that are not there, and labels outside 0..2.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"hidden": torch.eye(4).repeat(4, 1, 1)})
    >>> model = FactClassifiers(size=4, kinds=["existence"], learning_rate=0.1, steps=50)
    >>> model.fit(traj, torch.tensor([[[0], [1], [2]]]).repeat(4, 1, 1))["fact-classifiers/accuracy"]
    1.0
    >>> model(traj)["existence"].value[0]
    tensor([ 1., -1.,  0.])
    """

    learns_first = True

    def __init__(
        self,
        *,
        policy: Any = None,
        size: int | None = None,
        kinds: Sequence[str] = ("existence", "attribute", "relation"),
        weights: Mapping[str, float] | None = None,
        sound: float = 1.0,
        flawed: float = -1.0,
        absent: float = 0.0,
        soft: bool = False,
        by: str = "facts",
        learning_rate: float = 1e-3,
        steps: int = 10,
        of: str = "hidden",
    ) -> None:
        super().__init__()
        size = getattr(policy, "width", None) if size is None else size
        if size is None or size < 1 or not kinds or not learning_rate > 0 or steps < 1:
            raise ValueError(
                "fact-classifiers: needs a size or a policy that has a width, kinds, a positive learning_rate and steps >= 1"
            )
        if weights is not None and set(weights) != set(kinds):
            raise ValueError(f"fact-classifiers: weights are those of the kinds {sorted(kinds)}, got {sorted(weights)}")
        self.kinds, self.weights = list(kinds), dict.fromkeys(kinds, 1.0) if weights is None else dict(weights)
        self.soft, self.by, self.steps, self.of = soft, by, steps, of
        self.paid = torch.tensor([sound, flawed, absent])
        self.heads = nn.Linear(size, 3 * len(self.kinds))
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)
        self.optimiser = torch.optim.Adam(self.heads.parameters(), lr=learning_rate)

    @torch.no_grad()
    def forward(self, traj: Trajectories) -> Rewards:
        """A channel for each kind, paid at the end of every step."""
        logits, exists = self.logits(traj)
        paid = self.paid.to(logits)
        value = logits.softmax(3) @ paid if self.soft else paid[2 - logits.flip(3).argmax(3)]  # the last of those as likely
        return {kind: place_steps(self.weights[kind] * value[:, :, k], exists, traj) for k, kind in enumerate(self.kinds)}

    def logits(self, traj: Trajectories) -> tuple[Float[Tensor, "N S K C"], Tensor]:
        """(of sound, flawed and absent, for every step and kind; which steps there are)."""
        states = traj.extras.get(self.of)
        if states is None or states.shape != (len(traj), traj.width + 1, self.heads.in_features):
            found = "none" if states is None else f"{list(states.shape)}"
            wanted = [len(traj), traj.width + 1, self.heads.in_features]
            raise ValueError(f"fact-classifiers: needs traj.extras[{self.of!r}] [N, T+1, D] = {wanted}, found {found}")
        last, exists = step_ends(traj)
        behind = states.detach().gather(1, (last + 1)[..., None].expand(-1, -1, states.shape[2]))
        behind = torch.where(exists[..., None], behind, 0).to(self.heads.weight)
        return self.heads(behind).unflatten(2, (len(self.kinds), 3)), exists

    def fit(self, traj: Trajectories, labels: Int[Tensor, "N S K"]) -> dict[str, float | None]:
        """`steps` steps of Adam on the cross-entropy of labels 0 (sound), 1 (flawed), 2 (absent); -1 is not known."""
        if labels.max() > ABSENT or labels.min() < -1:
            raise ValueError(f"fact-classifiers: labels must be 0, 1, 2 or -1, got {int(labels.min())} to {int(labels.max())}")
        loss = None
        for _ in range(self.steps):
            with torch.enable_grad():
                logits, exists = self.logits(traj)
                known = exists[..., None] & (labels[:, : exists.shape[1]] >= 0)
                if not known.any():
                    return {"fact-classifiers/loss": None, "fact-classifiers/accuracy": None}
                wanted = labels[:, : exists.shape[1]][known]
                loss = cross_entropy(logits[known], wanted)
                self.optimiser.zero_grad(set_to_none=True)
                loss.backward()
                self.optimiser.step()
        with torch.no_grad():
            right = self.logits(traj)[0][known].argmax(1) == wanted
        return {"fact-classifiers/loss": float(loss.detach()), "fact-classifiers/accuracy": float(right.double().mean())}  # type: ignore[union-attr]

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | None]:
        """Fit what the channels of the judge say of this batch. Raises KeyError where one is not there."""
        if lost := [kind for kind in self.kinds if f"{self.by}/{kind}" not in rewards]:
            raise KeyError(
                f"fact-classifiers: no reward channel {self.by + '/' + lost[0]!r} to learn from; there are {sorted(rewards)}"
            )
        said = [per_step(rewards[f"{self.by}/{kind}"], traj) for kind in self.kinds]
        label = lambda paid: torch.where(paid > 0, SOUND, torch.where(paid < 0, FLAWED, ABSENT))
        return self.fit(traj, torch.stack([torch.where(known, label(paid), -1) for paid, _, known in said], 2))

    def get_extra_state(self) -> dict[str, Any]:
        """The optimiser: for checkpoints."""
        return self.optimiser.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_extra_state`."""
        self.optimiser.load_state_dict(copy.deepcopy(state))
