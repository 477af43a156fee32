"""The metrics against hand counts, over any batching, and synchronised over two processes."""

import os
import pickle
import time
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from regfast.calibration import expected_calibration_error, reliability_bins
from regfast.evaluation.metrics import AttackSuccessRate, CalibrationError, CenterCosine, FeatureRMS, RobustAccuracy


def data(n=40, classes=5, d=8):
    generator = torch.Generator().manual_seed(0)
    logits, attacked = (3 * torch.randn(n, classes, generator=generator) for _ in range(2))
    labels = torch.randint(classes, (n,), generator=generator)
    logits[: n // 2].scatter_(1, labels[: n // 2, None], 9.0)
    features, centers = torch.randn(n, d, generator=generator), torch.randn(classes, d, generator=generator)
    return logits, attacked, labels, features, centers


def arguments(metric, given):
    logits, attacked, labels, features, _ = given
    return {
        RobustAccuracy: (attacked, labels),
        AttackSuccessRate: (logits, attacked, labels),
        FeatureRMS: (features,),
        CenterCosine: (features, labels),
        CalibrationError: (logits, labels),
    }[type(metric)]


def updates(metric, rows, given=None):
    metric.update(*(tensor[rows] for tensor in arguments(metric, given or data())))


def metrics(**options):
    kinds = (RobustAccuracy, AttackSuccessRate, FeatureRMS, partial(CenterCosine, data()[4]), CalibrationError)
    return [kind(**options) for kind in kinds]


def expected():
    logits, attacked, labels, features, centers = data()
    correct, robust = logits.argmax(1) == labels, attacked.argmax(1) == labels
    confidence = logits.double().softmax(1).amax(1)
    ece = 0.0
    for index in range(15):
        here = (confidence * 15).long().clamp(max=14) == index
        if here.any():
            ece += (confidence[here].mean() - correct[here].double().mean()).abs() * here.double().mean()
    return [
        robust.double().mean(),
        (correct & ~robust).sum() / correct.sum(),
        (features.norm(dim=1) / 8**0.5).mean(),
        torch.cosine_similarity(features, centers[labels]).mean(),
        ece,
    ]


@pytest.mark.parametrize("batch", [40, 7, 1])
def test_the_value_does_not_depend_on_the_batches(batch):
    for metric, value in zip(metrics(), expected(), strict=True):
        for rows in torch.arange(40).split(batch):
            updates(metric, rows)
        assert metric.compute().item() == pytest.approx(float(value), abs=1e-6), type(metric).__name__


def worker(rank, size, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    torch.set_num_threads(1)
    for metric, value in zip(metrics(), expected(), strict=True):
        updates(metric, torch.arange(rank, 40, size) if rank else torch.arange(0, 40, size))
        assert metric.compute().item() == pytest.approx(float(value), abs=1e-6), type(metric).__name__
    dist.barrier()
    time.sleep(0.5)  # a thread of PyTorch 2.6 still has to let go of tensors, and the next call holds the lock it needs
    dist.destroy_process_group()


def test_two_processes_agree(tmp_path):
    mp.spawn(worker, (2, str(tmp_path)), nprocs=2)


def test_a_confidence_of_one_is_in_the_last_bin():
    metric = CalibrationError(bins=10)
    metric.update(torch.tensor([[1000.0, 0.0], [0.0, 1000.0]]), torch.tensor([0, 0]))
    assert metric.compute() == pytest.approx(0.5)


def test_wrong_shapes_and_bins_are_refused():
    labels = torch.zeros(3, dtype=torch.int64)
    for update, error, message in (
        (lambda: RobustAccuracy().update(torch.zeros(3), labels), ValueError, "logits"),
        (lambda: RobustAccuracy().update(torch.zeros(3, 1), labels), ValueError, "a single logit z"),
        (lambda: CalibrationError().update(torch.zeros(3, 1), labels), ValueError, "a single logit z"),
        (lambda: CalibrationError().update(torch.zeros(3, 2), labels.double()), TypeError, "labels must be integers"),
        (lambda: CalibrationError(bins=0), ValueError, "bins must be an integer ≥ 1, got 0"),
        (lambda: CalibrationError(bins=2.5), TypeError, "bins must be an integer, got"),
        (lambda: CalibrationError(ignore_index=None), TypeError, "ignore_index must be an int, got None"),
        (lambda: FeatureRMS().update(torch.zeros(3)), ValueError, "features"),
        (lambda: FeatureRMS().update([[1.0]]), TypeError, "features must be a dense tensor, got list"),
        (lambda: RobustAccuracy().update(None, labels), TypeError, "logits must be a dense tensor, got NoneType"),
        (lambda: CalibrationError().update(torch.ones(3, 2).bool(), labels), TypeError, "logits must be floating"),
        (lambda: RobustAccuracy().update(torch.zeros(3, 2), labels.to("meta")), ValueError, "labels must be on cpu"),
        (
            lambda: CalibrationError().update(torch.zeros(3, 2), [0]),
            TypeError,
            "labels must be a dense tensor, got list",
        ),
        (lambda: CenterCosine([[1.0]]), TypeError, "centers must be a dense tensor, got list"),
        (
            lambda: CenterCosine(torch.eye(2)).update(torch.ones(3, 4), labels),
            ValueError,
            r"expected features \(B, 2\)",
        ),
    ):
        with pytest.raises(error, match=message):
            update()


@pytest.mark.parametrize("make", [lambda: nn.ModuleDict(), lambda: nn.Linear(2, 2)])
@pytest.mark.parametrize("convert", [lambda m: m.to(torch.bfloat16), lambda m: m.to(torch.float32), lambda m: m.half()])
def test_sums_survive_a_change_of_precision(make, convert):
    """Before the first batch, and between batches."""
    for metric, value in zip(metrics(), expected(), strict=True):
        holder = make()
        holder.add_module("metric", metric)
        for rows in torch.arange(40).split(7):
            convert(holder)
            updates(metric, rows)
        assert metric.compute().item() == pytest.approx(float(value), abs=1e-6), type(metric).__name__
        assert metric.compute().dtype == torch.float64


def test_sums_of_many_small_batches():
    metric = nn.ModuleDict({"a": FeatureRMS()}).to(torch.bfloat16)["a"]
    for index in range(2000):
        metric.update(torch.full((4, 2), 0.5 + 0.5 * (index > 1000), dtype=torch.bfloat16))
    assert metric.compute().item() == pytest.approx((1001 * 0.5 + 999) / 2000, abs=1e-9)


@pytest.mark.parametrize("ignored", [-100, 2])
def test_ignored_labels_do_not_count(ignored):
    """As if their rows, NaN among them, were not there."""
    logits, attacked, labels, features, centers = data()
    keep = torch.arange(40) % 3 > 0
    keep &= labels != ignored
    for own, same in zip(metrics(ignore_index=ignored), metrics(), strict=True):
        if isinstance(own, FeatureRMS):
            continue
        updates(same, keep)
        marked = torch.where(keep, labels, ignored)
        spoiled = [torch.where(keep[:, None], rows, torch.nan) for rows in (logits, attacked, features)]
        updates(own, slice(None), (*spoiled[:2], marked, spoiled[2], centers))
        assert torch.equal(own.compute(), same.compute()), type(own).__name__
        own.reset()
        updates(own, slice(None), (logits, attacked, torch.full_like(labels, ignored), features, centers))
        assert own.compute().isnan()


@pytest.mark.parametrize("label", [-1, 5, -101])
def test_labels_outside_the_classes_are_refused(label):
    logits, attacked, labels, features, centers = data()
    labels[3] = label
    for metric in metrics():
        if not isinstance(metric, FeatureRMS):
            with pytest.raises(IndexError, match="labels must lie in 0 … K-1 or be ignore_index, got 1 rows"):
                updates(metric, slice(None), (logits, attacked, labels, features, centers))


def test_nan_is_never_right():
    logits = torch.full((4, 3), torch.nan)
    logits[0, 1:] = 0.0  # torch's argmax of a row with one NaN is the NaN
    labels = torch.zeros(4, dtype=torch.int64)
    robust, success = RobustAccuracy(), AttackSuccessRate()
    robust.update(logits, labels)
    success.update(torch.eye(3)[labels], logits, labels)
    success.update(logits, torch.eye(3)[labels], labels)  # wrong before: does not count
    assert robust.compute() == 0 and success.compute() == 1 and success.correct == 4
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match=r"NaN or .infinity: such a row has no confidence, got 1 rows"):
            CalibrationError().update(torch.tensor([[0.0, 1.0], [bad, 0.0]]), torch.tensor([0, 1]))
        with pytest.raises(ValueError, match="confidence must lie in"):
            expected_calibration_error(torch.tensor([[bad, 0.0]]).softmax(1).amax(1), torch.tensor([True]))


def test_what_a_device_could_not_say_at_once_is_said_by_compute():
    """On a CPU the rows are looked at; elsewhere they are counted in `refused`."""
    metric = RobustAccuracy()
    metric.refused += torch.tensor([2, 0])
    metric.update(torch.eye(3), torch.arange(3))
    with pytest.raises(IndexError, match=r"labels must lie in .* got 2 rows"):
        metric.compute()
    metric.reset()
    metric.update(torch.eye(3), torch.arange(3))
    assert metric.compute() == 1


def test_updates_on_a_device_read_nothing():
    """A meta tensor cannot be read: whoever tries raises."""
    for metric in metrics():
        updates(metric.to("meta"), slice(None), tuple(tensor.to("meta") for tensor in data()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_probabilities_are_taken_as_they_are(dtype):
    logits, _, labels, *_ = data()
    metric, of_probabilities = CalibrationError(), CalibrationError()
    p = logits.double().softmax(1).to(dtype)
    metric.update(p.double().log(), labels)
    of_probabilities.update(p, labels)
    assert of_probabilities.compute().item() == pytest.approx(
        metric.compute().item(), abs=1e-2 if dtype == torch.bfloat16 else 1e-6
    )


@pytest.mark.parametrize("bins", range(1, 101))
def test_metric_and_function_put_every_border_in_the_same_bin(bins):
    """Confidences i/bins as written, and their neighbors: each alone in its batch, so a wrong bin shows."""
    edges = np.arange(bins + 1) / bins
    values = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 1)])
    values = np.sort(values[(values >= 0.5) & (values <= 1)])
    exact = [min(sum(float(value) >= i / bins for i in range(1, bins + 1)), bins - 1) for value in values]
    metric = CalibrationError(bins=bins)
    p = torch.from_numpy(np.stack([values, 1 - values], axis=1))
    metric.update(p, torch.zeros(len(p), dtype=torch.int64))
    assert torch.equal(metric.count, torch.bincount(torch.tensor(exact), minlength=bins).double())
    assert np.array_equal(reliability_bins(values, np.ones(len(values)), bins).counts, metric.count.numpy())
    ece = expected_calibration_error(values, np.ones(len(values)), bins)
    assert metric.compute().item() == pytest.approx(ece, abs=1e-12)


