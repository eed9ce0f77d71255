"""The models floor against the published implementation's outputs and against naive computations.

What the notebooks prove on small examples is not repeated; here stand the parity of whole networks,
training mode of head and localizer, and weights of both signs.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from model_states import relative, tensor_for
from torch.nn import functional as F

from wilson.models.backbones import BACKBONES, make_backbone
from wilson.models.localizer import Localizer, pool_class_scores
from wilson.models.norms import ABN, inplace_available
from wilson.models.pretrained import find_pretrained, load_pretrained
from wilson.models.segmenter import DeepLabHead, freeze, grow, make_segmenter, parameter_groups
from wilson.models.wider_resnet import WIDER_38, WiderResNet

SHARED = Path(__file__).resolve().parents[3] / "shared"
FIXTURES = ["shared_model_resnet50", "shared_model_resnet50_small_pool"]
needs_inplace = pytest.mark.skipif(not inplace_available(), reason="inplace_abn does not import")


@pytest.fixture(autouse=True)
def one_thread():
    "Small maps: more threads only wait for each other."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def published(key):
    "The published implementation calls the backbone `body`."
    return f"body.{key[9:]}" if key[:9] == "backbone." else key


def load_published(module, keys):
    "Load every published key into `module`, strictly: no key missing, none left over."
    own = module.state_dict()
    assert [published(key) for key in own] == [str(key) for key in keys]
    state = {key: torch.from_numpy(np.asarray(tensor_for("module." + published(key), tuple(own[key].shape)),
                                              dtype=np.float32))
             if own[key].is_floating_point() else own[key] for key in own}
    module.load_state_dict(state)
    return module.eval()


def mixed_signs(module):
    "Give every ABN weights of both signs, biases and running statistics of its own."
    with torch.no_grad():
        for norm in module.modules():
            if hasattr(norm, "running_var"):
                norm.weight.normal_()
                norm.bias.normal_(std=0.3)
                norm.running_mean.normal_(std=0.1)
                norm.running_var.uniform_(0.5, 2)
    return module


def naive_abn(norm, x, activation="leaky_relu"):
    "ABN in training mode, from its formula."
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    scale, shift = (t.detach().view(1, -1, 1, 1) for t in (norm.weight, norm.bias))
    y = (x - mean) / (var + 1e-5).sqrt() * (scale.abs() + 1e-5) + shift
    return torch.where(y > 0, y, 0.01 * y) if activation == "leaky_relu" else y


# ---- parity -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize("norm", ["plain", pytest.param("inplace", marks=needs_inplace)])
def test_published_outputs(name, norm):
    path = SHARED / "parity" / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"parity fixture {path.name} is not there: it is not part of the repository")
    with np.load(path) as file:
        fixture = dict(file)
    segmenter = make_segmenter(str(fixture["backbone"]), fixture["classes"].tolist(),
                               int(fixture["output_stride"]), int(fixture["crop"]), norm=norm)
    localizer = Localizer(segmenter.backbone.channels, sum(segmenter.classes), norm=norm)
    load_published(segmenter, fixture["keys"])
    load_published(localizer, fixture["localizer_keys"])
    with torch.no_grad():
        out = segmenter(torch.from_numpy(fixture["image"]))
        maps = localizer(out.features)
    errors = {
        "logits": relative(out.logits, fixture["logits"]),
        "localizer_logits": relative(maps, fixture["localizer_logits"]),
        "pre_logits": relative(out.embedding, fixture["pre_logits"]),
        "body_mean": relative(out.features.mean((-2, -1)), fixture["body_mean"]),
    }
    print(name, norm, {key: f"{value:.1e}" for key, value in errors.items()})
    assert max(errors.values()) < 1e-4, errors


def test_real_imagenet_weights():
    path = SHARED / "pretrained" / "mobilenet_v2_imagenet_features.pt"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there: it is not part of the repository")
    backbone = make_backbone("mobilenet_v2")
    load_pretrained(backbone, BACKBONES["mobilenet_v2"], path)
    stored = torch.load(path, weights_only=True)
    assert set(stored) == set(backbone.state_dict())
    assert all(torch.equal(stored[key], value) for key, value in backbone.state_dict().items())


def test_resnet101_has_the_same_names():
    state = make_backbone("resnet101", 8, "plain").state_dict()
    blocks = {key.split(".convs")[0] for key in state if ".convs." in key}
    assert len(blocks) == 3 + 4 + 23 + 3 and "mod4.block23" in blocks
    assert {key.split(".", 2)[-1] for key in state if "block1." in key} == {
        f"{part}.{name}" for part in ("convs.bn1", "convs.bn2", "convs.bn3", "proj_bn")
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    } | {"convs.conv1.weight", "convs.conv2.weight", "convs.conv3.weight", "proj_conv.weight"}


def published_wider_states():
    "Names and shapes of a published WiderResNet-38-A2, written down without our modules."
    def abn(name, channels):
        return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")
                } | {f"{name}.num_batches_tracked": ()}

    states, before = {"mod1.conv1.weight": (64, 3, 3, 3)}, 64
    for module, blocks, widths in [
            (2, 3, [128, 128]), (3, 3, [256, 256]), (4, 6, [512, 512]), (5, 3, [512, 1024]),
            (6, 1, [512, 1024, 2048]), (7, 1, [1024, 2048, 4096])]:
        for block in range(1, blocks + 1):
            name, kernels = f"mod{module}.block{block}", (3, 3) if len(widths) == 2 else (1, 3, 1)
            states |= abn(f"{name}.bn1", before)
            for i, (width, kernel, given) in enumerate(zip(widths, kernels, [before, *widths]), 1):
                states |= {f"{name}.convs.conv{i}.weight": (width, given, kernel, kernel)}
                states |= abn(f"{name}.convs.bn{i}", given) if i > 1 else {}
            if block == 1:  # the width changes in the first block of every module
                states |= {f"{name}.proj_conv.weight": (widths[-1], before, 1, 1)}
            before = widths[-1]
    return states | abn("bn_out", 4096)


def test_wider_resnet_has_the_published_states():
    with torch.device("meta"):  # 105 M parameters, none of them needed
        state = make_backbone("wider_resnet38_a2", 8, "plain").state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == published_wider_states()


def test_wider_resnet_in_a_segmenter():
    with torch.device("meta"):
        segmenter = make_segmenter("wider_resnet38_a2", [3, 2], 8, crop_size=64, norm="plain").eval()
        localizer = Localizer(segmenter.backbone.channels, 5, norm="plain").eval()
        out = segmenter(torch.empty(2, 3, 65, 97))
        maps = localizer(out.features)
    assert out.features.shape == (2, 4096, 9, 13) and out.logits.shape == maps.shape == (2, 5, 9, 13)
    assert localizer[0].weight.shape == (256, 4096, 3, 3)
    assert [conv.dilation[0] for conv in segmenter.head.map_convs] == [1, 12, 24, 32]


# ---- backbones -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, stride, dilations", [
    ("resnet50", 16, (1, 1, 1, 2)), ("resnet50", 8, (1, 1, 2, 4)), ("resnet101", 16, (1, 1, 1, 2))])
def test_resnet_dilations(name, stride, dilations):
    backbone = make_backbone(name, stride, "plain")
    for i, dilation in enumerate(dilations):
        for block in getattr(backbone, f"mod{i + 2}"):
            assert block.convs.conv2.dilation == block.convs.conv2.padding == (dilation, dilation)
    assert (backbone.channels, backbone.output_stride) == (2048, stride)


def test_wider_resnet_dilations():
    with torch.device("meta"):
        backbone = make_backbone("wider_resnet38_a2", 8, "plain")
    for stage, stride, dilation, dropout in [
            (2, 1, 1, 0), (3, 1, 1, 0), (4, 2, 1, 0), (5, 1, 2, 0), (6, 1, 4, 0.3), (7, 1, 4, 0.5)]:
        for index, block in enumerate(getattr(backbone, f"mod{stage}")):
            convs = [m for m in block.convs if isinstance(m, torch.nn.Conv2d)]
            assert convs[0].stride[0] == (stride if index == 0 else 1)
            assert all(c.stride == (1, 1) for c in convs[1:])
            assert all(c.dilation[0] == c.padding[0] == dilation for c in convs if c.kernel_size == (3, 3))
            layers = [name for name, _ in block.convs.named_children()]
            assert (dropout > 0) == ("dropout" in layers)
            if dropout:
                assert layers.index("dropout") == len(layers) - 2 and block.convs.dropout.p == dropout


@needs_inplace
def test_wider_resnet_in_place_trains_alike():
    "Shortcuts survive an ABN that overwrites its input: the same features and gradients as plain."
    slim = [(n, tuple(c // 32 for c in widths), *rest) for n, widths, *rest in WIDER_38]
    backbones = [WiderResNet(slim, 4, norm) for norm in ("plain", "inplace")]
    mixed_signs(backbones[0])
    backbones[1].load_state_dict(backbones[0].state_dict())
    images, results = torch.randn(2, 3, 40, 40, dtype=torch.float64), []
    for backbone in backbones:
        torch.manual_seed(1)  # the same channels are dropped
        features = backbone.double()(images)
        features.square().mean().backward()
        results.append([features.detach(), *(p.grad for p in backbone.parameters())])
    for plain, inplace in zip(*results):
        assert relative(inplace, plain) < 1e-6


def test_timm_backbone_in_a_segmenter():
    pytest.importorskip("timm", reason="timm does not import")
    segmenter = make_segmenter("timm:resnet18", [3], 16, 64, 32, norm="plain")
    out = segmenter(torch.randn(2, 3, 64, 96))
    out.logits.square().mean().backward()
    assert out.logits.shape == (2, 3, 4, 6) and out.features.shape == (2, 512, 4, 6)
    assert all(p.grad is not None for p in segmenter.backbone.parameters())
    grown, images = grow(freeze(segmenter), 2).eval(), torch.randn(1, 3, 33, 50)
    torch.testing.assert_close(grown(images).logits[:, :3], segmenter(images).logits)


def test_first_known_file_is_found_and_loaded(tmp_path):
    "A torchvision file alone serves; beside an in-place ABN file the latter does."
    resnet50 = BACKBONES["resnet50"]
    torchvision_net, backbone = torchvision.models.resnet50(weights=None), make_backbone(resnet50, 16, "plain")
    torch.save(torchvision_net.state_dict(), tmp_path / "resnet50-0676ba61.pth")
    load_pretrained(backbone, resnet50, find_pretrained(resnet50, tmp_path))
    assert torch.equal(backbone.mod5.block3.convs.conv2.weight, torchvision_net.layer4[2].conv2.weight)
    published = {f"module.{k}": v + 1 for k, v in backbone.state_dict().items() if v.is_floating_point()}
    torch.save({"state_dict": published}, tmp_path / resnet50.weights[0].name)
    load_pretrained(backbone, resnet50, find_pretrained(resnet50, tmp_path))
    assert torch.equal(backbone.mod1.conv1.weight, published["module.mod1.conv1.weight"])


@pytest.mark.parametrize("name, stride", [
    ("resnet50", 8), ("mobilenet_v2", 16), ("shapes_net", 8), ("shapes_net", 4)])
def test_map_sizes(name, stride):
    backbone = make_backbone(name, stride, "plain").eval()
    for height, width in [(96, 96), (97, 130)]:
        with torch.no_grad():
            features = backbone(torch.randn(1, 3, height, width))
        expected = (1, backbone.channels, math.ceil(height / stride), math.ceil(width / stride))
        assert features.shape == expected and backbone.output_stride == stride


@pytest.mark.parametrize("name", BACKBONES)
def test_images_and_states_survive(name):
    "The pass leaves its input alone, in training as well (layers work in place)."
    backbone = make_backbone(name, norm="plain")
    images = torch.randn(2, 3, 64, 64)
    before = images.clone()
    backbone(images).sum().backward()
    assert torch.equal(images, before)
    assert all(p.grad is not None for p in backbone.parameters())


# ---- training mode, weights of both signs ------------------------------------------------------


def test_head_in_training():
    head = mixed_signs(DeepLabHead(12, 8, output_stride=16, pool_size=2, norm="plain"))
    x = torch.randn(3, 12, 9, 11)
    w = {name: p.detach() for name, p in head.named_parameters()}
    maps = torch.cat([F.conv2d(x, w["map_convs.0.weight"])] + [
        F.conv2d(x, w[f"map_convs.{i}.weight"], padding=d, dilation=d)
        for i, d in enumerate((6, 12, 18), 1)], 1)
    maps = F.conv2d(naive_abn(head.map_bn, maps), w["red_conv.weight"])
    pool = F.conv2d(x.flatten(2).mean(2)[..., None, None], w["global_pooling_conv.weight"])
    pool = F.conv2d(naive_abn(head.global_pooling_bn, pool), w["pool_red_conv.weight"])
    expected = naive_abn(head.red_bn, maps + pool.repeat(1, 1, 9, 11))
    assert relative(head(x).detach(), expected) < 1e-5


def test_localizer_in_training():
    localizer = mixed_signs(Localizer(6, 4, channels=8, norm="plain"))
    x = torch.randn(2, 6, 7, 5)
    w = {name: p.detach() for name, p in localizer.named_parameters()}
    y = naive_abn(localizer[1], F.conv2d(x, w["0.weight"], padding=1))
    y = naive_abn(localizer[3], F.conv2d(y, w["2.weight"], padding=1))
    expected = F.conv2d(y, w["4.weight"], w["4.bias"])
    assert relative(localizer(x).detach(), expected) < 1e-5


def test_negative_weight_equals_positive():
    "Only the size of an ABN's weight matters, and its gradient turns with the sign."
    x, found = torch.randn(4, 3, 5, 5), []
    for sign in (1, -1):
        norm = ABN(3)
        torch.nn.init.constant_(norm.weight, 0.7 * sign)
        y = norm(x)
        y.square().sum().backward()
        found.append((y.detach(), norm.weight.grad * sign))
    torch.testing.assert_close(found[0], found[1])


@needs_inplace
def test_inplace_network_trains_alike():
    "A training step of a whole segmenter, its ABNs in place and plain: the same gradients."
    nets = [make_segmenter("shapes_net", [3, 2], 8, 96, 16, (1, 2, 3), norm)
            for norm in ("plain", "inplace")]
    mixed_signs(nets[0])
    nets[1].load_state_dict(nets[0].state_dict())
    images, results = torch.randn(2, 3, 40, 40, dtype=torch.float64), []
    for net in nets:
        out = net.double()(images)
        loss = out.logits.square().mean() + out.features.mean() + out.embedding.square().mean()
        loss.backward()
        results.append([out.logits.detach(), *(p.grad for p in net.parameters())])
    for plain, inplace in zip(*results):
        assert relative(inplace, plain) < 1e-6
    for (key, plain), inplace in zip(nets[0].state_dict().items(), nets[1].state_dict().values()):
        torch.testing.assert_close(plain, inplace, msg=key)


def test_batch_of_one_names_the_remedy():
    segmenter = make_segmenter("shapes_net", [3], 8, 96, 16, (1, 2, 3), "plain")
    with pytest.raises(ValueError, match="batch size of at least 2"):
        segmenter(torch.randn(1, 3, 96, 96))
    assert segmenter.eval()(torch.randn(1, 3, 96, 96)).logits.shape == (1, 3, 12, 12)


def test_half_precision():
    segmenter = make_segmenter("shapes_net", [3], 8, 96, 16, (1, 2, 3), "plain")
    with torch.autocast("cpu", torch.bfloat16):
        out = segmenter(torch.randn(2, 3, 96, 96))
        loss = pool_class_scores(out.logits).float().mean()
    loss.backward()
    gradients = [p.grad for p in segmenter.backbone.parameters()]
    assert torch.isfinite(loss) and all(torch.isfinite(grad).all() for grad in gradients)


# ---- growing ------------------------------------------------------------------------------------


def tiny(classes=(4,)):
    return make_segmenter("shapes_net", classes, 8, 64, 16, (1, 2, 3), "plain")


@pytest.mark.parametrize("classes, new", [((4,), 1), ((4,), 5), ((3, 2), 2)])
def test_balanced_growth_shares_the_background(classes, new):
    old = freeze(tiny(classes))
    grown, x = grow(old, new, balanced=True).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before, after = old(x).logits.softmax(1), grown(x).logits.softmax(1)
    known = sum(classes)
    assert grown.classes == (*classes, new) and after.shape[1] == known + new
    torch.testing.assert_close(after[:, 1:known], before[:, 1:])
    for index in [0, *range(known, known + new)]:
        torch.testing.assert_close(after[:, index], before[:, 0] / (new + 1))


def test_growth_is_independent_and_trainable():
    old = freeze(tiny())
    before = {key: value.clone() for key, value in old.state_dict().items()}
    grown = grow(old, 2)
    assert grown.training and all(p.requires_grad for p in grown.parameters())
    assert not old.training and not any(p.requires_grad for p in old.parameters())
    state = grown.state_dict()
    assert all(torch.equal(state[key], value) for key, value in before.items())
    assert set(state) - set(before) == {"cls.1.weight", "cls.1.bias"}
    optimizer = torch.optim.SGD(parameter_groups(grown, 0.1, 10))
    grown(torch.randn(2, 3, 64, 64)).logits.square().mean().backward()
    optimizer.step()
    assert all(torch.equal(old.state_dict()[key], value) for key, value in before.items())
    assert not torch.equal(grown.state_dict()["cls.0.weight"], before["cls.0.weight"])
