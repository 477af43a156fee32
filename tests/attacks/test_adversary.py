import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import regfast
from regfast.attacks import APGD, DDN, FGSM, PGD, Adversary, AutoAttack, PreparedModel, Square
from regfast.attacks.live import LiveModel

EPS, SIZE, STEPS = 0.1, 0.03, 5


def network(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, 2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(54, 5),
    )
    for norm in (model[1], model[4]):
        norm.running_mean.uniform_(-0.3, 0.3)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    return model


def batch(count=12, seed=1):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(count, 2, 8, 8, generator=draw), torch.randint(5, (count,), generator=draw)


def loop(model, images, loss, start=None):
    """PGD as people write it: `loss` of logits, from the image or from `start`."""
    point = images.clone() if start is None else start.clone()
    for _ in range(STEPS):
        point.requires_grad_()
        (slope,) = torch.autograd.grad(loss(model(point)), point)
        point = point.detach() + SIZE * slope.sign()
        point = torch.minimum(torch.maximum(point, images - EPS), images + EPS).clamp(0, 1)
    return point


def pgd(**options):
    return PGD("linf", EPS, STEPS, step_size=SIZE, **options)


def state(model):
    return {
        "modes": [module.training for module in model.modules()],
        "flags": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "identity": [id(tensor) for tensor in (*model.parameters(), *model.buffers())],
        "values": [tensor.clone() for tensor in (*model.parameters(), *model.buffers())],
        "attributes": [sorted(module.__dict__) for module in model.modules()],
        "random": torch.get_rng_state(),
    }


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=2e-6)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_last_point_is_the_plain_loops_wrong_samples_included(mode):
    model, (images, labels) = network(), batch()
    plain = copy.deepcopy(model).train(mode == "train")
    found = Adversary(pgd(random_start=False), mode=mode)(model.train(), images, labels)
    close(found, loop(plain, images, lambda logits: F.cross_entropy(logits, labels)))
    wrong = plain.eval()(images).argmax(1) != labels
    assert wrong.any() and not wrong.all()
    assert bool(((found - images).flatten(1).abs().amax(1) > EPS / 2).all())


