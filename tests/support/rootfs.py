"""Root file systems in layers, and commands in them as in a container: for ``docker_steps.py``. Needs root.

A layer is a folder named by the step that made it, what that found and what it copied; steps that are done are not
done again.
"""

import hashlib
import re
import shlex
import shutil
import subprocess
import tarfile
import time
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

SUITES = {"12": "bookworm", "13": "trixie"}
LEFT_OUT = ("doc", "man", "info", "locale", "groff", "lintian")  # of /usr/share, by Debian's -slim images
CLEAN = 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };\n'
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
AUTHORITY = "/dev/authority.crt"
STEP_SECONDS = 7200
# what docker mounts
MOUNTS = """
mount -t proc proc root/proc; mount -t sysfs -o ro sysfs root/sys; mount -t cgroup2 -o ro cgroup2 root/sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs root/dev; mkdir root/dev/shm root/dev/pts; ln -s /proc/self/fd root/dev/fd
mount -t tmpfs -o size=64m,mode=1777 shm root/dev/shm; mount -t devpts -o newinstance,ptmxmode=0666 devpts root/dev/pts
for each in null zero full random urandom tty; do touch root/dev/$each; mount --bind /dev/$each root/dev/$each; done
for each in resolv.conf hosts; do mount --bind /etc/$each root/etc/$each; done
"""


@dataclass(frozen=True)
class Stage:
    """What a step finds: layers, the topmost first, and the settings so far."""

    layers: tuple[str, ...]
    env: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    args: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"


def context(folder: Path, project: Path) -> None:
    """``folder/context``: what HEAD holds, less what the Dockerfile's own .dockerignore leaves out."""
    patterns = [line for line in (project / "infra/Dockerfile.dockerignore").read_text().split("\n") if line.strip()]
    packed = subprocess.run(["git", "archive", "HEAD"], cwd=project, capture_output=True, check=True, timeout=60).stdout
    shutil.rmtree(folder / "context", ignore_errors=True)
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        for member in archive:
            if member.isfile() and is_sent(member.name, patterns):
                archive.extract(member, folder / "context", filter="tar")


def is_sent(name: str, patterns: list[str]) -> bool:
    """Whether docker sends a file: the last pattern that fits it, or a folder it is in, says so.

    >>> [is_sent(name, ["*", "!a/b", "**/c"]) for name in ("a/b/x", "a/b/c/x", "a/x", "a/bc")]
    [True, False, False, False]
    """
    sent = True
    for pattern in patterns:
        expression = re.escape(pattern.lstrip("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(expression, each) for each in (name, *map(str, Path(name).parents))):
            sent = pattern.startswith("!")
    return sent


def base_layer(folder: Path, image: str) -> str:
    """The layer of a fresh Debian, as ``image`` (debian:12.12-slim) has it, but in its newest point release."""
    name = re.sub(r"\W", "-", image)
    if not (folder / name).exists():
        suite, part = SUITES[image.removeprefix("debian:").split(".")[0]], folder / "base.part"
        shutil.rmtree(part, ignore_errors=True)
        subprocess.run(["debootstrap", "--variant=minbase", suite, part], check=True, timeout=STEP_SECONDS)
        for each in (*(part / "usr/share" / each for each in LEFT_OUT), part / "var/lib/apt/lists"):
            shutil.rmtree(each, ignore_errors=True)
        left_out = "".join(f"path-exclude /usr/share/{each}/*\n" for each in LEFT_OUT)
        (part / "etc/dpkg/dpkg.cfg.d/docker").write_text(left_out)
        (part / "etc/apt/apt.conf.d/docker-clean").write_text(CLEAN)
        places = f"debian {suite}", f"debian {suite}-updates", f"debian-security {suite}-security"
        sources = "".join(f"deb http://deb.debian.org/{place} main\n" for place in places)
        (part / "etc/apt/sources.list").write_text(sources)
        for each in ("resolv.conf", "hosts"):
            (part / "etc" / each).write_text("")
        part.rename(folder / name)
    return tell(folder, name, f"FROM {image}")


def with_layer(folder: Path, stage: Stage, script: str, text: str, holds: str = "") -> Stage:
    """The stage and one layer more, which ``script`` makes where none of this ``text`` and ``holds`` is there."""
    name = hashlib.sha256(f"{stage.layers[0]} {stage.folder} {text} {holds}".encode()).hexdigest()[:12]
    if not (folder / name).exists():
        began = time.monotonic()
        code = enter(folder, stage.layers, script, "layer.part")
        if code:
            raise SystemExit(f"exit code {code} of {text}")
        (folder / "layer.part").rename(folder / name)
        text = f"{time.monotonic() - began:.0f} s: {text}"
    return replace(stage, layers=(tell(folder, name, text), *stage.layers))


def enter(folder: Path, layers: tuple[str, ...], script: str, upper: str | None, *namespaces: str) -> int:
    """Run a script of this machine's shell beside ./root, which shows the layers; its writes there go to ``upper``.

    Its mounts and processes end with it. Returns its exit code.
    """
    options = f"lowerdir={':'.join(layers)}"
    for each in ("root", "from", "work", *([upper] if upper else [])):
        shutil.rmtree(folder / each, ignore_errors=True)
        (folder / each).mkdir()
    if upper:
        options += f",upperdir={upper},workdir=work"
    begin = f"set -e; umask 022; mount -t overlay overlay -o {options} root\n"
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", *namespaces, "sh", "-c", begin + script]
    return subprocess.run(command, cwd=folder, timeout=STEP_SECONDS, check=False).returncode


def inside(stage: Stage, command: str, authority: Path | None = None) -> str:
    """The script that runs a command in ./root as the stage's user, with its settings only."""
    variables = {**stage.args, **stage.env}
    script = ""
    if authority:
        script = f"cp {shlex.quote(str(authority))} root{AUTHORITY}; chmod 644 root{AUTHORITY}\n"
        variables |= {"SSL_CERT_FILE": AUTHORITY, "PIP_CERT": AUTHORITY}
    told = " ".join(shlex.quote(f"{key}={value}") for key, value in variables.items())
    user = stage.user.split(":")[0]
    script += f"home=$(awk -F: '$3 == {user} {{print $6}}' root/etc/passwd)\n"
    where = f'env -i -C {stage.folder} HOME="$home" {told}'
    return f"{MOUNTS}{script}exec chroot --userspec={stage.user} root {where} /bin/sh -c {shlex.quote(command)}\n"


def tell(folder: Path, layer: str, text: str) -> str:
    """Print the size of a layer, its name and what made it; returns the layer."""
    print(f"{size_mb(folder / layer):9.1f} MB  {layer[:12]:12}  {text[:100]}", flush=True)
    return layer


def size_mb(layer: Path) -> float:
    """The bytes of a layer's files in MB (10^6)."""
    du = ["du", "--summarize", "--apparent-size", "--block-size=1", str(layer)]
    return int(subprocess.run(du, capture_output=True, check=True, text=True, timeout=600).stdout.split()[0]) / 1e6
