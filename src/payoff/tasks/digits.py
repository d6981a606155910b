"""Handwritten digits of 8 x 8 pixels (scikit-learn's): images to generate, rewards that can be gamed, and a held-out truth.

The images are split in two halves. Rewards may know the first; truth asks the second, which no reward has seen: does the image look
like a digit there, and like the one that was asked for? Pixels run from -1 (paper) to 1 (ink).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff._extras import require
from payoff.catalogue import method
from payoff.pipeline import Start
from payoff.trajectories import Channel, Rewards, Trajectories, place_outcome

_NEAR = 0.99  # the share of the first half's images whose nearest image of their class in the second half counts as near
_SHOWN = 24  # images of a batch that the report draws


@method("digits", kind="task")
@dataclass(frozen=True)
class Digits:
    """Generate a digit: data to fit a model to, and a truth that no reward has seen.

    wanted: the digit that every start asks for; None: any, drawn for each start, with `condition` its number
    half:   which images `data` draws from: "all", or "first", so that what is generated is compared with images never fitted

    Truth is 1 where the nearest image of the held-out half is of the digit that was asked for and no farther than real images
    of it are from one another (the 99th percentile). Start fields: "wanted", "condition" and "prompt".
    Rewards: `digits-class` (a linear classifier's log-probability: gamed by what no hand writes), `digits-ink` (gamed by a black
    square) and `digits-symmetry` (gamed by an empty one). Raises ValueError for what is no digit.

    >>> task = Digits(wanted=3)
    >>> task.starts(1, torch.Generator())[0].fields
    {'prompt': 'a 3', 'wanted': 3, 'condition': 3}
    """

    wanted: int | None = 0
    half: str = "all"

    def __post_init__(self) -> None:
        if self.wanted is not None and not 0 <= self.wanted <= 9:
            raise ValueError(f"digits: wanted must be a digit, 0 to 9, got {self.wanted}")
        if self.half not in ("all", "first"):
            raise ValueError(f'digits: half must be "all" or "first", got {self.half!r}')

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample: height and width."""
        return (8, 8)

    @property
    def classes(self) -> int:
        """How many conditions there are."""
        return 10

    def data(self, n: int, rng: torch.Generator) -> tuple[Float[Tensor, "n D"], Int[Tensor, " n"]]:
        """n images and their digits, drawn with replacement, to fit a network to."""
        images = _images()
        pool = torch.arange(len(images.pixels)) if self.half == "all" else images.first.nonzero().squeeze(1)
        drawn = pool[torch.randint(len(pool), (n,), generator=rng, device=rng.device).cpu()]
        return images.pixels[drawn], images.digit[drawn]

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n starts; which digit each asks for is `wanted`, or drawn evenly."""
        drawn = torch.randint(10, (n,), generator=rng, device=rng.device).tolist()
        return [_start(digit if self.wanted is None else self.wanted) for digit in drawn]

    def held_out_starts(self, n: int | None = None) -> Sequence[Start]:
        """n starts that ask for the digits in turn (or for the wanted one). Nothing is held out: noise is always new."""
        return [_start(i % 10 if self.wanted is None else self.wanted) for i in range(10 if n is None else n)]

    def truth(self, traj: Trajectories) -> Channel:
        """1 for an image that passes for the digit that was asked for, else 0; unknown for what is no image."""
        pixels, known = _pixels(traj)
        images = _images()
        rest = ~images.first
        away = torch.cdist(pixels, images.pixels[rest].to(pixels))
        nearest = away.argmin(1)
        digit = images.digit[rest].to(traj.device)[nearest]
        wanted = _wanted(traj)
        near = away.gather(1, nearest[:, None])[:, 0] <= _radius().to(pixels)[wanted]
        return place_outcome(((digit == wanted) & near).to(pixels.dtype), known, traj)

    def picture(self, traj: Trajectories, row: int) -> dict[str, Any] | None:
        """The image, for the report; None for what is no image."""
        pixels, known = _pixels(traj)
        return {"kind": "image", "pixels": _greys(pixels[row])} if known[row] else None

    def overview(self, traj: Trajectories, policy: Any) -> dict[str, Any]:
        """The first images of a batch, for the report."""
        pixels, known = _pixels(traj)
        return {"kind": "images", "images": [_greys(image) for image in pixels[known][:_SHOWN]]}


@method("digits-class", kind="signal")
def digits_class(traj: Trajectories) -> Rewards:
    """The log-probability of the digit asked for, by a linear classifier of the first half, paid at the end: at most 0.

    The classifier is right on some 95 in 100 held-out images; away from images it is as sure of nonsense, which is the exploit.

    >>> from payoff.tasks.digits import _example
    >>> value = digits_class(_example())["digits-class"].value[:, -1]
    >>> bool(value[0] > -0.1), bool(value[1] < value[0])
    (True, True)
    """
    pixels, known = _pixels(traj)
    weight, bias = (x.to(pixels) for x in _classifier())
    logp = (pixels @ weight.T + bias).log_softmax(1).gather(1, _wanted(traj)[:, None])[:, 0]
    return {"digits-class": place_outcome(logp, known, traj)}


@method("digits-ink", kind="signal")
def digits_ink(traj: Trajectories) -> Rewards:
    """The share of ink, 0 to 1, paid at the end; pixels beyond black or white count as black or white. Greatest for a black square.

    >>> from payoff.tasks.digits import _example
    >>> digits_ink(_example())["digits-ink"].value[:, -1]
    tensor([0.2871, 1.0000])
    """
    pixels, known = _pixels(traj)
    return {"digits-ink": place_outcome((pixels.clamp(-1, 1).mean(1) + 1) / 2, known, traj)}


@method("digits-symmetry", kind="signal")
def digits_symmetry(traj: Trajectories) -> Rewards:
    """1 minus the mean difference between an image and its mirror image (left and right), in shares of the range, paid at the end.

    1 for a perfectly symmetric image, which an empty one is.

    >>> from payoff.tasks.digits import _example
    >>> digits_symmetry(_example())["digits-symmetry"].value[:, -1]
    tensor([0.8711, 1.0000])
    """
    pixels, known = _pixels(traj)
    rows = pixels.clamp(-1, 1).reshape(-1, 8, 8)
    uneven = (rows - rows.flip(2)).abs().mean((1, 2)) / 2
    return {"digits-symmetry": place_outcome(1 - uneven, known, traj)}


class _Images(NamedTuple):
    pixels: Float[Tensor, "M 64"]
    digit: Int[Tensor, " M"]
    first: Bool[Tensor, " M"]  # the half that rewards may know


@cache
def _images() -> _Images:
    pixels, digit = require("sklearn.datasets", "the digits task").load_digits(return_X_y=True)
    place = torch.randperm(len(digit), generator=torch.Generator().manual_seed(0))  # writers come in blocks: halves are drawn
    return _Images(torch.tensor(pixels, dtype=torch.float32) / 8 - 1, torch.tensor(digit), place < len(digit) // 2)


@cache
def _classifier() -> tuple[Float[Tensor, "10 64"], Float[Tensor, " 10"]]:
    """Weights and biases of a linear classifier of the first half."""
    images = _images()
    model = require("sklearn.linear_model", "the digits task").LogisticRegression(max_iter=1000)
    model.fit(images.pixels[images.first].numpy(), images.digit[images.first].numpy())
    return torch.tensor(model.coef_, dtype=torch.float32), torch.tensor(model.intercept_, dtype=torch.float32)


@cache
def _radius() -> Float[Tensor, " 10"]:
    """How far an image of each digit may lie from the nearest one of the held-out half."""
    images = _images()
    away = torch.cdist(images.pixels[images.first], images.pixels[~images.first])
    same = images.digit[images.first][:, None] == images.digit[~images.first]
    nearest = torch.where(same, away, torch.inf).amin(1)
    return torch.stack([nearest[images.digit[images.first] == digit].quantile(_NEAR) for digit in range(10)])


def _greys(image: Float[Tensor, " 64"]) -> list[list[float]]:
    """0 for ink and 1 for paper, in rows."""
    return ((1 - image.double().clamp(-1, 1)) / 2).mul(255).round().div(255).reshape(8, 8).tolist()


def _start(digit: int) -> Start:
    return Start(f"digits-{digit}", {"prompt": f"a {digit}", "wanted": digit, "condition": digit})


def _wanted(traj: Trajectories) -> Int[Tensor, " N"]:
    return torch.tensor([item["wanted"] for item in traj.items], dtype=torch.int64, device=traj.device)


def _pixels(traj: Trajectories) -> tuple[Float[Tensor, "N 64"], Bool[Tensor, " N"]]:
    """The image each trajectory ends in, and whether it is finite (0 where it is not)."""
    if "latents" not in traj.extras or traj.extras["latents"].shape[2] != 64:
        raise ValueError('digits: needs traj.extras["latents"] [N, T+1, 64], the states of a denoising policy')
    end = traj.extras["latents"].gather(1, traj.length[:, None, None].expand(-1, 1, 64))[:, 0]
    known = end.isfinite().all(1)
    return torch.where(known[:, None], end, 0), known


def _example() -> Trajectories:
    """The first image of the data, a 0, and a black square; a 0 was asked for."""
    latents = torch.zeros(2, 2, 64)
    latents[:, 1] = torch.stack([_images().pixels[0], torch.ones(64)])
    return Trajectories(
        mask=torch.ones(2, 1, dtype=torch.bool),
        length=torch.tensor([1, 1]),
        group=torch.zeros(2, dtype=torch.int64),
        step=torch.zeros(2, 1, dtype=torch.int32),
        stop=torch.zeros(2, dtype=torch.int64),
        actions=latents[:, 1:],
        id=torch.arange(2),
        items=[{"wanted": 0}] * 2,
        extras={"latents": latents},
    )