def test_last_and_strongest_of_a_linear_model_in_closed_form():
    # The gradient never turns: the point of largest loss is the corner of the ball, not the first that is wrong.
    slope = torch.tensor([1.0, -2.0, 0.5, 3.0])
    model = lambda images: torch.stack([images.flatten(1) @ slope, torch.full((len(images),), 1.0)], 1)  # noqa: E731
    images = torch.rand(40, 1, 2, 2, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
    labels = model(images).argmax(1)
    away = torch.where(labels == 0, -1.0, 1.0)[:, None] * slope.sign()
    for keep in ("last", "strongest"):
        found = Adversary(PGD("linf", 0.1, 20), keep=keep)(model, images, labels)
        close(found.flatten(1), images.flatten(1) + 0.1 * away)
    early = PGD("linf", 0.1, 20).run(model, images, labels)
    assert bool((early.distance < 0.1 - 1e-4).any())


def test_strongest_falls_where_the_evaluation_falls_and_has_the_larger_loss():
    model, (images, labels) = network().eval(), batch(60)
    attack = PGD("linf", 0.03, 8)
    kept = [Adversary(attack, keep=keep, seed=3)(model, images, labels) for keep in ("strongest", "last")]
    evaluated = attack.run(model, images, labels, seed=3)
    fooled = model(kept[0]).argmax(1) != labels
    assert torch.equal(fooled[evaluated.clean], evaluated.success[evaluated.clean])
    assert evaluated.success.any() and evaluated.robust.any()
    loss = [F.cross_entropy(model(points), labels, reduction="none") for points in kept]
    same = fooled == (model(kept[1]).argmax(1) != labels)
    assert bool((loss[0] >= loss[1] - 1e-5)[same].all()) and bool(fooled[~same].all())


def test_restarts_keep_the_strongest_run():
    model, (images, labels) = network().eval(), batch(40)
    loss = [
        F.cross_entropy(model(Adversary(PGD("l2", 0.5, 3, n), keep="strongest")(model, images, labels)), labels)
        for n in (1, 4)
    ]
    assert loss[1] > loss[0]


def test_every_call_starts_anew_and_draws_depend_on_the_seed_and_the_samples_before():
    model, (images, labels) = network().eval(), batch(10)
    one = Adversary(pgd(), seed=4)
    first, second = one(model, images, labels), one(model, images, labels)
    assert not torch.equal(first, second) and one.drawn == 20
    again = Adversary(pgd(), seed=4)
    torch.manual_seed(99)
    parts = [again(model, x, y) for x, y in zip(images.split(4), labels.split(4), strict=True)]
    close(torch.cat(parts), first)
    again.drawn = 10
    close(again(model, images, labels), second)
    assert not torch.equal(Adversary(pgd(), seed=5)(model, images, labels), first)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_model_and_the_generators_are_left_as_found(mode):
    model, (images, labels) = network(dropout=0.5).train(), batch()
    model[4].eval()
    model[3].weight.requires_grad_(False)
    F.cross_entropy(model(images), labels).backward()
    before, mine = state(model), images.clone()
    found = Adversary(pgd(), mode=mode)(model, images, labels)
    after = state(model)
    assert all(before[key] == after[key] for key in ("modes", "flags", "identity", "attributes"))
    torch.testing.assert_close([before[k] for k in ("gradients", "values", "random")],
                               [after[k] for k in ("gradients", "values", "random")], rtol=0, atol=0)  # fmt: skip
    assert torch.equal(images, mine) and not found.requires_grad and found.data_ptr() != images.data_ptr()

    def fails(logits, labels):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Adversary(pgd(), mode=mode, loss=fails)(model, images, labels)
    assert all(before[key] == state(model)[key] for key in ("modes", "flags", "identity", "attributes"))


def test_train_mode_drops_anew_at_every_step_and_keeps_parts_that_the_user_set_to_eval():
    model, (images, labels) = network(dropout=0.5).train(), batch()
    model[1].eval()
    seen = []
    model[6].register_forward_hook(lambda module, args, out: seen.append((model[1].training, out == 0)))
    Adversary(pgd(), mode="train")(model, images, labels)
    used = seen[-STEPS:]
    assert not any(training for training, _ in used)
    assert all(not torch.equal(used[0][1], mask) for _, mask in used[1:])
    seen.clear()
    Adversary(pgd(), mode="train", seed=0)(model, images, labels)
    assert torch.equal(seen[-1][1], used[-1][1])  # the adversary's seed decides


def test_a_graph_that_is_still_alive_survives_the_attack():
    model, (images, labels) = network().train(), batch()
    loss = F.cross_entropy(model(images), labels)
    Adversary(pgd(), mode="train")(model, images, labels)
    loss.backward()
    assert model[0].weight.grad.abs().max() > 0


def test_soft_labels_in_all_their_forms():
    model, (images, labels) = network().eval(), batch()
    soft = regfast.targets.SoftTargets(labels, labels.roll(1), 0.7, 0.1, num_classes=5)
    expected = loop(model, images, lambda logits: F.cross_entropy(logits, soft.dense()))
    adversary = Adversary(pgd(random_start=False))
    close(adversary(model, images, soft), expected)
    close(adversary(model, images, soft.dense()), expected)

    def own(logits, target):
        return F.cross_entropy(logits, target.dense(), reduction="none")

    close(Adversary(pgd(random_start=False), loss=own)(model, images, soft), expected)


def test_kl_is_trades():
    model, (images, _) = network().eval(), batch()
    clean = model(images).detach()
    start = Adversary(PGD("linf", EPS, 1, step_size=0.0), seed=2)(model, images, clean.argmax(1))
    assert not torch.equal(start, images)

    def divergence(logits):
        return F.kl_div(logits.log_softmax(1), clean.softmax(1), reduction="sum")

    expected = loop(model, images, divergence, start)
    close(Adversary(pgd(), loss="kl", seed=2)(model, images), expected)
    close(Adversary(pgd(), loss="kl", seed=2)(model, images, clean_logits=clean), expected)


def test_targets_are_moved_to():
    model, (images, labels) = network().eval(), batch(40)
    goal = (labels + 1) % 5
    found = Adversary(PGD("linf", 0.3, 20), keep="strongest")(model, images, labels, targets=goal)
    reached = [(model(points).argmax(1) == goal).double().mean() for points in (images, found)]
    assert reached[0] < 0.4 and reached[1] > 0.7


def test_parts_that_fit_a_processors_cache_give_what_the_whole_gives(monkeypatch):
    class Counted(nn.Sequential):
        def forward(self, images):
            seen.append(len(images))
            return super().forward(images)

    seen, (images, labels) = [], batch(10)
    model = Counted(*network()).eval()
    clean = model(images).detach()
    mixed = regfast.SoftTargets(labels, labels.flip(0), torch.linspace(0, 1, 10), num_classes=5)
    radii = torch.linspace(0.05, 0.15, 10)
    cases = [
        ({}, (labels,), {}), ({}, (mixed,), {}), ({}, (clean.softmax(1),), {}), ({"keep": "strongest"}, (labels,), {}),
        ({"loss": "kl"}, (), {"clean_logits": clean}), ({}, (), {"targets": labels}),
        ({"mode": "train"}, (labels,), {}), ({"loss": lambda logits, _: logits.logsumexp(1)}, (labels,), {}),
    ]  # fmt: skip
    for options, given, named in cases:
        adversary = Adversary(PGD("linf", radii, STEPS, step_size=SIZE), **options)
        whole = adversary(model, images, *given, **named)
        adversary.drawn, parts = 0, "mode" not in options and not callable(options.get("loss"))
        with monkeypatch.context() as patched:
            patched.setattr("regfast.attacks.adversary.ENTRIES", 1)
            patched.setattr("regfast.attacks.adversary.LEAST", 4)
            patched.setattr(torch, "get_num_threads", lambda: 1)
            seen.clear()
            close(adversary(model, images, *given, **named), whole)
        assert seen[:5] == ([4] * 5 if parts else [10] * 5) and sum(seen) == 10 * len(seen) // (3 if parts else 1)


def test_fgsm_and_apgd_and_all_norms():
    model, (images, labels) = network().eval(), batch(20)
    before = F.cross_entropy(model(images), labels)
    for norm, eps in (("linf", 0.03), ("l2", 0.5), ("l1", 5.0)):
        for attack in (FGSM(norm, eps, random_start=True), APGD(norm, eps, 6), PGD(norm, eps, 6, momentum=0.5)):
            found = Adversary(attack, keep="strongest")(model, images, labels)
            assert float(attack.norm.distance(found - images).max()) <= eps * (1 + 1e-5)
            assert float(found.min()) >= 0 and float(found.max()) <= 1
            assert F.cross_entropy(model(found), labels) > before


def test_averaged_gradients_of_a_model_that_answers_at_random():
    class Noisy(nn.Module):
        asked = 0

        def forward(self, images):
            self.asked += 1
            return images.flatten(1)[:, :5] + torch.randn(len(images), 5)

    model, (images, labels) = Noisy().eval(), batch()
    Adversary(APGD("linf", EPS, 4, samples=3))(model, images, labels)
    assert model.asked == 3 + 3 * 4  # three forwards look for a faster form


def test_under_autocast_weights_still_get_gradients():
    model, (images, labels) = network().train(), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Adversary(pgd())(model, images, labels)
        F.cross_entropy(model(found), labels).backward()
    assert found.dtype == torch.float32
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in (model[0].weight, model[8].weight))