def test_forward_keeps_no_graph():
    logits, attacked, labels, features, centers = (t.requires_grad_(t.is_floating_point()) for t in data())
    for metric in metrics():
        value = metric(*arguments(metric, (logits, attacked, labels, features, centers)))
        assert not value.requires_grad and not any(getattr(metric, name).requires_grad for name in metric._defaults)


def test_a_collection_takes_no_two_for_one():
    """Metrics that begin with equal sums: 4 of 8 robust, 4 of 8 flipped."""
    from torchmetrics import MetricCollection

    right, wrong = torch.eye(2)[[0] * 8], torch.eye(2)[[0] * 4 + [1] * 4]
    labels = torch.zeros(8, dtype=torch.int64)
    both = MetricCollection({"robust": RobustAccuracy(), "success": AttackSuccessRate()})
    for adversarial in (wrong, right):
        both.update(clean_logits=right, adversarial_logits=adversarial, labels=labels)
    assert {name: float(value) for name, value in both.compute().items()} == {"robust": 0.75, "success": 0.25}


def test_plot():
    pytest.importorskip("matplotlib").use("agg")
    for metric in metrics():
        updates(metric, slice(None))
        figure, axes = metric.plot()
        assert figure is not None and axes.has_data()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_what_torchmetrics_asks_of_every_metric():
    for metric in metrics():
        torch.jit.script(metric)
        assert type(metric.clone()) is type(metric) and isinstance(hash(metric), int)
        metric.set_dtype(torch.bfloat16)
        updates(metric, slice(None))
        assert metric.compute().dtype == torch.float64
        with pytest.raises(RuntimeError, match="is_differentiable"):
            metric.is_differentiable = True


@pytest.mark.parametrize("number", range(5))
def test_pickle_and_state_dict(number):
    metric, other = metrics()[number], metrics()[number]
    metric.persistent(True)
    other.persistent(True)
    updates(metric, slice(None))
    other.load_state_dict(metric.state_dict())
    other._update_count = 1
    assert torch.equal(pickle.loads(pickle.dumps(metric)).compute(), metric.compute())
    assert torch.equal(other.compute(), metric.compute())
