"""The proxy dss against an independent slow version and closed forms; every proxy on a vision transformer."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from archscout.probe import NotDefined, Probe
from archscout.proxies import DEFAULT, PROXIES
from archscout.proxies.dss import projections
from archscout.scoring import score
from archscout.spaces.vit import VisionTransformer, vit
from archscout.testing import tiny_network, tiny_transformer

_spec = importlib.util.spec_from_file_location("vit_plain", Path(__file__).parent / "reference" / "vit_plain.py")
plain = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(plain)


def batches(n: int = 6, size: int = 8, channels: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = torch.Generator().manual_seed(5)
    return [
        (torch.randn(n, channels, size, size, generator=rng), torch.randint(4, (n,), generator=rng)) for _ in range(2)
    ]


def value(name: str, model: nn.Module, data=None) -> float:
    return PROXIES[name].compute(Probe(model, data or batches(), needs=PROXIES[name].needs))


def network(text: str, shape: tuple[int, int, int] = (3, 8, 8), classes: int = 4, seed: int = 0) -> nn.Module:
    space = vit(shape, classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return space.build(space.parse(text))


# --- dss -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_dss_equals_the_slow_version(seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VisionTransformer((1, 3, 2), 3, patch=2, width=5, layers=[(1, 2), (2, 1)])
    weights = {name: p.detach().double().numpy().copy() for name, p in model.named_parameters()}
    wanted = plain.dss(weights, (1, 3, 2), heads=[1, 2])
    found = value("dss", model, [(torch.zeros(2, 1, 3, 2), torch.zeros(2, dtype=torch.int64))])
    assert found == pytest.approx(wanted, rel=1e-5)


class LinearAttention(nn.Module):
    """Attention in name, with two heads in name, that is one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 2
        self.layer = nn.Linear(12, 7, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_dss_of_two_linear_layers() -> None:
    """R = 1' |B| |A| 1: its derivative by A is the outer product of B's column sums and ones, of rank one."""
    model = nn.Sequential(nn.Flatten(), LinearAttention(), nn.Linear(7, 4, bias=False))
    a, b = (p.detach().double().abs().numpy() for p in model.parameters())
    diversity = np.linalg.norm(b.sum(0)) * math.sqrt(12) * np.linalg.svd(a, compute_uv=False).sum()
    found = value("dss", model, batches(size=2))
    assert found == pytest.approx(diversity + (b @ a).sum(), rel=1e-9)
    with torch.no_grad():
        model[1].layer.weight.neg_()
    assert value("dss", model, batches(size=2)) == found  # blind to signs


def test_dss_falls_when_attention_collapses() -> None:
    """A projection of rank one has a smaller nuclear norm than one of full rank with the same Frobenius norm."""
    model = nn.Sequential(nn.Flatten(), LinearAttention(), nn.Linear(7, 4, bias=False))
    full = value("dss", model, batches(size=2))
    with torch.no_grad():
        weight = model[1].layer.weight
        weight.fill_(float(weight.norm()) / math.sqrt(weight.numel()))
    assert float(torch.linalg.svdvals(model[1].layer.weight.detach())[1]) < 1e-5
    assert value("dss", model, batches(size=2)) < full


class Timm(nn.Module):
    """Attention as the timm library writes it: a packed layer and a projection."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads = 2
            self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.fc, self.num_heads = self.Attention(), nn.Linear(8, 8), 2


class Squeeze(nn.Module):
    """Attention over channels: no heads."""

    class ChannelAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.se = self.ChannelAttention()


def test_projections_are_found_in_other_libraries() -> None:
    vision = pytest.importorskip("torchvision")
    assert projections(Timm()) == {"attn.qkv.weight", "attn.proj.weight"}
    assert projections(Squeeze()) == projections(tiny_network()) == set()
    ours = projections(tiny_transformer())
    assert len(ours) == 2 * 4
    assert all(".attention." in name for name in ours)
    with torch.device("meta"):
        vit_b, swin = vision.models.vit_b_16(), vision.models.swin_t()
        assert projections(vision.models.mobilenet_v3_small()) == set()
    assert projections(vit_b) == {
        f"encoder.layers.encoder_layer_{n}.self_attention.{name}"
        for n in range(12)
        for name in ("in_proj_weight", "out_proj.weight")
    }
    assert len(projections(swin)) == 2 * 12
    assert not any("mlp" in name for name in projections(vit_b) | projections(swin))


class Torch(nn.Module):
    """A transformer layer of torch itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


def test_packed_projections_of_torch_have_their_gradient() -> None:
    """The packed query, key and value weights are a layer as others; their gradient is that of autograd."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Torch()
    (images, labels), _ = data = batches()
    found = {weight.name: weight for weight in Probe(model, data)["gradients@batch0"]}
    assert set(found) == {"embed.weight", "attention.in_proj_weight", "attention.out_proj.weight", "head.weight"}
    nn.functional.cross_entropy(model(images), labels).backward()
    packed = model.attention.in_proj_weight
    torch.testing.assert_close(found["attention.in_proj_weight"].gradient, packed.grad)
    assert packed.grad.abs().sum() > 0
    assert value("dss", model, data) > 0


def test_dss_without_attention_or_output_says_why() -> None:
    with pytest.raises(NotDefined, match="no attention"):
        value("dss", tiny_network())
    model = tiny_transformer()
    nn.init.zeros_(model.classifier.weight)
    with pytest.raises(NotDefined, match="last layer zero"):
        value("dss", model)


# --- every proxy on a transformer ------------------------------------------------------------------------------------

DEEP = "p1-w192-d12" + 12 * "-h6r4"


@pytest.mark.parametrize("name", PROXIES)
def test_every_proxy_has_a_score_or_a_named_reason(name: str) -> None:
    images, labels = (torch.cat(parts) for parts in zip(*batches(8), strict=True))
    found = score(network("p2-w64-d2-h2r2-h4r1"), images, labels, proxies=[name], batch_size=8)
    assert set(found) | set(found.failures) == {name}
    assert name not in found or math.isfinite(found[name])
    # A reason in plain words is a NotDefined; anything else starts with the kind of the error.
    why = found.failures.get(name, "")
    assert not re.match(r"[A-Z]\w*: |the score is", why), why


def test_the_default_proxies_have_scores_for_the_deepest_and_grow_with_depth() -> None:
    images, labels = (torch.cat(parts) for parts in zip(*batches(8), strict=True))
    growing = ("macs", "naswot", "zen", "synflow", "dss")
    proxies = list(dict.fromkeys([*DEFAULT, *growing]))
    deep, shallow = (
        score(network(text), images, labels, proxies=proxies, batch_size=8) for text in (DEEP, "p1-w192-d2-h6r4-h6r4")
    )
    assert not deep.failures
    assert not shallow.failures
    for name in growing:
        assert deep[name] > shallow[name]


def test_synflow_of_a_transformer_counts_paths() -> None:
    """With even attention the value, output and MLP weights are a chain; queries and keys are on no path."""
    model = network("p2-w64-d2-h2r1-h2r1")
    found = value("synflow", model)
    with torch.no_grad():
        for layer in model.layers:
            layer.attention.query.weight.mul_(5)
            layer.attention.key.weight.mul_(-3)
    assert value("synflow", model) == found
    with torch.no_grad():
        model.classifier.weight.mul_(2)
    assert value("synflow", model) == pytest.approx(found + math.log(2), rel=1e-12)


def test_zen_reads_the_tokens_after_the_last_layer() -> None:
    """And not the patch embedding, the last map of the network: more layers move the tokens differently."""
    found = {text: value("zen", network(text)) for text in ("p2-w64-d2-h2r1-h2r1", "p2-w64-d2-h2r1-h2r4")}
    assert len({round(score, 3) for score in found.values()}) == 2


def test_naswot_counts_the_signs_of_gelu() -> None:
    model, data = network("p2-w64-d2-h2r1-h4r2"), batches()
    signs = []
    for layer in model.layers:
        layer.mlp[1].register_forward_hook(lambda module, inputs, output: signs.append(inputs[0] > 0))
    model(data[0][0])
    kernel = np.zeros((6, 6))
    for on in (s.flatten(1).numpy() for s in signs):
        for i in range(6):
            for j in range(6):
                kernel[i, j] += (on[i] == on[j]).sum()
    assert value("naswot", model, data) == pytest.approx(np.linalg.slogdet(kernel)[1], rel=1e-6)
