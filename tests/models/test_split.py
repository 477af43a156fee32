import copy
from types import MethodType

import pytest
import torch
from torch import nn
from torch.nn import functional

from regfast.models import SplitClassifier, split_classifier
from regfast.models.resnet import CifarResNet


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.first_head = nn.Linear(12, 3)
        self.second_head = nn.Linear(12, 3)

    def forward(self, x):
        flat = x.flatten(1)[:, :12]
        return (self.first_head(flat) + self.second_head(flat)) / 2


class Trunk(nn.Module):
    """The last linear layer is not the one registered last."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 4))
        self.stem = nn.Linear(3, 8)

    def forward(self, x):
        return self.classifier(self.stem(x.mean((2, 3))).relu())


def images(count=3, size=16, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_parts_compose_and_share_parameters():
    network = Trunk().eval()
    model = split_classifier(network, mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7))
    x = images()
    normalized = (x - torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    assert model.head_name == "classifier.3"
    assert model.head is network.classifier[3]
    assert model.features(x).shape == (3, 6)
    torch.testing.assert_close(model(x), network(normalized))
    torch.testing.assert_close(model.head(model.features(x)), model(x))


def test_the_network_stays_as_it_was():
    network = Trunk().train()
    names = list(network.state_dict())
    model = split_classifier(network)
    assert list(network.state_dict()) == names
    assert isinstance(network.classifier[3], nn.Linear)
    assert network.training and model.training


@pytest.mark.parametrize("broken", [False, True])
def test_every_layer_keeps_its_mode(broken):
    """Frozen batch norm in a model that trains, dropout that stays on in one that does not."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Trunk())
    network[4] = nn.Sequential(nn.Dropout(), nn.Linear(4, 5), *([nn.Tanh()] if broken else []))
    for training, others in ((True, (1,)), (False, (4,))):
        network.train(training)
        for index in others:
            network[index].train(not training)
        modes = {name: module.training for name, module in network.named_modules()}
        if broken:
            with pytest.raises(ValueError, match="cannot split"):
                split_classifier(network)
        else:
            split = split_classifier(network)
            assert {name: module.training for name, module in split.backbone.named_modules()} == modes
            assert split.training == split.normalize.training == training
        assert {name: module.training for name, module in network.named_modules()} == modes


def test_what_cannot_be_taken_apart_is_refused_with_the_reason(tmp_path):
    network = Trunk().eval()
    for wrapped, reason in (
        (torch.compile(network, backend="eager"), r"split the model inside \(_orig_mod\), then compile or wrap"),
        (nn.DataParallel(network), r"split the model inside \(\.module\), then wrap the result"),
        (torch.jit.script(network), "TorchScript cannot be taken apart"),
        (torch.jit.trace(network, images()), "TorchScript cannot be taken apart"),
    ):
        with pytest.raises(ValueError, match=reason):
            split_classifier(wrapped)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match=r"DistributedDataParallel: split the model inside \(\.module\)"):
            split_classifier(nn.parallel.DistributedDataParallel(network))
    finally:
        torch.distributed.destroy_process_group()


def test_patched_models():
    """A method put on an instance is split with it; a function that holds the instance is refused with the reason."""
    x = images()
    network = Trunk().eval()
    network.forward = MethodType(lambda self, x: self.classifier(-self.stem(x.mean((2, 3))).relu()), network)
    model = split_classifier(network)
    assert torch.equal(model(x), network(x)) and model.features(x).shape == (3, 6)
    network = Trunk().eval()
    plain = network.forward
    network.forward = lambda x: plain(x)
    with pytest.raises(ValueError, match="the forward of the model was replaced by one that runs the layer itself"):
        split_classifier(network)
    network = Trunk().eval()
    inner = network.classifier.forward
    network.classifier.forward = lambda x: inner(x)
    with pytest.raises(ValueError, match="the forward of classifier was replaced"):
        split_classifier(network)


