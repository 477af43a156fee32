"""On a device that is none (benchmarks/attacks/device.py): no step waits for it, and few things are launched a step."""

import pytest
import torch

from benchmarks.attacks.device import Device, OnDevice
from benchmarks.attacks.launches import counted, problem
from regfast.attacks import APGD, DDN, FAB, FMN, PGD, AutoAttack, CarliniWagner, Square

EPS = 1e-6  # nothing falls
ATTACKS = [
    PGD("linf", EPS, 4, restarts=2, momentum=0.5),
    PGD("l2", EPS, 4),
    PGD("l1", EPS, 4, restarts=2),
    APGD("linf", EPS, 4, restarts=2),
    APGD("l2", EPS, 4),
    APGD("l1", EPS, 4),
    APGD("linf", EPS, 4, loss="dlr", targets=3),
    FAB("linf", EPS, 4, targets=3),
    FAB("l2", EPS, 2, restarts=2),
    FAB("l1", EPS, 2),
    Square("linf", EPS, 4, restarts=2),
    Square("l2", EPS, 4, restarts=2),
    CarliniWagner(1e-9, steps=4, searches=2),
    DDN(1e-9, steps=4),
    FMN("linf", 1e-9, steps=4),
    FMN("l2", 1e-9, steps=4),
]


def waits(device: Device) -> list[int]:
    return [sum(step.values()) for step in device.waits]


@pytest.mark.parametrize(
    ("attack", "images_on_device"),
    [*((attack, True) for attack in ATTACKS), *((attack, False) for attack in ATTACKS if attack.runs > 1)],
    ids=str,
)
def test_no_step_waits_for_the_device(attack, images_on_device):
    device = counted(attack, problem(shape=(3, 4, 4)), images_on_device)
    assert len(waits(device)) > attack.steps
    assert not any(waits(device)[1:-1]), device.waits  # the first step is preparing, the last writes what came out


def test_the_standard_chain_waits_between_its_stages_alone():
    def spent(steps: int) -> tuple[int, int]:
        attack = AutoAttack("linf", EPS)
        attack._stages = [  # shorter, and with two targets
            type(stage)(**{**stage.options, "steps": steps, **({"targets": 2} if stage.options.get("targets") else {})})
            for stage in attack.stages()
        ]
        device = counted(attack, problem(2, classes=4, shape=(3, 6, 6)))
        return len(waits(device)), sum(waits(device))

    (few, waited), (many, still) = spent(2), spent(3)
    assert many - few == 1 + 2 + 2 + 1
    assert waited == still


class Looking(PGD):
    """Looks at a value a step, in one of the ways that wait."""

    how = "item"

    def advance(self, lanes, state, answer):
        super().advance(lanes, state, answer)
        loss = answer.loss
        {
            "item": lambda: loss[0].item(),
            "bool": lambda: bool((loss > 0).any()),
            "tolist": lambda: loss.tolist(),
            "cpu": lambda: loss.cpu(),
            "nonzero": lambda: (loss > 0).nonzero(),
            "mask": lambda: loss[loss > 0],
            "set by mask": lambda: loss.__setitem__(loss > 0, 0.0),
            "list as index": lambda: loss[torch.tensor([1, 0])],
            "list": lambda: torch.tensor([1.0], device=loss.device),
            "to the device": lambda: torch.ones(2).to(loss.device),
            "pageable": lambda: torch.ones(2).to(loss.device, non_blocking=True),
        }[self.how]()


@pytest.mark.parametrize(
    "how",
    ["item", "bool", "tolist", "cpu", "nonzero", "mask", "set by mask", "list as index", "list", "to the device",
     "pageable"],
)  # fmt: skip
def test_every_way_to_wait_is_seen(how, monkeypatch):
    monkeypatch.setattr(Looking, "how", how)
    device = counted(Looking("linf", EPS, 4), problem(shape=(3, 4, 4)))
    assert min(waits(device)[2:-2]) > 0


def test_an_event_of_the_same_step_is_a_wait():
    with Device() as device:
        early, late = torch.cuda.Event(), torch.cuda.Event()
        early.record()
        device.step()
        late.record()
        early.synchronize()
        assert waits(device) == [0, 0]
        late.synchronize()
        assert waits(device) == [0, 1]


def test_the_device_computes_what_the_cpu_does():
    given = weight, images, labels = problem(count=6)
    attack = APGD("linf", 0.05, 10)
    from benchmarks.attacks.launches import Linear

    on_cpu = attack.run(Linear(weight).eval(), images, labels, lanes=4)
    with Device():
        there = attack.run(Linear(OnDevice(weight)).eval(), images, labels, lanes=4)
    assert given
    assert torch.equal(there.success, on_cpu.success)
    assert on_cpu.success.any()
    with pytest.raises(RuntimeError, match="same device"), Device():
        OnDevice(images) + images


FEW = {
    PGD("linf", EPS, 4): 6,
    PGD("l2", EPS, 4): 7,
    PGD("linf", EPS, 4, loss="dlr"): 6,
    APGD("linf", EPS, 4): 7,
    APGD("l2", EPS, 4): 8,
    APGD("linf", EPS, 4, loss="dlr", targets=1): 7,
}


@pytest.mark.parametrize(("attack", "most"), FEW.items(), ids=str)
def test_a_move_launches_little_beside_the_model(attack, most):
    device = counted(attack, problem(classes=4, shape=(3, 6, 6)))
    launches = [sum(step.values()) for step in device.launches]
    assert 3 < launches[2] <= most, device.launches[2]
