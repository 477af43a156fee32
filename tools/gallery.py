"""Writes docs/gallery.md and its pictures: python tools/gallery.py STUDY PAPER EVALUATION

Each argument is the folder of a finished run. Pictures are small: at most 760 pixels wide, 256 colors.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from PIL import Image

from regfast.report import figures_of, kind_of, style
from regfast.report.drawing import Drawing
from regfast.runs.files import read_json

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images" / "gallery"
WIDTH = 760  # pixels
INTRODUCTION = """# Gallery

Every kind of figure on the pages that regfast writes, and the command that draws it alone: as PDF, SVG or PNG, in any
size, with labels and colors of your own ([options](reference/cli.md#regfast-plot-run)). `regfast plot RUN --list` lists
the figures of a run.

The runs are small: these pictures show what is drawn, not what is true.
`python tools/gallery.py STUDY PAPER EVALUATION` makes this page."""
KINDS = {
    "study": ("A study", "Also the figures of networks that were measured."),
    "paper": ("A paper run", "Beside those of its studies. Measured networks have them too, without the planes."),
    "evaluation": ("An evaluation", ""),
}


def main(runs: list[Path]) -> None:
    """Draw every kind of figure once, and write the page."""
    parts = [INTRODUCTION]
    done: set[str] = set()
    for run in runs:
        title, note = KINDS[kind_of(run)]
        command = read_json(run / ("summary.json" if kind_of(run) == "evaluation" else "config.json"))["command"]
        command = re.sub(r"/\S*/", "", str(command)).replace("--out ", "--out runs/")
        parts.append(f"## {title}\n\n{note + ' ' if note else ''}Made by `{command}`.")
        parts += [shown(drawing, f"runs/{run.name}") for drawing in figures_of(run) if first(drawing, done)]
    (ROOT / "docs" / "gallery.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def first(drawing: Drawing, done: set[str]) -> bool:
    """Whether no figure of this kind is in the gallery yet; it is then. A paper run has those of its studies again."""
    kind = re.sub(r"^confidence-.*", "confidence", drawing.name)
    known = kind.endswith("-own-scale") or any(kind.endswith(name) for name in done)
    done.add(kind)
    return not known


def shown(drawing: Drawing, run: str) -> str:
    """The picture's place on the page, with its command; the picture is written."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / f"{drawing.name}.png"
    style.write(drawing.figure, path)
    picture = Image.open(path).convert("RGB")
    wide = min(WIDTH, round(105 * drawing.figure.get_figwidth()))
    picture = picture.resize((wide, round(picture.height * wide / picture.width)), Image.Resampling.LANCZOS)
    picture.quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
    command = f"regfast plot {run} --figure {drawing.name}"
    picture_of = f"![{drawing.title}](images/gallery/{drawing.name}.png)"
    return f"### {drawing.title}\n\n{picture_of}\n\n{drawing.look}\n\n`{command}`"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main([Path(argument) for argument in sys.argv[1:]])
