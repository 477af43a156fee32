"""What the engine promises whatever the attack: same answers for any lanes, no wasted evaluation, a clean exit."""

import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from regfast.attacks import APGD, DDN, FAB, FMN, PGD, CarliniWagner, PreparedModel, Square, engine
from regfast.attacks.lanes import Rows
from tests.attacks.problems import Linear, curved, linear

ATTACK = PGD(eps=0.02, steps=6, restarts=3)


def same(a, b) -> None:
    for name in ("images", "success", "robust", "clean", "prediction", "clean_prediction", "distance", "loss"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0, equal_nan=True)
    assert a.stage == b.stage


@pytest.mark.parametrize(
    "attack",
    [
        ATTACK,
        APGD("l2", 0.15, 12),
        APGD("linf", 0.02, 8, loss="dlr", targets=4),
        CarliniWagner(0.3, steps=6, searches=4, initial=1.0, lr=0.05),  # keeps state across its runs
    ],
    ids=str,
)
def test_the_result_does_not_depend_on_lanes_order_or_split(attack):
    model, images, labels = curved()
    whole = attack.run(model, images, labels, seed=3)
    assert 0 < whole.success.sum() < whole.clean.sum() < len(images)
    for lanes in (1, 3, 64):
        same(whole, attack.run(model, images, labels, seed=3, lanes=lanes))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(5))
    mixed = attack.run(model, images[order], labels[order], seed=3, lanes=5, sample_ids=order)
    for name in ("images", "success", "loss", "distance"):
        expected = getattr(whole, name)[order]
        torch.testing.assert_close(getattr(mixed, name), expected, rtol=0, atol=0, equal_nan=True)
    parts = [slice(0, 10), slice(10, 24)]
    ids = torch.arange(len(images))
    split = [attack.run(model, images[p], labels[p], seed=3, lanes=4, sample_ids=ids[p]) for p in parts]
    assert torch.equal(torch.cat([part.images for part in split]), whole.images)
    other = attack.run(model, images, labels, seed=4)
    assert torch.equal(other.images, whole.images) == isinstance(attack, CarliniWagner)  # the one without draws


@dataclass
class Seen(Rows):
    answers: torch.Tensor
    gradients: torch.Tensor


class Diary(PGD):
    """Counts what a run is told, over all runs of a sample."""

    def state(self, lanes):
        return Seen(lanes.full(0.0), lanes.full(0.0))

    def start(self, lanes, state, fresh):
        told = torch.where(lanes.run[fresh] > 0, 7.0, 0.0)
        assert torch.equal(state.answers[fresh] * (lanes.run[fresh] > 0), told)
        assert torch.equal(state.gradients[fresh] * (lanes.run[fresh] > 0), told.clamp(max=6))
        lanes.point[fresh] = self.norm.random_start(lanes, fresh, self.eps)
        state.answers[fresh] = state.gradients[fresh] = 0.0

    def advance(self, lanes, state, answer):
        state.answers = state.answers + 1
        state.gradients = state.gradients + answer.gradient.flatten(1).any(1)
        lanes.point = self.norm.step(lanes.point, answer.gradient, lanes.image, self.step_size, self.eps)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("lanes", [1, 3, 5])
def test_every_answer_of_a_run_reaches_the_attack_the_last_without_gradient(lanes, lag, monkeypatch):
    monkeypatch.setattr(engine, "LAG", {False: lag})
    model, images, labels = curved()
    result = Diary(eps=0.02, steps=6, restarts=4).run(model, images, labels, lanes=lanes)
    assert result.robust.any()


def test_every_target_gets_all_restarts():
    model, images, labels = linear(4, count=20)
    targets = torch.stack([(labels + 1) % 4, (labels + 2) % 4], 1)
    result = PGD(eps=0.0001, steps=3, restarts=5).run(model, images, labels, targets=targets)
    assert (result.queries[result.robust] == 1 + 2 * 5 * 4).all()


ALL = [
    ATTACK,
    PGD(eps=0.02, steps=6, momentum=0.5),
    APGD("l2", 0.15, 12),
    APGD("linf", 0.02, 8, loss="dlr", targets=4),
    APGD("l1", 3.0, 12),
    FAB("linf", 0.03, 12, targets=3),
    FAB("l2", None, 12),
    Square("linf", 0.06, 40),
    FMN("l2", steps=12),
    DDN(steps=12),
    CarliniWagner(steps=6, searches=4, initial=1.0, lr=0.05),
]