def test_a_distributed_model(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        alone, (images, labels) = network().train(), batch()
        model = nn.parallel.DistributedDataParallel(copy.deepcopy(alone))
        ours, theirs = (Adversary(pgd(), mode="train", seed=1) for _ in range(2))
        for _ in range(2):
            close(ours(model, images, labels), theirs(alone, images, labels))
            for network_ in (model, alone):
                network_.zero_grad()
                F.cross_entropy(network_(images), labels).backward()
            torch.testing.assert_close(model.module[0].weight.grad, alone[0].weight.grad)
    finally:
        torch.distributed.destroy_process_group()


def test_a_compiled_model():
    model, (images, labels) = network().train(), batch()
    expected = Adversary(pgd())(model, images, labels)
    compiled = torch.compile(model, backend="aot_eager")
    close(Adversary(pgd())(compiled, images, labels), expected)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_norms_are_folded_in_eval_mode_while_the_weights_go_on():
    model, (images, _) = network().train(), batch()
    live = LiveModel("eval")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        with live(model, images, 0) as ask:
            assert [m.forward(images) is images for m in (model[1], model[4])] == [True, True]
            logits = ask(images).detach()
        assert (model[1].weight is dict(model.named_parameters())["1.weight"]) and model[0].bias is None
        close(logits, copy.deepcopy(model).eval()(images).detach())
        model(images).square().mean().backward()
        optimizer.step()
    model[1] = nn.Identity()  # another network now
    with live(model, images, 0) as ask:
        close(ask(images).detach(), copy.deepcopy(model).eval()(images).detach())


def test_what_cannot_be_folded_or_run_channels_last_is_asked_as_it_is():
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = network()[:3], nn.Linear(384, 5)

        def forward(self, images):
            return self.head(self.body(images).view(len(images), -1))

    model, (images, labels) = Views().eval(), batch()
    expected = loop(model, images, lambda logits: F.cross_entropy(logits, labels))
    close(Adversary(pgd(random_start=False))(model, images, labels), expected)


def test_prepared_models_functions_and_empty_batches():
    model, (images, labels) = network().eval(), batch()
    expected = Adversary(pgd())(model, images, labels)
    close(Adversary(pgd())(PreparedModel(model, images), images, labels), expected)
    close(Adversary(pgd())(lambda points: model(points), images, labels), expected)
    with torch.inference_mode():
        close(Adversary(pgd())(model, images + 0, labels), expected)
    assert Adversary(pgd())(model, images[:0], labels[:0]).shape == (0, 2, 8, 8)


def test_it_pickles_without_the_model():
    model, (images, labels) = network().eval(), batch()
    adversary = Adversary(pgd(), seed=3)
    adversary(model, images, labels)
    again = pickle.loads(pickle.dumps(adversary))
    assert len(pickle.dumps(adversary)) < 3000
    assert torch.equal(again(model, images, labels), adversary(model, images, labels))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Adversary(Square("linf", 0.1)), "attack"),
        (lambda: Adversary(AutoAttack("linf", 0.1)), "attack"),
        (lambda: Adversary(DDN()), "attack"),
        (lambda: Adversary(pgd(), keep="first"), "keep"),
        (lambda: Adversary(pgd(), mode="test"), "mode"),
        (lambda: Adversary(pgd(), loss="dlr"), "loss"),
        (lambda: Adversary(pgd(restarts=2)), "strongest"),
        (lambda: Adversary(FGSM(), loss="kl"), "random start"),
        (lambda: Adversary(APGD(targets=3)), "targets"),
        (lambda: Adversary(pgd(), seed=-1), "seed"),
        (lambda: Adversary(pgd(), seed=1.5), "seed must be an integer"),
    ],
)
def test_unfit_settings_are_named(build, says):
    with pytest.raises((ValueError, TypeError), match=says):
        build()


