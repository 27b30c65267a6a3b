"""Loading: only safetensors, nothing missing, other backbones, no code of a repository."""

import json
import os
import shutil

import pytest
import torch
from conftest import DEMO_MODEL
from safetensors.torch import load_file, save_file
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from m2f_batch.errors import RunError
from m2f_batch.models.loading import OriginalPredictor, forward, load_model, load_original, processor_pixel_values

CPU = torch.device("cpu")


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(DEMO_MODEL, tmp_path / "model")


def edit_tensors(model, change):
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def test_logits_are_those_of_transformers():
    values = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    theirs = Mask2FormerForUniversalSegmentation.from_pretrained(DEMO_MODEL).double().eval()
    with torch.inference_mode():
        expected = theirs(pixel_values=values.double())
    class_logits, mask_logits = forward(load_model(DEMO_MODEL, CPU).double(), values.double()).tensors
    assert torch.allclose(class_logits, expected.class_queries_logits, rtol=0, atol=1e-9)
    assert torch.allclose(mask_logits, expected.masks_queries_logits, rtol=0, atol=1e-9)


def test_a_missing_tensor_is_refused(model):
    edit_tensors(model, lambda tensors: tensors.pop("class_predictor.bias"))
    with pytest.raises(RunError, match=r"1 tensors.*class_predictor\.bias"):
        load_model(model, CPU)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("weights", "me/m: 1 tensors are missing or of another shape than config.json says, e.g. class_predictor.bias"),
        ("file", "me/m does not load: No such file or directory: me/m/model.safetensors"),
        ("config", "config.json of me/m is not valid JSON"),
    ],
)
def test_a_model_that_does_not_load_is_called_by_the_name_that_is_given(model, broken, said):
    if broken == "weights":
        edit_tensors(model, lambda tensors: tensors.pop("class_predictor.bias"))
    elif broken == "file":
        (model / "model.safetensors").unlink()
    else:
        (model / "config.json").write_text("{")
    with pytest.raises(RunError) as caught:
        load_original(model, name="me/m")
    assert caught.value.field == "model.uri"
    assert said in str(caught.value) and str(model) not in str(caught.value)


def test_a_tensor_of_another_shape_is_refused(model):
    edit_tensors(model, lambda tensors: tensors.update({"class_predictor.bias": torch.zeros(99)}))
    with pytest.raises(RunError, match=r"class_predictor\.bias"):
        load_model(model, CPU)


def test_the_weights_of_the_loss_may_be_missing(model):
    edit_tensors(model, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("criterion")])
    load_model(model, CPU)


def test_pickled_weights_are_never_read(model):
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    with pytest.raises(RunError, match="does not load"):
        load_model(model, CPU)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_code_of_a_repository_is_never_run(model, file, tmp_path):
    proof = tmp_path / "was-run"
    (model / "evil.py").write_text(f"open({str(proof)!r}, 'w').write('x')\nclass Evil: pass\n")
    settings = json.loads((model / file).read_text())
    settings["auto_map"] = dict.fromkeys(("AutoConfig", "AutoModel", "AutoImageProcessor"), "evil.Evil")
    (model / file).write_text(json.dumps(settings))
    load_model(model, CPU)
    processor_pixel_values(model, torch.zeros((64, 64, 3), dtype=torch.uint8).numpy())
    assert not proof.exists()


def test_a_timm_backbone_loads_without_asking_for_pretrained_weights(tmp_path):
    pytest.importorskip("timm", reason="the extra timm is not installed")
    backbone = {"model_type": "timm_backbone", "backbone": "resnet10t", "out_indices": [1, 2, 3, 4]}
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=64,
        dim_feedforward=64,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=4,
        num_queries=5,
    )
    torch.manual_seed(0)
    theirs = Mask2FormerForUniversalSegmentation(config).eval()
    theirs.save_pretrained(tmp_path / "timm")
    values = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = theirs(pixel_values=values).masks_queries_logits
    _, mask_logits = forward(load_model(tmp_path / "timm", CPU), values).tensors
    assert torch.allclose(mask_logits, expected, atol=1e-4)


def test_a_package_that_a_backbone_needs_is_named(monkeypatch, model):
    def without_timm(*arguments, **options):
        raise ModuleNotFoundError("TimmBackbone requires the timm library")

    monkeypatch.setattr(Mask2FormerForUniversalSegmentation, "from_pretrained", without_timm)
    with pytest.raises(RunError, match=r"requires the timm library.*pip install 'm2f-batch\[timm\]'"):
        load_model(model, torch.device("cpu"))


@pytest.mark.slow
def test_compiled_or_not_is_an_option_of_loading():
    assert type(load_model(DEMO_MODEL, CPU, compile_model=True)).__name__ == "OptimizedModule"


def test_a_compiled_model_keeps_its_code_for_later_processes(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that whatever comes after is undone
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    load_model(DEMO_MODEL, CPU, compile_model=True)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / ".cache" / "m2f-batch" / "inductor")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "elsewhere"))
    load_model(DEMO_MODEL, CPU, compile_model=True)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "elsewhere")


def test_the_module_of_transformers_can_be_had():
    plain = load_model(DEMO_MODEL, CPU, fast=False)
    assert isinstance(plain, OriginalPredictor) and isinstance(plain.model, Mask2FormerForUniversalSegmentation)
    values = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for a, b in zip(
        forward(plain.double(), values).tensors,
        forward(load_model(DEMO_MODEL, CPU).double(), values).tensors,
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-9)