def check_late(exact, late) -> None:
    same(exact, late)
    spent, needed = late.queries.sum().item(), exact.queries.sum().item()
    runs = 1 + 4 * len(exact.images)
    assert needed <= spent <= needed + 2 * runs


@pytest.mark.parametrize("attack", ALL, ids=str)
def test_a_host_one_step_behind_finds_the_same(attack, monkeypatch):
    # On a GPU the host reads flags one step late; the same bookkeeping on a CPU must not change any outcome.
    model, images, labels = curved()
    exact = attack.run(model, images, labels, lanes=5)
    monkeypatch.setattr(engine, "LAG", {False: 1})
    late = attack.run(model, images, labels, lanes=5)
    check_late(exact, late)


@pytest.mark.parametrize("attack", ALL, ids=str)
def test_recorded_steps_find_the_same(attack, monkeypatch):
    # A CUDA graph works in fixed memory. Here a step is "recorded" by running it, and replayed by running it again.
    widths = []

    class Watched(engine.GraphedStep):
        def __init__(self, step, rows, record):
            widths.append(len(rows[0]))
            super().__init__(step, rows, record)
            memory = [tensor.data_ptr() for row in rows for _, tensor in row.tensors()]
            assert len({place for place in memory if place}) == len([place for place in memory if place])

    model, images, labels = curved()
    monkeypatch.setattr(engine, "LAG", {False: 1})
    late = attack.run(model, images, labels, lanes=8)
    monkeypatch.setattr(engine, "RECORDERS", {False: replayed})
    monkeypatch.setattr(engine, "GraphedStep", Watched)
    recorded = attack.run(model, images, labels, lanes=8, cuda_graphs=True)
    same(late, recorded)
    assert widths
    assert widths[0] == 8
    assert set(widths) <= {8, 4, 2, 1}


def replayed(step):
    """Records a step by running it."""
    step()
    return step


def refused(step):
    """As torch does where the model looks at a value."""
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCUDA kernel errors might be")


def stale(step):
    """A replay that does nothing."""
    step()
    return lambda: None


def without_memory(step):
    raise torch.OutOfMemoryError("CUDA out of memory (simulated)")


class EverySecond(nn.Module):
    """Says something else every second time, as a count on the host decides: no graph repeats that."""

    def __init__(self, model):
        super().__init__()
        self.model, self.asked = model, 0

    def __deepcopy__(self, memo):
        raise TypeError("not copied")

    def forward(self, images):
        self.asked += 1
        return self.model(images) * (1 + self.asked % 2)


@pytest.mark.parametrize(("record", "reason"), [(refused, "stream is capturing"), (stale, "gives other answers")])
def test_a_model_that_cannot_be_recorded_is_attacked_without(record, reason, monkeypatch):
    model, images, labels = curved()
    monkeypatch.setattr(engine, "LAG", {False: 1})
    plain = ATTACK.run(model, images, labels, lanes=8)
    monkeypatch.setattr(engine, "RECORDERS", {False: record})
    with pytest.raises(engine.NotRecordedError, match=reason):
        ATTACK.run(model, images, labels, lanes=8, cuda_graphs=True)
    prepared = PreparedModel(model, images, cuda_graphs=None)
    with pytest.warns(UserWarning, match=reason) as told:
        same(plain, ATTACK.run(prepared, images, labels, lanes=8))
    assert sum(reason in str(each.message) for each in told) == 1
    assert not prepared.records
    same(plain, ATTACK.run(model, images, labels, lanes=8, cuda_graphs=False))


def test_a_model_that_can_be_recorded_is(monkeypatch):
    model, images, labels = curved()
    monkeypatch.setattr(engine, "LAG", {False: 1})
    plain = ATTACK.run(model, images, labels, lanes=8)
    replays = []

    def record(step):
        step()
        return lambda: (step(), replays.append(1))

    monkeypatch.setattr(engine, "RECORDERS", {False: record})
    prepared = PreparedModel(model, images, cuda_graphs=None)
    same(plain, ATTACK.run(prepared, images, labels, lanes=8))
    assert prepared.records
    assert len(replays) > 30
    replays.clear()
    same(plain, ATTACK.run(model, images, labels, lanes=8))
    assert not replays, "not by itself: no GPU has run it yet"