def test_unfit_input_is_named():
    model, (images, labels) = network().eval(), batch()
    adversary = Adversary(pgd())
    with pytest.raises(ValueError, match=r"\[0, 1\].*normalization"):
        adversary(model, images * 4 - 2, labels)
    with pytest.raises(TypeError, match="float32"):
        adversary(model, images.half(), labels)
    with pytest.raises(TypeError, match=r"images must be .* got list"):
        adversary(model, images.tolist(), labels)
    with pytest.raises(ValueError, match="images must lie"):
        adversary(model, images * torch.nan, labels)
    with pytest.raises(TypeError, match="labels must be integer classes"):
        adversary(model, images, labels.float())
    with pytest.raises(TypeError, match="targets must be a tensor"):
        adversary(model, images, targets=labels.tolist())
    with pytest.raises(ValueError, match="labels"):
        adversary(model, images)
    with pytest.raises(ValueError, match="labels must be 12"):
        adversary(model, images, labels[:3])
    with pytest.raises(ValueError, match="targets"):
        adversary(model, images, labels, targets=labels[:3])
    with pytest.raises(ValueError, match="one value a sample"):
        Adversary(pgd(), loss=F.cross_entropy)(model, images, labels)
    with pytest.raises(ValueError, match="'dlr'"):
        Adversary(pgd(loss="dlr"))(model, images, F.one_hot(labels, 5).float())
    with pytest.raises(IndexError):
        adversary(model, images, labels + 4)
    with pytest.raises(ValueError, match="differentiable"):
        adversary(lambda points: points.flatten(1)[:, :5].round().detach(), images, labels)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_logits_in_a_dict(mode):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network()

        def forward(self, images):
            return {"logits": self.network(images)}

    images, labels = batch()
    named = Named().eval()
    for keep in ("last", "strongest"):
        expected = Adversary(pgd(), mode=mode, keep=keep)(named.network, images, labels)
        for model in (named, lambda points: {"logits": named.network(points)}):
            if mode == "train" and model is not named:
                continue  # a function has no modes
            assert torch.allclose(Adversary(pgd(), mode=mode, keep=keep)(model, images, labels), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_model_in_another_precision_gets_images_in_it(mode):
    images, labels = batch()
    for model, given in ((network().bfloat16(), images), (network().double(), images), (network(), images.double())):
        dtype = next(model.parameters()).dtype

        points = Adversary(pgd(), mode=mode)(model, given, labels)
        assert points.dtype == given.dtype and (points - given).abs().max() <= EPS + 1e-6
        if dtype != torch.bfloat16:  # whose convolutions round with their layout
            close(points.float(), Adversary(pgd(), mode=mode)(model.float(), images, labels))
