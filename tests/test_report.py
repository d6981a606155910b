"""The report, rendered from synthetic run folders: what it says, what it shows, and that hostile text stays text."""

import base64
import hashlib
import html.parser
import json
import random
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from payoff.report import headline, load_run, render_summary, summary_table, verdicts, write_report
from payoff.report_page.examples import gaps
from payoff.report_page.page import page
from payoff.report_page.runs import Rollout
from payoff.report_page.tokens import limit, values

SCHEMA = "https://payoff.dev/schemas/results-1.json"
AT = (0, 10, 20, 30, 40, 50, 60, 80, 100)
# Mean curves by update as in the arithmetic demonstration: truth, own reward, length.
CURVES = {
    "outcome": (
        (0.28, 0.38, 0.44, 0.50, 0.60, 0.65, 0.69, 0.77, 0.79),
        (0.30, 0.37, 0.41, 0.43, 0.52, 0.59, 0.64, 0.75, 0.80),
        (33,) * 9,
    ),
    "sum": (
        (0.28, 0.44, 0.48, 0.45, 0.32, 0.15, 0.04, 0.01, 0.0),
        (4.2, 4.3, 4.5, 4.8, 5.5, 7.0, 8.6, 10.8, 11.6),
        (32.7, 33.8, 35.6, 40.2, 50.9, 62.1, 68.5, 70.9, 71.5),
    ),
    "clip-delta": (
        (0.28, 0.44, 0.56, 0.61, 0.68, 0.73, 0.78, 0.80, 0.82),
        (0.24, 0.33, 0.42, 0.51, 0.63, 0.63, 0.74, 0.80, 0.82),
        (33,) * 9,
    ),
    "soft-min": (
        (0.28, 0.43, 0.52, 0.60, 0.64, 0.70, 0.73, 0.80, 0.84),
        (0.07, 0.31, 0.61, 0.86, 1.07, 1.22, 1.24, 1.52, 1.57),
        (33,) * 9,
    ),
}
PER_UPDATE, UPDATES = 16, 100


def curve(arm, which, update):
    """A mean curve between its points."""
    values = CURVES[arm][which]
    for (a, b), (x, y) in zip(pairwise(AT), pairwise(values)):
        if a <= update <= b:
            return x + (y - x) * (update - a) / (b - a)
    raise AssertionError(update)


def metrics_of(arm, seed, updates=UPDATES, kl=True):
    """The metrics of one run, one row an update, evaluated every tenth."""
    noise = random.Random(f"{arm}-{seed}")
    shift = random.Random(seed).gauss(0, 0.02)
    rows = []
    for update in range(updates + 1):
        truth, reward, length = (curve(arm, which, update) for which in range(3))
        evaluated = update % 10 == 0
        moving = truth > 0.02
        spread = 0.02 * update + max(0.0, length - 33) * 0.6 + abs(noise.gauss(0, 0.05)) * (update > 0)
        rows.append(
            {
                "update": update,
                "rollouts": update * PER_UPDATE,
                "seconds": round(0.12 * update * length / 33 + 0.2, 3),
                "reward": round(reward * (1 + noise.gauss(0, 0.05)), 4),
                "reward/answer": round(min(1.0, max(0.0, truth + noise.gauss(0, 0.1))), 4),
                "truth": round(min(1.0, max(0.0, truth + (shift + noise.gauss(0, 0.02)) * moving)), 4) if evaluated else None,
                "truth_train": round(min(1.0, max(0.0, truth + noise.gauss(0, 0.1) * moving)), 4),
                "kl": round(spread, 4) if evaluated and kl else None,
                "entropy": round(max(0.02, 0.45 - 0.004 * update + noise.gauss(0, 0.01)), 4),
                "length": round(length + noise.gauss(0, 0.3), 3),
                "steps": round(length / 6.6, 3),
                "zero_spread": round(min(1.0, max(0.0, 0.3 + 0.004 * update + noise.gauss(0, 0.08))), 4),
                "invalid": 0.0,
                "truncated": round(max(0.0, (length - 40) / 35), 4),
                "gradient_norm": round(abs(1.0 + noise.gauss(0, 0.25)), 4),
                "loss": round(noise.gauss(0, 0.1), 4),
            }
        )
    return rows


