"""An OUTPUT may lie beside INPUT and never inside it, whatever name it is given."""

from pathlib import Path

import pytest

from m2f_batch.errors import UsageError
from m2f_batch.inputs.places import check_output


@pytest.fixture(params=["", "s3://bucket"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.param or str(tmp_path)


@pytest.mark.parametrize(
    ("source", "target"),
    [("in", "in"), ("in", "in/out"), ("in/", "in/a/b/"), ("in/**", "in/out"), ("in/**", "in"), ("m.csv", "m.csv")],
)
def test_output_inside_input(base: str, source: str, target: str) -> None:
    with pytest.raises(UsageError, match=r"^output.uri: .*lies inside, input.uri"):
        check_output(f"{base}/{source}", f"{base}/{target}")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("in", "out"),
        ("in", "in-out"),
        ("in/a", "in"),
        ("in/*.jpg", "in/out"),
        ("2026-*/**/*.jpg", "labels"),
        ("m.csv", "out"),
        ("in/*/x.jpg", "input"),
    ],
)
def test_output_beside_input(base: str, source: str, target: str) -> None:
    check_output(f"{base}/{source}", f"{base}/{target}")


def test_output_inside_input_by_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "a[1].jpg").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    both: list[tuple[str, str]] = [
        ("in", "link/out"),
        ("link", f"{tmp_path}/in/out"),
        (f"file://{tmp_path}/in", "in/../in/x"),
    ]
    for source, target in both:
        with pytest.raises(UsageError):
            check_output(source, target)
    check_output("a[1].jpg", "out")
    check_output("s3://bucket", "out")
    with pytest.raises(UsageError, match=r"^output.uri: "):
        check_output("in", "s3://")
