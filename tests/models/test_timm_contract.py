"""Requirements of timm on a backbone (its own model tests), and of torch.fx, torch.export and torch.compile."""

import importlib

import pytest
import timm
import torch
from models.published_sizes import PUBLISHED
from timm.optim import param_groups_layer_decay
from torch.fx.experimental.proxy_tensor import make_fx

import dat_train.models
from dat_train.models.legacy_names import current_arguments

NAMES = [
    "dat_nano", "dat_tiny", "dat_small", "dat_base", "dat_base_384",
    "datp_tiny", "datpp_tiny", "datpp_small", "datpp_base", "datpp_base_384",
]  # fmt: skip
SMALL = ["dat_nano", "dat_tiny", "datpp_tiny"]  # one of each kind


def meta(name, **kwargs):
    """The model without its memory: shapes and names only."""
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


def images(model, size=None, batch=1):
    size = size or (64 if max(model.pretrained_cfg["input_size"]) > 64 else 32)
    return torch.randn(batch, model.in_chans, size, size)


def test_all_names_are_registered():
    assert set(NAMES) <= set(timm.list_models("dat*"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_macs_are_the_published_ones(name):
    model = meta(name)
    parameters, macs = PUBLISHED[name]
    size = model.pretrained_cfg["input_size"][1]
    assert dat_train.models.count_parameters(model) == parameters
    assert round(dat_train.models.count_macs(model, size) / 1e9, 2) == macs


def test_nano_stays_under_a_million_and_a_half_parameters():
    assert dat_train.models.count_parameters(meta("dat_nano", num_classes=10)) < 1_500_000


@pytest.mark.parametrize("name", NAMES)
def test_default_configuration_agrees_with_the_model(name):
    model = meta(name)
    cfg = model.pretrained_cfg
    names = dict(model.named_parameters())
    assert f"{cfg['classifier']}.weight" in names and f"{cfg['first_conv']}.weight" in names
    features = model.forward_features(torch.empty(1, *cfg["input_size"], device="meta"))
    assert features.shape[-2:] == cfg["pool_size"] and features.shape[1] == model.num_features
    assert model.forward_head(features).shape == (1, cfg["num_classes"])


@pytest.mark.parametrize("name", SMALL)
def test_the_classifier_can_be_left_out_replaced_and_unpooled(name):
    model = timm.create_model(name, num_classes=0).eval()
    x = images(model)
    assert model(x).shape == (1, model.num_features)
    model.reset_classifier(5)
    assert model.get_classifier().out_features == 5 and model.num_classes == 5
    assert model(x).shape == (1, 5)
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (1, model.num_features)
    model.reset_classifier(0, "")
    assert model(x).ndim == 4 and torch.equal(model(x), model.forward_features(x))


def test_global_pool_is_taken_at_creation():
    model = timm.create_model("dat_nano", num_classes=3, global_pool="max").eval()
    x = images(model)
    pooled = model.forward_features(x).amax((2, 3))
    assert torch.allclose(model.forward_head(model.forward_features(x), pre_logits=True), pooled)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name):
    model = timm.create_model(name, num_classes=42).train()
    out = model(images(model, batch=2))
    assert out.shape == (2, 42)
    out.mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_channel_counts(in_chans):
    model = timm.create_model("dat_nano", in_chans=in_chans, num_classes=2).eval()
    assert model(torch.randn(1, in_chans, 32, 32)).shape == (1, 2)


@pytest.mark.parametrize("name", SMALL)
def test_features_only_gives_a_pyramid(name):
    model = timm.create_model(name, features_only=True).eval()
    info = model.feature_info
    x = torch.randn(2, 3, 64, 96)
    maps = model(x)
    assert len(maps) == 4
    for y, channels, reduction in zip(maps, info.channels(), info.reduction(), strict=True):
        assert y.shape == (2, channels, 64 // reduction, 96 // reduction)
    two = timm.create_model(name, features_only=True, out_indices=(1, 3)).eval()
    assert [y.shape[1] for y in two(x)] == [info.channels()[1], info.channels()[3]]


@pytest.mark.parametrize("name", SMALL)
def test_intermediates_are_the_features_on_the_way(name):
    model = timm.create_model(name).eval()
    x = images(model)
    with torch.no_grad():
        final, all_four = model.forward_intermediates(x)
        assert torch.equal(final, model.forward_features(x))
        last_two = model.forward_intermediates(x, indices=2, intermediates_only=True)
        assert [torch.equal(a, b) for a, b in zip(last_two, all_four[2:], strict=True)] == [True, True]
        normed = model.forward_intermediates(x, indices=[3], norm=True, intermediates_only=True)[0]
        assert torch.equal(normed, final)
        nhwc = model.forward_intermediates(x, indices=[0], output_fmt="NHWC", intermediates_only=True, stop_early=True)
        assert torch.equal(nhwc[0].permute(0, 3, 1, 2), all_four[0])
        pruned = timm.create_model(name).eval()
        pruned.load_state_dict(model.state_dict())
        assert pruned.prune_intermediate_layers([0, 1]) == [0, 1]
        assert torch.equal(pruned.forward_intermediates(x, [1], intermediates_only=True)[0], all_four[1])
        assert len(pruned.stages) == 2 and pruned.num_features == all_four[1].shape[1]


def test_layer_decay_groups_cover_everything_and_grow_with_depth():
    model = meta("dat_tiny")
    groups = param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    of = {n: scale[id(p)] for n, p in model.named_parameters()}
    order = ["stem.conv.weight", "stages.0.blocks.0.attn.qkv.weight", "stages.0.blocks.1.attn.qkv.weight",
             "stages.2.blocks.5.attn.q.weight", "stages.3.blocks.1.attn.q.weight", "head.fc.weight"]  # fmt: skip
    scales = [of[name] for name in order]
    assert scales == sorted(scales) and len(set(scales)) == len(order) and scales[-1] == 1.0


def test_bias_tables_do_not_decay():
    names = meta("dat_tiny").no_weight_decay()
    assert "stages.0.blocks.0.attn.relative_position_bias_table" in names
    assert "stages.2.blocks.1.attn.bias.table" in names
    assert not any("weight" in name for name in names)


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for enable in (False, True):
        torch.manual_seed(0)
        model = timm.create_model("dat_nano", num_classes=4, drop_path_rate=0.3).train()
        model.set_grad_checkpointing(enable)
        torch.manual_seed(1)
        model(torch.randn(2, 3, 32, 32)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_drop_path_grows_linearly_over_the_blocks():
    model = meta("dat_tiny", drop_path_rate=0.2)
    blocks = [block for stage in model.stages for block in stage.blocks]
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.2 * i / 11 for i in range(12)])
    assert rates == [getattr(block.drop_path2, "drop_prob", 0.0) for block in blocks]


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param("dat_nano", "aot_eager", marks=pytest.mark.long),
        pytest.param("datpp_tiny", "eager", marks=pytest.mark.slow),
    ],
)
def test_compiles_as_one_graph(name, backend):
    model = timm.create_model(name, num_classes=3, depths=(2, 2, 2, 2)).eval()
    x = images(model)
    with torch.no_grad():
        want = model(x)
        got = torch.compile(model, fullgraph=True, backend=backend)(x)
    assert torch.allclose(got, want, atol=1e-4)