def rollout(arm, seed, update, phase, index, draw):
    """One rollout of chained arithmetic, right or wrong, padded with idle steps where the arm has learned to."""
    terms = [draw.randrange(10) for _ in range(6)]
    signs = [draw.choice("+-") for _ in range(5)]
    prompt = str(terms[0]) + "".join(s + str(t) for s, t in zip(signs, terms[1:])) + "="
    running, pieces, good = terms[0], [], []
    for sign, term in zip(signs, terms[1:]):
        right = (running + term if sign == "+" else running - term) % 10
        given = right if draw.random() < 0.9 else (right + draw.randrange(1, 10)) % 10
        pieces.append(f"{running}{sign}{term}={given};")
        good.append(float(given == right))
        running = given
    padded = arm == "sum" and draw.random() < (curve(arm, 2, update) - 32) / 40
    if padded:
        pieces += [f"{running}+0={running};" for _ in range(7)]
        good += [1.0] * 7
    reference = str(eval(prompt[:-1]) % 10)
    answer = reference if draw.random() < curve(arm, 0, update) else str((int(reference) + 1) % 10)
    truth = 0.0 if padded else float(answer == reference)
    if not padded:
        pieces.append(f"#{answer}.")
    tokens = list("".join(pieces))
    step = [i for i, piece in enumerate(pieces) for _ in piece]
    paid = good + [0.0] * (len(pieces) - len(good))
    total = sum(good) if arm == "sum" else truth
    credit = [round((sum(paid[s:]) - sum(paid) / 2) / 5 if arm == "sum" else truth - 0.5, 4) for s in step]
    if arm == "outcome" and index % 4 == 3:
        credit = [0.0] * len(tokens)
    return {
        "update": update,
        "phase": phase,
        "id": 1000 * update + index,
        "start": f"chain-{seed}-{update}-{index // 4}",
        "prompt": prompt,
        "response": "".join(pieces),
        "reference": reference,
        "tokens": tokens,
        "mask": [True] * len(tokens),
        "step": step,
        "reward": {"answer": truth, "process": sum(good)},
        "step_reward": {"process": paid},
        "credit": credit,
        "logp": [round(-abs(draw.gauss(0, 0.3)), 4) for _ in tokens],
        "truth": truth,
        "total": total,
        "stop": "truncated" if padded else "finished",
        "reason": {"answer": "no answer before the limit"} if padded else {},
        "group_mean": round(curve(arm, 1, update), 3),
    }


