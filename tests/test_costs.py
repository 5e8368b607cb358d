"""Traced costs against hand counts, torch's own counter and a brute-force search for live tensors; limits and units."""

from __future__ import annotations

import gc
import importlib.util
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import archscout.costs
from archscout.costs import COSTS, Cost, Trace, format_cost, measure, parse_limits, trace, violation
from archscout.costs.trace import Recorder, hollow
from archscout.deploy import bare_onnx
from archscout.errors import UserError
from archscout.spaces import SPACES

_spec = importlib.util.spec_from_file_location("onnx_memory", Path(__file__).parent / "reference" / "onnx_memory.py")
assert _spec
assert _spec.loader
onnx_memory = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(onnx_memory)


class Residual(nn.Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=inplace)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn(self.conv(x)) + x)


class Attention(nn.Module):
    """A patch transformer with functional operations only known to the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.qkv = nn.Linear(16, 48)
        self.mask = torch.zeros(4)
        self.out = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).chunk(3, -1)
        x = (q @ k.transpose(1, 2) / 4 + self.mask).softmax(-1) @ v
        return self.out(nn.functional.gelu(x).mean(1))


class Decides(nn.Module):
    """Cannot run without data, and draws from the global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum().item() > 1e9:
            return x
        return self.inner(x + 0 * torch.rand(1))


def test_chain_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 5),
    )
    traced = trace(model, (3, 16, 16))
    macs = 8 * 8 * 8 * 27, 128 * 5
    assert [op.kind for op in traced.ops] == ["conv", "bn", "relu", "pool", "linear"]
    assert traced.macs == sum(macs)
    assert traced.flops == sum(macs) + 512 * 2 + 512 + 128 * 4
    assert traced.params == (216 + 8) + 16 + (640 + 5)
    assert traced.weight_bytes == 4 * (traced.params + 16)
    # the image stays; a convolution's result and its normalised copy are alive together
    assert traced.peak_activation_bytes == 4 * (768 + 512 + 512)
    conv, pool, linear = traced.ops[0], traced.ops[3], traced.ops[4]
    assert (conv.inputs, conv.outputs, conv.weights, conv.kernel, conv.stride, conv.groups) == (768, 512, 224, 3, 2, 1)
    assert (conv.channels_in, conv.channels_out, conv.height, conv.width) == (3, 8, 8, 8)
    assert (pool.kernel, pool.stride, pool.height, linear.channels_in, linear.channels_out) == (2, 2, 4, 128, 5)


def test_residual_block_keeps_two_maps() -> None:
    one = 4 * 4 * 8 * 8
    assert trace(Residual(), (4, 8, 8)).peak_activation_bytes == 3 * one
    assert trace(nn.Sequential(nn.ReLU(), Residual()), (4, 8, 8)).peak_activation_bytes == 4 * one
    assert trace(nn.ReLU(), (4, 8, 8)).peak_activation_bytes == 2 * one
    assert trace(nn.ReLU(inplace=True), (4, 8, 8)).peak_activation_bytes == one
    assert trace(nn.Flatten(), (4, 8, 8)).peak_activation_bytes == one


def test_grouped_and_transposed_convolutions() -> None:
    assert trace(nn.Conv2d(8, 8, 5, padding=2, groups=8), (8, 6, 6)).macs == 36 * 8 * 25
    assert trace(nn.ConvTranspose2d(8, 4, 2, stride=2), (8, 6, 6)).macs == 36 * 8 * 4 * 4
    assert trace(nn.Conv2d(8, 8, 5, padding=2, groups=8), (8, 6, 6)).ops[0].groups == 8


def test_pools_by_hand() -> None:
    assert trace(nn.AvgPool2d(3, 1, 1), (2, 4, 4)).flops == 2 * 16 * 9
    assert trace(nn.AdaptiveAvgPool2d(1), (2, 8, 8)).flops == 2 * 81
    assert trace(nn.AdaptiveAvgPool2d(2), (2, 8, 8)).flops == 2 * 4 * 25
    assert trace(nn.AdaptiveAvgPool2d(1), (2, 8, 8)).ops[0].kernel == 8


@pytest.mark.filterwarnings("ignore")
def test_scripts_count_like_what_they_were_made_of() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    script = torch.jit.trace(model, torch.zeros(1, 3, 8, 8))
    assert measure(script, (3, 8, 8)) == measure(model, (3, 8, 8))


def test_attention_products_count() -> None:
    traced = trace(Attention(), (3, 8, 8))
    assert traced.macs == 4 * 48 * 16 + 4 * 16 * 48 + 2 * (4 * 4 * 16) + 16 * 3
    assert [op.kind for op in traced.ops if op.macs] == ["conv", "linear", "matmul", "matmul", "linear"]