def test_compiled_in_place_and_traced_by_fx():
    x = images()
    for network in (Trunk().eval(), torch.fx.symbolic_trace(Trunk().eval())):
        expected = network(x)
        if not isinstance(network, torch.fx.GraphModule):
            network.compile(backend="eager")
        model = split_classifier(network)
        assert model.features(x).shape == (3, 6)
        torch.testing.assert_close(model(x), expected)


def test_training_the_parts_trains_the_network():
    network = Trunk().eval()
    nn.init.ones_(network.stem.bias)  # a ReLU of which none is above 0 has no gradient
    model = split_classifier(network)
    assert {id(p) for p in model.parameters()} == {id(p) for p in network.parameters()}
    before = network.stem.weight.clone()
    model(images()).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert not torch.equal(network.stem.weight, before)


def test_state_has_the_networks_names_and_goes_back():
    network, other = CifarResNet(8), CifarResNet(8)
    model, copied = split_classifier(network), split_classifier(other)
    state = model.network_state()
    assert set(state) == set(network.state_dict())
    copied.load_network_state(state)
    for name, value in other.state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name


def test_deep_copy_and_dtype():
    model = split_classifier(Trunk().eval(), mean=[0.5] * 3, std=[0.5] * 3)
    double = copy.deepcopy(model).double()
    assert double(images().double()).dtype == torch.float64
    assert model(images()).dtype == torch.float32


def test_split_twice_is_the_same_model():
    model = split_classifier(Trunk())
    assert split_classifier(model) is model


def test_error_names_the_candidates():
    with pytest.raises(ValueError, match=r"TwoHeads.*first_head \(12 → 3\), second_head \(12 → 3\)"):
        split_classifier(TwoHeads())


def test_model_without_linear_layers():
    with pytest.raises(ValueError, match="no linear layer"):
        split_classifier(nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()))


def test_weights_that_are_nan_are_named():
    network = Trunk()
    nn.init.constant_(network.stem.bias, float("nan"))
    with pytest.raises(ValueError, match="its output is NaN; are its weights NaN"):
        split_classifier(network)


def test_logits_that_are_scaled_afterwards_cannot_be_split():
    class Scaled(Trunk):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match=r"classifier\.3"):
        split_classifier(Scaled())


def test_example_for_models_of_one_size():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 7, 11), nn.ReLU(), nn.Linear(11, 2))
    with pytest.raises(ValueError, match="example="):
        split_classifier(network)
    model = split_classifier(network, example=torch.rand(2, 3, 5, 7))
    assert isinstance(model, SplitClassifier)
    assert model.features(torch.rand(4, 3, 5, 7)).shape == (4, 11)


def test_arguments_of_the_wrong_type_are_named():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got function"):
        split_classifier(lambda x: x)
    for name in ("mean", "std"):
        with pytest.raises(TypeError, match=f"{name} must hold a number for each channel, got 0.5"):
            split_classifier(Trunk(), **{name: 0.5})
        with pytest.raises(ValueError, match=f"{name} must be finite"):
            split_classifier(Trunk(), **{name: [float("inf")] * 3})


def test_std_must_be_positive():
    with pytest.raises(ValueError, match="std"):
        split_classifier(Trunk(), mean=[0.5] * 3, std=[0.5, 0.0, 0.5])


class ScaledLinear(nn.Linear):
    def forward(self, v):
        return 8 * super().forward(v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("change", ["hook", "pre-hook", "forward", "subclass", "none"])
def test_a_last_layer_that_is_more_than_its_weight_and_bias(change, dtype):
    head = (ScaledLinear if change == "subclass" else nn.Linear)(16, 5)
    if change == "hook":
        head.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    elif change == "pre-hook":
        head.register_forward_pre_hook(lambda _module, inputs: (3 * inputs[0],))
    elif change == "forward":
        head.forward = lambda v: functional.linear(v, head.weight) * 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), head).to(dtype)
    if change == "none":
        assert split_classifier(model).head is head
    else:
        with pytest.raises(ValueError, match="its last layer '3' does not give weight @ v"):
            split_classifier(model)
