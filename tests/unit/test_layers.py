"""The rooms of the package, held true: imports go down, rooms and files are small, heavy packages have few doors."""

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from conftest import PROJECT

PACKAGE = PROJECT / "m2f_batch"
FILES_OF_A_FOLDER, LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 12, 400, 50
# one file for each thing of a kind: they may be many
FREE_FOLDERS = re.compile(r"m2f_batch/(commands|models/families|datasets/formats|storage/backends)")
HEAVY = ("torch", "torchvision", "transformers", "ray", "boto3", "scipy")
# which rooms and modules may import it, anywhere in a file. A * stands for the name of a family's room
DOORS = {
    "ray": ("flow", "ray_session", "train.workers", "train.data.ray_stream"),
    "transformers": (
        *("models.config_classes", "models.from_tensors", "models.loading", "models.training"),
        *("models.*.transformers_model", "models.families"),  # a family of one file imports it in its functions
        *("models.mask2former.new_config", "models.mask2former.training", "train.start"),
    ),
    "boto3": ("storage.s3",),
    "torch": (
        *("models", "vision", "explain", "train"),
        *("flow.unit", "flow.workers", "flow.crashes.isolated"),
    ),
}
# of models, what reads config.json and other JSON of anybody, or makes configurations of it
READERS = (
    *("backbone_configs", "checkpoint", "config_classes", "conversion", "family", "label_sets", "mobilevit.processor"),
    *("preprocess_plan", "processor", "published", "training"),
)
# what may be loaded by a command line, a driver or a pure module
LIGHT = [
    "m2f_batch.backends",
    "m2f_batch.cli",
    "m2f_batch.records",
    "m2f_batch.models.label_sets",
    "m2f_batch.config.loading",
    "m2f_batch.models.checkpoint",
    "m2f_batch.models.preprocess_plan",
    "m2f_batch.models.processor",
    *(f"m2f_batch.models.families.{file.stem}" for file in (PACKAGE / "models" / "families").glob("[!_]*.py")),
    "m2f_batch.vision.decode.image",
    "m2f_batch.vision.masks.rle",
    "m2f_batch.vision.label_settings",
    "m2f_batch.runs.directory",
    "m2f_batch.runs.reader",
    "m2f_batch.models.source",
    "m2f_batch.runs.inspect.verify",
    "m2f_batch.runs.inspect.status",
    "m2f_batch.exports.command",
    "m2f_batch.datasets.convert",
    "m2f_batch.evaluation.command",
    "m2f_batch.demo.scenes",
]


def modules() -> dict[str, Path]:
    files = [*PACKAGE.rglob("*.py"), *PROJECT.glob("jobs/*.py")]
    names = {file: ".".join(file.relative_to(PROJECT).with_suffix("").parts) for file in files}
    return {name: file for file, name in names.items() if file.name != "__init__.py"}


def imported(file: Path) -> set[str]:
    """The names of all modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


MODULES = modules()


@cache  # not at import: only the process that runs these tests parses the package
def imports() -> dict[str, set[str]]:
    return {name: imported(file) for name, file in MODULES.items()}


def graph() -> dict[str, set[str]]:
    """Which of our modules import which of ours."""
    return {name: names & MODULES.keys() for name, names in imports().items()}


def layers() -> list[list[str]]:
    """The boxes of the drawing, from the top. The text behind the last bar of a line is for people."""
    drawing = re.search(r"```layers\n(.*?)```", (PROJECT / "docs" / "architecture.md").read_text(), re.DOTALL)
    assert drawing, "docs/architecture.md has lost its drawing"
    lines = [line for line in drawing[1].splitlines() if line.startswith("|")]
    return [[box.strip() for box in line[1 : line.rindex("|")].split("|")] for line in lines]


def room_of(module: str) -> str:
    return module.removeprefix("m2f_batch.").split(".")[0]


def circles(graph: dict[str, set[str]]) -> Iterator[str]:
    """The first way found from each node back to itself."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[str]:
        if name in path:
            yield " -> ".join([*path[path.index(name) :], name])
        elif name not in done:
            for other in sorted(graph.get(name, ())):
                yield from visit(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        yield from visit(name, ())


def test_imports_go_down_the_drawing_only():
    line_of = {room: line for line, rooms in enumerate(layers()) for room in rooms}
    assert line_of.keys() == {room_of(module) for module in MODULES}, (
        "the drawing in docs/architecture.md has other rooms"
    )
    up = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in others
        if room_of(module) != room_of(other) and line_of[room_of(other)] <= line_of[room_of(module)]
    ]
    assert up == []


def test_modules_import_each_other_in_no_circle():
    assert [*circles(graph())] == []


def test_what_lies_in_one_folder_needs_each_other_in_no_circle():
    """Files and folders of a folder alike: so each folder can be read from the top."""
    within: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module, others in graph().items():
        for other in others:
            one, two = module.split("."), other.split(".")
            common = next(i for i in range(len(one)) if i >= len(two) - 1 or i >= len(one) - 1 or one[i] != two[i])
            within[".".join(one[:common])][one[common]].add(two[common])
    assert [f"{folder}: {circle}" for folder, graph in within.items() for circle in circles(graph)] == []


