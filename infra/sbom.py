# docker run --rm -i registry.example.com/m2f-batch:0.1.0-cuda python - < infra/sbom.py > sbom.json
"""The bill of materials of an image, as CycloneDX 1.5: what is installed in the Python that runs this, and of Debian.

Read from the image itself, not from a lock file: so it holds what is there, Debian's packages too. Needs no package.
"""

import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from urllib.parse import quote

Component = dict[str, object]


def python_components() -> list[Component]:
    """Installed distributions by name, each once: the first on the path is the one that is imported."""
    found: dict[str, Component] = {}
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        if name not in found:
            purl = f"pkg:pypi/{name}@{quote(distribution.version, safe='')}"
            found[name] = (
                component(name, distribution.version, purl) | _license_of(distribution) | _hash_of(distribution)
            )
    return [found[name] for name in sorted(found)]


def _license_of(distribution: importlib.metadata.Distribution) -> Component:
    metadata = distribution.metadata
    for expression in metadata.get_all("License-Expression") or []:
        return {"licenses": [{"expression": expression}]}
    named = [
        line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier") or [] if line.startswith("License ::")
    ]
    return {"licenses": [{"license": {"name": name}} for name in named]} if named else {}


def _hash_of(distribution: importlib.metadata.Distribution) -> Component:
    """SHA-256 of RECORD, which holds those of all its files."""
    record = distribution.read_text("RECORD")
    return {"hashes": [{"alg": "SHA-256", "content": hashlib.sha256(record.encode()).hexdigest()}]} if record else {}


def debian_components() -> list[Component]:
    """Yield the installed packages of Debian, none where there is no dpkg."""
    if shutil.which("dpkg-query") is None:
        return []
    form = "${db:Status-Abbrev}\t${Package}\t${Version}\t${Architecture}\n"
    done = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines() if line.startswith("ii")]
    return [
        component(name, version, f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?arch={architecture}")
        for _, name, version, architecture in sorted(rows)
    ]


def component(name: str, version: str, purl: str) -> Component:
    """Make a component of CycloneDX, which its purl names."""
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def bill(components: list[Component]) -> Component:
    """Make the document. Its serial number is a hash of what it lists, so that the same image has the same."""
    digest = hashlib.sha256(json.dumps(components, sort_keys=True).encode()).digest()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=4)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {"type": "container", "bom-ref": "image", "name": "m2f-batch"},
        },
        "components": components,
    }


if __name__ == "__main__":
    json.dump(bill([*python_components(), *debian_components()]), sys.stdout, indent=1)
    print()
