"""Models as people have them: their dtype, what they give back, how they use memory and images, and who else asks."""

import copy
import pickle
import threading
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from regfast.attacks import APGD, DDN, FAB, FMN, PGD, AutoAttack, CarliniWagner, PreparedModel, Square, checks
from regfast.attacks.prepare import frozen
from tests.attacks.problems import linear

ALL = [
    PGD("linf", 0.01, 3),
    PGD("l2", 0.1, 3, momentum=0.5),
    APGD("l1", 0.5, 6),
    FAB("linf", 0.01, 4, targets=2),
    FAB("l2", None, 4),
    FMN("linf", steps=4),
    DDN(steps=4),
    CarliniWagner(steps=4, searches=2),
]


class Says(nn.Module):
    """`model`, in another wrapping."""

    def __init__(self, model, wrap):
        super().__init__()
        self.model, self.wrap = model, wrap

    def forward(self, images):
        return self.wrap(self.model(images))


@pytest.mark.parametrize("attack", [*ALL, Square("linf", 0.01, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_dtype_of_model_and_images(attack, dtype):
    model, images, _ = linear(4)
    for network, given in ((model, images.to(dtype)), (copy.deepcopy(model).to(dtype), images)):
        right = network(given.to(next(network.parameters()).dtype)).argmax(1)
        result = attack.run(network, given, right)
        assert result.clean.all()
        assert result.images.dtype == (torch.float64 if given.dtype == torch.float64 else torch.float32)
        fell = network(result.images.to(next(network.parameters()).dtype)).argmax(1) != right
        assert torch.equal(fell, result.success)


@pytest.mark.parametrize("shape", [(20,), (3, 12), (2, 3, 4, 4)])
def test_images_of_other_shapes(shape):
    model, images, labels = linear(4, shape=shape)
    for attack in ALL:
        result = attack.run(model, images, labels)
        assert torch.equal(model(result.images).argmax(1) != labels, result.success)
    for attack in (Square("linf", 0.01), AutoAttack("linf", 0.01)):
        with pytest.raises(ValueError, match="square needs images of shape"):
            attack.run(model, images, labels)


def test_what_holds_the_logits_is_taken_or_named():
    model, images, labels = linear(4)
    attack = PGD("linf", 0.01, 3)
    expected = attack.run(model, images, labels)
    for wrap in (lambda z: {"logits": z, "loss": None}, lambda z: SimpleNamespace(logits=z)):
        assert torch.equal(attack.run(Says(model, wrap), images, labels).images, expected.images)
    for wrap in (lambda z: (z, z), lambda z: z.detach().numpy(), lambda z: {"out": z}, lambda z: None):
        with pytest.raises(TypeError, match="logits"):
            attack.run(Says(model, wrap), images, labels)
    with pytest.raises(ValueError, match=r"shape \(B, K\)"):
        attack.run(Says(model, lambda z: z[:, 0]), images, labels)
    with pytest.raises(ValueError, match="one logit for each class"):
        attack.run(Says(model, lambda z: z[:, :1]), images, labels * 0)
    two = Says(model, lambda z: z[:, :2])
    assert AutoAttack("linf", 1e-4, "fast").run(two, images, two(images).argmax(1)).clean.all()


@pytest.mark.parametrize("attack", [*ALL, Square("linf", 0.01, 5)], ids=str)
def test_a_model_that_works_in_place_gets_copies(attack):
    model, images, _ = linear(4)
    shifted = Says(nn.Identity(), lambda x: model(x.sub_(0.25).mul_(2)))
    labels = model((images - 0.25) * 2).argmax(1)
    mine = images.clone()
    result = attack.run(shifted, images, labels)
    assert torch.equal(images, mine)
    plain = attack.run(Says(nn.Identity(), lambda x: model((x - 0.25) * 2)), images, labels)
    assert torch.equal(result.images, plain.images)


@pytest.mark.parametrize("most", [1, 3])
def test_memory_for_a_few_images(most):
    model, images, labels = linear(4, count=20)

    def small(x):
        if len(x) > most:
            raise torch.OutOfMemoryError("out of memory")
        return model(x)

    attack = AutoAttack("linf", 0.001, "fast")
    got, expected = (attack.run(lambda x, ask=ask: ask(x), images, labels) for ask in (small, model))
    assert torch.equal(got.success, expected.success)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_frozen_exported_and_quantized_programs():
    model, images, labels = linear(4)
    network = nn.Sequential(nn.Flatten(), nn.Linear(60, 4)).eval()
    network[1].load_state_dict({"weight": model.weight.detach(), "bias": model.bias.detach()})
    attack = PGD("linf", 0.01, 3)
    expected = attack.run(network, images, labels)
    script = torch.jit.freeze(torch.jit.script(network))
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(network, (images[:2],), dynamic_shapes=({0: batch},)).module()
    fixed = torch.export.export(network, (images[:3],)).module()
    with pytest.raises(ValueError, match="must take any number of images"):
        attack.run(fixed, images, labels)
    for program in (script, exported):
        result = attack.run(program, images, labels)
        assert torch.equal(result.success, expected.success)
    engines = [name for name in torch.backends.quantized.supported_engines if name != "none"]
    if engines:
        torch.backends.quantized.engine = engines[-1]
        quantized = torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
        with pytest.raises(ValueError, match="gradient"):
            attack.run(quantized, images, labels)
        result = Square("linf", 0.05, 20).run(quantized, images, quantized(images).argmax(1))
        assert torch.equal(quantized(result.images).argmax(1) != quantized(images).argmax(1), result.success)


@pytest.mark.parametrize("attack", [*ALL, Square("linf", 0.01, 5)], ids=str)
def test_nan_logits_are_no_class(attack):
    model, images, labels = linear(4)
    some = images.flatten(1)[:, 0] > 0.5

    def nan(x):
        return torch.where(x.flatten(1)[:, :1] > 0.5, torch.nan, model(x))

    result = attack.run(nan, images, labels)
    assert torch.equal(result.clean, ~some)
    assert torch.equal(result.clean_prediction == -1, some)
    assert not nan(result.images)[result.success].isnan().any()


@pytest.mark.parametrize("attack", [*ALL, Square("linf", 0.01, 5)], ids=str)
def test_infinite_logits_leave_points_numbers(attack):
    model, images, labels = linear(4)

    def half(x):  # the label's logit overflows on some images, as in half precision
        logits = model(x)
        return torch.where((x.flatten(1)[:, :1] > 0.5) & (logits == logits.amax(1, keepdim=True)), torch.inf, logits)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = attack.run(half, images, labels)
    assert result.clean.all() and result.images.isfinite().all() and result.distance.isfinite().all()
    flat = any(issubclass(each.category, checks.ZeroGradientWarning) for each in told)
    overflows = bool((images.flatten(1)[:8, 0] > 0.5).any())
    assert flat == (attack.needs != "forward" and attack.loss == "ce" and overflows)


def test_threads_on_one_model_take_turns():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 5))
    model.train()
    model[0].eval()
    images = torch.rand(16, 3, 8, 8)
    with frozen(model):
        labels = model(images).argmax(1)
    attack = APGD("linf", 0.01, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", checks.TrainModeWarning)
        expected = attack.run(model, images, labels)
        results = []
        threads = [
            threading.Thread(target=lambda: results.append(attack.run(model, images, labels, lanes=3)))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 6
    assert all(torch.equal(result.success, expected.success) for result in results)
    assert [module.training for module in model.modules()] == [True, False, True, True, True, True]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_prepared_model_pickles():
    model, images, labels = linear(4)
    prepared = PreparedModel(model, images, bounds=(0.0, 2.0))
    again = pickle.loads(pickle.dumps(prepared))
    attack = PGD("linf", 0.01, 3)
    assert torch.equal(attack.run(again, images, labels).images, attack.run(prepared, images, labels).images)
