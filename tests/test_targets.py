from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, default_collate

from regfast import CutMix, MixUp, RandomChoice, SoftTargets, cutmix, mixup, smooth, soft_cross_entropy
from regfast.targets import mixing
from regfast.targets.mixing import mix_labels, paste


def targets(rows: int = 6, classes: int = 5, lam=0.25, smoothing=0.1) -> SoftTargets:
    first = torch.arange(rows) % classes
    return SoftTargets(first=first, second=first.roll(1), lam=lam, smoothing=smoothing, num_classes=classes)


def test_dense_is_the_definition():
    q = targets(3, 4, lam=0.25, smoothing=0.2).dense(torch.float64)
    expected = (
        torch.tensor([[0.25, 0, 0.75, 0], [0.75, 0.25, 0, 0], [0, 0.75, 0.25, 0]], dtype=torch.float64) * 0.8 + 0.05
    )
    torch.testing.assert_close(q, expected)
    assert targets().dense().dtype == torch.float32


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(0, 20), classes=st.integers(1, 12), smoothing=st.floats(0, 1), per_sample=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_loss_of_structured_is_that_of_dense(rows, classes, smoothing, per_sample, seed):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randint(classes, (2, rows), generator=generator)
    draw = torch.rand(rows, generator=generator, dtype=torch.float64)
    lam = draw if per_sample else float(draw.sum() % 1)
    target = SoftTargets(first, second, lam, smoothing, num_classes=classes)
    q = target.dense(torch.float64)
    torch.testing.assert_close(q.sum(1), torch.ones(rows, dtype=torch.float64))
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    for reduction in ("none", "sum"):
        ours = soft_cross_entropy(logits, target, reduction=reduction, label_smoothing=0.05)
        theirs = functional.cross_entropy(logits, q, reduction=reduction, label_smoothing=0.05)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_the_earlier_name_of_lam():
    first = torch.arange(3)
    target = SoftTargets(first=first, second=first.roll(1), weight=0.3, smoothing=0.1, num_classes=4)
    assert target.lam == target.weight == 0.3


def test_smooth_is_torchs_label_smoothing():
    labels, logits = torch.arange(8) % 5, torch.randn(8, 5)
    torch.testing.assert_close(
        soft_cross_entropy(logits, smooth(labels, 5, 0.2)),
        functional.cross_entropy(logits, labels, label_smoothing=0.2),
    )


def test_indexing():
    target = targets(lam=torch.linspace(0, 1, 6))
    q = target.dense()
    for index in (slice(1, 4), torch.tensor([3, 0]), torch.arange(6) > 2, [1, 5]):
        assert torch.equal(target[index].dense(), q[index])
    assert torch.equal(target[2].dense(), q[2]) and target[2].first.shape == ()
    assert torch.equal(targets()[1:3].dense(), targets().dense()[1:3])
    assert len(target) == 6 and len(target[1:3]) == 2
    one = smooth(torch.arange(3), 5, 0.1)  # a class is read once, however its targets were cut, moved and put together
    for part in (one[1:], one.to("cpu"), SoftTargets.cat([one, one[:2]])):
        assert part.second is part.first


def test_cat():
    one, other = targets(lam=0.25), targets(4, lam=0.75)
    joined = SoftTargets.cat([one, other, one])
    assert torch.equal(joined.dense(), torch.cat([one.dense(), other.dense(), one.dense()]))
    assert SoftTargets.cat([one, one]).lam == 0.25  # stays a number
    per_sample = targets(lam=torch.rand(6))
    assert torch.equal(SoftTargets.cat([per_sample, other]).dense(), torch.cat([per_sample.dense(), other.dense()]))
    with pytest.raises(ValueError, match="num_classes must agree, got 5 and 4"):
        SoftTargets.cat([one, targets(4, 4)])
    with pytest.raises(ValueError, match="smoothing must agree"):
        SoftTargets.cat([one, targets(smoothing=0.0)])
    with pytest.raises(ValueError, match="at least one"):
        SoftTargets.cat([])