def test_attention_in_one_call_counts_like_its_parts() -> None:
    class Call(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    class Parts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ x.transpose(2, 3) / 8**0.5).softmax(-1) @ x

    one, parts = trace(Call(), (2, 16, 8)), trace(Parts(), (2, 16, 8))
    assert one.macs == parts.macs == 2 * (2 * 16 * 16 * 8)
    assert one.flops == parts.flops == one.macs + 2 * 16 * 16
    # The input, the output and the normalisers, but no (tokens, tokens) map.
    assert one.peak_activation_bytes == 4 * (2 * (2 * 16 * 8) + 2 * 16)
    assert parts.peak_activation_bytes > one.peak_activation_bytes


class Live(TorchDispatchMode):
    """Looks through all objects after every operation for tensors with memory of their own."""

    def __init__(self, weights: set[int], image: torch.Tensor) -> None:
        super().__init__()
        self.weights, self.image, self.peak = weights, image, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.is_view:
            return result
        made = result if isinstance(result, tuple | list) else [result]
        storages = {}
        for tensor in (made[0], self.image, *(o for o in gc.get_objects() if type(o) is torch.Tensor)):
            if tensor.data_ptr():
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        self.peak = max(self.peak, sum(size for key, size in storages.items() if key not in self.weights))
        return result


MODELS = {
    "chain": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)), (3, 8, 8)),
    "inplace": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)), (3, 8, 8)),
    "residual": (lambda: nn.Sequential(Residual(), Residual(inplace=True), Residual()), (4, 8, 8)),
    "attention": (Attention, (3, 8, 8)),
    "mobilenet": (lambda: space_network("mobilenet", "r100-s8-d3e4w16x2-f3e2w16x1", (3, 16, 16)), (3, 16, 16)),
    "vit": (lambda: space_network("vit", "p2-w64-d2-h2r2-h4r1", (3, 16, 16)), (3, 16, 16)),
    "plain": (lambda: space_network("plain", "resnet8-w8", (3, 16, 16)), (3, 16, 16)),
}


def space_network(name: str, text: str, shape: tuple[int, int, int]) -> nn.Module:
    space = SPACES[name](shape, 4)
    return space.build(space.parse(text))


@pytest.mark.parametrize("name", MODELS)
def test_against_brute_force_and_torch(name: str) -> None:
    make, shape = MODELS[name]
    model = make().eval()
    traced = trace(model, shape)
    x = torch.zeros(1, *shape)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # it misses fused attention on CPUs
        model(x)
    assert 2 * traced.macs == counter.get_total_flops()
    live = Live({t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}, x)
    live.weights |= {t.untyped_storage().data_ptr() for t in vars(model).values() if isinstance(t, torch.Tensor)}
    gc.collect()
    gc.freeze()  # so that get_objects only finds what is made from here on
    try:
        with torch.no_grad(), live:
            model(x)
    finally:
        gc.unfreeze()
    assert traced.peak_activation_bytes == live.peak


SMALL_NETWORKS = {
    "mobilenet": ("r100-s8-d3e4w16x2-f3e2w16x1", (3, 16, 16)),
    "macro": ("12100211", (3, 32, 32)),
    "nasbench201": (
        "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|skip_connect~2|",
        (3, 8, 8),
    ),
}


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_int8_memory_is_that_of_the_exported_graph(name: str) -> None:
    """Liveness and weights counted anew on the ONNX graph, whose normalisations the exporter has folded."""
    text, shape = SMALL_NETWORKS[name]
    model = space_network(name, text, shape)
    ram, flash = onnx_memory.int8_bytes(bare_onnx(model, shape))
    traced = trace(model, shape)
    assert traced.ram_int8_bytes == ram
    assert traced.flash_int8_bytes == flash
    assert 4 * traced.ram_int8_bytes <= traced.peak_activation_bytes


