"""What tasks store for people to look at, and that the report draws it, or nothing, whatever is stored."""

import base64
import json
import re
import shutil
import struct
import subprocess
import zlib

import numpy as np
import pytest
import torch

from payoff.build import build
from payoff.config import load_run
from payoff.report import write_report
from payoff.report_page.pictures import picture_html, png_uri
from payoff.runs import Request, run_one, write_results
from payoff.tasks.bits import Bits
from payoff.tasks.environments import World
from payoff.tasks.mixture import Mixture

DESIGN = """
terms: {policy: {paths: {pay: [total, rloo]}, loss: policy-gradient}}
train: {updates: 1, starts: 1, rollouts: 4}
evaluate: {every: 0, starts: 0}
"""
RUNS = {
    "points": """
        task: {name: mixture, modes: 4}
        policy: {name: flow, data: mixture, pretrain_steps: 2, steps: 3}
        reward: {pay: mixture-distance}
        """,
    "images": """
        task: {name: digits}
        policy: {name: flow, data: digits, pretrain_steps: 2, steps: 3}
        reward: {pay: digits-ink}
        """,
    "episode": """
        task: {name: environment, environment: CartPole-v1, max_steps: 12}
        policy: {name: actor-critic, environment: CartPole-v1, hidden: [4]}
        reward: {pay: environment-reward}
        """,
    "distributions": """
        task: {name: hypergrid, side: 4}
        policy: {name: gflownet, task: {name: hypergrid, side: 4}, hidden: 4}
        reward: {pay: log-reward}
        """,
}
BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


def complaints(path, profile):
    """What a browser says on its console about the page."""
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    options += " --disable-component-update --disable-sync --disable-dev-shm-usage --enable-logging=stderr --v=0 --dump-dom"
    command = [BROWSER, *options.split(), f"--user-data-dir={profile}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert '<section id="pictures">' in done.stdout
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line or "Refused" in line or "Content Security" in line]


def decoded(uri):
    """The rows of grey bytes of a PNG that carries itself."""
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"), validate=True)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(name + body)
        chunks[name], at = body, at + 12 + size
    width, height, *kind = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert kind == [8, 0, 0, 0, 0]
    raw = zlib.decompress(chunks[b"IDAT"])
    return [list(raw[i * (width + 1) + 1 : (i + 1) * (width + 1)]) for i in range(height)]


def run_folder(folder, kind):
    """A run of one update, stored as `payoff train` stores it."""
    folder.mkdir()
    file = folder / "run-file.yaml"
    file.write_text("\n".join(line.strip() for line in RUNS[kind].splitlines()) + DESIGN)
    loaded = load_run(file)
    request = Request("", 0, folder / "arms/run/seed-0")
    outcome = run_one(loaded.run.model_dump(mode="json"), str(file), request)
    assert outcome["status"] == "finished", outcome
    write_results(folder, loaded, {request: outcome}, command="payoff train", seconds=1.0, started="2026-01-01T00:00:00+00:00")
    return folder