def test_pytree_copy_and_pickle():
    target = targets(lam=torch.rand(6))
    leaves, spec = pytree.tree_flatten({"target": target, "other": 1})
    assert len(leaves) == 5
    back = pytree.tree_unflatten(leaves, spec)["target"]
    for same in (back, copy.deepcopy(target), pickle.loads(pickle.dumps(target)), target.to("cpu")):
        assert isinstance(same, SoftTargets) and torch.equal(same.dense(), target.dense())
    doubled = pytree.tree_map_only(torch.Tensor, lambda t: torch.cat((t, t)), target)
    assert len(doubled) == 12
    assert target.to("meta").first.device.type == "meta" and target.to("meta").device.type == "meta"


class Images(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int):
        return torch.full((3, 4, 4), index / 10), index % 5


@pytest.mark.parametrize("workers", [0, 1])
def test_through_a_data_loader(workers):
    mix = MixUp(num_classes=5, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(
        Images(), batch_size=4, num_workers=workers, collate_fn=lambda batch: mix(*default_collate(batch))
    )
    sizes = []
    for images, target in loader:
        assert isinstance(target, SoftTargets) and target.dense().shape == (len(images), 5)
        sizes.append(len(target))
    assert sizes == [4, 4, 2]


def test_default_collate_of_single_samples():
    target = targets(lam=torch.rand(6))
    images, joined = default_collate([(torch.zeros(2), target[row]) for row in range(6)])
    assert images.shape == (6, 2) and torch.equal(joined.dense(), target.dense())


def test_compiles_whole_and_does_not_recompile_for_every_lam():
    torch.compiler.reset()
    backend = CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=backend)
    def step(logits, target):
        return soft_cross_entropy(logits, target), target[1:].to("cpu")

    logits = torch.randn(6, 5)
    for lam in (0.1, 0.2, 0.3, 0.4, 0.5):
        loss, rest = step(logits, targets(lam=lam))
        torch.testing.assert_close(loss, soft_cross_entropy(logits, targets(lam=lam)))
        assert isinstance(rest, SoftTargets) and len(rest) == 5
    assert backend.frame_count <= 2


def test_mixing_compiles_whole():
    """The draw is a part of the graph: λ stays a tensor."""
    torch.compiler.reset()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(images, labels, logits):
        mixed, target = mixup(images, labels, 5, smoothing=0.1)
        return mixed, target.lam, soft_cross_entropy(logits, target)

    images, labels, logits = torch.rand(6, 3), torch.arange(6) % 5, torch.randn(6, 5)
    draws = set()
    for _ in range(3):
        mixed, lam, loss = step(images, labels, logits)
        torch.testing.assert_close(mixed, lam.float() * images + (1 - lam.float()) * images.roll(1, 0))
        same = SoftTargets(labels, labels.roll(1, 0), lam, 0.1, num_classes=5)
        torch.testing.assert_close(loss, soft_cross_entropy(logits, same))
        draws.add(float(lam))
    assert len(draws) == 3


def test_mixup():
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 5
    before = images.clone()
    mixed, target = mixup(images, labels, 5, 0.4, smoothing=0.1, generator=torch.Generator().manual_seed(3))
    assert torch.equal(images, before)
    share = target.lam
    assert 0 <= share <= 1 and target.smoothing == 0.1
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.roll(1, 0))
    assert torch.equal(target.first, labels) and torch.equal(target.second, labels.roll(1))
    again, same = mixup(images, labels, 5, 0.4, smoothing=0.1, generator=torch.Generator().manual_seed(3))
    assert torch.equal(again, mixed) and same.lam == share


