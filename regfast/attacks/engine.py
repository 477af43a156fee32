"""The engine: one loop that keeps the lanes full, asks the model, and lets decided samples leave at once.

Peers push whole batches through every step; here a lane takes the next sample the moment its own is decided, so no
evaluation is spent on decided samples and a slow sample holds nobody up. When the queue is empty the lanes drain at
falling width.

On a CPU the host sees every answer before the lanes move on. On a GPU it stays one step behind: flags are copied out
asynchronously and read while the next step runs, so that the device never waits for the host; a decided lane then
works one step too many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from regfast.attacks.base import Attack
from regfast.attacks.graphs import GraphedStep, Recorder, cuda_graph
from regfast.attacks.lanes import Answer, blank, per_lane
from regfast.attacks.memory import is_out_of_memory
from regfast.attacks.prepared import PreparedModel
from regfast.attacks.slots import Book, Flags, Slot

LAG = {False: 0, True: 1}  # steps that the host sees late: on a CPU, on a GPU
RECORDERS: dict[bool, Recorder] = {True: cuda_graph}  # likewise: what records a step
NO_ANSWER = Answer(*(torch.empty(0) for _ in range(4)))


class Engine:
    """One attack on some of N samples.

    Args:
        attack: its rules.
        model: what it asks.
        images: (N, C, H, W) clean images, on any device.
        labels, sample_ids: (N,) int64 on the images' device.
        targets: (N, R) int64 on the images' device, or None.
        reach: whether only the target counts.
        keep_clean: samples that are not broken keep their clean image in the book, else the last point asked.
        book: what the engine fills in, for the samples of the queue alone.
        seed, stage: key the draws.
        width: lanes at most; halved when memory runs out.
        decided: called with every sample's outcome (broken or not).
    """

    def __init__(
        self,
        attack: Attack,
        model: PreparedModel,
        images: Tensor,
        labels: Tensor,
        sample_ids: Tensor,
        targets: Tensor | None,
        book: Book,
        *,
        reach: bool = False,
        keep_clean: bool = False,
        seed: int = 0,
        stage: int = 0,
        width: int = 64,
        decided: Callable[[bool], None] = lambda broken: None,
    ):
        self.attack, self.model, self.book, self.decided = attack, model, book, decided
        self.images, self.labels, self.sample_ids, self.targets = images, labels, sample_ids, targets
        self.runs = attack.runs if targets is None else targets.shape[1]
        self.reach, self.keep_clean, self.seed, self.stage, self.width = reach, keep_clean, seed, stage, width
        self.on_gpu = model.device.type == "cuda"
        self.lag = LAG[self.on_gpu]
        self.record = RECORDERS.get(self.on_gpu) if model.cuda_graphs and self.lag else None
        self.asks_gradient = attack.asks != "forward"
        self.queue: deque[int] = deque()
        self.slots: list[Slot | None] = []

    def run(self, items: Iterable[int]) -> None:
        """Attack the samples `items` (rows of the book)."""
        self.queue.extend(items)
        while self.queue:
            try:
                self._drive(min(self.width, len(self.queue)))
            except Exception as error:
                if not is_out_of_memory(error) or self.width == 1:
                    raise
            else:
                continue
            # Samples in the lanes begin again: draws depend on the sample alone, so nothing else changes.
            busy = [slot for slot in self.slots if slot is not None]
            for slot in busy:
                self._count(slot)
            self.queue.extendleft(sorted((slot.item for slot in busy), reverse=True))
            self.width = max(min(self.width, len(self.slots)) // 2, 1)
            del self.lanes, self.state
            self.flags.clear()
            if self.on_gpu:
                torch.cuda.empty_cache()

    def _drive(self, width: int) -> None:
        self.flags: deque[Flags] = deque()
        self.slots = [None] * width
        self.lanes = blank(
            self.images, width, self.model.device, closest=self.attack.closest, late=self.lag > 0, seed=self.seed,
            stage=self.stage, targeted=self.targets is not None, reach=self.reach,
        )  # fmt: skip
        self.state = self.attack.state(self.lanes)
        self.graph: GraphedStep | None = None
        self._refill()
        while any(self.slots):
            gradient = self._wants_gradient()
            answer = self._graphed_step() if self.record and gradient == self.asks_gradient else self._step(gradient)
            self._tick(gradient)
            again = self._host_turn()
            answer = self._narrow(answer)
            if not self.lag and self.slots:
                self._advance(answer)
            self._begin(again)
            self._refill()

    def _wants_gradient(self) -> bool:
        """The last answer of a run leads to no move: if all lanes are there, nobody needs the gradient."""
        attack = self.attack
        return self.asks_gradient and any(slot and slot.answers < attack.steps for slot in self.slots)

    def _step(self, wants_gradient: bool) -> Answer:
        """What happens on the device alone: nothing here waits for it or looks at values."""
        answer = self._ask(wants_gradient)
        self._judge(answer)
        if self.lag:
            self._advance(answer)
        return answer

    def _graphed_step(self) -> Answer:
        """`_step` recorded once per width and replayed; nobody on the host reads its answer (the host is late)."""
        if self.graph is None:
            rows = (self.lanes, self.state)
            assert self.record is not None
            self.graph = GraphedStep(lambda: self._step(self.asks_gradient), rows, self.record)
        self.graph()
        return NO_ANSWER

    def _tick(self, wants_gradient: bool) -> None:
        """Count the step on the samples it was spent on."""
        gradients = self.gradients * wants_gradient
        for slot in self.slots:
            if slot is not None:
                slot.answers += 1
                slot.queries += self.attack.samples
                slot.gradients += gradients

    def _ask(self, wants_gradient: bool) -> Answer:
        """One evaluation of the model at the lanes' points."""
        attack, lanes = self.attack, self.lanes
        self.gradients = attack.samples  # of one sample in one step
        gradient = lanes.point.new_empty(len(lanes), 0)
        for _ in range(attack.samples):
            if not wants_gradient:
                logits = self.model.search(lanes.point)
                objective = attack.objective(lanes, self.state, logits.float())
                continue
            point = lanes.point.detach().requires_grad_()
            with torch.enable_grad():
                logits = self.model.search(point)
            if not logits.requires_grad:
                raise ValueError(
                    f"{attack.name} needs input gradients, but the model's output does not depend on its input in a "
                    "differentiable way; Square asks for none"
                )
            objective = attack.objective(lanes, self.state, logits.detach().float())
            if attack.asks == "jacobian":
                classes = logits.shape[1]
                self.gradients = attack.samples * classes
                units = torch.eye(classes, dtype=logits.dtype, device=logits.device)
                each = [unit.expand_as(logits) for unit in units]
                slope = torch.stack([torch.autograd.grad(logits, point, one, retain_graph=True)[0] for one in each], 1)
            else:
                (slope,) = torch.autograd.grad(logits, point, objective.gradient.to(logits.dtype))
            gradient = gradient + slope if gradient.numel() else slope
        if attack.samples > 1:
            gradient = gradient / attack.samples
        lanes.loss = objective.loss
        return Answer(logits.detach().float(), objective.prediction, objective.loss, gradient.contiguous())

    def _judge(self, answer: Answer) -> None:
        """Mark the lanes whose point counts, and keep those points until the host has seen them."""
        attack, lanes = self.attack, self.lanes
        wrong = answer.prediction == lanes.target if self.reach else answer.prediction != lanes.label
        # A run that waits for the host has had all its answers; NaN logits are no class.
        hit = wrong & attack.hit(lanes, self.state, answer) & (lanes.step <= attack.steps)
        hit &= ~answer.logits.isnan().any(1)
        if attack.closest or self.lag:
            distance = attack.norm.distance(lanes.point - lanes.image)
        else:
            distance = lanes.found_distance
        if attack.closest:
            hit &= distance < torch.where(lanes.hit, lanes.found_distance, lanes.distance)
        elif self.lag:
            hit &= ~lanes.hit
        if not self.lag:  # the host looks at once
            lanes.found, lanes.hit = lanes.point, hit
            lanes.found_distance, lanes.found_loss, lanes.found_prediction = distance, answer.loss, answer.prediction
            return
        keep = hit | (~lanes.hit & (lanes.step == attack.steps))  # what counts, else the run's last point
        lanes.found = torch.where(per_lane(keep, lanes.point), lanes.point, lanes.found)
        lanes.found_distance = torch.where(keep, distance, lanes.found_distance)
        lanes.found_loss = torch.where(keep, answer.loss, lanes.found_loss)
        lanes.found_prediction = torch.where(keep, answer.prediction, lanes.found_prediction)
        lanes.hit = lanes.hit | hit

    def _advance(self, answer: Answer) -> None:
        attack, lanes, step = self.attack, self.lanes, self.lanes.step
        if answer.gradient.numel() or attack.asks == "forward":
            lanes.step = step.clamp(max=attack.steps)  # a lane that waits for the host stays at its last move
            attack.advance(lanes, self.state, answer)
        lanes.step = (step + 1).clamp(max=attack.steps + 1)

    def _host_turn(self) -> list[Slot]:
        """Let decided samples leave; returns the slots that begin their next run."""
        slots = [(slot, slot.run, slot.answers) if slot else (Slot(-1, lane, gone=True), 0, 0)
                 for lane, slot in enumerate(self.slots)]  # fmt: skip
        self.flags.append(self._send(slots))
        if len(self.flags) <= self.lag:
            return []
        seen = self.flags.popleft().read()
        self._settle([slot for slot, _, hit in seen if hit])
        again: list[Slot] = []
        spent: list[Slot] = []
        for slot, answers, _ in seen:
            if not slot.gone and answers > self.attack.steps:
                (again if slot.run + 1 < self.runs else spent).append(slot)
        self._hand_back(spent)
        return again

    def _send(self, slots: list[tuple[Slot, int, int]]) -> Flags:
        if not self.lag:
            return Flags(slots, self.lanes.hit, None)
        if not self.on_gpu:
            return Flags(slots, self.lanes.hit.clone(), None)
        hit = torch.empty(len(slots), dtype=torch.bool, pin_memory=True)
        hit.copy_(self.lanes.hit, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return Flags(slots, hit, arrived)

    def _settle(self, slots: list[Slot]) -> None:
        """Points that may count: ask the model as given, keep what it confirms, let the decided leave."""
        if not slots:
            return
        lanes, attack = self.lanes, self.attack
        rows = self._rows(slots)
        found, prediction = lanes.found[rows], lanes.found_prediction[rows]
        if self.model.confirm is not None:
            logits = self.model.confirm(found)
            prediction = torch.where(logits.isnan().any(1), lanes.label[rows], logits.argmax(1))
            for slot in slots:
                slot.queries += 1
        right = prediction == lanes.target[rows] if self.reach else prediction != lanes.label[rows]
        lanes.hit[rows] = False
        if attack.closest:
            better = rows[right]
            lanes.best[better] = found[right]
            lanes.distance[better] = lanes.found_distance[better]
            lanes.best_loss[better] = lanes.found_loss[better]
            lanes.best_prediction[better] = prediction[right]
            if attack.eps is None:
                return
            right &= lanes.found_distance[rows] <= attack.eps
        decided = [slot for slot, leaves in zip(slots, right.tolist(), strict=True) if leaves]
        self._record(decided, True, found[right], lanes.found_loss[rows][right], prediction[right])

    def _hand_back(self, slots: list[Slot]) -> None:
        """Samples whose runs are all spent."""
        if not slots:
            return
        lanes, attack = self.lanes, self.attack
        rows = self._rows(slots)
        if attack.closest and attack.eps is None:
            have = lanes.distance[rows].isfinite()
            broken = [slot for slot, yes in zip(slots, have.tolist(), strict=True) if yes]
            rows = rows[have]
            self._record(broken, True, lanes.best[rows], lanes.best_loss[rows], lanes.best_prediction[rows])
            slots = [slot for slot in slots if not slot.gone]
        elif not self.keep_clean and not attack.closest:
            self._record(slots, False, lanes.found[rows], lanes.found_loss[rows], lanes.label[rows])
        for slot in slots:
            self._leave(slot, False)

    def _record(self, slots: list[Slot], broken: bool, points: Tensor, loss: Tensor, prediction: Tensor) -> None:
        """Write points (M, C, H, W) into the book as what the slots' samples became."""
        if not slots:
            return
        book, items = self.book, torch.tensor([slot.item for slot in slots])
        at = book.images.device
        points = points.to(at)
        items = items.to(at)
        book.distance[items] = self.attack.norm.distance(points - self.images[items]).to(book.distance.dtype)
        book.images[items] = points
        book.broken[items] = broken
        book.loss[items] = loss.to(at, book.loss.dtype)
        book.prediction[items] = prediction.to(at)
        if broken:
            for slot in slots:
                self._leave(slot, True)

    def _leave(self, slot: Slot, broken: bool) -> None:
        slot.gone = True
        self.slots[slot.lane] = None
        self._count(slot)
        self.decided(broken)

    def _count(self, slot: Slot) -> None:
        self.book.gradients[slot.item] += slot.gradients
        self.book.queries[slot.item] += slot.queries

    def _narrow(self, answer: Answer) -> Answer:
        """With nothing left to take, keep the busy lanes alone (at a fixed width: the next one that holds them)."""
        busy = [slot for slot in self.slots if slot is not None]
        if self.queue or len(busy) == len(self.slots):
            return answer
        width = len(busy)
        if self.model.fixed_widths:
            width = len(self.slots)
            while width > 1 and -(-width // 2) >= len(busy):
                width = -(-width // 2)
            if width == len(self.slots):
                return answer
        idle = [lane for lane, slot in enumerate(self.slots) if slot is None]
        rows = self._index([slot.lane for slot in busy] + idle[: width - len(busy)])
        self.slots = [*busy, *[None] * (width - len(busy))]
        for lane, slot in enumerate(busy):
            slot.lane = lane
        self.lanes, self.state, self.graph = self.lanes.take(rows), self.state.take(rows), None
        return answer if self.lag else answer.take(rows)

    def _begin(self, slots: list[Slot]) -> None:
        """The next run of samples that stay in their lanes."""
        for slot in slots:
            slot.run, slot.answers = slot.run + 1, 0
        if slots:
            self._start(slots)

    def _refill(self) -> None:
        """Empty lanes take the next samples."""
        fresh = []
        for lane, slot in enumerate(self.slots):
            if slot is None and self.queue:
                self.slots[lane] = slot = Slot(self.queue.popleft(), lane)
                fresh.append(slot)
        if not fresh:
            return
        lanes, rows = self.lanes, self._rows(fresh)
        items = torch.tensor([slot.item for slot in fresh], device=self.images.device)
        lanes.image[rows] = self._fetch(self.images, items).to(lanes.image.dtype)
        lanes.label[rows] = self._fetch(self.labels, items)
        lanes.sample[rows] = self._fetch(self.sample_ids, items)
        lanes.distance[rows] = torch.inf
        self._start(fresh)

    def _start(self, slots: list[Slot]) -> None:
        lanes, rows = self.lanes, self._rows(slots)
        runs = [slot.run for slot in slots]
        lanes.run[rows] = self._index(runs)
        lanes.step[rows] = 0
        lanes.hit[rows] = False
        if self.targets is not None:
            items = torch.tensor([slot.item for slot in slots], device=self.targets.device)
            runs_at = torch.tensor(runs, device=self.targets.device)
            lanes.target[rows] = self.targets[items, runs_at].to(lanes.target.device, non_blocking=True)
        self.attack.start(lanes, self.state, rows)

    def _rows(self, slots: list[Slot]) -> Tensor:
        return self._index([slot.lane for slot in slots])

    def _index(self, values: list[int]) -> Tensor:
        index = torch.tensor(values, dtype=torch.int64)
        return index.pin_memory().to(self.model.device, non_blocking=True) if self.on_gpu else index

    def _fetch(self, source: Tensor, items: Tensor) -> Tensor:
        """Rows of a tensor on the images' device, on their way to the model's."""
        rows = source[items]
        if rows.device == self.model.device:
            return rows
        return rows.pin_memory().to(self.model.device, non_blocking=True) if self.on_gpu else rows.to(self.model.device)
