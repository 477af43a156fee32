"""`regfast evaluate`: attacks over a whole data set, on one process or under torchrun; resumable."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from regfast.cli import _options as options
from regfast.cli._attacks import build_attacks
from regfast.cli._console import console, leading, show
from regfast.cli._inputs import open_inputs

_RUN = "How it runs"


def evaluate(
    model: options.Model,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. An unfinished one goes on.")] = None,
    checkpoint: options.Checkpoint = None,
    weights: options.Weights = None,
    dataset: options.Dataset = "noisy-digits",
    data_root: options.DataRoot = None,
    download: options.Download = False,
    class_map: options.ClassMap = None,
    resize: options.Resize = None,
    crop: options.Crop = None,
    interpolation: options.Interpolation = None,
    limit: options.Limit = None,
    attack: options.Attacks = None,
    norm: options.Norm = None,
    eps: options.Eps = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Class to reach: a number, random, next (the label plus one) or least-likely. Any by default."
        ),
    ] = None,
    seed: options.Seed = 0,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print expected evaluations, time and memory; run nothing.")
    ] = False,
    lanes: Annotated[int | None, typer.Option(min=1, help="Samples attacked at once.", rich_help_panel=_RUN)] = None,
    chunk_size: Annotated[
        int | None, typer.Option(min=1, help="Samples a worker draws at once.", rich_help_panel=_RUN)
    ] = None,
    precision: Annotated[
        str, typer.Option(help="float32, or bf16: search in bfloat16, confirm in float32.", rich_help_panel=_RUN)
    ] = "float32",
    compile_model: Annotated[bool, typer.Option("--compile", help="torch.compile it.", rich_help_panel=_RUN)] = False,
    cuda_graphs: Annotated[
        Literal["off", "auto", "on"],
        typer.Option(
            help="On a GPU, record whole steps as CUDA graphs; auto: where the model can be.", rich_help_panel=_RUN
        ),
    ] = "off",
    save_images: Annotated[
        bool, typer.Option("--save-images", help="Keep adversarial images (safetensors).", rich_help_panel=_RUN)
    ] = False,
    save_png: Annotated[
        bool,
        typer.Option("--save-png", help="Keep them as PNG files too, rounded inside the ball.", rich_help_panel=_RUN),
    ] = False,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Attack a whole data set: robust accuracy with intervals, one row a sample, nothing lost.

    The same command runs on one process or under torchrun:
    torchrun --nproc-per-node 8 -m regfast evaluate … An interrupted run goes on when the command is repeated.
    """
    from regfast.evaluation import evaluate as run
    from regfast.evaluation.plan import cost_bounds, duration, plan_evaluation, plan_markdown
    from regfast.report import need_extra, write_report
    from regfast.runs.errors import user_input
    from regfast.runs.folder import check_kind

    with user_input():
        options.use_threads(threads)
        if out is None and not plan:
            raise ValueError("--out is needed: the folder of the run")
        if not plan:
            need_extra()  # before an hour of work
        if out is not None:
            check_kind(out, "evaluation")
        if device is not None:
            options.pick_device(device)
        attacks = [each for spec in attack or ["pgd"] for each in build_attacks(spec, norm, eps)]
        given = open_inputs(
            model, checkpoint, weights, dataset, data_root, download=download, seed=seed, class_map=class_map,
            resize=resize, crop=crop, interpolation=interpolation,
        )  # fmt: skip
        network, data = given.model, given.data
    leads = leading()
    if leads:
        count = len(data) if limit is None else min(limit, len(data))
        for note in (*given.notes, f"{count} of {len(data)} images, seed {seed}"):
            console.print(note)
    workers = int(os.environ.get("WORLD_SIZE", "1"))
    if plan:
        expected = plan_evaluation(
            network, data, attacks, seed=seed, limit=limit, lanes=lanes, precision=precision, device=device or "cpu"
        )
        show(plan_markdown(expected, workers))
        return
    assert out is not None
    if leads and not (out / "summary.json").exists():
        low, high = cost_bounds(network, given.shape, attacks, count, device or "cpu")
        if high / workers > 30:
            console.print(
                f"expected: {duration(low / workers)} if every image falls at once, at most {duration(high / workers)} "
                "if all stand; --plan looks how many do"
            )
    result = run(
        network,
        data,
        attacks,
        out=out,
        seed=seed,
        limit=limit,
        model_name=given.name,
        dataset_name=dataset,
        lanes=lanes,
        chunk_size=chunk_size,
        precision=precision,
        compile=compile_model,
        cuda_graphs={"off": False, "auto": None, "on": True}[cuda_graphs],
        save_images=save_images or save_png,
        target=int(target) if target is not None and target.isdecimal() else target,
        device=device,
        command=shlex.join(["regfast", *sys.argv[1:]]),
    )
    if leads:
        show((result.folder / "summary.md").read_text(encoding="utf-8"))
        for warning in result.summary["warnings"]:
            print(f"regfast: warning: {warning}", file=sys.stderr)
        if save_png:
            from regfast.evaluation.export import export_png

            made = export_png(result, network, data, device=device or "cpu")
            kept = f"{made['broken']} of {made['written']} broken images stay broken inside the ball at 8 bits"
            where = f"; {result.folder}/png.parquet says which" if made["written"] else ""
            console.print(f"PNG: {kept}{where}")
            if made["broken"] < made["written"]:
                small = any(row["norm"] == "linf" and row["eps"] < 1 / 255 for row in result.summary["attacks"])
                less = " (an eps below 1/255 in linf is less than a level)" if small else ""
                console.print(
                    f"rounding undid the others{less}; fab, fmn, ddn, cw with levels=256 find points that 8 bits hold"
                )
        console.print(f"page: {write_report(result.folder)}")
    if not result.summary["usable"]:
        raise ValueError(f"no sample of {dataset} could be used; {result.folder}/summary.md says why")
