"""The token of a local Ray is nobody else's to read."""

import os
from pathlib import Path

import pytest

from m2f_batch.ray_session.token import keep_private


def test_the_first_token_is_for_its_owner_alone(tmp_path: Path) -> None:
    keep_private({}, tmp_path)
    file = tmp_path / ".ray" / "auth_token"
    assert file.stat().st_mode & 0o777 == 0o600 and len(bytes.fromhex(file.read_text())) == 32
    before = file.read_text()
    keep_private({"RAY_AUTH_MODE": "token"}, tmp_path)
    assert file.read_text() == before and [*file.parent.iterdir()] == [file]


def test_ray_itself_still_lets_all_read_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.authentication.authentication_token_setup import generate_and_save_token

    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0o022)
    try:
        generate_and_save_token()
    finally:
        os.umask(before)
    mode = (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777
    assert mode == 0o644, "Ray keeps its token private by now: m2f_batch/ray_session/token.py can go"


@pytest.mark.parametrize(
    "environ", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "x" * 32}, {"RAY_AUTH_TOKEN_PATH": "/elsewhere"}]
)
def test_none_is_made_where_ray_makes_none(environ: dict[str, str], tmp_path: Path) -> None:
    keep_private(environ, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError("not here")

    monkeypatch.setattr(os, "link", link)
    keep_private({}, tmp_path)
    (file,) = (tmp_path / ".ray").iterdir()
    assert file.name == "auth_token" and file.stat().st_mode & 0o777 == 0o600 and len(file.read_text()) == 64


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    keep_private({})


def test_a_home_that_cannot_be_written_is_rays_to_complain_of(tmp_path: Path) -> None:
    (tmp_path / ".ray").write_text("a file")
    keep_private({}, tmp_path)
    assert (tmp_path / ".ray").read_text() == "a file"