def test_nothing_is_folded_over_a_second_reader() -> None:
    class Two(nn.Module):
        def __init__(self, both: bool) -> None:
            super().__init__()
            self.conv, self.relu, self.both = nn.Conv2d(2, 2, 1), nn.ReLU(), both

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return self.relu(x) + (x if self.both else 1.0)

    alone, both = trace(Two(False), (2, 4, 4)), trace(Two(True), (2, 4, 4))
    assert alone.folded == (1,)
    assert both.folded == ()
    assert (alone.ram_int8_bytes, both.ram_int8_bytes) == (2 * 32, 3 * 32)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_training_saves_is_what_autograd_saves(name: str) -> None:
    """Every tensor that torch packs for the backward pass, each memory once, without weights and statistics."""
    make, shape = MODELS[name]
    model = make()
    weights = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    packed: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        packed[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.train()(torch.randn(2, *shape))
    statistics = {key for key, t in packed.items() if t.dim() == 1 or (t.dim() == 3 and t.shape[-1] == 1)}
    kept = [t.untyped_storage().nbytes() // 2 for key, t in packed.items() if key not in weights | statistics]
    made: dict[int, object] = {}
    twin = hollow(model, made)
    recorder = Recorder(made.values())
    recorder.run(twin, torch.zeros(1, *shape, device="meta"))
    assert recorder.saved_bytes == sum(kept)


def test_training_memory_near_what_a_step_allocates() -> None:
    """The profiler's peak of a real step; kernels take work space that no count knows."""
    model = space_network("plain", "resnet14-w16", (3, 32, 32))
    counted = measure(model, (3, 32, 32), ["training_memory"])["training_memory"]
    measured = onnx_memory.step_bytes(model, (3, 32, 32), 64)
    assert 0.8 < measured / counted < 1.6


def test_a_network_that_needs_data_is_run() -> None:
    model = Decides()
    state = torch.random.get_rng_state()
    traced, inner = trace(model, (3, 8, 8)), trace(model.inner, (3, 8, 8))
    assert torch.equal(state, torch.random.get_rng_state())
    assert (traced.macs, traced.flops, traced.params) == (inner.macs, inner.flops, inner.params)
    known = ("conv", "bn", "relu", "pool", "linear")
    assert [op for op in traced.ops if op.kind in known] == list(inner.ops)


def test_the_model_stays_untouched() -> None:
    model = Residual()
    model.train()
    seen = []
    model.conv.register_forward_hook(lambda *call: seen.append(call))
    before = {name: (id(t), t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    first = trace(model, (4, 8, 8))
    assert trace(model, (4, 8, 8)) == first  # nothing is remembered that changes the answer
    assert not seen
    assert model.training
    assert model.bn.training
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert id(tensor) == before[name][0]
        assert torch.equal(tensor, before[name][1])
    with torch.device("meta"):
        bare = Residual()
    assert trace(bare, (4, 8, 8)) == first


def test_shared_modules_count_once_and_run_twice() -> None:
    conv = nn.Conv2d(4, 4, 1, bias=False)
    traced = trace(nn.Sequential(conv, nn.ReLU(), conv), (4, 3, 3))
    assert (traced.params, traced.macs) == (16, 2 * 9 * 16)


def test_errors_of_the_network_are_raised() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        trace(nn.Conv2d(3, 4, 1), (5, 8, 8))


def test_measure_and_registry() -> None:
    costs = measure(Residual(), (4, 8, 8))
    assert costs == {
        "memory": 4 * (144 + 16) + 3 * 1024,
        "ram_int8": 3 * 256,  # image, result of the convolution with its normalisation, sum with its activation
        "flash_int8": 144 + 8 * 4,
        # the image, what is normalised and the result of relu are kept; relu has gradients of its input and output
        "training_memory": 4 * (144 + 16) + 8 * 152 + 64 * (3 * 1024 + 2 * 1024),
        "params": 152,
        "macs": 64 * 144,
        "flops": 64 * 144 + 256 * 3,
    }
    own = Cost(lambda traced, profile: float(len(traced.ops)), unit="")
    assert list(measure(Residual(), (4, 8, 8), ["macs", own]).values()) == [64 * 144, 4]
    with pytest.raises(UserError, match="did you mean 'params'"):
        measure(Residual(), (4, 8, 8), ["parms"])
    with pytest.raises(UserError, match="profile"):
        measure(Residual(), (4, 8, 8), ["latency"])

    class Halves:
        def latency(self, traced: Trace) -> float:
            return traced.macs / 2

    assert measure(Residual(), (4, 8, 8), ["latency"], Halves()) == {"latency": 64 * 72.0}


def test_folder_and_registry_agree() -> None:
    files = {path.stem for path in Path(archscout.costs.__file__).parent.glob("*.py")}
    assert files - {"__init__", "cost", "trace", "limits"} == set(COSTS)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("latency=5ms", 5),
        ("latency=0.5s", 500),
        ("latency = 250 us", 0.25),
        ("latency=250µs", 0.25),
        ("latency=7", 7),
        ("memory=2MB", 2e6),
        ("memory=2MiB", 2 * 2**20),
        ("memory=300kB", 3e5),
        ("memory=1.5GB", 1.5e9),
        ("memory=64KiB", 65536),
        ("memory=100B", 100),
        ("params=300k", 3e5),
        ("params=1e6", 1e6),
        ("macs=30M", 3e7),
        ("flops=.5G", 5e8),
        ("energy=5mJ", 5),
        ("energy=0.2J", 200),
        ("energy=40uJ", 0.04),
        ("energy=2KJ", 2e6),
        ("power=2W", 2),
        ("power=800mW", 0.8),
        ("ram_int8=256KB", 256_000),
        ("ram_int8=256KiB", 262_144),
        ("flash_int8=1MB", 1e6),
        ("training_memory=2GB", 2e9),
    ],
)
def test_limits(text: str, value: float) -> None:
    name, _, right = text.partition("=")
    assert parse_limits([text]) == {name.strip(): pytest.approx(value, rel=1e-12)}
    assert parse_limits({name.strip(): right}) == parse_limits([text])
    assert parse_limits({name.strip(): value}) == parse_limits([text])


@pytest.mark.parametrize(
    "wrong",
    ["latency", "latency=", "latency=5 kB", "latency=-1ms", "latency=0", "latency=nan", "latency=1e999", "memory=5ms",
     "memory=two", "params=3x", "=5", "params=1_000", "macs=5,5M", 5],
)  # fmt: skip
def test_malformed_limits_say_what_to_type(wrong: str) -> None:
    with pytest.raises(UserError, match=r"type (for example|a limit like) \w+=\d"):
        parse_limits([wrong])


def test_units_of_another_cost_are_listed() -> None:
    with pytest.raises(UserError, match=r"with uJ, mJ, J or kJ, type for example energy=5mJ"):
        parse_limits(["energy=5kWh"])
    with pytest.raises(UserError, match=r"B, kB, MB, GB, KiB, MiB or GiB, type for example ram_int8=256kB"):
        parse_limits(["ram_int8=256ms"])
    with pytest.raises(UserError, match=r"mW, W or kW, type for example power=2W"):
        parse_limits(["power=2mJ"])


@pytest.mark.parametrize("wrong", ["energy=1MJ", "power=1MW", "latency=1Ms"])
def test_mega_is_not_milli(wrong: str) -> None:
    """A billion times too much or too little is no matter of capital letters."""
    with pytest.raises(UserError, match="is no limit"):
        parse_limits([wrong])


def test_energy_is_latency_times_power_without_energies() -> None:
    class Steady:
        power = 3.0

        def latency(self, traced: Trace) -> float:
            return 2.0

        def energy(self, traced: Trace) -> float:
            return 6.0

    assert measure(Residual(), (4, 8, 8), ["energy", "power"], Steady()) == {"energy": 6.0, "power": 3.0}
    with pytest.raises(UserError, match="needs the profile of a device"):
        measure(Residual(), (4, 8, 8), ["energy"])


def test_other_limits() -> None:
    assert parse_limits(None) == parse_limits([]) == parse_limits({}) == {}
    for wrong in ({"latency": True}, {"latency": None}, {"latency": float("inf")}, {"params": [1]}):
        with pytest.raises(UserError, match="type for example"):
            parse_limits(wrong)
    with pytest.raises(UserError, match="did you mean 'latency'"):
        parse_limits(["latncy=5ms"])
    with pytest.raises(UserError, match="twice"):
        parse_limits(["latency=5ms", "latency=6ms"])


def test_violation() -> None:
    assert violation({"latency": 5.0, "params": 10.0}, {"latency": 5.0}) == 0
    assert violation({"latency": 6.0, "memory": 10.0}, {"latency": 5.0, "memory": 4.0}) == pytest.approx(0.2 + 1.5)
    with pytest.raises(KeyError):
        violation({}, {"latency": 5.0})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("latency", 4.2123, "4.21 ms"),
        ("latency", 0.05, "50 us"),
        ("latency", 1500, "1.5 s"),
        ("memory", 1_300_000, "1.3 MB"),
        ("memory", 12, "12 B"),
        ("params", 272_474, "272 k"),
        ("params", 999_600, "1 M"),
        ("macs", 0, "0"),
        ("flops", 2.2e8, "220 M"),
        ("own", 1234.5, "1234"),
        ("energy", 5.0, "5 mJ"),
        ("energy", 0.04, "40 uJ"),
        ("energy", 2.5e6, "2.5 kJ"),
        ("power", 0.05, "50 mW"),
        ("power", 12, "12 W"),
        ("ram_int8", 262_144, "262 kB"),
    ],
)
def test_format_cost(name: str, value: float, text: str) -> None:
    assert format_cost(name, value) == text


@given(st.sampled_from(["latency", "memory", "params", "macs"]), st.floats(1e-3, 1e11))
def test_what_is_shown_can_be_typed(name: str, value: float) -> None:
    shown = parse_limits([f"{name}={format_cost(name, value)}"]) if value >= 1 or name == "latency" else {name: value}
    assert shown[name] == pytest.approx(value, rel=6e-3)
