"""Transformer backbones of timm: trained end to end, opened again, at any size; their files of weights."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import QUICK, QUICK_PARAMETERS
from PIL import Image
from safetensors.torch import save_file

import wilson
from wilson.cli.command import main
from wilson.core.errors import InputError
from wilson.data.batches import Batch
from wilson.methods.wilson import Wilson
from wilson.models.backbones import Timm
from wilson.models.pretrained import find_pretrained, load_pretrained
from wilson.models.segmenter import freeze, grow, make_segmenter
from wilson.models.synchronized_norms import local_norms

timm = pytest.importorskip("timm", reason="timm does not import")
pytest.importorskip("tiny_timm")  # its networks have names in timm from here on


@pytest.mark.parametrize("model, stride", [("test_vit", 16), ("wilson_tiny_dinov2", 8), ("wilson_tiny_sam", 8),
                                           ("wilson_tiny_swin", 16), ("test_convnext", 16)])
def test_a_weak_step_teaches_every_weight(model, stride):
    "Forward and backward of WILSON's losses on images that the stride does not divide, then a plain prediction."
    before = make_segmenter(f"timm:{model}", [3], stride, 64, 32, (1, 2, 3), norm="plain")
    method = Wilson(grow(before, 2), before, norm="plain", pseudo_epoch=0)
    batch = Batch(torch.randn(2, 3, 72, 90), None, torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 1]]), ["a", "b"])
    losses = method.losses(batch, 1)
    assert {"classification", "prior", "features", "segmentation", "self"} == losses.keys()
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.segmenter.parameters())
    with local_norms(method), torch.no_grad():
        out = freeze(method.segmenter)(torch.randn(1, 3, 41, 33))
    assert out.logits.shape[-2:] == (-(-41 // stride), -(-33 // stride)) and out.logits.isfinite().all()


def test_both_steps_are_trained_and_opened_again(root, capsys):
    "The shapes preset asks for stride 8 of a network with patches of 16; predictions, maps and scores of another rule work."
    run = wilson.train(**{**QUICK_PARAMETERS, "backbone": "timm:test_vit"})
    assert "Backbone timm:test_vit: Its patches have 16 pixels and output_stride=8" in capsys.readouterr().out
    for height, width in [(50, 77), (96, 33)]:
        photo = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
        assert run.predict(photo).shape == (height, width)
        assert run.predict(Image.fromarray(photo)).max() < 21
    maps = run.maps("val_00003")
    assert all(maps[name].shape[-2:] == (96, 96) for name in ("target", "hard mask", "CAM", "refined"))
    assert run.what_if(alpha=0.1) is not None
    assert wilson.load_run(run.path).predict(photo).shape == (96, 33)


def test_weights_from_a_file_of_another_size_and_wrong_files(root, capsys):
    "Positions are interpolated; a file of another network is refused with its name."
    backbone, folder = Timm("wilson_tiny_dinov2"), root / "pretrained"
    folder.mkdir(exist_ok=True)
    network = backbone.build("plain", 16)
    state = {n.removeprefix("features."): t.clone() + 1 for n, t in network.state_dict().items()}
    state["pos_embed"] = torch.ones(1, 49, 24)
    save_file(state | {"head.weight": torch.zeros(10, 24)}, folder / "timm_wilson_tiny_dinov2.safetensors")
    load_pretrained(network, backbone, find_pretrained(backbone, folder))
    torch.testing.assert_close(network.features.pos_embed, torch.ones(1, 25, 24))
    assert torch.equal(network.features.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])
    other = {n.removeprefix("features."): t for n, t in Timm("wilson_tiny_sam").build("plain", 16).state_dict().items()}
    for name, wrong in [("sam", other), ("wide", {n: torch.cat([t, t]) if t.dim() else t for n, t in state.items()}),
                        ("nan", state | {"norm.weight": torch.full((24,), torch.nan)})]:
        save_file({n: t.contiguous() for n, t in wrong.items()}, folder / f"{name}.safetensors")
        with pytest.raises(InputError, match=f"{name}.safetensors"):
            load_pretrained(backbone.build("plain", 16), backbone, folder / f"{name}.safetensors")
    assert main(["train", *QUICK, "--backbone", "timm:test_vit", "--step", "0", "--pretrained", "pretrained/sam.safetensors"]) == 2
    assert "sam.safetensors" in capsys.readouterr().err
    assert main(["train", *QUICK, "--backbone", "timm:test_vit_relpos", "--step", "0"]) == 2
    assert "images of any size" in capsys.readouterr().err
