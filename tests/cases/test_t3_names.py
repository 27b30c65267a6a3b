"""T3: names for the classes of mask PNGs, where a user looks for them."""

import shutil

from m2f_batch.cli import main


def test_id2label_is_refused_with_the_way_to_go(shared_cases, tmp_path, capsys):
    folder = shutil.copytree(shared_cases / "17-semantic-mask-names" / "suffix", tmp_path / "case")
    options = ["--set", "data.format=semantic-png", "--set", f"data.train_images={folder}/images"]
    options += ["--set", "train.steps=1", "--set", "compute.device=cpu"]
    command = ["finetune", str(folder / "masks"), str(tmp_path / "out"), *options]
    assert main([*command, "--set", "model.config.id2label={0: sky}"]) == 2
    said = "model.config.id2label: {0: 'sky'} cannot be set: the labels are the categories of data.train; "
    assert f"{said}data.names names the classes of mask PNGs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_help_says_it(capsys):
    try:
        main(["finetune", "--help"])
    except SystemExit as ended:
        assert ended.code == 0
    text = capsys.readouterr().out
    assert "for PNGs also a file of class names (semantic) or an id map (instance)" in " ".join(text.split())
    assert "data.names" in text
