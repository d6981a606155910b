"""What is said of the same actions by another model, or by the same one with another prompt before it, beside the rollouts."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from payoff.catalogue import method
from payoff.pipeline import Policy, Start
from payoff.trajectories import Trajectories

_OTHER = "another"


class View(NamedTuple):
    """One of them: the prompt that is shown (None: the row's own), the share of its tokens that are replaced, and who is asked."""

    prompt: str | None = None
    noise: float = 0.0
    by: str = "acting"


@method("views", kind="sampler")
class SecondViews(nn.Module):
    """Free rollouts with traj.logp[NAME] for every view: how likely someone finds these same actions, with some prompt before them.

    views: NAME: {prompt, noise, by}, each of which may be left out
        prompt: a text with {prompt} in it, or "another": that of the next start of the batch
        noise:  from 0 to 1: this share of the prompt's tokens, drawn anew for every rollout, is replaced by tokens drawn from all
                prompts of the batch
        by:     "acting", the policy as it is; "initial", as the run began; or a checkpoint of `train` of the same policy

    What reads them: `vppo` a view "corrupted" with noise or another prompt; the loss and the signal `t-reg` the views "better" and
    "worse" by the initial policy with two texts; the signal `rto` a view "dpo" by the checkpoint of a run with the loss `dpo`. Each
    view costs one pass over the batch. Where the prompt is a list of messages, {prompt} is the text of its last one.

    policy: a run hands over a copy of the policy as it starts
    Raises ValueError for a view without any of the three, a text without {prompt}, a noise outside 0..1, a file that is no such
    checkpoint, a policy that writes no text where prompts change, and one start where "another" is asked for.

    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1, max_tokens=4)
    >>> sampler = SecondViews(policy=policy, views={"corrupted": {"noise": 0.5}, "first": {"by": "initial"}})
    >>> starts = [Start("a", {"prompt": "1+2="}), Start("b", {"prompt": "3-1="})]
    >>> traj = sampler(policy, starts, 2, torch.Generator().manual_seed(0))
    >>> sorted(traj.logp), torch.equal(traj.logp["first"], traj.logp["corrupted"])
    (['corrupted', 'first', 'old'], False)
    """

    def __init__(self, *, policy: Any, views: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        if not views:
            raise ValueError("views: give at least one view by its name")
        self.views: dict[str, View] = {}
        made: dict[str, Any] = {}
        self.asked = nn.ModuleDict()
        for name, said in views.items():
            if odd := sorted(set(said) - set(View._fields)):
                raise ValueError(f"views: {name!r} has no option {odd[0]!r}; the options of a view: {', '.join(View._fields)}")
            view = View(**said)
            if view == View() or name in ("old", "ref"):
                raise ValueError(f"views: {name!r} is what the run has anyway; give it a prompt, noise or somebody else to ask")
            if view.prompt not in (None, _OTHER) and "{prompt}" not in str(view.prompt):
                raise ValueError(f'views: the prompt of {name!r} must be "{_OTHER}" or hold {{prompt}}, got {view.prompt!r}')
            if not 0 <= view.noise <= 1:
                raise ValueError(f"views: the noise of {name!r} must lie in 0..1, got {view.noise}")
            if (view.prompt is not None or view.noise) and not hasattr(policy, "tokenizer"):
                raise ValueError(f"views: {name!r} changes prompts, and this policy has none that are text")
            self.views[name] = view
            if view.by != "acting":
                made[view.by] = self.asked[name] = made[view.by] if view.by in made else _as_it_was(policy, view.by)

    @torch.no_grad()
    def forward(self, policy: Policy, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """n rollouts of each start, with what every view says of them."""
        traj = policy.rollout(starts, n, rng)
        said = {}
        for name, view in self.views.items():
            asked: Any = dict(self.asked.items()).get(name, policy)
            said[name] = asked.evaluate(self._shown(name, view, traj, starts, policy, rng)).logp.to(traj.device)
        return traj.replace(logp=said)

    def _shown(
        self, name: str, view: View, traj: Trajectories, starts: Sequence[Start], policy: Any, rng: torch.Generator
    ) -> Trajectories:
        """The same rollouts behind the prompts of this view."""
        if view.prompt is None and not view.noise:
            return traj
        ids = [list(item["prompt_ids"]) for item in traj.items]
        if view.prompt is not None:
            if view.prompt == _OTHER and len(starts) < 2:
                raise ValueError(f"views: {name!r} shows the prompt of another start, and this batch has one start")
            following = {a.id: b.fields["prompt"] for a, b in zip(starts, [*starts[1:], *starts[:1]], strict=True)}
            own = {start.id: start.fields["prompt"] for start in starts}
            shown = {id: following[id] if view.prompt == _OTHER else _within(view.prompt, prompt) for id, prompt in own.items()}
            written = {id: policy.tokenizer.prompt(prompt)[1] for id, prompt in shown.items()}
            ids = [list(written[item["start"]]) for item in traj.items]
        if view.noise:
            pool = torch.tensor([token for item in traj.items for token in item["prompt_ids"]])
            for row in ids:
                struck = (torch.rand(len(row), generator=rng) < view.noise).nonzero()[:, 0].tolist()
                drawn = pool[torch.randint(len(pool), (len(row),), generator=rng)].tolist()
                for place in struck:
                    row[place] = drawn[place]
        return traj.replace(items=[{**item, "prompt_ids": row} for item, row in zip(traj.items, ids, strict=True)])


def _within(text: str, prompt: Any) -> Any:
    """The text with the prompt in it; of a chat, its last message is what stands in the text."""
    if isinstance(prompt, str):
        return text.replace("{prompt}", prompt)
    *before, last = prompt
    return [*before, {**last, "content": text.replace("{prompt}", str(last["content"]))}]


def _as_it_was(policy: Any, by: str) -> Any:
    """A frozen copy of the policy, with the weights of a checkpoint unless it is the initial one that is asked for."""
    own = getattr(policy, "reference", None)
    if by == "initial" and callable(own):
        return own()
    made = copy.deepcopy(policy).requires_grad_(False)
    if by == "initial":
        return made
    if not Path(by).is_file():
        raise ValueError(f'views: by must be "acting", "initial" or a checkpoint, and there is no file {by!r}')
    try:
        state = torch.load(by, map_location="cpu", weights_only=True)["modules"][0]
        found = made.load_state_dict(state, strict=False)  # with or without a critic, of which nothing is asked
    except Exception as error:
        raise ValueError(f"views: {by}: is no checkpoint of this policy ({' '.join(str(error).split())[:160]})") from None
    if lost := [name for name in (*found.missing_keys, *found.unexpected_keys) if not name.startswith("value_head.")]:
        raise ValueError(f"views: {by}: is no checkpoint of this policy, as of {lost[0]!r}")
    return made