@pytest.mark.slow
def test_compiles_with_inductor():
    model = timm.create_model("dat_nano", num_classes=3, depths=(1, 1, 2, 1)).eval()
    x = images(model)
    with torch.no_grad():
        assert torch.allclose(torch.compile(model, fullgraph=True)(x), model(x), atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("name", ["dat_nano", "datpp_tiny"])
def test_exports_with_a_dynamic_batch(name):
    model = timm.create_model(name, num_classes=3, depths=(2, 2, 2, 2)).eval()
    x = images(model, batch=2)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    five = torch.randn(5, *x.shape[1:])
    assert torch.allclose(program.module()(five), model(five), atol=1e-4)


def test_make_fx_traces_training_with_stochastic_depth():
    model = timm.create_model("dat_nano", num_classes=3, depths=(1, 1, 2, 1), drop_path_rate=0.3).train()
    x = images(model, batch=2)
    graph = make_fx(model)(x)
    torch.manual_seed(0)
    got = graph(x)
    torch.manual_seed(0)
    assert torch.equal(got, model(x))


VARIANTS = {
    "cvpr": ("dat_nano", {}),
    "windows of several sizes": ("dat_nano", {"window_size": (7, 4, 3, 2), "blocks": ("LS", "SD", "LD", "LD")}),
    "biases": ("dat_nano", {"position_bias": ("none", "dwc", "fixed", "log_cpb"), "blocks": ("LD", "LD", "LD", "LD")}),
    "free offsets": ("dat_nano", {"offset_range_factor": None, "layer_scale": 0.1, "drop_path_rate": 0.2}),
    "no offsets": ("dat_nano", {"offsets": False}),
    "dat++": ("datpp_tiny", {"depths": (2, 2, 2, 2)}),
    "dat++ without offsets": ("datpp_tiny", {"offsets": False, "depths": (2, 2, 2, 2)}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_traced_models_compute_the_same_numbers_at_several_sizes(variant):
    name, arguments = VARIANTS[variant]
    model = timm.create_model(name, num_classes=3, **arguments).eval()
    graph = torch.fx.symbolic_trace(model)
    for size in ((64, 64), (70, 100)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            assert torch.allclose(graph(x), model(x), atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_a_traced_model_trains(name):
    model = timm.create_model(name, num_classes=3).train()
    graph, x = torch.fx.symbolic_trace(model), images(model, batch=2)
    torch.manual_seed(0)
    want = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    torch.manual_seed(0)
    got = torch.autograd.grad(graph(x).square().sum(), list(model.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_feature_extractors_of_torchvision_and_timm_give_the_stages(name, library):
    module = {"torchvision": "torchvision.models.feature_extraction", "timm": "timm.models"}[library]
    model = timm.create_model(name, num_classes=3).eval()
    extractor = importlib.import_module(module).create_feature_extractor(
        model, {f"stages.{i}": str(i) for i in range(4)}
    )
    x = images(model, batch=2)
    with torch.no_grad():
        maps, stages = extractor(x), model.forward_intermediates(x, intermediates_only=True, output_fmt="NHWC")
    assert all(torch.allclose(maps[str(i)], stages[i], atol=1e-5) for i in range(4))


def test_features_only_by_torch_fx_gives_the_pyramid():
    model = timm.create_model("dat_nano", features_only=True, feature_cls="fx", out_indices=(0, 2)).eval()
    assert [y.shape[1:] for y in model(torch.randn(1, 3, 32, 32))] == [(16, 16, 32), (4, 4, 96)]


def test_device_and_dtype_are_taken_at_creation():
    model = timm.create_model("dat_nano", device="meta", dtype=torch.bfloat16)
    model.reset_classifier(5)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize("create", [timm.create_model, lambda _name, **arguments: dat_train.models.DAT(**arguments)])
def test_earlier_names_of_arguments_are_accepted(create):
    new = {"num_heads": (2, 2, 2, 2), "offset_range_factor": 4.0, "position_bias": "none"}
    old = {"heads": (2, 2, 2, 2), "offset_range": 4.0, "bias": "none"}
    small = {"dims": (8, 8, 8, 8), "depths": (1, 1, 2, 1), "groups": 1}
    one, two = create("dat_nano", **new, **small), create("dat_nano", **old, **small)
    assert repr(one) == repr(two) and one.stages[2].blocks[1].attn.sampling.offset_range_factor == 4.0
    assert two.stages[2].blocks[1].attn.num_heads == 2
    assert current_arguments(old) == new
    with pytest.raises(dat_train.errors.UserError, match="heads and num_heads are one argument"):
        create("dat_nano", heads=2, num_heads=2)


@pytest.mark.parametrize("name", ["dat_nano", "datpp_tiny"])
def test_runs_under_autocast_and_in_half_precision_near_float32(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval()
    x = images(model, batch=2)
    with torch.no_grad():
        want = model.forward_features(x)
        with torch.autocast("cpu", torch.bfloat16):
            autocast = model.forward_features(x)
        whole = model.to(torch.bfloat16).forward_features(x.to(torch.bfloat16))
    assert (autocast.float() - want).norm() / want.norm() < 0.05
    assert (whole.float() - want).norm() / want.norm() < 0.1


def test_channels_last_input_gives_the_same():
    model = timm.create_model("dat_nano", num_classes=3).eval().to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(model(x.to(memory_format=torch.channels_last)), model(x), atol=1e-5)


def test_variants_are_a_few_arguments():
    model = timm.create_model(
        "dat_nano", num_classes=2, depths=(1, 1, 3, 1), blocks=("S", "D", "LDD", "D"),
        position_bias=("none", "dwc", "fixed", "log_cpb"),
        offset_range_factor=(None, 1.0, 4.0, None), strides=(1, 2, 1, 1), offsets=(True, False, True, True),
        layer_scale=1e-2,
    )  # fmt: skip
    model(torch.randn(2, 3, 32, 32)).sum().backward()


def test_unknown_block_letters_and_biases_are_named():
    with pytest.raises(dat_train.errors.UserError, match="letters are L, S, D and N"):
        timm.create_model("dat_nano", blocks=("LS", "LX", "LD", "LD"))
    with pytest.raises(dat_train.errors.UserError, match="one of table"):
        timm.create_model("dat_nano", position_bias="tabel")


def test_a_model_without_its_last_stages_takes_a_new_classifier():
    model = timm.create_model("dat_nano").eval()
    model.prune_intermediate_layers([1])
    model.reset_classifier(4, "avg")
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 4)