def test_what_a_replay_would_freeze_is_noticed(monkeypatch):
    model, images, labels = curved()
    monkeypatch.setattr(engine, "LAG", {False: 1})

    def record(step):
        """Whatever the host counts stays as it was when the step was recorded."""
        asked = alternating.asked

        def replay():
            now, alternating.asked = alternating.asked, asked
            step()
            alternating.asked = now

        return replay

    monkeypatch.setattr(engine, "RECORDERS", {False: record})
    alternating = EverySecond(model).eval()
    prepared = PreparedModel(alternating, images, cuda_graphs=None)
    assert prepared.random
    assert not prepared.records, "answers at random are not recorded by themselves"
    prepared = PreparedModel(model, images, cuda_graphs=True)
    prepared.search = alternating
    with pytest.raises(engine.NotRecordedError, match="other answers"):
        ATTACK.run(prepared, images, labels, lanes=8)


def test_memory_that_runs_out_while_recording_halves_the_lanes(monkeypatch):
    model, images, labels = curved()
    monkeypatch.setattr(engine, "LAG", {False: 1})
    monkeypatch.setattr(engine, "RECORDERS", {False: without_memory})
    with pytest.raises(torch.OutOfMemoryError):
        ATTACK.run(model, images, labels, lanes=8, cuda_graphs=None)


