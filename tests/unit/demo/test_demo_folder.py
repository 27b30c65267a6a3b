"""The demo draws into a folder of its own, again and again, and never among other images."""

from pathlib import Path

import pytest

from m2f_batch.demo import command
from m2f_batch.demo.command import demo
from m2f_batch.errors import UsageError


def test_the_demo_draws_again_but_not_among_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Drawn(Exception):
        pass

    def stop(*_: object, **__: object) -> None:
        raise Drawn

    monkeypatch.setattr(command, "segment", stop)
    images = tmp_path / "images"
    for _ in range(2):
        with pytest.raises(Drawn):
            demo(str(tmp_path), "panoptic")
        assert {path.name for path in images.glob("*.png")} == {"broken.png", *command.DRAWN}
        for name in (".DS_Store", "desktop.ini"):  # are no images to the run either
            (images / name).touch()
    (images / "cat.jpg").write_bytes(b"mine")
    (images / "broken.png").unlink()
    with pytest.raises(UsageError, match=r"^DIR: .* holds images/cat\.jpg, which the demo does not draw; give another"):
        demo(str(tmp_path), "panoptic")
    assert not (images / "broken.png").exists()
