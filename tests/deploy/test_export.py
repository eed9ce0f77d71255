"""Exported models in processes of their own: onnxruntime without torch, torch without wilson, a folder of the Hub's layout."""
from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import environment
from PIL import Image

import wilson as workbench
from wilson.cli.command import main
from wilson.core.errors import InputError
from wilson.data.batches import normalize
from wilson.deploy.formats import export_step
from wilson.engine.checkpoint import save_weights
from wilson.run.opened import open_step

SIZES = ((96, 96), (75, 140))
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)

sys.meta_path.insert(0, Blocked())
"""
ONNX = BLOCKED.format(blocked=("torch", "torchvision", "wilson", "onnx")) + """
import json
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
facts = session.get_modelmeta().custom_metadata_map
for n in range(2):
    ids, scores = session.run(None, {"image": np.load(f"image{n}.npy")})
    np.savez(f"onnx{n}.npz", ids=ids, scores=scores)
print(json.dumps({name: json.loads(facts[name]) for name in ("names", "ids", "colors")}))
assert "torch" not in sys.modules
"""
TORCH = BLOCKED.format(blocked=("wilson", "torchvision")) + """
import json
import numpy as np
import torch

extra = {"wilson.json": ""}
program = torch.export.load("model.pt2", extra_files=extra).module()
for n in range(2):
    ids, scores = program(torch.from_numpy(np.load(f"image{n}.npy")))
    np.savez(f"torch{n}.npz", ids=ids.numpy(), scores=scores.numpy())
facts = json.loads(extra["wilson.json"])
print(json.dumps({name: facts[name] for name in ("names", "ids", "colors")}))
"""


@pytest.fixture(scope="module")
def trained(tiny_run, tmp_path_factory):
    "A step whose classifier has random weights: after one epoch a run predicts the background alone."
    root = tmp_path_factory.mktemp("export") / "root"
    shutil.copytree(tiny_run, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        step, = (p.parent for p in root.glob("runs/*/wilson-*/step1/config.json"))
        opened = open_step(step, with_old=False)
        torch.manual_seed(2)
        for group in opened.segmenter.cls.groups:
            torch.nn.init.normal_(group.weight)
            torch.nn.init.zeros_(group.bias)
        save_weights(step / "weights.safetensors", opened.segmenter, opened.localizer, opened.step)
        photo = np.asarray(Image.open(next(root.glob("data/few/JPEGImages/val_*"))))
        for n, (height, width) in enumerate(SIZES):
            np.save(root / f"image{n}.npy", np.ascontiguousarray(np.resize(photo, (height, width, 3))))
        yield step, root


def expected(step, root) -> list[tuple[np.ndarray, np.ndarray]]:
    "The run's ids, and the softmax of its segmenter, of each image."
    run, opened = workbench.load_run(step), open_step(step, with_old=False)
    found = []
    for n in range(len(SIZES)):
        image = np.load(root / f"image{n}.npy")
        ids = run.predict(image)
        assert len(np.unique(ids)) > 1, "an image of one class shows nothing"
        with torch.no_grad():
            logits = opened.segmenter(normalize(torch.from_numpy(image).permute(2, 0, 1)[None])).logits
        full = torch.nn.functional.interpolate(logits, ids.shape, mode="bilinear", align_corners=False)[0]
        found.append((ids, full.softmax(0).numpy()))
    return found


@pytest.mark.parametrize("form, file, script, name", [("onnx", "model.onnx", ONNX, "onnx"), ("torch-export", "model.pt2", TORCH, "torch")])
def test_exported_file_agrees_with_the_segmenter(trained, form, file, script, name):
    step, root = trained
    export_step(step, file, form)
    free = {n: v for n, v in environment().items() if n != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-P", "-c", script], cwd=root, env=free, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    opened = open_step(step, with_old=False)
    assert facts == {"names": [*opened.step.names], "ids": [0, *opened.step.ids], "colors": [[*c] for c in opened.step.colours]}
    for n, (ids, scores) in enumerate(expected(step, root)):
        found = np.load(root / f"{name}{n}.npz")
        assert found["ids"].dtype == np.uint8 and (found["ids"] == ids).mean() > 0.999
        np.testing.assert_allclose(found["scores"], scores, atol=1e-4)


def test_command(trained, capsys):
    "`wilson export RUN --format …` writes under runs/exports, twice without a question; the run is named as in the list."
    step, root = trained
    name = "/".join(step.parts[-3:-1])
    for form, ending in (("checkpoint", ".pth"), ("pretrained", "")):
        for _ in range(2):
            assert main(["export", name, "--format", form]) == 0
            written = capsys.readouterr().out.splitlines()[-1]  # a line before it says which programs read a checkpoint
            assert written == f"runs/exports/{name.replace('/', '-')}-step1{ending}" and (root / written).exists()
    assert main(["export", name, "--format", "onx"]) == 2
    assert "Did you mean 'onnx'?" in capsys.readouterr().err


def test_folder_of_the_hub(trained, monkeypatch):
    "A written folder is read back without the network; the id of a model is asked of huggingface_hub; damage is named."
    huggingface_hub = pytest.importorskip("huggingface_hub")
    step, root = trained
    folder = workbench.load_run(step).save_pretrained("shared/model")
    images = [np.load(root / f"image{n}.npy") for n in range(2)]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **more: str(folder) if name == "someone/model" else 1 / 0)
    for place in ("shared/model", folder, "someone/model"):
        segmenter = workbench.Segmenter.from_pretrained(place, device="cpu")
        for image, (ids, scores) in zip(images, expected(step, root)):
            assert (segmenter.predict(image) == ids).all()
            np.testing.assert_allclose(segmenter.scores(image), scores, atol=1e-6)
    with pytest.raises(InputError, match="download from the Hugging Face Hub failed: division by zero"):
        workbench.Segmenter.from_pretrained("someone/else")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"]["1"] == segmenter.facts.names[1] and config["label2id"]["background"] == 0
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: \"wilson\"\npipeline_tag: \"image-segmentation\"") and "| mean IoU, % |" in card
    for change, message in ((dict(backbone="my.py:Mine"), "whose code is not in the folder"), (dict(backbone="vgg"), "is not known"),
                            (dict(classes_per_step=[2, 9]), "expected the same number of classes"), (dict(backbone="mobilenet_v2", output_stride=16), "does not fit the network")):
        (folder / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
        with pytest.raises(InputError, match=message):
            workbench.Segmenter.from_pretrained(folder, device="cpu")


def test_backbone_of_fixed_size_is_refused(trained, monkeypatch):
    "A network that reads the size of its input is named with what torch.export says of it, and nothing is written."
    step, root = trained
    from wilson.models.segmenter import Segmenter
    forward = Segmenter.__dict__["forward"]
    monkeypatch.setattr("wilson.deploy.graph.pool_and_pad", lambda features, side: features + features.new_ones(features.shape[-2:]).cpu().numpy().sum())
    with pytest.raises(InputError, match="cannot be exported as torch-export for images of any size"):
        export_step(step, "fixed.pt2", "torch-export")
    assert not (root / "fixed.pt2").exists() and Segmenter.__dict__["forward"] is forward
