"""The engine: continuous batching. One loop keeps the lanes full, asks the model, and lets decided samples leave.

Peers push whole batches through every step; here a lane takes the next sample the moment its own is decided, as a
language-model server does with requests, so no evaluation is spent on decided samples and a slow sample holds nobody
up. When the queue is empty the lanes drain at falling width.

On a CPU the host sees every answer before the lanes move on. On a GPU it stays one step behind: flags are copied out
asynchronously and read while the next step runs, so that the device never waits for the host; a decided lane then
works one step too many. One lane, a run of two moves (three answers), a GPU:

    step   device                                      host
    0      ask the first point, judge, move            starts step 1 at once
    1      ask the second point: it counts (`hit`);    reads the flags of step 0: nothing
           keep it in `Found`, move
    2      ask the third point: one too many           reads the flags of step 1: a hit. Confirms it with the model as
                                                       given, writes the outcome, gives the lane to the next sample
    3      ask the next sample's first point           reads the flags of step 2: about a request that is done

Where nothing counts, the host starts the next run by itself after the third answer (it counts answers), and after the
last run waits one step for the flags of the last answer. On a CPU "reads the flags of step n" happens within step n,
before the move.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import nullcontext

import torch
from torch import Tensor

from regfast.attacks.checks import warn_if_outside
from regfast.attacks.found import nothing_found
from regfast.attacks.graphs import GraphedStep, NotRecordedError, Recorder, cuda_graph
from regfast.attacks.lanes import Answer, empty_lanes
from regfast.attacks.memory import is_out_of_memory
from regfast.attacks.prepared import PreparedModel
from regfast.attacks.progress import Silent, Watcher
from regfast.attacks.query import confirmed, query
from regfast.attacks.requests import Flags, Outcomes, Request, Samples
from regfast.attacks.rules import Rules

LAG = {False: 0, True: 1}  # steps that the host sees late: on a CPU, on a GPU
RECORDERS: dict[bool, Recorder] = {True: cuda_graph}  # likewise: what records a step
NO_ANSWER = Answer(*(torch.empty(0) for _ in range(4)))


class Engine:
    """One attack on some of N samples.

    Args:
        attack: its rules.
        model: what it asks.
        samples: all N.
        outcomes: what the engine fills in, for the samples of the queue alone.
        must_reach: whether only the target counts.
        keep_clean: samples that are not broken keep their clean image, else they get the last point asked.
        seed, stage: key the draws.
        width: lanes at most; halved when memory runs out.
        watcher: told of every step and every sample's outcome.
    """

    def __init__(
        self,
        attack: Rules,
        model: PreparedModel,
        samples: Samples,
        outcomes: Outcomes,
        *,
        must_reach: bool = False,
        keep_clean: bool = False,
        seed: int = 0,
        stage: int = 0,
        width: int = 64,
        watcher: Watcher | None = None,
    ):
        self.attack, self.model, self.samples, self.outcomes = attack, model, samples, outcomes
        self.watcher = watcher or Silent()
        self.runs = attack.runs if samples.targets is None else attack.runs * samples.targets.shape[1]
        self.must_reach, self.keep_clean, self.seed, self.stage, self.width = must_reach, keep_clean, seed, stage, width
        self.on_gpu = model.device.type == "cuda"
        self.lag = LAG[self.on_gpu]
        self.record = RECORDERS.get(self.on_gpu) if model.records and self.lag else None
        self.queue: deque[int] = deque()
        self.requests: list[Request | None] = []
        self.answers = 0  # of all samples so far

    def run(self, items: Iterable[int]) -> None:
        """Attack the samples `items` (rows)."""
        self.queue.extend(items)
        # Events and graphs belong to the current device: it has to be the model's.
        with torch.cuda.device(self.model.device) if self.on_gpu else nullcontext():
            self._serve()

    def _serve(self) -> None:
        while self.queue:
            try:
                self._drive(min(self.width, len(self.queue)))
            except Exception as error:
                if not is_out_of_memory(error) or self.width == 1:
                    raise
            else:
                continue
            # Samples in the lanes begin again: draws depend on the sample alone, so nothing else changes.
            busy = self._busy()
            for request in busy:
                self._count(request)
            self.queue.extendleft(sorted((request.item for request in busy), reverse=True))
            self.width = max(min(self.width, len(self.requests)) // 2, 1)
            del self.lanes, self.state, self.found
            if self.on_gpu:
                torch.cuda.empty_cache()

    def _drive(self, width: int) -> None:
        self.flags: deque[Flags] = deque()
        self.requests = [None] * width
        self.lanes = empty_lanes(
            self.samples.images[:0].float(), width, self.model.device, seed=self.seed, stage=self.stage,
            has_target=self.samples.targets is not None, must_reach=self.must_reach, eps=self._eps(width),
        )  # fmt: skip
        self.state = self.attack.state(self.lanes)
        self.found = nothing_found(self.lanes, late=self.lag > 0, seeks_nearest=self.attack.seeks_nearest)
        self.graph: GraphedStep | None = None
        self.gradients = 0  # that an answer takes, where it takes any
        self._admit()
        while busy := self._busy():
            ending = [request.answers >= self.attack.steps for request in busy]
            gradient = self.attack.needs != "forward" and not all(ending)
            if (gradient or self.attack.needs == "forward") and self._recorded():
                answer = self._graphed_step()
            else:
                answer = self._step(gradient=gradient, some_end=any(ending))
            for request, last in zip(busy, ending, strict=True):
                request.answers += 1
                request.queries += self.attack.samples
                request.gradients += 0 if last else self.gradients  # one that others in the lanes need is not its own
            length = self.attack.steps + 1
            self.answers += len(busy)
            inside = sum(request.run * length + request.answers for request in busy)
            self.watcher.moved(inside / (length * self.runs), self.answers / (length * self.runs))
            self._read_flags()
            answer = self._compact(answer)
            if not self.lag and self.requests:
                self.attack.advance(self.lanes, self.state, answer)
                self.lanes.step = self.lanes.step + 1
            self._next_runs()
            self._admit()

    def _eps(self, width: int) -> float | Tensor | None:
        eps = self.samples.eps
        return eps.new_zeros(width, *eps.shape[1:], device=self.model.device) if isinstance(eps, Tensor) else eps

    def _busy(self) -> list[Request]:
        return [request for request in self.requests if request is not None]

    def _step(self, *, gradient: bool, some_end: bool) -> Answer:
        """What happens on the device alone: nothing here waits for it or looks at values."""
        free, levels = self.lanes.point, self.attack.levels
        if levels is not None:
            self.lanes.point = (free * (levels - 1)).round() / (levels - 1)
        answer, spent = query(
            self.attack, self.model.search, self.lanes, self.state, gradient=gradient, some_end=some_end
        )
        self.gradients = spent if gradient else self.gradients
        self.lanes.step, following = self.found.judge(self.attack, self.lanes, self.state, answer, late=self.lag > 0)
        self.lanes.point = free
        if self.lag:
            self.attack.advance(self.lanes, self.state, answer)
            self.lanes.step = following
        return answer

    def _recorded(self) -> bool:
        """Whether there is a graph of `_step`: recorded once per width, unless the model can't be."""
        if self.graph is None and self.record is not None:
            gradient, rows = self.attack.needs != "forward", (self.lanes, self.state, self.found)
            try:
                self.graph = GraphedStep(lambda: self._step(gradient=gradient, some_end=True), rows, self.record)
            except NotRecordedError as error:
                self.model.go_without_graphs(error)
                self.record = None
        return self.graph is not None

    def _graphed_step(self) -> Answer:
        """`_step` replayed; nobody on the host reads its answer (the host is late)."""
        assert self.graph is not None
        self.graph()
        return NO_ANSWER

    def _read_flags(self) -> None:
        """Let decided samples leave: those with a confirmed point, and those whose runs are all spent."""
        self.flags.append(self._send([(r, r.run, r.answers) if r else (None, 0, 0) for r in self.requests]))
        if len(self.flags) <= self.lag:
            return
        seen = self.flags.popleft().read()
        self._confirm([request for request, _, _, hit in seen if hit])
        self._finish([
            request for request, run, answers, _ in seen
            if not request.done and run + 1 == self.runs and answers > self.attack.steps
        ])  # fmt: skip

    def _send(self, requests: list[tuple[Request | None, int, int]]) -> Flags:
        if not self.lag:
            return Flags(requests, self.found.hit, None)
        if not self.on_gpu:
            return Flags(requests, self.found.hit.clone(), None)
        hit = torch.empty(len(requests), dtype=torch.bool, pin_memory=True)
        hit.copy_(self.found.hit, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return Flags(requests, hit, arrived)

    def _confirm(self, requests: list[Request]) -> None:
        """Points that may count: ask the model as given, keep what it confirms, let the decided leave."""
        if not requests:
            return
        attack, found, rows = self.attack, self.found, self._rows(requests)
        point, prediction = found.point[rows], found.prediction[rows]
        inside = self._inside(point, rows)
        right = found.hit[rows] & inside
        if self.model.confirm is not None:
            prediction, sure, asked = confirmed(attack, self.model.confirm, point, self.lanes, rows)
            right &= sure
            for request in requests:
                request.queries += asked
        right &= self.lanes.succeeded(prediction, rows)
        found.hit[rows] = False
        if attack.seeks_nearest:
            found.keep_nearest(rows, right, prediction)
            return
        leave, stay_inside = torch.stack((right, inside)).tolist()  # the one wait, where something is decided
        if not all(stay_inside):
            warn_if_outside(attack.name, stay_inside.count(False))
        places = [place for place, leaves in enumerate(leave) if leaves]
        which = self._index(places)
        self._record(
            [requests[place] for place in places], True, point[which], found.loss[rows][which], prediction[which]
        )

    def _inside(self, point: Tensor, rows: Tensor) -> Tensor:
        """(M,) bool: in the ball and the box, up to rounding. No attack of ours leaves them; a user's may."""
        inside = ((point >= 0) & (point <= 1)).flatten(1).all(1)
        if self.lanes.eps is not None:
            eps = self.lanes.radius(rows)
            inside &= self.attack.norm.within(point - self.lanes.image[rows], eps * (1 + 2e-5), slack=1e-6)
        return inside

    def _finish(self, requests: list[Request]) -> None:
        """Samples whose runs are all spent."""
        if not requests:
            return
        found, attack, rows = self.found, self.attack, self._rows(requests)
        if attack.seeks_nearest:
            have = found.nearest_distance[rows].isfinite().tolist()
            broken = [request for request, yes in zip(requests, have, strict=True) if yes]
            rows = self._rows(broken)
            self._record(broken, True, found.nearest[rows], found.nearest_loss[rows], found.nearest_prediction[rows])
            requests = [request for request in requests if not request.done]
        elif not self.keep_clean and not attack.minimal_norm:
            self._record(requests, False, found.point[rows], found.loss[rows], self.lanes.label[rows])
        for request in requests:
            self._leave(request, False)

    def _record(self, requests: list[Request], broken: bool, points: Tensor, loss: Tensor, prediction: Tensor) -> None:
        """Write points (M, C, H, W) into the outcomes as what the requests' samples became."""
        if not requests:
            return
        outcomes, images = self.outcomes, self.samples.images
        items = self._index([request.item for request in requests], images.device)
        points = points.to(images.device, images.dtype)
        outcomes.distance[items] = self.attack.norm.distance(points - images[items]).to(outcomes.distance.dtype)
        outcomes.images[items] = points
        outcomes.broken[items] = broken
        outcomes.loss[items] = loss.to(images.device, outcomes.loss.dtype)
        outcomes.prediction[items] = prediction.to(images.device)
        if broken:
            for request in requests:
                self._leave(request, True)

    def _leave(self, request: Request, broken: bool) -> None:
        request.done = True
        self.requests[request.lane] = None
        self._count(request)
        self.watcher.decided(broken)

    def _count(self, request: Request) -> None:
        self.outcomes.gradients[request.item] += request.gradients
        self.outcomes.queries[request.item] += request.queries

    def _compact(self, answer: Answer) -> Answer:
        """With nothing left to take, keep the busy lanes alone (at a fixed width: the next one that holds them)."""
        busy = self._busy()
        if self.queue or len(busy) == len(self.requests):
            return answer
        width = len(busy)
        if self.model.compiled or self.record is not None:
            width = len(self.requests)
            while width > 1 and -(-width // 2) >= len(busy):
                width = -(-width // 2)
            if width == len(self.requests):
                return answer
        idle = [lane for lane, request in enumerate(self.requests) if request is None]
        rows = self._index([request.lane for request in busy] + idle[: width - len(busy)])
        self.requests = [*busy, *[None] * (width - len(busy))]
        for lane, request in enumerate(busy):
            request.lane = lane
        self.lanes, self.state, self.found = self.lanes.take(rows), self.state.take(rows), self.found.take(rows)
        self.graph = None
        return answer if self.lag else answer.take(rows)

    def _next_runs(self) -> None:
        """Samples that have had all answers of a run go on to the next in their lanes."""
        over = [r for r in self._busy() if r.answers > self.attack.steps and r.run + 1 < self.runs]
        for request in over:
            request.run, request.answers = request.run + 1, 0
        self._start(over)

    def _admit(self) -> None:
        """Empty lanes take the next samples."""
        fresh = []
        for lane, request in enumerate(self.requests):
            if request is None and self.queue:
                self.requests[lane] = request = Request(self.queue.popleft(), lane)
                fresh.append(request)
        if not fresh:
            return
        lanes, samples, rows = self.lanes, self.samples, self._rows(fresh)
        items = self._index([request.item for request in fresh], samples.images.device)
        lanes.image[rows] = self._fetch(samples.images, items).to(lanes.image.dtype)
        lanes.label[rows] = self._fetch(samples.labels, items)
        lanes.sample[rows] = self._fetch(samples.ids, items)
        if isinstance(samples.eps, Tensor):
            assert isinstance(lanes.eps, Tensor)
            lanes.eps[rows] = self._fetch(samples.eps, items)
        self.found.forget(rows)
        self._start(fresh)

    def _start(self, requests: list[Request]) -> None:
        """Begin a run of these requests in their lanes."""
        if not requests:
            return
        lanes, rows, targets = self.lanes, self._rows(requests), self.samples.targets
        lanes.run[rows] = self._index([request.run for request in requests])
        lanes.step[rows] = 0
        if targets is not None:
            items = self._index([request.item for request in requests], targets.device)
            places = self._index([request.run // self.attack.runs for request in requests], targets.device)
            lanes.target[rows] = self._fetch(targets, (items, places))
        self.attack.start(lanes, self.state, rows)

    def _rows(self, requests: list[Request]) -> Tensor:
        return self._index([request.lane for request in requests])

    def _index(self, values: list[int], device: torch.device | None = None) -> Tensor:
        """`values` as int64 on `device`, the model's by default; a GPU is not waited for."""
        index, device = torch.tensor(values, dtype=torch.int64), device or self.model.device
        return index.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else index

    def _fetch(self, source: Tensor, items: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Rows of a tensor on the images' device, on their way to the model's."""
        rows = source[items]
        if rows.device == self.model.device:
            return rows
        return rows.pin_memory().to(self.model.device, non_blocking=True) if self.on_gpu else rows.to(self.model.device)