@pytest.mark.parametrize("shape", [(6, 3, 8, 8), (6, 1, 5, 13), (6, 2, 3, 4, 4)])
def test_cutmix_pastes_one_box_and_corrects_the_lam(shape):
    images, labels = torch.rand(shape) + 1, torch.arange(6) % 5
    before = images.clone()
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(30):
        mixed, target = cutmix(images, labels, 5, generator=generator)
        assert torch.equal(images, before)
        pasted = mixed != images
        assert torch.equal(mixed[pasted], images.roll(1, 0)[pasted])
        assert torch.equal(pasted.flatten(0, -3).any(0), pasted.flatten(0, -3).all(0))  # the same box everywhere
        box = pasted.flatten(0, -3)[0]
        assert torch.equal(box, box.any(1, keepdim=True) & box.any(0, keepdim=True))  # a box
        assert target.lam == pytest.approx(1 - box.double().mean().item())
        seen.add(round(target.lam, 3))
    assert len(seen) > 3


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0, 8.0])
def test_lams_are_beta_distributed(alpha):
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)
    draws = torch.tensor([mixup(images, labels, 2, alpha, generator=generator)[1].lam for _ in range(3000)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(draws.mean() - 0.5) < 5 * (variance / 3000) ** 0.5
    assert draws.var().item() == pytest.approx(variance, rel=0.12)


def test_a_tiny_alpha_gives_no_nan():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)
    draws = [mixup(images, labels, 2, 1e-5, generator=generator)[1].lam for _ in range(200)]
    assert all(0 <= draw <= 1 for draw in draws) and min(draws) == 0 and max(draws) == 1


def test_batch_transforms():
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 5
    for transform, function in ((MixUp, mixup), (CutMix, cutmix)):
        made = transform(num_classes=5, alpha=0.7, smoothing=0.1, generator=torch.Generator().manual_seed(5))
        pictures, target = made(images, labels)
        expected, same = function(images, labels, 5, 0.7, smoothing=0.1, generator=torch.Generator().manual_seed(5))
        assert torch.equal(pictures, expected) and torch.equal(target.dense(), same.dense())
        assert isinstance(made((images, labels))[1], SoftTargets)
        assert "alpha=0.7" in repr(made)


def test_random_choice():
    images, labels = torch.rand(4, 1, 2, 2), torch.arange(4)
    marks = [lambda x, y, mark=mark: (x, mark) for mark in range(3)]
    choice = RandomChoice(marks, p=[1, 0, 3], generator=torch.Generator().manual_seed(0))
    drawn = [choice(images, labels)[1] for _ in range(400)]
    assert set(drawn) == {0, 2} and 0.65 < drawn.count(2) / 400 < 0.85
    assert isinstance(RandomChoice([MixUp(5), CutMix(5)])(images, labels)[1], SoftTargets)
    for transforms, p in (([], None), (marks, [1.0]), (marks, [1, -1, 1]), (marks, [0, 0, 0])):
        with pytest.raises(ValueError):
            RandomChoice(transforms, p)


def test_labels_of_pixels():
    """(B, K, d1, …) as `cross_entropy` has it, with a λ for the batch, for each sample, or for each pixel."""
    first, second = torch.randint(5, (2, 2, 3, 4))
    for lam in (0.25, torch.rand(()), torch.rand(2), torch.rand(2, 3, 4)):
        target = SoftTargets(first, second, lam, 0.1, num_classes=5)
        share = torch.as_tensor(lam)
        flat = (share.view(2, 1, 1) if share.dim() == 1 else share).expand(2, 3, 4)
        rows = SoftTargets(first.flatten(), second.flatten(), flat.flatten(), 0.1, num_classes=5).dense()
        assert target.dense().shape == target.shape == (2, 5, 3, 4)
        torch.testing.assert_close(target.dense().movedim(1, -1).flatten(0, 2), rows)
        torch.testing.assert_close(target[1:].dense(), target.dense()[1:])
        other = SoftTargets(first, smoothing=0.1, num_classes=5)
        torch.testing.assert_close(SoftTargets.cat([target, other]).dense(), torch.cat([target.dense(), other.dense()]))
    maps = default_collate([smooth(labels, 5, 0.1) for labels in first])
    assert torch.equal(maps.dense(), smooth(first, 5, 0.1).dense())


def test_unsigned_labels_are_those_of_torch():
    labels = torch.tensor([0, 3, 255], dtype=torch.uint8)
    target = smooth(labels, 5, 0.1)
    assert target.first.dtype == torch.int64 and target.first.tolist() == [0, 3, 255]


@pytest.mark.parametrize("lam", [0.2, 0.5, 1.0, torch.tensor([0.0, 0.5, 1.0, 0.3, 0.5, 0.7])])
def test_shape_and_argmax_are_those_of_the_matrix(lam):
    target = SoftTargets(torch.tensor([0, 4, 2, 2, 1, 3]), torch.tensor([1, 0, 2, 0, 3, 0]), lam, 0.1, num_classes=5)
    dense = target.dense(torch.float64)
    assert target.shape == dense.shape and target.size() == dense.size() and target.ndim == dense.ndim
    assert target.size(0) == 6 and target.size(-1) == 5
    assert torch.equal(target.argmax(1), dense.argmax(1)) and torch.equal(target.argmax(-1), dense.argmax(-1))
    assert int(target[3].argmax(0)) == int(dense[3].argmax())
    with pytest.raises(ValueError, match="dim must be that of the classes, 1, got 0"):
        target.argmax(0)


@pytest.mark.skipif(torch.__version__ < (2, 8), reason="torch.export takes no class of ours before 2.8")
def test_export_takes_soft_targets():
    class Loss(torch.nn.Module):
        def forward(self, logits, target):
            return soft_cross_entropy(logits, target)

    logits, target = torch.randn(6, 5), targets(lam=torch.rand(6))
    program = torch.export.export(Loss(), (logits, target))
    torch.testing.assert_close(program.module()(logits, target), soft_cross_entropy(logits, target))


def test_messages_stay_short():
    many = torch.arange(100_000)
    for broken in (
        lambda: SoftTargets(many, num_classes=10).dense(),
        lambda: SoftTargets(many, lam=many.float(), num_classes=10),
        lambda: mixup(torch.rand(100_000, 1), many, 10),
    ):
        with pytest.raises((IndexError, ValueError)) as caught:
            broken()
        assert len(str(caught.value)) < 100


def test_a_partner_without_a_share_ignores_nobody():
    """λ = 0: the box covers all; λ = 1: nothing. What the loss ignores is a row where either class is unlabeled."""
    first, second = torch.tensor([0, -100, 2]), torch.tensor([-100, 1, 3])
    for lam, one in ((0.0, [-100, 1, 3]), (1.0, [0, -100, 2])):
        for share in (lam, torch.tensor(lam), torch.full((3,), lam)):
            target = mix_labels(first, second, share, 0.0, 4)
            assert target.first.tolist() == target.second.tolist() == one
    half = mix_labels(first, second, 0.5, 0.0, 4)
    assert half.first.tolist() == [0, -100, 2] and half.second.tolist() == [-100, 1, 3]


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (4, 5, 13)])
def test_a_box_of_tensors_is_that_of_numbers(shape):
    images = torch.rand(shape)
    for box in ((1, 4, 2, 8), (0, shape[-2], 0, shape[-1]), (2, 2, 0, 3)):
        assert torch.equal(paste(images, tuple(map(torch.tensor, box))), paste(images, box))