def test_init_files_hold_nothing():
    """But for the package's own, which is how it is met: it gives the public names, each when it is first used."""
    holding = [path for path in PACKAGE.rglob("__init__.py") if path.read_text()]
    assert holding == [PACKAGE / "__init__.py"]


def is_within(module: str, room: str) -> bool:
    """Tell whether a module is a room's, whose name may have a * in place of one folder's."""
    pattern = re.escape(f"m2f_batch.{room}.").replace(r"\*", r"\w+")
    return re.match(pattern, f"{module}.") is not None


def test_a_star_stands_for_one_folder():
    door = "models.*.transformers_model"
    assert is_within("m2f_batch.models.new.transformers_model", door)
    assert not is_within("m2f_batch.models.new.rules", door)
    assert not is_within("m2f_batch.models.new.deep.transformers_model", door)
    assert is_within("m2f_batch.models.families.new", "models.families")
    assert not is_within("m2f_batch.models.families_of", "models.families")


def test_heavy_packages_are_imported_through_few_doors():
    strangers = [
        f"{module} imports {package}"
        for package, doors in DOORS.items()
        for module, names in imports().items()
        if package in {name.split(".")[0] for name in names} and not any(is_within(module, door) for door in doors)
    ]
    assert strangers == []


def test_light_modules_load_nothing_heavy():
    code = f"""
import importlib, sys
for name in {LIGHT!r}:
    importlib.import_module(name)
    loaded = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]
    assert not loaded, (name, loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr


def test_the_drivers_need_no_torch():
    code = (
        "import sys, m2f_batch.flow.job, m2f_batch.train.command; assert not {'torch', 'transformers'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr


def test_commands_alone_print_and_tell_the_result():
    """What lies below returns data and says lines through what it is handed, so that it can be called from Python."""
    doors = {"say", "say_json", "print_line", "tell", "tell_outcome"}
    ours = ("m2f_batch.cli", "m2f_batch.commands.")
    strangers = [
        f"{module} imports {name}"
        for module, names in imports().items()
        for name in names
        if name.startswith("m2f_batch.") and name.split(".")[-1] in doors and not module.startswith(ours)
    ]
    assert strangers == []


def hot_files() -> dict[str, Path]:
    """The modules through which images go: all of models, but what reads JSON files."""
    hot = (
        *("vision.device", "vision.segmenter", "vision.postprocess", "vision.masks", "vision.pixels", "vision.cuts"),
        *("models", "flow.unit", "flow.prediction"),
    )
    return {
        module: file
        for module, file in MODULES.items()
        if any(is_within(module, room) for room in hot)
        and not any(is_within(module, f"models.{reader}") for reader in READERS)
    }


def test_nothing_on_the_hot_path_is_any():
    untyped = [
        f"{module}:{node.lineno}"
        for module, file in hot_files().items()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Name) and node.id == "Any"
    ]
    assert untyped == []


def test_nothing_on_the_hot_path_takes_a_class_of_transformers():
    """These carry no types, so mypy takes them for Any. A family's ``modules`` declare what is read of them."""
    makers = ("models.from_tensors", "models.mask2former.training", "models.mask2former.new_config")
    named_only = [
        f"{module}:{argument.lineno} {argument.arg}"
        for module, file in hot_files().items()
        if not any(is_within(module, maker) for maker in makers)
        for tree in [ast.parse(file.read_text())]
        for theirs in [names_of_transformers(tree)]
        for argument in ast.walk(tree)
        if isinstance(argument, ast.arg) and argument.annotation is not None
        if any(isinstance(node, ast.Name) and node.id in theirs for node in ast.walk(argument.annotation))
    ]
    assert named_only == []


def names_of_transformers(tree: ast.Module) -> set[str]:
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "transformers"
        for alias in node.names
    }


def test_folders_stay_small():
    sizes = Counter(str(file.parent.relative_to(PROJECT)) for file in MODULES.values())
    large = {folder: size for folder, size in sizes.items() if size > FILES_OF_A_FOLDER}
    assert {folder for folder in large if not FREE_FOLDERS.match(folder)} == set(), large


def test_files_stay_small():
    sizes = {name: len(file.read_text().splitlines()) for name, file in MODULES.items()}
    assert {name: size for name, size in sizes.items() if size > LINES_OF_A_FILE} == {}


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without its docstring, which may be as long as its callers need."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    return lines - ((first.end_lineno or first.lineno) - first.lineno + 1 if ast.get_docstring(node) else 0)


def test_functions_stay_small():
    sizes = {
        f"{name}.{node.name}": lines_of(node)
        for name, file in MODULES.items()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: size for name, size in sizes.items() if size > LINES_OF_A_FUNCTION} == {}


def test_families_share_rooms_and_not_their_files():
    families = {module for module in MODULES if is_within(module, "models.families")}
    assert len(families) > 10
    assert {name: sorted(graph()[name] & families) for name in families if graph()[name] & families} == {}
