"""Reads YAML from anywhere: configs, ``--set`` and the files of other tools."""

import itertools
import re
from collections.abc import Hashable, Iterator
from typing import Any

import yaml

MAX_SIZE = 1_000_000  # bytes of a config, and values in a YAML: a thousand times what makes sense


class _Loader(yaml.SafeLoader):
    """YAML that takes 1e-5 for the number it is, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(doubled)}: given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def yaml_value(text: str) -> object:
    """Return the value of a YAML text. Raises ValueError when it has none."""
    try:
        return parse_yaml(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None


def parse_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return the value of a YAML text from anywhere.

    Raises ValueError, YAMLError or RecursionError when it has none, or when aliases of aliases would make it endless.
    """
    value = yaml.load(text, loader)
    if sum(1 for _ in itertools.islice(_nodes(value), MAX_SIZE + 1)) > MAX_SIZE:
        raise ValueError(f"its aliases make more than {MAX_SIZE:,} values")
    return value


def _nodes(value: object) -> Iterator[object]:
    yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | set | tuple) else ():
        yield from _nodes(item)