def test_a_draw_on_a_device_makes_the_host_wait_for_nothing(monkeypatch):
    """A meta tensor cannot be read: whoever tries raises."""
    monkeypatch.setattr(mixing, "_number", lambda drawn: drawn.to("meta"))
    images, labels = torch.empty(4, 3, 8, 8, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta")
    for mix in (mixup, cutmix, MixUp(5, smoothing=0.1), CutMix(5)):
        mixed, target = mix(images, labels, 5) if mix in (mixup, cutmix) else mix(images, labels)
        assert mixed.shape == images.shape and target.lam.shape == () and target.lam.device.type == "meta"


def test_bad_parts():
    labels = torch.arange(4)
    with pytest.raises(TypeError, match=r"first must be an int64 or uint8 tensor, got torch\.int32"):
        SoftTargets(labels.int(), num_classes=4)
    with pytest.raises(ValueError, match=r"second must have the shape of first \(4,\), got \(3,\)"):
        SoftTargets(labels, labels[:3], num_classes=4)
    for lam in (-0.1, 1.5, torch.tensor(2.0), torch.full((4,), -1.0), float("nan")):
        with pytest.raises(ValueError, match="lam must lie in"):
            SoftTargets(labels, labels, lam, num_classes=4)
    with pytest.raises(ValueError, match="lam must have shape"):
        SoftTargets(labels, labels, torch.rand(3), num_classes=4)
    with pytest.raises(ValueError, match="smoothing must have shape"):
        SoftTargets(labels, labels, 1.0, torch.rand(4), num_classes=4)
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        SoftTargets(labels, num_classes=0)
    with pytest.raises(IndexError, match=r"first must lie in \[0, 3\), got 3"):
        SoftTargets(labels, num_classes=3).dense()
    with pytest.raises(TypeError, match="smoothing must be a number or a floating tensor, got NoneType"):
        smooth(labels, 4, None)


def test_bad_batches():
    images, labels = torch.rand(4, 1, 2, 2), torch.arange(4)
    with pytest.raises(TypeError, match=r"images must be a floating tensor, got torch\.uint8"):
        mixup(images.byte(), labels, 4)
    with pytest.raises(ValueError, match="as many rows"):
        mixup(images[:3], labels, 4)
    with pytest.raises(ValueError, match="alpha must be positive and finite, got 0"):
        cutmix(images, labels, 4, 0)
    with pytest.raises(ValueError, match=r"images must have 3 dimensions or more, got shape \(4, 4\)"):
        cutmix(images.flatten(1), labels, 4)
    for bad, got in ((None, "NoneType"), ([0, 1, 2, 3], "list")):
        with pytest.raises(TypeError, match=f"labels must be a tensor, got {got}"):
            mixup(images, bad, 4)
    with pytest.raises(ValueError, match="as many rows"):
        mixup(images, labels[0], 4)
    for broken, message in (
        (lambda: MixUp(2.5), r"num_classes must be a whole number, got 2\.5"),
        (lambda: MixUp(5, alpha="1"), "alpha must be a number, got '1'"),
        (lambda: MixUp(5, smoothing=None), "smoothing must be a number or a floating tensor"),
        (lambda: RandomChoice([MixUp(5)], p=["1"]), "p must hold numbers"),
        (lambda: mixup(images, labels, "4"), "num_classes must be a whole number, got '4'"),
        (lambda: smooth([0, 1], 4, 0.1), "labels must be an int64 or uint8 tensor, got list"),
        (lambda: smooth(labels.to_sparse(), 4, 0.1), r"labels must be a dense tensor, got torch\.sparse_coo"),
        (lambda: cutmix(images.to_sparse(), labels, 4), r"images must be a dense tensor, got torch\.sparse_coo"),
        (lambda: SoftTargets(labels, lam=images[:, 0, 0, 0].to_sparse(), num_classes=4), "lam must be a dense tensor"),
        *(
            (lambda make=make: make(generator=3), "generator must be a torch.Generator or None, got int")
            for make in (
                partial(mixup, images, labels, 4),
                partial(cutmix, images, labels, 4),
                partial(MixUp, 4),
                partial(RandomChoice, [MixUp(4)]),
            )
        ),
    ):
        with pytest.raises(TypeError, match=message):
            broken()
    for mix in (mixup, cutmix):
        with pytest.raises(IndexError, match="labels must be below num_classes, 3, got 3"):
            mix(images, labels, 3)