def test_a_picture_carries_exactly_its_pixels():
    assert decoded(png_uri([[0.0, 0.5, 1.0], [2.0, -1.0, 0.2]])) == [[0, 128, 255], [255, 0, 51]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_the_report_shows_what_each_kind_of_policy_does(tmp_path, kind):
    folder = run_folder(tmp_path / "run", kind)
    stored = [json.loads(line) for line in (folder / "arms/run/seed-0/rollouts.jsonl").read_text().splitlines()]
    assert (stored[0].get("overview") or stored[0]["picture"])["kind"] == kind
    write_report(folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    section = re.search(r'<section id="pictures">.*?</section>', text, re.S)[0]
    assert len(re.findall('class="pic"', section)) == 1  # of the one phase: a single update is start and end
    for uri in re.findall(r'(?:src|href)="(data:[^"]+)"', section):
        decoded(uri)
    island = text[text.index('type="application/json"') :]
    assert "data:image" not in island[: island.index("</script>")]
    if BROWSER:
        assert complaints(folder / "report.html", tmp_path / "profile") == []


@pytest.mark.parametrize(
    "picture",
    [
        None,
        7,
        "<img src=x>",
        [],
        {},
        {"kind": "<script>"},
        {"kind": "image"},
        {"kind": "image", "pixels": []},
        {"kind": "image", "pixels": [[]]},
        {"kind": "image", "pixels": [[0, None]]},
        {"kind": "image", "pixels": [[0], [0, 1]]},
        {"kind": "image", "pixels": [[0] * 257]},
        {"kind": "image", "pixels": "00"},
        {"kind": "images", "images": [[[0]], 3]},
        {"kind": "points", "points": [[0, 0]]},
        {"kind": "points", "points": [[0, "1"]], "extent": [-1, 1, -1, 1]},
        {"kind": "points", "points": [], "extent": [1, 1, -1, 1]},
        {"kind": "points", "points": [[1e300, 0]], "extent": [-1, 1, -1, 1]},
        {"kind": "episode", "rewards": ["1"]},
        {"kind": "episode", "rewards": [1], "frames": [{"at": 0, "width": 2, "height": 2, "grey": "AAAA"}]},
        {"kind": "episode", "rewards": [1], "frames": [{"at": 0, "width": 3, "height": 1, "grey": '"><b'}]},
        {"kind": "distributions", "learned": [1], "true": [0.5, 0.5]},
        {"kind": "distributions", "learned": [], "true": []},
        {"kind": "distributions", "learned": [1, 0], "true": [0.5, 0.5], "shape": [0, 2]},
        {"kind": "distributions", "learned": [1, 0], "true": [0.5, 0.5], "shape": [1e9, 1e9]},
    ],
)
def test_what_is_no_picture_draws_nothing(picture):
    assert picture_html(picture) == ""


def test_points_that_left_the_data_are_counted_and_the_frame_grows_to_hold_them():
    picture = {"kind": "points", "points": [[0, 0], [10, 0]], "extent": [-1, 1, -1, 1]}
    drawn = picture_html(picture)
    assert "2 samples, 1 of them beyond the data" in drawn
    assert "reaches 10.5 each way" in drawn
    # 240 pixels over 21 units: x = 10 lies (10 / 10.5 + 1) * 120 = 234.3 from the left
    assert 'cx="234.3" cy="120.0"' in drawn


def test_the_density_of_the_data_lies_where_the_data_does():
    backdrop = Mixture(modes=2)._backdrop  # modes at (2, 0) and (-2, 0)
    density = np.array(backdrop["density"])
    assert density.shape == (32, 32)
    assert density.max() == 1
    assert np.allclose(density, density[:, ::-1], atol=2e-3)
    row, column = np.unravel_index(density.argmax(), density.shape)
    low, high = backdrop["extent"][:2]
    at = low + (column + 0.5) * (high - low) / 32
    assert abs(abs(at) - 2.0) < (high - low) / 32
    assert row in (15, 16)


def test_one_high_mode_is_drawn_above():
    task = Mixture(modes=4)
    density = np.array(task._backdrop["density"])
    assert density[:8].max() > 0.5  # the mode at (0, 2) is in the upper rows
    assert density[12:20, 12:20].max() < 0.01  # nothing lies in the middle


def test_distributions_are_exact_for_a_policy_that_knows_its_own_and_counted_for_any_other(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "task: {name: bits, length: 2, modes: 1}\n"
        "policy: {name: gflownet, task: {name: bits, length: 2, modes: 1}, network: table}\n"
        "reward: {pay: log-reward}" + DESIGN
    )
    parts, _ = build(load_run(file))
    traj = parts.policy.rollout(parts.task.starts(1, torch.Generator()), 8, torch.Generator().manual_seed(0))
    exact = parts.task.overview(traj, parts.policy)
    assert exact["learned"] == [0.25] * 4
    # log R = -bits that differ: one sequence differs in 0, two in 1, one in 2; Z = 1 + 2/e + 1/e^2 = (1 + 1/e)^2
    assert sorted(exact["true"]) == pytest.approx(sorted([0.53444, 0.19661, 0.19661, 0.072329]), abs=1e-4)
    counted = parts.task.overview(traj, None)["learned"]
    written = [item["response"] for item in traj.items]
    assert counted == [written.count(text) / 8 for text in ("00", "01", "10", "11")]
    assert Bits(length=16, modes=1).overview(traj, None) is None


def test_an_episode_is_drawn_from_its_seed_by_its_actions():
    pytest.importorskip("pygame")
    world = World("CartPole-v1")
    actions = np.ones(8, dtype=np.int64)
    first, again = world.film(3, actions, [0, 8]), world.film(3, actions, [0, 8])
    other = world.film(3, 0 * actions, [0, 8])
    assert [frame["at"] for frame in first] == [0, 8]
    assert first == again
    assert first[0] == other[0]
    assert first[1] != other[1]
    assert len(base64.b64decode(first[0]["grey"])) == first[0]["width"] * first[0]["height"]
    world.close()


def test_an_environment_that_cannot_draw_itself_shows_observations(tmp_path):
    world = World("CartPole-v1", {"no_such_option": 1})
    assert world.film(0, [1], [0]) == []
    strip = picture_html({"kind": "episode", "rewards": [1, 1], "observations": [[0, 5], [1, 5], [2, 5]]})
    (pixels,) = (decoded(uri) for uri in re.findall(r'src="([^"]+)"', strip))
    assert pixels == [[0, 128, 255], [128, 128, 128]]  # a row for each number, time to the right; what never moves is grey
    assert "return 2" in strip


def test_a_task_without_pictures_stores_none(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("task: {name: tree}\npolicy: {name: tabular}\nreward: {pay: tree-leaf}" + DESIGN)
    loaded = load_run(file)
    outcome = run_one(loaded.run.model_dump(mode="json"), str(file), Request("", 0, tmp_path / "seed-0"))
    assert outcome["status"] == "finished"
    assert not {"picture", "overview"} & set(json.loads((tmp_path / "seed-0/rollouts.jsonl").read_text().splitlines()[0]))
