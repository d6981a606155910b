"""What a policy does, to look at: pictures that tasks store with sampled rollouts as plain numbers, drawn as images and charts.

A task may offer `picture(traj, row)`, of one rollout, and `overview(traj, policy)`, of a whole batch and who sampled it. Either
gives None or a mapping with a "kind":

image, images:  "pixels", rows of grey values, 0 black to 1 white; or "images", a list of such
points:         "points" [[x, y], ...]; where there are any a "path" to the first, a "goal", and the "density" of the data (rows of
                numbers, the highest y first) over "extent" [x low, x high, y low, y high]
episode:        "rewards", one for each action; "frames" [{"at", "width", "height", "grey"}], `grey` the bytes of the pixels in
                base64; or without frames "observations", one row of numbers for each state
distributions:  "learned" and "true" probabilities of the same outcomes; "shape" [rows, columns] where they lie on a grid

Stored rows may be anything: what is not such a mapping draws nothing.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from payoff.report_page.charts import Chart, Line, Plot
from payoff.report_page.runs import PHASES, Arm, Rollout, Run, number, read
from payoff.report_page.svg import chart_svg
from payoff.report_page.wording import attribute, markup, plural, short

Grid = list[list[float]]
MOST, SIDE, PATH_MOST = 4096, 256, 400  # numbers in a list, pixels along a side, points that are drawn
NOTE = """
The same for every arm: what its first seed did at the start, in the middle and at the end of training, before reward and truth are
asked.
"""


def picture_html(picture: object) -> str:
    """The picture as HTML; nothing for what is none.

    >>> picture_html({"kind": "image", "pixels": [[0, 1], [1, 0]]})[:33]
    '<div class="pic"><img class="px" '
    >>> picture_html({"kind": "image", "pixels": [[0, 1], [1]]}), picture_html("<b>")
    ('', '')
    """
    draw = _DRAW.get(str(picture.get("kind"))) if isinstance(picture, dict) else None
    if draw is None:
        return ""
    try:
        return f'<div class="pic">{draw(picture)}</div>'  # type: ignore[arg-type]  # a draw is there, so it is a dict
    except (KeyError, TypeError, ValueError, OverflowError):
        return ""


def gallery(run: Run) -> str:
    """For each arm what was stored to look at from start to end; nothing where no task offered pictures."""
    made = "".join(_of_arm(arm) for arm in run.arms.values())
    return made and f'<p class="note">{" ".join(NOTE.split())}</p>{made}'


def png_uri(pixels: Grid) -> str:
    """Grey values, 0 black to 1 white, as the address of a PNG that carries itself.

    >>> png_uri([[0.0, 1.0]])[:26]
    'data:image/png;base64,iVBO'
    """
    rows = b"".join(b"\0" + bytes(round(255 * min(max(value, 0.0), 1.0)) for value in row) for row in pixels)
    head = struct.pack(">IIBBBBB", len(pixels[0]), len(pixels), 8, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts]
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


def _of_arm(arm: Arm) -> str:
    for seed in arm.counted:
        shown = _first(seed.rollouts)
        rows = read(list(shown.values()))
        drawn = {phase: picture_html(row.get("overview")) or picture_html(row.get("picture")) for phase, row in zip(shown, rows)}
        if any(drawn.values()):
            told = f"seed {seed.number}"
            cells = "".join(
                f'<div><p class="exhead"><b>{phase}</b> update {shown[phase].update}</p>{body}</div>'
                for phase, body in drawn.items()
                if body
            )
            return f'<h3>{markup(arm.name)} <span class="note">{told}</span></h3><div class="cols">{cells}</div>'
    return ""


def _first(rollouts: Sequence[Rollout]) -> dict[str, Rollout]:
    """The first rollout of each phase that has a picture, an overview before the picture of one."""
    found: dict[str, Rollout] = {}
    for phase in PHASES:
        some = [r for r in rollouts if r.phase == phase and r.shown]
        if some:
            found[phase] = next((r for r in some if r.shown == "overview"), some[0])
    return found


def _image(picture: Mapping[str, Any]) -> str:
    return _img(_grid(picture["pixels"]), "the sample", 96)


def _images(picture: Mapping[str, Any]) -> str:
    some = [_grid(pixels) for pixels in _items(picture["images"])[:64]]
    return "".join(_img(pixels, f"sample {i + 1}", 48) for i, pixels in enumerate(some))


def _points(picture: Mapping[str, Any]) -> str:
    points = [_numbers(point, 2) for point in _items(picture["points"])[:PATH_MOST]]
    path = [_numbers(point, 2) for point in _items(picture.get("path") or [])[:PATH_MOST]]
    goal = _numbers(picture["goal"], 2) if picture.get("goal") is not None else None
    low_x, high_x, low_y, high_y = _numbers(picture["extent"], 4)
    if not (low_x < high_x and low_y < high_y):
        raise ValueError("the extent is empty")
    every = [*points, *path, *([goal] if goal else [])]
    far = max([abs(low_x), abs(high_x), abs(low_y), abs(high_y), *(1.05 * abs(value) for point in every for value in point)])
    size = 240
    to_x, to_y = (lambda x: (x / far + 1) * size / 2), (lambda y: (1 - y / far) * size / 2)
    parts = []
    if picture.get("density") is not None:
        density = _grid(picture["density"])
        top = max(max(row) for row in density) or 1.0
        place = f'x="{to_x(low_x):.1f}" y="{to_y(high_y):.1f}" width="{to_x(high_x) - to_x(low_x):.1f}"'
        place += f' height="{to_y(low_y) - to_y(high_y):.1f}" preserveAspectRatio="none"'
        parts.append(f'<image href="{png_uri([[1 - 0.6 * value / top for value in row] for row in density])}" {place}/>')
    if len(path) > 1:
        steps = "L".join(f"{to_x(x):.1f} {to_y(y):.1f}" for x, y in path)
        parts.append(f'<path class="line seed a1" d="M{steps}"/>')
    parts += [f'<circle class="pt" cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="2.2"/>' for x, y in points]
    if goal:
        parts.append(f'<circle class="aim" cx="{to_x(goal[0]):.1f}" cy="{to_y(goal[1]):.1f}" r="7"/>')
    outside = sum(not (low_x <= x <= high_x and low_y <= y <= high_y) for x, y in points)
    said = f"{plural(len(points), 'sample')}"
    said += f", {outside} of them beyond the data" if outside else ""
    told = f"{said}; ring: what was asked for; shade: the density of the data; the frame reaches {short(far)} each way"
    frame = f'<rect class="frame" x="0.5" y="0.5" width="{size - 1}" height="{size - 1}"/>'
    svg = f'<svg viewBox="0 0 {size} {size}" role="img" aria-label="{attribute(told)}">{"".join(parts)}{frame}</svg>'
    return f'{svg}<p class="why">{told}.</p>'


def _episode(picture: Mapping[str, Any]) -> str:
    rewards = _numbers(picture["rewards"])
    frames = [_frame(frame) for frame in _items(picture.get("frames") or [])[:12]]
    if frames:
        above = "".join(_img(pixels, f"the environment after {at} actions", len(pixels[0])) for at, pixels in frames)
        above = f'<div class="film">{above}</div>'
    elif picture.get("observations"):
        above = _strip(_grid(picture["observations"]))
    else:
        above = ""
    sums, total = [], 0.0
    for reward in rewards:
        total += reward
        sums.append(total)
    plots = [Plot(name, [_curve(values, "reward")]) for name, values in (("reward", rewards), ("sum so far", sums))]
    says = f"An episode of {plural(len(rewards), 'action')} with the return {short(total)}"
    return f'{above}{_chart(plots, "actions", len(rewards), says)}<p class="why">{says}.</p>'


def _strip(observations: Grid) -> str:
    """Observations as a strip: a row for each of their numbers, from black at its least to white at its greatest."""
    columns = [list(column) for column in zip(*observations)][:SIDE]
    pixels = []
    for column in columns:
        low, high = min(column), max(column)
        pixels.append([(value - low) / (high - low) if high > low else 0.5 for value in column])
    uri, told = png_uri(pixels), f"{plural(len(columns), 'number')} observed, each from its least (black) to its greatest (white)"
    height = min(14 * len(columns), 120)
    return f'<img class="px strip" src="{uri}" alt="{attribute(told)}" height="{height}"><p class="why">{told}.</p>'


def _distributions(picture: Mapping[str, Any]) -> str:
    learned, true = _numbers(picture["learned"]), _numbers(picture["true"])
    if len(learned) != len(true) or not learned:
        raise ValueError("there are other outcomes in the one than in the other")
    apart = sum(abs(a - b) for a, b in zip(learned, true))
    said = f"L1 distance {short(apart)}: 0 for the same distribution, 2 for none in common"
    if picture.get("shape") is None:
        order = sorted(range(len(true)), key=lambda i: -true[i])
        lines = [_curve([values[i] for i in order], colour) for values, colour in ((learned, "reward"), (true, "truth"))]
        body = _chart([Plot("probability", lines)], "outcomes, from the most to the least likely", len(true), said)
        return f'{body}<p class="why">Blue: true, orange: learned. {said}.</p>'
    rows, columns = (int(size) for size in _numbers(picture["shape"], 2))
    if rows < 1 or columns < 1 or rows * columns != len(true):
        raise ValueError("the shape is another")
    top = max(*learned, *true) or 1.0
    both = ""
    for name, values in (("learned", learned), ("true", true)):
        pixels = [[1 - value / top for value in values[i * columns : (i + 1) * columns]] for i in range(rows)]
        both += f'<div>{_img(pixels, f"{name} distribution", 120)}<p class="why">{name}</p></div>'
    return f'<div class="film">{both}</div><p class="why">Black: {short(top)}, white: 0. {said}.</p>'


def _frame(frame: Mapping[str, Any]) -> tuple[int, Grid]:
    width, height, at = (int(value) for value in _numbers([frame["width"], frame["height"], frame["at"]]))
    data = base64.b64decode(frame["grey"], validate=True)
    if not (0 < width <= SIDE and 0 < height <= SIDE and len(data) == width * height):
        raise ValueError("a frame has other pixels than it says")
    return at, [[value / 255 for value in data[i * width : (i + 1) * width]] for i in range(height)]


def _img(pixels: Grid, told: str, width: int) -> str:
    height = max(1, round(width * len(pixels) / len(pixels[0])))
    return f'<img class="px" src="{png_uri(pixels)}" alt="{attribute(told)}" width="{width}" height="{height}">'


def _chart(plots: list[Plot], label: str, count: int, says: str) -> str:
    chart = Chart("", label, (0.0, float(max(count, 1))), plots, says)
    return f'<div class="chart">{chart_svg(chart, width=300, height=52)}</div>'


def _curve(values: Sequence[float], colour: str) -> Line:
    points = [(float(i + 1), value) for i, value in enumerate(values)]
    size = math.ceil(len(points) / PATH_MOST) or 1
    return Line(points[::size], colour, "mean")


def _items(value: object) -> list[Any]:
    if not isinstance(value, list) or len(value) > MOST:
        raise TypeError("not a list of this length")
    return value


def _numbers(value: object, count: int | None = None) -> list[float]:
    found = [number(x) for x in _items(value)]
    known = [x for x in found if x is not None and abs(x) < 1e12]
    if len(known) != len(found) or count not in (None, len(found)):
        raise ValueError("not so many finite numbers")
    return known


def _grid(value: object) -> Grid:
    rows = [_numbers(row) for row in _items(value)]
    if not rows or not rows[0] or len(rows[0]) > SIDE or any(len(a) != len(b) for a, b in pairwise(rows)):
        raise ValueError("not rows of one length")
    return rows


_DRAW: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "image": _image,
    "images": _images,
    "points": _points,
    "episode": _episode,
    "distributions": _distributions,
}
