"""Makes the page of config keys, from the models that check a config."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from m2f_batch.config.data import DataConfig
from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.formats import read_formats
from m2f_batch.config.section import Section
from m2f_batch.config.segment import POSTPROCESS_KEYS, PostprocessConfig, SegmentConfig
from reference_pages.markdown import MADE, code, joined, reflowed, table, text_of

Schema = Mapping[str, Any]
JOBS: dict[str, type[Section]] = {"segment": SegmentConfig, "finetune": FinetuneConfig}
KINDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "mapping",
}
HEAD = """\
The keys of `--config FILE.yaml` and `--set KEY=VALUE`. The same key may come from several places: a flag wins over
`--set`, and a warning says so where the two differ. `--set` wins over the file, and that over the default. A key that
is not known, or that does not apply to the others, is an error with exit code 2.

A file holds the sections as mappings. The value of `--set` is YAML, so quote it:
`--set 'postprocess.stuff_ids=[0, 5]'`. A key that takes a text takes it as it is, and a number may be `1e-5`.
An empty value is refused, because a script's variable may be unset. `null` is taken by the keys that may be unset.

```yaml
input: {uri: "s3://bucket/photos/"}
postprocess: {score_threshold: 0.3}
```

A key that is not *required* and shows no default is not set. Its meaning says what then holds. A number *between* two
bounds is none of them. A number *from* a bound *to* another may be one of them."""


def page() -> str:
    """Return reference/config.md."""
    seen: dict[type[BaseModel], str] = {}
    blocks = [each for job, config in JOBS.items() for each in _sections(job, config, seen)]
    return joined("# Config", f"Every option of a job is a key. {MADE}", HEAD, _contents(), *blocks, _values())


def _contents() -> str:
    rows = []
    for job, config in JOBS.items():
        links = (f"[{name}](#{job}-{name})" for name in config.model_fields)
        rows.append((f"[{job}](cli.md#{job})", ", ".join(links)))
    return table(["command", "sections"], rows)


def _sections(job: str, config: type[Section], seen: dict[type[BaseModel], str]) -> Iterator[str]:
    for name, field in config.model_fields.items():
        section = field.annotation
        assert isinstance(section, type) and issubclass(section, Section)
        head = f"## {job}: {name}"
        if section in seen:
            yield joined(head, f"As the [section of {seen[section]}](#{seen[section]}-{name}).")
            continue
        seen[section] = job
        yield joined(head, _told(section), table(["key", "value", "default", "meaning"], _rows(section, f"{name}.")))


def _rows(section: type[Section], prefix: str) -> Iterator[tuple[str, ...]]:
    schema = section.model_json_schema()
    parts = schema.get("$defs", {})
    for name, field in section.model_fields.items():
        below, shape = field.annotation, schema["properties"][name]
        if isinstance(below, type) and issubclass(below, Section):
            yield from _rows(below, f"{prefix}{name}.")
            continue
        value = _value(shape, parts)
        if section is DataConfig and name == "format":
            value = ", ".join(map(code, read_formats()))
        meaning = text_of(field.description or "") + _also(section, name)
        default = "*required*" if field.is_required() else _default(shape.get("default"))
        yield code(f"{prefix}{name}"), value, default, meaning


def _value(shape: Schema, parts: Schema) -> str:
    """Return the type of a value in words, with its choices and bounds.

    >>> count = {"ge": 1, "type": "integer"}
    >>> _value({"anyOf": [count, {"prefixItems": [count, count], "type": "array"}, {"type": "null"}]}, {})
    'whole number of at least 1, or list of 2 of them'
    """
    if "anyOf" in shape:
        kinds = [each for each in shape["anyOf"] if each.get("type") != "null"]
        return ", or ".join(_of(kinds, each) or _value(each, parts) for each in kinds)
    if "$ref" in shape:
        names = [*parts[shape["$ref"].rpartition("/")[2]]["properties"]]
        return f"[{code('{' + ', '.join(names) + '}')}](#{'-'.join(names)})"
    if "prefixItems" in shape:
        return f"list of {len(shape['prefixItems'])} {_plural(_value(shape['prefixItems'][0], parts))}"
    if shape.get("type") == "array":
        return f"list of {_plural(_value(shape['items'], parts))}".replace(", or ", " or ")
    if choices := shape.get("enum", [shape["const"]] if "const" in shape else []):
        return ", ".join(map(code, choices))
    return KINDS.get(shape.get("type", "string"), "text") + _bounds(shape)


def _of(kinds: Sequence[Schema], shape: Schema) -> str:
    """Return the words for a list of values that may also stand alone, nothing where the shape is no such list."""
    items = shape.get("prefixItems", [])
    return f"list of {len(items)} of them" if items and items[0] in kinds else ""


def _plural(text: str) -> str:
    return re.sub(r"^(text|whole number|number)\b", r"\1s", text)


def _bounds(shape: Schema) -> str:
    """Return the bounds of a number and the pattern of a text."""
    least, above = shape.get("ge", shape.get("minimum")), shape.get("gt")
    most, below = shape.get("le", shape.get("maximum")), shape.get("lt")
    below = None if below == 2**63 else below
    said = ""
    if least is not None and most is not None:
        said = f" from {least} to {most}"
    elif above is not None and below is not None:
        said = f" between {above} and {below}"
    else:
        given = (("of at least", least), ("above", above), ("of at most", most), ("below", below))
        said = "".join(f" {word} {bound}" for word, bound in given if bound is not None)
    said += f", a multiple of {shape['multiple_of']}" if "multiple_of" in shape else ""
    return said + (f" that matches {code(shape['pattern'])}" if "pattern" in shape else "")


def _default(value: object) -> str:
    if value is None or value in ([], {}):
        return ""
    return code(value if isinstance(value, str) else json.dumps(value))


def _also(section: type[Section], key: str) -> str:
    """Return the tasks that a key is for, and other words for it."""
    said = ""
    if section is PostprocessConfig:
        said += f"; tasks: {', '.join(task for task, keys in POSTPROCESS_KEYS.items() if key in keys)}"
    words = [code(alias) for alias, name in section.key_aliases.items() if name == key]
    words += [code(alias) for alias in section.value_aliases.get(key, {})]
    return said + (f"; {', '.join(words)} of transformers: the same" if words else "")


def _values() -> str:
    """Return the mappings that are values of keys."""
    schema = {**SegmentConfig.model_json_schema()["$defs"], **FinetuneConfig.model_json_schema()["$defs"]}
    from m2f_batch.config import segment

    blocks = []
    for kind in (segment.AspectSize, segment.ExactSize, segment.SlidingWindow, segment.Normalization):
        names = ", ".join(kind.model_fields)
        rows = []
        for name, field in kind.model_fields.items():
            shape = schema[kind.__name__]["properties"][name]
            default = "*required*" if field.is_required() else ""
            rows.append((code(name), _value(shape, schema), default))
        blocks.append(joined(f"### {{{names}}}", _told(kind), table(["key", "value", "default"], rows)))
    return joined("## Values", "Mappings that are the value of a key.", *blocks)


def _told(kind: type[BaseModel]) -> str:
    return reflowed(inspect.getdoc(kind) or "")
