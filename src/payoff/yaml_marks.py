"""YAML that remembers where everything stood, with the traps of YAML 1.1 taken out.

`no` and `on` are words, `1e-4` is a number, `08` is eight, a key given twice is an error, and nothing but plain data is built.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Path_ = tuple["str | int", ...]


class Mark(NamedTuple):
    """Where a value stands: the file (or "command line"), line and column from 1."""

    source: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


class Marked(NamedTuple):
    """Plain data with the mark of every key and value by its path; a key's mark is under (*path, "")."""

    data: Any
    marks: dict[Path_, Mark]
    lines: list[str]


class YamlError(ValueError):
    """A file that is not the YAML it should be; says where."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}


_SCALARS = {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "null": r"~|null|Null|NULL|",
    "int": r"[-+]?[0-9]+",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}
for _tag, _pattern in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), None)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Loader.add_constructor(
    "tag:yaml.org,2002:float", lambda loader, node: float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", node.value.lower()))
)


def read_yaml(path: Path) -> Marked:
    """Read a file; YamlError in one line for a missing, unreadable or malformed one."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise YamlError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise YamlError(f"{path}: is a folder, not a run file") from None
    except UnicodeDecodeError as error:
        raise YamlError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise YamlError(f"{path}: cannot be read ({error.strerror})") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Marked:
    """Parse text; every mark names `source`."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise YamlError(f"{source}: is empty")
        marks: dict[Path_, Mark] = {}
        data = _build(loader, node, (), marks, source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        raise YamlError(f"{where}: is not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise YamlError(f"{source}: is not valid YAML: {' '.join(str(error).split())}") from None
    finally:
        loader.dispose()
    return Marked(data, marks, text.splitlines())


def parse_value(text: str) -> Any:
    """One value as it would be read from a file: 3, 1e-4, true, null, [1, 2], {a: 1}, or a word."""
    return parse_yaml(text, "command line").data if text.strip() else ""


def _build(loader: _Loader, node: yaml.Node, path: Path_, marks: dict[Path_, Mark], source: str) -> Any:
    marks[path] = Mark(source, node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.CollectionNode) and node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
        raise YamlError(f"{marks[path]}: is not valid YAML here: the tag {node.tag} builds something that is not plain data")
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node))
            at = Mark(source, key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if key in result:
                raise YamlError(f"{at}: the key {key!r} is given twice (first in line {marks[(*path, key, '')].line})")
            marks[(*path, key, "")] = at
            result[key] = _build(loader, value_node, (*path, key), marks, source)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*path, i), marks, source) for i, item in enumerate(node.value)]
    return loader.construct_object(node)
