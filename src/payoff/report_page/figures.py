"""The figures of a run, as charts: verdict, reward and truth, truth against KL, is it learning, cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from payoff.intervals import FEWEST, mean_interval
from payoff.report_page.charts import Band, Chart, Figure, Forest, ForestRow, Line, Plot, Rule, extent, thin
from payoff.report_page.findings import Row
from payoff.report_page.runs import Arm, Curve, Run, Seed
from payoff.report_page.sentences import bracketed, places
from payoff.report_page.wording import fixed, listed, percent, plural, short

# key, name, and for shares the one above which it is a signal
LEARNING = (
    ("zero_spread", "groups without spread", 0.9),
    ("invalid", "rollouts without verdict", 0.05),
    ("entropy", "entropy (nats per action)", None),
    ("length", "own actions per rollout", None),
    ("steps", "steps per rollout", None),
    ("truncated", "truncated rollouts", 0.2),
    ("kl", "KL from the start (nats)", None),
    ("gradient_norm", "gradient norm", None),
    ("truth_train", "truth on training rollouts", None),
)
LONGER = 1.5  # times its start: a length beyond is a signal
FLATTER = 0.1  # of its start: an entropy below is a signal


def figures(run: Run, rows: Sequence[Row]) -> list[Figure]:
    """Every figure that the stored numbers allow, in the order of the page."""
    made = [difference(run, rows), reward_and_truth(run, rows), truth_against_kl(run), learning(run), cost(run)]
    return [figure for figure in made if figure]


def difference(run: Run, rows: Sequence[Row]) -> Figure | None:
    """The forest plot: the difference in truth of every arm from the baseline; without one, the truth of every arm."""
    key = "difference" if run.baseline else "truth"
    known = sorted((row for row in rows if row[key]), key=lambda row: -row[key]["value"])
    if not known or (not run.baseline and len(rows) == 1):
        return None
    n = places(rows)
    bars = [
        ForestRow(
            row["arm"],
            row[key]["value"],
            row[key]["low"],
            row[key]["high"],
            list(row[f"{key}_by_seed"].values()),
            bracketed(row[key], n, run, sign=bool(run.baseline)),
        )
        for row in known
    ]
    what = f"truth minus that of {run.baseline}" if run.baseline else "truth at the end"
    says = f"{what[0].upper()}{what[1:]}: " + "; ".join(f"{bar.label} {bar.text}" for bar in bars) + "."
    band = f" Shaded: differences up to {run.delta:g}, the smallest that matters." if run.baseline else ""
    pairs = f"over the {'paired ' if run.baseline else ''}seeds (n = {_counts(row[key]['n'] for row in known)})"
    few = " Open dots: fewer than three seeds, so no interval." if any(bar.low is None for bar in bars) else ""
    caption = f"Dot: mean; line: 95 % t interval {pairs}; ticks: single seeds; unit: {run.truth_unit}.{band}{few}"
    table = [[bar.label, bar.text, ", ".join(fixed(t, max(n, 2), sign=bool(run.baseline)) for t in bar.ticks)] for bar in bars]
    header = ["reward", what, "single seeds"]
    return Figure(
        "difference", caption, [Forest(bars, what, run.delta if run.baseline else 0.0, says)], [], header, table, wide=True
    )


def reward_and_truth(run: Run, rows: Sequence[Row]) -> Figure | None:
    """Per arm its own reward above its truth, over the rollouts used, with the point where they part."""
    if not any(seed.metrics for arm in run.arms.values() for seed in arm.seeds.values()):
        return None
    x_range = _x_range(run, "rollouts")
    truths = _truth_range(run, [y for arm in run.arms.values() for s in arm.seeds.values() for _, y in s.curve("truth")])
    charts, table = [], []
    for row, arm in zip(rows, run.arms.values()):
        found, rules = row["parted"], []
        if found["state"] == "yes":
            at = found["rollouts"]
            low = None if at["low"] is None else max(at["low"], x_range[0])
            high = None if at["high"] is None else min(at["high"], x_range[1])
            rules = [Rule(at["value"], "parting", low, high)]
        plots = []
        for key, label, limits in (("reward", "own reward", None), ("truth", "truth", truths)):
            lines, bands = _curves(arm, key, key, ends=key == "truth")
            raised = _raised(row["alarms"], _mean(arm.counted, key)) if key == "truth" else []
            plots.append(Plot(label, lines, bands, rules, raised, y_range=limits))
        charts.append(Chart(arm.name, "rollouts used", x_range, plots, _says(row)))
        table += _table(arm, ("reward", "truth"))
    used = [("truth", "truth"), ("reward", "own reward")]
    if any(chart.plots[0].rules for chart in charts):
        wide = any(rule.low != rule.high for chart in charts for rule in chart.plots[0].rules)
        used.append(("parting", "where they part, with its 95 % interval" if wide else "where they part"))
    n = _counts(len(arm.counted) for arm in run.arms.values())
    band = f" Band: 95 % t interval of the mean over seeds (n = {n})." if any(p.bands for c in charts for p in c.plots) else ""
    axes = ("", "") if len(charts) == 1 else (", the same axis for all", ", so each has its own axis")
    marks = " ▲: an alarm that training raised there." if any(chart.plots[-1].alarms for chart in charts) else ""
    caption = (
        f"{_grammar(run)}{band} Truth: {run.truth_unit}{axes[0]}. Own reward: what the arm optimises, per rollout, in its own "
        f"unit{axes[1]}.{marks}"
    )
    header = ["reward", "quantity", "rollouts", "mean", "95 % interval (t)", "seeds"]
    return Figure("reward-truth", caption, charts, used, header, table, wide=len(charts) == 1)


def truth_against_kl(run: Run) -> Figure | None:
    """Truth over the distance from the start policy: where optimising harder stops helping."""
    lines, table, reach = [], [], [0.0]
    for i, arm in enumerate(run.arms.values()):
        for seed in arm.seeds.values():
            truth = dict(seed.curve("truth"))
            points = [(max(kl, 0.0), truth[x]) for x, kl in seed.curve("kl") if x in truth]
            if points:
                lines.append(Line(thin(points), f"arm-{i}", "seed", ends=True))
                reach += [x for x, _ in points]
                far, best = max(points), max(points, key=lambda point: point[1])
                cells = [short(points[-1][0]), fixed(points[-1][1], 2), short(far[0]), f"{fixed(best[1], 2)} at {short(best[0])}"]
                table.append([f"{arm.name}, seed {seed.number}", *cells])
    if not lines or max(reach) == 0:
        return None
    plot = Plot("truth", lines, y_range=_truth_range(run, [y for line in lines for _, y in line.points]))
    says = f"Truth against the KL divergence from the start policy, one line per seed, for {listed(list(run.arms))}."
    chart = Chart("", "KL from the start (nats per rollout, root scale)", (0.0, 1.04 * max(reach)), [plot], says, True)
    caption = f"One line per seed through its evaluations, ending in the dot. Truth: {run.truth_unit}. Not smoothed, no interval."
    header = ["run", "KL at the end", "truth at the end", "greatest KL", "greatest truth, at KL"]
    return Figure("kl", caption, [chart], _legend(run), header, table, wide=True)


def learning(run: Run) -> Figure | None:
    """Small multiples of what tells whether training works at all, with signals marked."""
    charts, table, signals, flat = [], [], [], []
    x_range = _x_range(run, "rollouts")
    for key, label, bound in LEARNING:
        lines, alarms = [], []
        for i, arm in enumerate(run.arms.values()):
            own, _ = _curves(arm, key, f"arm-{i}")
            lines += own
            mean = _mean(arm.counted, key)
            if not mean:
                continue
            table.append([arm.name, label, *(short(mean[j][1]) for j in (0, len(mean) // 2, len(mean) - 1))])
            alarm = _alarm(key, label, mean, bound)
            if alarm:
                alarms.append(alarm[0])
                signals.append(f"{arm.name}: {alarm[1]}")
        values = [y for line in lines for _, y in line.points]
        if values and not any(values):
            flat.append(label)
        elif values:
            rules = [Rule(bound, "bound")] if bound and max(values) > 0.5 * bound else []
            zero = bound is not None or key in ("gradient_norm", "kl", "truth_train")
            plot = Plot("", lines, rules=rules, alarms=alarms, y_range=extent(values, zero=zero))
            says = f"{label[0].upper()}{label[1:]} over rollouts used, for {listed(list(run.arms))}."
            charts.append(Chart(label, "rollouts used", x_range, [plot], says))
    if not charts and not flat:
        return None
    told = f" Signals (▲), which are not findings: {'; '.join(signals)}." if signals else " No signal was raised."
    zeros = f" Always 0, so not drawn: {'; '.join(flat)}." if flat else ""
    dashed = " Dashed: the share from which it is a signal." if any(chart.plots[0].rules for chart in charts) else ""
    caption = f"{_grammar(run)}{dashed}{zeros}{told}"
    return Figure("learning", caption, charts, _legend(run), ["reward", "quantity", "start", "middle", "end"], table)


def cost(run: Run) -> Figure | None:
    """Truth over the seconds each run took."""
    lines, table, reach = [], [], []
    for i, arm in enumerate(run.arms.values()):
        lines += [Line(thin(c), f"arm-{i}", "seed", ends=True) for s in arm.seeds.values() if (c := s.curve("truth", x="seconds"))]
        reach += [x for line in lines for x, _ in line.points]
        took = [s.seconds for s in arm.finished if s.seconds]
        used = [s.metrics[-1].get("rollouts") for s in arm.finished if s.seconds and s.metrics]
        if took:
            estimate = mean_interval(took)
            span = f" [{short(estimate.low)}, {short(estimate.high)}]" if estimate.low is not None else ""
            rate = sum(u for u in used if isinstance(u, int)) / sum(took)
            gains = [60 * (c[-1][1] - c[0][1]) / s.seconds for s in arm.finished if s.seconds and len(c := s.curve("truth")) > 1]
            gain = fixed(fmean(gains), 2, sign=True) if gains else "–"
            table.append([arm.name, f"{short(estimate.value)}{span}", short(rate), gain, str(len(took))])
    if not lines or not max(reach) > 0:
        return None
    plot = Plot("truth", lines, y_range=_truth_range(run, [y for line in lines for _, y in line.points]))
    says = f"Truth against seconds of training, one line per seed, for {listed(list(run.arms))}."
    chart = Chart("", "seconds of the run", (0.0, 1.03 * max(reach)), [plot], says)
    caption = (
        "One line per seed through its evaluations, ending in the dot. Seconds are wall time of the run, evaluation included, on "
        "the machine named above; runs side by side slow each other down."
    )
    header = ["reward", "seconds per run, 95 % interval (t)", "rollouts per second", "truth gained per minute", "finished seeds"]
    return Figure("cost", caption, [chart], _legend(run), header, table, wide=True)


def _curves(arm: Arm, key: str, colour: str, *, ends: bool = False) -> tuple[list[Line], list[Band]]:
    """A thin line per seed, a thick one for their mean where there are several, and its band where there are three."""
    seeds = list(arm.seeds.values())
    own = [
        Line(thin(c), colour, "seed" if len(seeds) > 1 else "mean", ends and len(seeds) == 1) for s in seeds if (c := s.curve(key))
    ]
    if len(own) < 2:
        return own, []
    band = [
        (x, i.low, i.high)
        for x, values in _aligned(arm.counted, key)
        if len(values) >= FEWEST and (i := mean_interval(values)).low is not None and i.high is not None
    ]
    shown = [] if len(band) < 2 else [Band(_thin_band(band), colour)]
    return [*own, Line(thin(_mean(arm.counted, key)), colour, "mean", ends)], shown


def _mean(seeds: Sequence[Seed], key: str) -> Curve:
    """The mean over seeds wherever all that have the quantity have it, so that a seed that stops makes no jump."""
    aligned = _aligned(seeds, key)
    most = max((len(values) for _, values in aligned), default=0)
    return [(x, fmean(values)) for x, values in aligned if len(values) == most]


def _aligned(seeds: Sequence[Seed], key: str) -> list[tuple[float, list[float]]]:
    at: dict[float, list[float]] = {}
    for seed in seeds:
        for x, value in seed.curve(key):
            at.setdefault(x, []).append(value)
    return sorted(at.items())


def _thin_band(points: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    step = -(-len(points) // 240)
    kept = points[::step]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _raised(alarms: Sequence[Row], mean: Curve) -> Curve:
    """Where findings of training were first raised, on a mean curve: its nearest point each."""
    at = [alarm["rollouts"] for alarm in alarms if alarm["kind"] == "finding" and alarm["rollouts"] is not None]
    return sorted({min(mean, key=lambda point: abs(point[0] - x)) for x in at}) if mean else []


def _alarm(key: str, label: str, mean: Curve, bound: float | None) -> tuple[tuple[float, float], str] | None:
    """Where a mean first crosses what makes it a signal, and that in words."""
    first = mean[0][1]
    for x, y in mean:
        at = f"from {short(x)} rollouts on" if x > mean[0][0] else "from the start"
        if bound is not None and y > bound:
            return (x, y), f"{label} above {percent(bound)} {at}"
        if key == "length" and first > 0 and y > LONGER * first:
            return (x, y), f"length beyond {LONGER:g} times its start {at}"
        if key == "entropy" and first > 0 and y < FLATTER * first:
            return (x, y), f"entropy below a tenth of its start {at}"
    return None


def _table(arm: Arm, keys: Sequence[str]) -> list[list[str]]:
    """The mean of a few evaluations as rows of text."""
    made = []
    evaluations = _aligned(arm.counted, "truth")
    step = -(-len(evaluations) // 11) or 1
    wanted = {x for x, _ in [*evaluations[::step], *evaluations[-1:]]}
    for key in keys:
        for x, values in _aligned(arm.counted, key):
            if x in wanted:
                i = mean_interval(values)
                span = "–" if i.low is None or i.low == i.high else f"{short(i.low)} to {short(i.high)}"
                made.append([arm.name, key, short(x), short(i.value), span, str(i.n)])
    return made


def _says(row: Row) -> str:
    reward, found = row["reward"], row["parted"]
    end = f"own reward goes from {short(reward['start'])} to {short(reward['end'])}"
    truth = f"truth from {fixed(row['truth_start'], 2)} to {fixed(row['truth_latest'], 2)}"
    parts = {"yes": f"; they part, in {found['seeds']} of {plural(found['of'], 'seed')}", "no": "; they do not part"}
    return f"{row['arm']}: {end}, {truth}{parts.get(found['state'], '')}."


def _truth_range(run: Run, truths: Sequence[float]) -> tuple[float, float]:
    """From 0 on; up to 1 for a share that comes near it."""
    low, high = extent(truths, zero=True)
    return (low, 1.0) if run.truth_unit.startswith("share") and 0.6 < high <= 1.06 and low >= 0 else (low, high)


def _x_range(run: Run, x: str) -> tuple[float, float]:
    ends = [points[-1][0] for a in run.arms.values() for s in a.seeds.values() if (points := s.curve("update", x=x))]
    return 0.0, max([*ends, 1.0])


def _legend(run: Run) -> list[tuple[str, str]]:
    return [(f"arm-{i}", name) for i, name in enumerate(run.arms)] if len(run.arms) > 1 else []


def _grammar(run: Run) -> str:
    if all(len(arm.seeds) == 1 for arm in run.arms.values()):
        return "One seed, so no interval; not smoothed."
    cut_short = any(len(arm.counted) < len(arm.seeds) for arm in run.arms.values())
    return f"Thin lines: single seeds; thick: their mean{', of the finished ones' * cut_short}; not smoothed."


def _counts(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"
