"""The rules of the house: who may import whom, what the catalogue holds, and that what is documented exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "payoff"
FOUNDATION = {
    *("payoff.trajectories", "payoff.sets", "payoff.contents", "payoff.pipeline", "payoff.catalogue"),
    *("payoff._extras", "payoff.examples", "payoff.files"),
}
ROOMS = {"signals", "models", "shaping", "credit", "advantages", "losses", "sampling", "search", "design"}
MAY_ALSO = {  # room -> rooms it may use besides its own
    "signals": {"models", "sandbox", "foreign"},
    "models": {"losses"},
    "design": {"sandbox"},
}


def module_of(path: Path) -> str:
    return ".".join(("payoff", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imports_of(path: Path, *, top_level: bool = False) -> set[str]:
    """Every payoff module a file imports, at its top or anywhere; `if TYPE_CHECKING` does not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n if n in MODULES else node.module for n in names}
    return {name for name in found if name.split(".")[0] == "payoff"}


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {module_of(path): path for path in FILES}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_the_foundation_imports_only_what_lies_below_it():
    assert imports_of(PACKAGE / "trajectories.py") == set()
    assert imports_of(PACKAGE / "sets.py") <= {"payoff.trajectories"}
    assert imports_of(PACKAGE / "contents.py") <= {"payoff.trajectories"}
    assert imports_of(PACKAGE / "pipeline.py") <= {"payoff.trajectories", "payoff.sets", "payoff.contents"}
    assert imports_of(PACKAGE / "catalogue.py") == set()


@pytest.mark.parametrize("path", [p for p in FILES if room_of(module_of(p)) in ROOMS], ids=module_of)
def test_method_rooms_import_the_foundation_and_not_one_another(path):
    room = room_of(module_of(path))
    allowed = {room} | MAY_ALSO.get(room, set())
    rows = {"payoff.row_files"} if room == "models" else set()  # labelled rows are what a model is fitted on
    others = {m for m in imports_of(path) if m not in FOUNDATION | rows and room_of(m) not in allowed and m != "payoff"}
    assert not others, f"{module_of(path)} imports {sorted(others)}"


@pytest.mark.parametrize("path", [p for p in FILES if room_of(module_of(p)) in {"policies", "tasks"}], ids=module_of)
def test_policies_and_tasks_import_the_foundation_and_their_own_room(path):
    room = room_of(module_of(path))
    graders = {"payoff.grading", "payoff.rows", "payoff.rewards"}  # a task of rows reads rows, and its truth may be a grader
    allowed = {room, "sandbox"} if room == "tasks" else {room}  # the tools of a task may be programs
    others = {m for m in imports_of(path) if m not in FOUNDATION | graders and room_of(m) not in allowed and m != "payoff"}
    assert not others, f"{module_of(path)} imports {sorted(others)}"


def test_the_loop_knows_no_method_policy_or_task():
    below = {"checkpoints", "contents", "measures", "parts", "pipeline", "sets", "trajectories", "update"}
    for file in ("train.py", "update.py", "parts.py"):
        assert {room_of(m) for m in imports_of(PACKAGE / file)} <= below


def test_nothing_in_a_method_asks_what_kind_of_policy_it_serves():
    classes = r"LanguageModel|Tabular|ActorCritic|Gflownet\b|\bFlow\b(?!-)"
    kinds = re.compile(classes + r"|isinstance\([^)]*[Pp]olicy|policy_kind|is_language")
    for path in FILES:
        if room_of(module_of(path)) in ROOMS - {"models"}:
            text = re.sub(r"(?m)^ *(>>>|\.\.\.) .*$", "", path.read_text(encoding="utf-8"))  # examples may name one
            hit = kinds.search(text)
            assert hit is None, f"{module_of(path)}: {hit.group(0)}"


ROW_BLOCKS = {  # of a thousand rows each, so that they stay in cache
    "range(0, groups, some)",
    "range(0, max(len(x), 1), rows)",
    "row_blocks(traj)",
    "_sets_of(traj, apart=not value.requires_grad)",
}


@pytest.mark.parametrize("room", ["advantages", "losses"])
def test_no_loop_in_the_hot_path_runs_over_trajectories_or_groups(room):
    for path in sorted((PACKAGE / room).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.While), f"{path.name}:{node.lineno}: a while loop"
            loops = [node] if isinstance(node, ast.For) else getattr(node, "generators", [])
            for over in (ast.unparse(loop.iter) for loop in loops):
                rows = re.search(r"\btraj\b|\bgroups?\b|\brange\b|\blen\b|tolist|unique|\brows?\b", over)
                assert rows is None or over in ROW_BLOCKS or over.startswith("cleaned("), f"{path.name}: a loop over {over}"


def test_there_is_no_cycle_of_imports():
    graph = {m: {i for i in imports_of(p, top_level=True) if i in MODULES and i != m} for m, p in MODULES.items()}
    state: dict[str, int] = {}

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert state.get(module) != 1, " -> ".join((*trail, module))
        if module not in state:
            state[module] = 1
            for other in graph[module]:
                visit(other, (*trail, module))
            state[module] = 2

    for module in graph:
        visit(module, ())


def test_no_file_is_called_after_nothing():
    vague = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc"}
    assert not [module_of(p) for p in FILES if p.stem in vague]


def test_files_stay_readable_in_one_sitting():
    long = {module_of(p): n for p in FILES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 430}
    assert not long, long


def test_nothing_is_left_unfinished():
    marks = re.compile(r"\bTODO\b|\bFIXME\b|\bXXX\b|raise NotImplementedError|except( Exception)?:\s*pass")
    hits = {module_of(p): m.group(0) for p in FILES if (m := marks.search(p.read_text(encoding="utf-8")))}
    assert not hits, hits