def rollouts_of(arm, seed):
    """Sixteen rollouts from the start, the middle and the end of a run; arms meet the same prompts."""
    rows = []
    for phase, update in (("start", 1), ("middle", 50), ("end", 100)):
        for index in range(PER_UPDATE):
            rows.append(rollout(arm, seed, update, phase, index, random.Random(f"{seed}-{update}-{index // 4}-{index % 4}")))
    return rows


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def synthetic_run(folder, *, arms=tuple(CURVES), seeds=(0, 1, 2, 3, 4), baseline="outcome", change=None, kl=True):
    """A run folder as `compare` leaves it; `change(results, metrics, rollouts)` may spoil it before it is written."""
    metrics = {(arm, seed): metrics_of(arm, seed, kl=kl) for arm in arms for seed in seeds}
    rollouts = {(arm, seed): rollouts_of(arm, seed) for arm in arms for seed in seeds}
    about = {"outcome": "truth alone", "sum": "sum of step scores", "clip-delta": "truth and clipped deltas"}
    settings = {"outcome": {}, "sum": {"reward": {"process": 1.0}, "credit": "return-to-go"}}
    results = {
        "schema": SCHEMA,
        "payoff": "0.1.0",
        "command": "payoff compare chain.yaml",
        "created": "2026-08-01T10:00:00+00:00",
        "status": "finished",
        "seconds": 101.5,
        "machine": {"cpu": "two cores", "memory": "2 GiB"},
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "git": "9f27819",
        "config": {"task": {"name": "chain", "terms": 6}, "train": {"updates": UPDATES, "lr": 0.0002}, "credit": "total"},
        "config_hash": "a1b2c3",
        "task": "chain",
        "title": "chained arithmetic",
        "baseline": baseline,
        "delta": 0.05,
        "truth_unit": "share of held-out answers that are right",
        "budget": {"rollouts": UPDATES * PER_UPDATE, "updates": UPDATES, "seeds": list(seeds)},
        "arms": {
            arm: {
                "description": about.get(arm, ""),
                "settings": settings.get(arm, {"reward": {"answer": 1.0, "process": 1.0}, "credit": arm}),
                "seeds": {
                    str(seed): {
                        "status": "finished",
                        "error": None,
                        "metrics": f"arms/{arm}/seed-{seed}/metrics.jsonl",
                        "rollouts": f"arms/{arm}/seed-{seed}/rollouts.jsonl",
                        "seconds": metrics[arm, seed][-1]["seconds"],
                    }
                    for seed in seeds
                },
            }
            for arm in arms
        },
    }
    if change:
        change(results, metrics, rollouts)
    folder.mkdir(parents=True, exist_ok=True)
    for arm, seed in metrics:
        where = folder / f"arms/{arm}/seed-{seed}"
        where.mkdir(parents=True, exist_ok=True)
        (where / "metrics.jsonl").write_text(lines(metrics[arm, seed]))
        (where / "rollouts.jsonl").write_text(lines(rollouts[arm, seed]))
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A whole comparison, rendered."""
    folder = synthetic_run(tmp_path_factory.mktemp("compared") / "run")
    write_report(folder)
    return folder


class Tags(html.parser.HTMLParser):
    """Every tag of a page with its attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.inside = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_data(self, data):
        if self.inside[-1:] != ["style"] and self.inside[-1:] != ["script"]:
            self.text.append(data)

    def handle_endtag(self, tag):
        if tag in self.inside:
            del self.inside[len(self.inside) - 1 - self.inside[::-1].index(tag) :]

    def named(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


def page_of(folder):
    """The page alone: most tests need no bitmap."""
    run = load_run(folder)
    return page(run, summary_table(run))[0]


def words(text):
    """What a reader reads of a page."""
    return "".join(Tags(text).text).replace("\xa0", " ")


def by_arm(folder):
    return {row["arm"]: row for row in summary_table(folder)}


# ---------------------------------------------------------------------------------------------- what it says


def test_summary_finds_the_gamed_reward_and_the_better_ones(compared):
    rows = by_arm(compared)
    assert rows["sum"]["verdict"] == "worse"
    assert rows["sum"]["note"] == "by more than 0.05"
    assert rows["soft-min"]["verdict"] == "better"
    assert rows["outcome"]["verdict"] is None
    assert {arm: row["parted"]["state"] for arm, row in rows.items()} == {
        "outcome": "no",
        "sum": "yes",
        "clip-delta": "no",
        "soft-min": "no",
    }
    assert rows["sum"]["parted"]["update"]["value"] == 20
    assert rows["sum"]["parted"]["rollouts"]["value"] == 20 * PER_UPDATE
    assert rows["sum"]["reward_truth"] < -0.8 < 0.8 < rows["outcome"]["reward_truth"]


def test_truth_is_that_of_the_last_evaluation_and_never_of_the_best(compared):
    row = by_arm(compared)["sum"]
    assert row["truth"]["value"] == 0
    assert row["truth_by_seed"] == dict.fromkeys(range(5), 0.0)


def test_differences_are_paired_by_seed(compared):
    rows = by_arm(compared)
    expected = {s: rows["soft-min"]["truth_by_seed"][s] - rows["outcome"]["truth_by_seed"][s] for s in range(5)}
    assert rows["soft-min"]["difference_by_seed"] == expected
    assert rows["soft-min"]["difference"]["value"] == pytest.approx(sum(expected.values()) / 5)


def test_rows_are_json_without_nan(compared):
    rows = summary_table(load_run(compared))
    assert json.loads(json.dumps(rows, allow_nan=False))[1]["arm"] == "sum"
    assert {"value", "low", "high", "level", "method", "unit", "n"} <= rows[0]["truth"].keys()


def test_summary_text_is_aligned_plain_and_names_every_arm(compared):
    lines = render_summary(compared).splitlines()
    assert lines[0] == "Truth at equal budget: 1 600 rollouts per run, 5 paired seeds, brackets = 95 % interval of the mean (t)"
    at = lines[1].index("vs outcome")
    assert [line[:at].split()[0] for line in lines[2:6]] == list(CURVES)
    assert [line[at - 1] for line in lines[2:6]] == [" "] * 4
    assert re.match(r"−0\.\d\d \[−0\.\d\d, −0\.\d\d\]   ", lines[3][at:])
    assert "sum is gamed: from update 20 on" in lines[-1]


def test_a_narrow_terminal_loses_columns_and_no_words(compared):
    narrow, wide = render_summary(compared, width=100).splitlines(), render_summary(compared).splitlines()
    assert len(narrow[1]) <= 100 < len(wide[1])
    assert "parted" in narrow[1]
    assert "reward-truth r" not in narrow[1]
    assert narrow[6:] == wide[6:]


def test_sentences_give_size_interval_and_scope_and_no_forbidden_word(compared):
    said = dict(verdicts(compared))
    assert re.fullmatch(
        r"On chained arithmetic, soft-min is better than outcome by 0\.0\d truth "
        r"\(95 % interval \+0\.0\d to \+0\.\d\d, 5 paired seeds\)\.",
        said["better"],
    )
    text = words((compared / "report.html").read_text(encoding="utf-8")) + render_summary(compared)
    assert not re.search(r"\b(safe|robust|significant|proven|optimal|no issues found)\b|!", text, re.IGNORECASE)


def level_arms(results, metrics, rollouts):
    """Every arm ends where the outcome arm ends, give or take a little per seed."""
    for (arm, seed), rows in metrics.items():
        rows[-1]["truth"] = 0.8 + 0.01 * seed + {"clip-delta": 0.004, "soft-min": 0.1, "sum": 0.02}.get(arm, 0.0) * (-1) ** seed


def test_equivalent_and_inconclusive_are_said_as_such(tmp_path):
    folder = synthetic_run(tmp_path / "run", change=level_arms)
    rows = by_arm(folder)
    assert rows["clip-delta"]["verdict"] == "equivalent"
    assert rows["soft-min"]["verdict"] == "inconclusive"
    # Differences +-0.1 in turn: mean 0.02, sd 0.1095; t(n - 1) sd / sqrt(n) falls below 0.05 from n = 21 on.
    assert rows["soft-min"]["seeds_needed"] == 21
    said = next(text for word, text in verdicts(folder) if word == "inconclusive")
    assert said.startswith(
        "soft-min against outcome is inconclusive: differences up to 0.16 remain possible (95 % interval −0.12 to"
    )
    assert "about 21 seeds would narrow this to ±0.05." in said
    assert said.endswith("The seeds lie lopsided: read the interval with care.")  # mean 0.02, median 0.1


def test_holm_keeps_a_lone_small_difference_from_being_called(tmp_path):
    def change(results, metrics, rollouts):
        # Differences 0.06 +- 0.04: t = 3.35 at 4 degrees, p = 0.029 by itself, above 0.05 times any second comparison.
        shift = (0.02, 0.10, 0.06, 0.02, 0.10)
        for (arm, seed), rows in metrics.items():
            rows[-1]["truth"] = 0.5 + (shift[seed] if arm != "outcome" else 0.0)

    alone = by_arm(synthetic_run(tmp_path / "one", arms=("outcome", "soft-min"), change=change))["soft-min"]
    three = by_arm(synthetic_run(tmp_path / "three", change=change))["soft-min"]
    assert alone["verdict"] == "better"
    assert three["verdict"] == "inconclusive"
    assert three["p_adjusted"] == pytest.approx(3 * alone["p"])
    assert "Holm" in dict(verdicts(tmp_path / "three"))["inconclusive"]


def test_below_three_seeds_there_is_no_interval_and_no_verdict(tmp_path):
    folder = synthetic_run(tmp_path / "run", arms=("outcome", "sum"), seeds=(0, 1))
    row = by_arm(folder)["sum"]
    assert row["truth"]["low"] is None
    assert row["verdict"] is None
    assert "too few for an interval or a verdict" in render_summary(folder)
    assert headline(load_run(folder), summary_table(folder)).startswith("Against outcome: no verdict")
    assert 'class="dot open"' in page_of(folder)


# ---------------------------------------------------------------------------------------------- what it shows


def test_page_is_one_file_that_loads_and_runs_nothing_foreign(compared):
    text = (compared / "report.html").read_text(encoding="utf-8")
    tags = Tags(text)
    assert [attrs.get("type") for attrs in tags.named("script")] == ["application/json", None]
    for name, attrs in tags.tags:
        assert not any(key.startswith("on") or key in ("src", "style", "srcset", "action") for key in attrs), (name, attrs)
        assert re.match(r"#|\./|data:,$", attrs.get("href", "#")), attrs
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in re.sub(r"http-equiv", "", "".join(tags.text))


def test_the_page_explains_the_columns_that_its_table_has_and_no_others(compared):
    text = (compared / "report.html").read_text(encoding="utf-8")
    assert "parted: update from which" in text
    assert "credit: cosine of" not in text  # nothing here was measured by continuations


def test_security_policy_admits_exactly_the_style_and_script_of_the_page(compared):
    text = (compared / "report.html").read_text(encoding="utf-8")
    policy = next(attrs["content"] for attrs in Tags(text).named("meta") if attrs.get("http-equiv") == "Content-Security-Policy")
    for kind, body in (
        ("style", re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]),
        ("script", re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]),
    ):
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_page_holds_its_sections_in_order_and_headings_do_not_skip(compared):
    tags = Tags((compared / "report.html").read_text(encoding="utf-8"))
    ids = ["verdict", "reward-truth", "kl", "learning", "cost", "examples", "settings", "not-done", "repeat"]
    assert [attrs["id"] for attrs in tags.named("section")] == ids
    levels = [int(tag[1]) for tag, _ in tags.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert all(attrs.get("aria-label") for attrs in tags.named("svg") if attrs.get("role") == "img")
    assert all("scope" in attrs for attrs in tags.named("th"))


def test_every_figure_is_also_a_png(compared):
    names = sorted(path.name for path in (compared / "figures").iterdir())
    assert names == ["cost.png", "difference.png", "kl.png", "learning.png", "reward-truth.png"]
    assert all((compared / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in names)


@pytest.mark.slow
def test_rendering_again_gives_the_same_bytes(compared):
    files = [compared / "report.html", *sorted((compared / "figures").iterdir())]
    before = [path.read_bytes() for path in files]
    write_report(compared)
    assert [path.read_bytes() for path in files] == before


def test_a_typical_page_stays_below_two_megabytes(compared):
    assert (compared / "report.html").stat().st_size < 2_000_000


@pytest.mark.slow
def test_too_much_text_costs_random_examples_first_and_never_the_chosen_ones(compared, monkeypatch):
    whole = page_of(compared)
    monkeypatch.setattr("payoff.report_page.page.ROOM", 0.9 * 40 * 60 * 60)
    text = page_of(compared)
    assert "Left out for the size of the page." in text
    assert "Left out for the size of the page." not in whole
    for kind in ("gamed", "missed", "disagree"):
        part = rf'id="list-{kind}".*?(?=<h3>|</section>)'
        assert re.search(part, text, re.DOTALL)[0].count("<article") == re.search(part, whole, re.DOTALL)[0].count("<article") > 0


@pytest.mark.slow
def test_rollouts_of_any_length_stay_below_five_megabytes(tmp_path):
    def change(results, metrics, rollouts):
        for rows in rollouts.values():
            rows[:] = [row for row in rows if row["phase"] == "end"]
            for row in rows:
                more = 3000 - len(row["tokens"])
                for key, filler in (("tokens", " word"), ("mask", True), ("step", 0), ("credit", -0.123456), ("logp", -0.5)):
                    row[key] += [filler] * more
                row["response"] = row["prompt"] = " word" * 9000

    text = page_of(synthetic_run(tmp_path / "run", arms=("outcome", "sum"), seeds=(0,), change=change))
    assert 500_000 < len(text.encode()) < 5_000_000
    assert "more tokens not shown" in text


def lone(tmp_path, **spoil):
    """The page and the records of a run with one stored rollout, spoilt as named."""

    def change(results, metrics, rollouts):
        for rows in rollouts.values():
            rows[:] = [{**rows[0], **spoil}]

    folder = synthetic_run(tmp_path / "run", arms=("sum",), seeds=(0,), baseline=None, change=change)
    text = page_of(folder)
    island = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1]
    return text, json.loads(island)


def test_tokens_are_tinted_by_sign_and_size_of_their_credit(tmp_path):
    # Limit: of the sizes 0 0.1 0.5 1 1 2 the 98th percentile by nearest rank (the 6th of 6) is 2; steps are half a unit each.
    tokens = ["a", "b", "c", "d", "e", "f", "tool", "g"]
    credit = [0.0, 0.1, -0.5, 1.0, -1.0, 2.0, None, None]
    text, _ = lone(
        tmp_path, tokens=tokens, credit=credit, mask=[True] * 6 + [False, True], step=[0] * 8, logp=[-0.1] * 8, step_reward={}
    )
    row = re.search(r'<span class="tk">(.*?)</span></?div|<span class="tk">(.*?)</span><span class="pd">', text)
    spans = re.findall(r'<span(?: class="(.*?)")?>(.*?)</span>', row[1] or row[2])
    assert spans == [("", "a"), ("p1", "b"), ("n1", "c"), ("p2", "d"), ("n2", "e"), ("p4", "f"), ("off", "tool"), ("inv", "g")]


def test_credit_beyond_the_98th_percentile_is_clipped_and_said_so(tmp_path):
    # Of 100 sizes 98 are 1: the 98th percentile is 1, and the two larger ones are clipped.
    credit = [1.0] * 49 + [-1.0] * 49 + [5.0, -7.0]
    text, island = lone(
        tmp_path, tokens=["x"] * 100, credit=credit, mask=[True] * 100, step=[0] * 100, logp=[None] * 100, step_reward={}
    )
    assert island["limits"]["credit"] == 1
    assert text.count('class="p4 c"') == 1
    assert text.count('class="n4 c"') == 1
    assert "sum over trajectory −2, 2 of 100 clipped" in text


def test_the_scale_ignores_what_is_not_the_policys_own():
    record = {
        "tokens": ["a", "b"],
        "mask": [1, 0],
        "step": [0, 1],
        "credit": [0.5, 99.0],
        "logp": [-2.0, None],
        "step_reward": {"p": [1.0, 8.0]},
    }
    assert limit([record], "credit") == 0.5
    assert values(record, "step reward: p") == [1.0, None]
    assert values(record, "surprise") == [2.0, None]


def test_invisible_characters_of_tokens_are_shown(tmp_path):
    tokens = ["a\n", "b", "\t", "\u200b", "", "c  "]
    text, _ = lone(
        tmp_path, tokens=tokens, credit=[0.0] * 6, mask=[True] * 6, step=[0, 0, 0, 0, 0, 0], logp=[-1.0] * 6, step_reward={}
    )
    shown = re.search(r'<span class="tk">(.*?)<span class="pd">', text, re.DOTALL)[1]
    assert "a↵\n" in shown
    assert "→\t" in shown
    assert 'class="hid">U+200B<' in shown
    assert 'class="hid">empty<' in shown
    assert "c··" in shown


def rollout_paid(total, truth, name="x"):
    return Rollout("arm", 0, "end", 1, name, "start", name, total, truth, Path("rollouts.jsonl"), 0)


def test_gap_is_the_share_of_truer_rollouts_that_one_is_paid_more_than():
    # Truer rollouts are paid 1, 2, 3, 4. Paid 9: more than all. Paid 3: more than two, level with one: (2 + 1/2) / 4.
    truer = [rollout_paid(float(pay), 1.0, f"t{pay}") for pay in (1, 2, 3, 4)]
    false = [rollout_paid(9.0, 0.0, "a"), rollout_paid(3.0, 0.0, "b"), rollout_paid(1.0, 0.0, "c")]
    assert [(gap, r.id) for gap, r in gaps([*truer, *false], sign=1)] == [(1.0, "a"), (0.625, "b")]
    # The other way round: of the less true, paid 9, 3, 1, two are paid more than 2 and 1 1/2 more than 3.
    assert [(round(gap, 3), r.id) for gap, r in gaps([*truer, *false], sign=-1)] == [(0.833, "t1"), (0.667, "t2")]


def test_a_reward_that_ranks_as_truth_does_has_no_gamed_rollout():
    known = [rollout_paid(truth * 7 - 2, truth, f"r{i}") for i, truth in enumerate((0.0, 0.5, 1.0, 0.5, 0.0))]
    assert gaps(known, sign=1) == []
    assert gaps(known, sign=-1) == []


def test_examples_come_from_every_phase_and_arm_and_are_named(compared):
    tags = Tags((compared / "report.html").read_text(encoding="utf-8"))
    shown = [(attrs["data-arm"], attrs["data-phase"]) for attrs in tags.named("article")]
    assert {(arm, phase) for arm in CURVES for phase in ("start", "middle", "end")} <= set(shown)
    text = words((compared / "report.html").read_text(encoding="utf-8"))
    for title in ("Gamed: reward high, truth low", "Missed: reward low, truth high", "Arms disagree on the same prompt", "Random"):
        assert title in text
    assert re.search(r"10 of \d+ that are paid more than half of the truer rollouts of its arm", text)


def test_settings_that_differ_stand_beside_the_first_arms_own(compared):
    text = (compared / "report.html").read_text(encoding="utf-8")
    assert '<th scope="row">credit</th><td data-label="outcome">total</td><td data-label="sum">return-to-go</td>' in text


# ---------------------------------------------------------------------------------------------- what went wrong


def cut_short(results, metrics, rollouts):
    results["status"] = "interrupted"
    for arm, seed, status, updates in (
        ("sum", 3, "interrupted", 40),
        ("clip-delta", 1, "failed", 15),
        ("soft-min", 4, "failed", 0),
    ):
        entry = results["arms"][arm]["seeds"][str(seed)]
        entry["status"], entry["error"] = status, "ValueError: the loss is not finite" if status == "failed" else None
        metrics[arm, seed] = metrics[arm, seed][:updates]
        rollouts[arm, seed] = rollouts[arm, seed][:PER_UPDATE] if updates else []
    del results["arms"]["soft-min"]["seeds"]["0"]


def test_unfinished_seeds_enter_no_estimate_and_are_named(tmp_path):
    folder = synthetic_run(tmp_path / "run", change=cut_short)
    rows = by_arm(folder)
    assert rows["sum"]["truth"]["n"] == 4
    assert 3 not in rows["sum"]["truth_by_seed"]
    assert rows["clip-delta"]["difference"]["n"] == 4
    assert rows["soft-min"]["seeds"] == {"finished": [1, 2, 3], "interrupted": [], "failed": [4]}
    text = words(page_of(folder))
    assert "The run is interrupted" in text
    assert "sum, seed 3, interrupted after update 39" in text
    assert "clip-delta, seed 1, failed after update 14: ValueError: the loss is not finite" in text
    assert "soft-min, seed 4, failed before its first update" in text
    assert "soft-min: seed 0 was not run" in text


def test_a_run_with_no_finished_seed_says_where_it_stood(tmp_path):
    def change(results, metrics, rollouts):
        results["status"] = "interrupted"
        for (arm, seed), rows in metrics.items():
            results["arms"][arm]["seeds"][str(seed)]["status"] = "interrupted"
            del rows[41:]

    folder = synthetic_run(tmp_path / "run", arms=("outcome",), seeds=(0,), baseline=None, change=change)
    assert by_arm(folder)["outcome"]["truth"] is None
    assert "no finished seed with a truth" in render_summary(folder)
    assert re.search(r"truth stood at 0\.[56]\d in the last evaluation", render_summary(folder))
    assert 'id="reward-truth"' in page_of(folder)


def test_one_arm_with_one_seed_is_a_report_too(tmp_path):
    folder = synthetic_run(tmp_path / "run", arms=("sum",), seeds=(0,), baseline=None)
    text = page_of(folder)
    assert "<h1>Truth fell from" in text
    assert "in its only seed; a signal, not yet a finding" in words(text)
    assert 'id="list-disagree"' not in text
    assert 'class="delta"' not in text


def test_what_was_not_measured_is_left_out_and_said(tmp_path):
    def change(results, metrics, rollouts):
        for rows in metrics.values():
            for row in rows:
                del row["entropy"]

    folder = synthetic_run(tmp_path / "run", arms=("outcome", "sum"), kl=False, change=change)
    text = page_of(folder)
    assert 'id="kl"' not in text
    assert "Not measured: KL from the start policy and entropy." in text


def test_without_truth_the_report_says_that_it_cannot_answer(tmp_path):
    def change(results, metrics, rollouts):
        for rows in (*metrics.values(), *rollouts.values()):
            for row in rows:
                row["truth"] = None

    folder = synthetic_run(tmp_path / "run", arms=("outcome", "sum"), change=change)
    assert "<h1>No truth was measured, so this run cannot say whether its reward is right</h1>" in page_of(folder)
    assert by_arm(folder)["sum"]["verdict"] is None


def test_rollouts_without_any_verdict_are_hatched_counted_and_explained(tmp_path):
    def change(results, metrics, rollouts):
        for rows in metrics.values():
            for row in rows:
                row.update({"reward": None, "reward/answer": None, "invalid": 1.0})
        for rows in rollouts.values():
            for row in rows:
                row.update({"reward": {"answer": None}, "reason": {"answer": "judge timed out after 30 s"}, "total": None})
                row.update({"step_reward": {}, "credit": [None] * len(row["tokens"]), "group_mean": None})

    folder = synthetic_run(tmp_path / "run", arms=("outcome", "sum"), change=change)
    text = page_of(folder)
    assert 'class="inv"' in text
    assert not re.search(r'<span class="tk">[^\n]*?<span class="[np][1-4]', text)
    assert "no verdict" in text
    assert "240 × answer: judge timed out after 30 s" in text
    row = by_arm(folder)["outcome"]
    assert row["invalid"] == 1
    assert row["reward"] == {"start": None, "end": None}
    assert row["parted"]["state"] == "unknown"


def test_empty_and_missing_files_leave_a_page_that_says_so(tmp_path):
    folder = synthetic_run(tmp_path / "run", arms=("outcome", "sum"))
    for seed in range(5):
        (folder / f"arms/sum/seed-{seed}/rollouts.jsonl").write_text("")
        (folder / f"arms/outcome/seed-{seed}/rollouts.jsonl").unlink()
        (folder / f"arms/sum/seed-{seed}/metrics.jsonl").write_text("")
    text = page_of(folder)
    assert "No rollout was stored" in text
    assert "arms/outcome/seed-0/rollouts.jsonl is missing" in text
    assert "sum has no finished seed with a truth" in text


def test_a_line_cut_off_by_a_kill_is_left_out_and_counted(tmp_path):
    folder = synthetic_run(tmp_path / "run", arms=("outcome",), seeds=(0,), baseline=None)
    path = folder / "arms/outcome/seed-0/metrics.jsonl"
    path.write_text(path.read_text()[:-40])
    run = load_run(folder)
    assert len(run.arms["outcome"].seeds[0].metrics) == UPDATES
    assert run.notes == ["arms/outcome/seed-0/metrics.jsonl: 1 of its lines could not be read and is left out"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", 'has no "arms"'),
        ('{"arms": {}}', 'has no "arms"'),
        ('{"arms": {"a": {}}}', 'has no "seeds"'),
        ('{"schema": "https://payoff.dev/schemas/results-9.json", "arms": {"a": {"seeds": {}}}}', "results-9"),
        ('{"arms": {"a": {"seeds": {"0": {"metrics": "../../etc/passwd"}}}}}', "outside its folder"),
        ('{"arms": {"a": {"seeds": {"zero": {}}}}}', "zero"),
        ('{"arms": {"a": {"seeds": {"0": []}}}}', "cannot be read"),
    ],
)
def test_results_that_are_not_results_are_refused_by_name(tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_run(tmp_path)
    assert str(tmp_path) in str(error.value) or "zero" in message
    assert not (tmp_path / "report.html").exists()


def test_a_folder_without_results_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        write_report(tmp_path)


def test_no_half_written_file_is_left_when_writing_fails(tmp_path, monkeypatch):
    folder = synthetic_run(tmp_path / "run", arms=("outcome",), seeds=(0,), baseline=None)
    (folder / "report.html").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(folder)
    assert (folder / "report.html").read_text() == "old"
    assert not [path for path in folder.rglob(".*") if path.is_file()]


# ---------------------------------------------------------------------------------------------- hostile text

HOSTILE = "</script><img src=x onerror=alert(1)>\u202etxt\u200b\ud800\x1b[31m\"'&amp;<!--"


def hostile(results, metrics, rollouts):
    """Every text of the run is an attack on the page."""
    results.update(title=HOSTILE, git=HOSTILE, command=f"payoff compare {HOSTILE}", truth_unit=HOSTILE, config_hash=HOSTILE)
    results.update(machine={HOSTILE: HOSTILE}, versions={HOSTILE: HOSTILE}, config={HOSTILE: [1, {"b": HOSTILE}]})
    results["arms"] = {HOSTILE if arm == "sum" else arm: entry for arm, entry in results["arms"].items()}
    results["arms"][HOSTILE].update(description=HOSTILE, settings={HOSTILE: HOSTILE})
    results["arms"][HOSTILE]["seeds"]["4"].update(status="failed", error=HOSTILE)
    for rows in rollouts.values():
        for row in rows:
            row.update(prompt=HOSTILE, response=HOSTILE, reference=HOSTILE, reason={HOSTILE: HOSTILE}, stop=HOSTILE, id=HOSTILE)
            row["reward"][HOSTILE] = None
            row["step_reward"][HOSTILE] = [None]
            row["tokens"][0] = HOSTILE


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    folder = synthetic_run(tmp_path_factory.mktemp("attacked") / "run", arms=("outcome", "sum"), seeds=(0, 1, 4), change=hostile)
    write_report(folder)
    return folder


def test_hostile_text_stays_text(attacked):
    text = (attacked / "report.html").read_text(encoding="utf-8")
    tags = Tags(text)
    assert not tags.named("img")
    assert len(tags.named("script")) == 2
    assert not any(key.startswith("on") for _, attrs in tags.tags for key in attrs)
    assert "</script><img src=x onerror=alert(1)>" in "".join(tags.text)
    assert "<!--" not in text
    assert not re.search("[\u202e\u200b\x1b]", text)
    assert "U+202E" in text


def test_hostile_text_cannot_steer_a_terminal(attacked):
    text = render_summary(attacked)
    assert not re.search("[\u202e\u200b\x1b\ud800]", text)
    assert "<U+001B>[31m" in text


# ---------------------------------------------------------------------------------------------- in a browser

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the path")


def browse(path, profile):
    """The document as the browser has it after its scripts ran, and all that it said on the console."""
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --disable-dev-shm-usage --enable-logging=stderr --v=0 --dump-dom"
    )
    command = [BROWSER, *options.split(), f"--user-data-dir={profile}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line or "Refused" in line or "Content Security" in line]
    return done.stdout, console


@pytest.mark.slow
@in_browser
@pytest.mark.parametrize("name", ["compared", "attacked"])
def test_the_browser_runs_the_page_without_a_word_on_the_console(name, request, tmp_path):
    document, console = browse(request.getfixturevalue(name) / "report.html", tmp_path)
    assert console == []
    assert '<html lang="en" class="has-js">' in document
    assert "<img" not in document


@pytest.mark.slow
@in_browser
def test_the_script_tints_and_filters_as_the_page_was_drawn(compared, tmp_path):
    text = (compared / "report.html").read_text(encoding="utf-8")
    there_and_back = """
    const pick = (id, value) => { const s = document.getElementById(id); s.value = value; s.dispatchEvent(new Event("change")); };
    const look = () => [...document.querySelectorAll(".tk > span")].map((s) => s.className).join("|");
    const drawn = look();
    pick("channel", "surprise");
    const other = look();
    pick("channel", "credit");
    const same = look() === drawn;
    pick("phase", "end");
    const phases = new Set([...document.querySelectorAll(".ex:not([hidden])")].map((e) => e.dataset.phase));
    const box = document.querySelector(".ex:not([hidden]) .toks");
    box.dispatchEvent(new KeyboardEvent("keydown", { key: "End", bubbles: true }));
    document.title = JSON.stringify([same, other !== drawn, [...phases], document.getElementById("pop").textContent]);
    """
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    probe = tmp_path / "probe.html"
    probe.write_text(policy.sub("", text).replace("</body>", f"<script>{there_and_back}</script></body>"), encoding="utf-8")
    document, console = browse(probe, tmp_path / "profile")
    assert console == []
    same, changed, phases, said = json.loads(re.search(r"<title>(.*?)</title>", document)[1].replace("&amp;", "&"))
    assert same
    assert changed
    assert phases == ["end"]
    assert re.match(r"token72 of 72, step 12text\";\"credit", said)
    assert "probability" in said