class Counting(nn.Module):
    """Counts the rows it is asked, in forwards and in backwards."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.rows = self.with_gradient = 0

    def __deepcopy__(self, memo):  # the search would otherwise use a copy with its own counter
        raise TypeError("not copied")

    def forward(self, images):
        self.rows += len(images)
        self.with_gradient += len(images) * images.requires_grad
        return self.model(images)


def test_decided_samples_are_asked_nothing_more():
    model, images, labels = linear(3, count=40)
    model = Counting(model).eval()
    near = model.model.distance(images, "linf")
    eps = near.median().item()
    result = PGD(eps=eps, steps=10, random_start=False, step_size=eps).run(model, images, labels, lanes=8)
    # Broken: asked at the clean image (known right) and after one move. Robust: 11 points, each with its clean forward.
    broken = result.success
    assert broken.any()
    assert not broken.all()
    assert result.gradients[broken].max() <= 2
    assert result.gradients[~broken].max() <= 10
    warned = 5 * 8  # what prepare and checks ask before the attack, on eight images
    assert model.rows - warned <= result.queries.sum() + 8
    last = int(result.robust.sum())  # points of a run that need no gradient, but whose neighbors in the lanes may
    assert model.with_gradient - 16 - last <= result.gradients.sum()  # and two gradients of theirs


def test_every_evaluation_is_counted_on_its_sample():
    model, images, labels = curved()
    result = ATTACK.run(model, images, labels, lanes=4)
    for lanes in (1, 7):
        assert torch.equal(ATTACK.run(model, images, labels, lanes=lanes).gradients, result.gradients)
    assert (result.queries[~result.clean] == 1).all()
    assert (result.gradients[~result.clean] == 0).all()
    robust = result.robust
    # 3 restarts of 7 points each; the last point of a run needs no gradient.
    assert (result.queries[robust] == 1 + 21).all()
    assert (result.gradients[robust] == 18).all()
    assert (result.queries[result.success] < 1 + 21 + 2).all()


def test_what_comes_back_is_true():
    model, images, labels = curved()
    result = ATTACK.run(model, images, labels)
    prediction = model(images).argmax(1)
    assert torch.equal(result.clean_prediction, prediction)
    assert torch.equal(result.clean, prediction == labels)
    assert torch.equal(result.prediction, model(result.images).argmax(1))
    assert torch.equal(result.success, result.clean & (result.prediction != labels))
    assert torch.equal(result.robust, result.clean & ~result.success)
    assert torch.equal(result.images[~result.clean], images[~result.clean])
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    distance = (result.images - images).flatten(1).abs().amax(1)
    torch.testing.assert_close(result.distance, distance)
    assert result.distance.max() <= 0.02 + 1e-6
    wanted = {"clean": ~result.clean, "pgd": result.success, "": result.robust}
    assert all(wanted[stage][row] for row, stage in enumerate(result.stage))
    ce = nn.functional.cross_entropy(model(result.images), labels, reduction="none").detach()
    torch.testing.assert_close(result.loss[result.clean], ce[result.clean])
    assert result.robust_accuracy == pytest.approx(result.robust.sum().item() / 24)
    assert result.success_rate == pytest.approx(result.success.sum().item() / result.clean.sum().item())
    assert torch.equal(ATTACK(model, images, labels), result.images)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Dropout(0.5), nn.Linear(192, 5))
    model[0].eval()
    model[3].bias.requires_grad_(False)
    images, labels = torch.rand(8, 3, 8, 8), torch.arange(8) % 5
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]

    def check():
        assert [module.training for module in model.modules()] == modes
        assert [p.requires_grad for p in model.parameters()] == [True, True, True, False]
        assert all(p.grad is None for p in model.parameters())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    with pytest.warns(UserWarning, match="train mode"):
        ATTACK.run(model, images, labels)
    check()

    class Interrupted(PGD):
        def advance(self, lanes, state, answer):
            raise KeyboardInterrupt

    labels = model.eval()(images).argmax(1)
    model.train()
    model[0].eval()
    with pytest.warns(UserWarning), pytest.raises(KeyboardInterrupt):
        Interrupted(eps=0.01).run(model, images, labels)
    check()


def test_any_callable_and_any_mode_of_the_caller():
    model, images, labels = linear(3)
    expected = ATTACK.run(lambda x: model(x), images, labels)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    with torch.no_grad():
        same(expected, ATTACK.run(lambda x: model(x), images, labels))
    with torch.inference_mode():
        same(expected, ATTACK.run(lambda x: model(x), images.clone(), labels.clone()))
    double = ATTACK.run(model.double(), images.double(), labels)
    assert double.images.dtype == torch.float64
    assert torch.equal(double.success, expected.success)


class Small(Linear):
    """Runs out of memory above `most` images."""

    most = 9

    def forward(self, images):
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return super().forward(images)


def test_out_of_memory_halves_the_lanes_and_goes_on():
    model, images, labels = linear(4, count=30)
    expected = ATTACK.run(lambda x: model(x), images, labels, lanes=9)
    small = Small(model.weight.detach(), model.bias.detach())
    got = ATTACK.run(lambda x: small(x), images, labels, lanes=24)
    assert torch.equal(got.success, expected.success)
    assert torch.equal(got.images, expected.images)
    small.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        ATTACK.run(lambda x: small(x), images, labels, lanes=8)


def test_low_precision_is_a_search_only():
    model, images, labels = linear(4, count=60, shape=(3, 8, 8))
    for eps in model.distance(images, "linf").quantile(torch.tensor([0.3, 0.7])).tolist():
        result = PGD(eps=eps, steps=8).run(model, images, labels, precision="bf16")
        prediction = model(result.images).argmax(1)
        assert torch.equal(
            prediction[result.success] != labels[result.success], torch.ones(result.success.sum()).bool()
        )
        full = PGD(eps=eps, steps=8).run(model, images, labels)
        assert (result.success != full.success).sum() <= 3


def test_compiled_widths_are_few():
    seen = set()

    class Engineered(PGD):
        def advance(self, lanes, state, answer):
            seen.add(len(lanes))
            super().advance(lanes, state, answer)

    model, images, labels = curved(40)
    attack = Engineered(eps=0.02, steps=6)
    free = attack.run(model, images, labels, lanes=16)
    assert not seen <= {16, 8, 4, 2, 1}
    seen.clear()
    from unittest import mock

    with mock.patch("torch.compile", side_effect=lambda network: network):
        fixed = attack.run(model, images, labels, lanes=16, compile=True)
    assert seen <= {16, 8, 4, 2, 1}
    assert len(seen) > 1
    assert torch.equal(fixed.success, free.success)


def test_users_targets_must_be_reached():
    model, images, labels = linear(4, count=20)
    targets = (labels + 1) % 4
    result = PGD(eps=0.05, steps=20).run(model, images, labels, targets=targets)
    reached = model(result.images).argmax(1) == targets
    assert torch.equal(result.success, reached)
    assert result.success.sum() >= 18
    several = torch.stack([(labels + 1) % 4, (labels + 2) % 4], 1)
    small = PGD(eps=0.0008, steps=20)
    either = small.run(model, images, labels, targets=several)
    one = small.run(model, images, labels, targets=several[:, :1])
    assert (either.success >= one.success).all()
    assert either.success.sum() > one.success.sum()


def test_a_prepared_model_is_prepared_and_checked_once(monkeypatch):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).train()
    _, images, _ = curved()
    labels = model.eval()(images).argmax(1)
    expected = ATTACK.run(model, images, labels)
    prepared = PreparedModel(model.train(), images)
    with pytest.warns(UserWarning, match="train mode"):
        first = ATTACK.run(prepared, images, labels)
    monkeypatch.setattr("regfast.attacks.prepared.prepare", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = ATTACK.run(prepared, images[:9], labels[:9])
    assert torch.equal(first.success, expected.success)
    assert torch.equal(second.images, first.images[:9])
    assert model.training
    with pytest.raises(ValueError, match="precision"):
        PreparedModel(model, images, precision="fp8")


def test_no_images():
    model, images, labels = linear(3)
    result = ATTACK.run(model, images[:0], labels[:0])
    assert result.images.shape == images[:0].shape
    assert result.stage == []
    assert len(result.success) == len(result.queries) == 0
    wrong = ATTACK.run(model, images, (labels + 1) % 3)
    assert wrong.stage == ["clean"] * len(images)
    assert wrong.queries.eq(1).all()


def test_given_clean_logits_are_not_asked_again():
    model, images, labels = linear(3)
    known = ATTACK.run(model, images, labels, clean_logits=model(images).detach())
    asked = ATTACK.run(model, images, labels)
    assert torch.equal(known.images, asked.images)
    assert torch.equal(known.queries + 1, asked.queries)
    with pytest.raises(ValueError, match="clean_logits"):
        ATTACK.run(model, images, labels, clean_logits=torch.zeros(3, 3))


def test_bad_input_is_named():
    model, images, labels = linear(3)
    bad = images.clone()
    bad[3, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="image 3"):
        ATTACK.run(model, bad, labels)
    with pytest.raises(TypeError, match="images must be a float tensor"):
        ATTACK.run(model, (images * 255).byte(), labels)
    with pytest.raises(TypeError, match="labels must be an integer tensor"):
        ATTACK.run(model, images, labels.float())
    with pytest.raises(ValueError, match="labels must have one entry"):
        ATTACK.run(model, images, labels[:-1])
    with pytest.raises(IndexError, match="labels must be below 3"):
        ATTACK.run(model, images, labels + 1)
    with pytest.raises(IndexError, match="labels must be ≥ 0"):
        ATTACK.run(model, images, labels - 3)
    with pytest.raises(ValueError, match="lanes"):
        ATTACK.run(model, images, labels, lanes=0)
    for seed in (1.5, None):
        with pytest.raises(TypeError, match="seed must be an integer"):
            ATTACK.run(model, images, labels, seed=seed)
    with pytest.raises(TypeError, match="clean_logits must be a tensor"):
        ATTACK.run(model, images, labels, clean_logits=[0.0])
    with pytest.raises(ValueError, match="targets must be"):
        ATTACK.run(model, images, labels, targets=labels[:, None][:, :0])
    with pytest.raises(ValueError, match="gradient"):
        ATTACK.run(lambda x: model(x).detach(), images, labels)


def test_nan_logits_are_neither_right_nor_a_success():
    model, images, labels = linear(3)

    def broken(x):
        logits = model(x)
        return torch.where((x - images[: len(x)]).abs().amax() > 0, logits * torch.nan, logits)

    result = ATTACK.run(broken, images, labels)
    assert not result.success.any()


def test_attacks_know_their_options():
    attack = PGD("l2", 0.5, steps=7)
    assert attack.options["norm"] == "l2"
    assert attack.options["steps"] == 7
    other = attack.at(0.25)
    assert (other.eps, other.steps, other.norm.name) == (0.25, 7, "l2")
    assert other.step_size == pytest.approx(2.5 * 0.25 / 7)
    assert repr(attack) == repr(PGD(**attack.options))


def test_the_engine_works_on_the_models_device(monkeypatch):
    entered = []

    class Device:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            entered.append(self.device)

        def __exit__(self, *error):
            entered.append(None)

    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(engine.Engine, "_serve", lambda self: entered.append("serving"))
    model = SimpleNamespace(device=torch.device("cuda:1"), records=False)
    _, images, labels = linear(4)
    engine.Engine(ATTACK, model, engine.Samples(images, labels, labels), None).run([0, 1])
    assert entered == [torch.device("cuda:1"), "serving", None]
