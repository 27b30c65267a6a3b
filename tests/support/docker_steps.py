"""The steps of infra/Dockerfile without docker, each in a layer of its own over a fresh Debian; then a container.

    sudo PYTHONPATH=tests .venv/bin/python -m support.docker_steps FOLDER --build-arg DEVICE=cpu
    sudo PYTHONPATH=tests .venv/bin/python -m support.docker_steps FOLDER --build-arg DEVICE=cpu --run "m2f-batch \
        demo /tmp/demo-run"
    sudo PYTHONPATH=tests .venv/bin/python -m support.docker_steps FOLDER --target client --read-only --run \
        "m2f-batch submit --help"

Needs root, debootstrap, iproute2 and a kernel with overlayfs, and 15 GB in FOLDER for a DEVICE, 22 GB for both; some
five minutes with a fast network. The build context is what infra/Dockerfile.dockerignore leaves of HEAD. Layers stay in
FOLDER and are taken again as docker does. ``--run`` is ``docker run --network none`` as the image's user, with 64 MB of
/dev/shm, and ends with the command's exit code; ``--read-only`` is docker's, with tmpfs on /tmp and /cache, as the pods
have it. ``--authority`` is a file of certificates for an index behind a proxy that has its own; no layer holds it.

The base is what debootstrap makes of the same Debian, less what the -slim image leaves out. Limits of memory and
capabilities are not docker's.
"""

import argparse
import hashlib
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from string import Template

from support.rootfs import Stage, base_layer, context, enter, inside, size_mb, with_layer

PROJECT = Path(__file__).resolve().parents[2]


def build(folder: Path, given: dict[str, str], authority: Path | None, target: str = "") -> Stage:
    """Make the layers that are not there yet of all stages that ``target`` needs, and tell their sizes; returns it."""
    defaults: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    name, stage, wanted, is_wanted = "", None, needed_by(target), True
    for word, raw in instructions():
        if word == "FROM":
            is_wanted = raw.partition(" AS ")[2] in wanted
        if not is_wanted:
            continue
        known = {**defaults, **given} if stage is None or word == "FROM" else {**stage.args, **stage.env}
        rest = raw if word == "RUN" else Template(raw).safe_substitute(known)
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = replace(stages[base], args={}) if base in stages else Stage((base_layer(folder, base),))
        elif word == "ARG" and stage is None:
            key, _, defaults[key] = rest.partition("=")
        elif word == "CMD":
            continue
        elif stage is not None:
            stage = after(folder, stage, stages, word, rest, given, authority)
        if stage is not None:
            stages[name] = stage
    return stages[target]


def needed_by(target: str) -> set[str]:
    """The names of the stages that a stage is made from, and its own; the last one is called "" here.

    >>> sorted(needed_by("torch"))
    ['${BASE}', 'parts', 'tools', 'torch']
    """
    below: dict[str, set[str]] = {}
    name = ""
    for word, rest in instructions():
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            below[name] = {base}
        elif rest.startswith("--from="):
            below[name].add(rest.split()[0].removeprefix("--from="))
    if target not in below:
        raise SystemExit(f"--target: no stage {target!r}; stages: {', '.join(filter(None, below))}")
    wanted: set[str] = set()
    new = {target}
    while new:
        wanted |= new
        new = set().union(*(below.get(each, set()) for each in new)) - wanted
    return wanted


def after(
    folder: Path,
    stage: Stage,
    stages: dict[str, Stage],
    word: str,
    rest: str,
    given: dict[str, str],
    authority: Path | None,
) -> Stage:
    """The stage after one step."""
    match word:
        case "ARG":
            key, has_default, value = rest.partition("=")
            known = {key: given.get(key, value)} if has_default or key in given else {}
            return replace(stage, args={**stage.args, **known})
        case "ENV":
            return replace(stage, env={**stage.env, **dict(pair.split("=", 1) for pair in shlex.split(rest))})
        case "USER":
            return replace(stage, user=rest)
        case "WORKDIR":
            stage = replace(stage, folder=str(Path(stage.folder, rest)))
            return with_layer(folder, stage, f"mkdir -p root{stage.folder}", f"WORKDIR {rest}")
        case "RUN":
            settings = f"{stage.args}{stage.env}{stage.user}"
            return with_layer(folder, stage, inside(stage, rest, authority), f"RUN {rest}", settings)
        case "COPY":
            return copied(folder, stage, stages, rest)
    raise SystemExit(f"{word}: this script knows no such step")


def instructions() -> list[tuple[str, str]]:
    """(word, rest) of each step of the Dockerfile."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (PROJECT / "infra/Dockerfile").read_text())
    lines = [line.strip().partition(" ") for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    return [(word.upper(), re.sub(r"\s+", " ", rest.strip())) for word, _, rest in lines]


def copied(folder: Path, stage: Stage, stages: dict[str, Stage], rest: str) -> Stage:
    """COPY of files or folders, from the build context or another stage, to a folder/ or a name."""
    *sources, to = [word for word in rest.split() if not word.startswith("--")]
    target = f"root{Path(stage.folder, to)}"
    origin, script, holds, layers = "context", "", "", ()
    if rest.startswith("--from="):
        origin, layers = "from", stages[rest.split()[0].removeprefix("--from=")].layers
        script = f"mount -t overlay overlay -o lowerdir={':'.join(layers)} from\n"
    for source in sources:
        path = f"{origin}/{source.lstrip('/')}"
        if origin == "context":
            files = sorted(each for each in [folder / path, *(folder / path).rglob("*")] if each.is_file())
            holds += "".join(f"{each} {hashlib.sha256(each.read_bytes()).hexdigest()} " for each in files)
        else:
            holds += made_by(folder, layers, source)
        script += f"if test -d {path}; then mkdir -p {target}; cp -a {path}/. {target}/; "
        script += f"else mkdir -p {target if to.endswith('/') else Path(target).parent}; cp -a {path} {target}; fi\n"
    return with_layer(folder, stage, script, f"COPY {rest}", holds)


def made_by(folder: Path, layers: tuple[str, ...], source: str) -> str:
    """What decides a path of another stage: the content of a file, as for docker; of a folder its last layer."""
    files = [folder / layer / source.lstrip("/") for layer in layers]
    file = next((each for each in files if each.is_file()), None)
    return layers[0] if file is None else hashlib.sha256(file.read_bytes()).hexdigest()


def main() -> int:
    """Build, and run what is to be run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=lambda text: Path(text).resolve())
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--target", default="", metavar="STAGE")
    parser.add_argument("--authority", type=Path, metavar="FILE")
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--run", metavar="COMMAND")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    context(given.folder, PROJECT)
    stage = build(given.folder, dict(pair.split("=", 1) for pair in given.build_arg), given.authority, given.target)
    print(f"{sum(size_mb(given.folder / layer) for layer in stage.layers):9.1f} MB  the image", flush=True)
    if given.run is None:
        return 0
    script = "ip link set lo up\n"
    if given.read_only:
        script += (
            "for each in tmp cache; do test ! -d root/$each || mount -t tmpfs -o mode=1777 tmpfs root/$each; done\n"
        )
    script += inside(replace(stage, args={}), given.run)
    code = enter(given.folder, stage.layers, script, None if given.read_only else "container.part", "--net")
    shutil.rmtree(given.folder / "container.part", ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
