"""The bill of materials: what is installed, each once, in the form of CycloneDX 1.5."""

import json
import re
import subprocess
import sys
import sysconfig
import uuid
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import PROJECT


@pytest.fixture(scope="module")
def bill():
    script = (PROJECT / "infra/sbom.py").read_text()  # by standard input, as for an image
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_is_cyclonedx(bill):
    assert bill["bomFormat"] == "CycloneDX" and bill["specVersion"] == "1.5" and bill["version"] == 1
    assert uuid.UUID(bill["serialNumber"].removeprefix("urn:uuid:")).version == 4
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", bill["metadata"]["timestamp"])
    references = [part["bom-ref"] for part in bill["components"]]
    assert len(set(references)) == len(references)
    for part in bill["components"]:
        assert part["type"] == "library" and part["name"] and part["version"]
        assert re.fullmatch(r"pkg:(pypi|deb/debian)/[\w.+%-]+@[\w.+%~-]+(\?arch=\w+)?", part["purl"]), part["purl"]
        for digest in part.get("hashes", []):
            assert digest["alg"] == "SHA-256" and re.fullmatch("[0-9a-f]{64}", digest["content"])
        for each in part.get("licenses", []):
            assert each.keys() in ({"expression"}, {"license"})


def test_it_holds_what_is_installed(bill):
    listed = {part["name"]: part["version"] for part in bill["components"] if part["purl"].startswith("pkg:pypi/")}
    folders = Path(sysconfig.get_path("purelib")).glob("*.dist-info")
    installed = {re.sub(r"[-_.]+", "-", folder.name.split("-")[0]).lower() for folder in folders}
    assert listed.keys() == installed
    assert listed["torch"] == version("torch") and listed["ray"] == version("ray")
