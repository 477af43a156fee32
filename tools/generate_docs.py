"""Writes the tables of the documentation that the code knows: python tools/generate_docs.py

A page marks the place with `<!-- generated: NAME -->` and `<!-- end -->`; what lies between is replaced. A test checks
that the pages are up to date.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from regfast.attacks.registry import ATTACKS
from regfast.data import DATASETS
from regfast.ops.dispatch import _TABLE
from regfast.paper.parts import PARTS
from regfast.registry import Registry
from regfast.training import RECIPES, REGULARIZERS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARKED = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def registered(registry: Registry[object]) -> str:
    """Names, options with their defaults, and the first line of what each class says of itself."""
    rows = []
    for name in registry.names():
        cls = registry.find(name)
        constructor = cls.__init__
        taken = [] if constructor is object.__init__ else list(inspect.signature(constructor).parameters.values())[1:]
        options = ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default}" for p in taken)
        said = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        rows.append([f"`{name}`", f"`{options}`" if options else "", said])
    return table(["name", "options", "what it is"], rows)


def backends() -> str:
    """The dispatch table."""
    rows = []
    for family, rules in _TABLE.items():
        for rule in rules:
            most = "" if rule.most >= 1 << 62 else f"K ≤ {rule.most:,}"
            multiple = "" if rule.multiple == 1 else f"K a multiple of {rule.multiple}"
            elements = "" if rule.elements is None else f"at most {rule.elements:,} elements"
            dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in rule.dtypes)
            sizes = ", ".join(filter(None, (most, multiple, elements))) or "any"
            rows.append([f"`{family}`", rule.device, dtypes, sizes, f"`{rule.backend}`"])
    return table(["op", "device", "dtypes", "sizes", "backend"], rows)


def paper_parts() -> str:
    """Every file of a paper run beside its studies."""
    rows = []
    for part in PARTS:
        columns = [f"`{name}`" + (f" ({meaning})" if meaning else "") for name, meaning in part.columns.items()]
        rows.append([f"`{part.name}.parquet`", part.row, ", ".join(columns)])
    return table(["file", "one row is", "columns"], rows)


def commands() -> str:
    """Every command of the command line with its options."""
    import typer

    from regfast.cli import app

    group: Any = typer.main.get_command(app)
    parts = []
    for name, command in group.commands.items():
        usage = " ".join(
            ["regfast", name, *(p.name.upper() for p in command.params if p.param_type_name == "argument")]
        )
        rows = []
        for option in command.params:
            if option.param_type_name != "option" or option.name == "help":
                continue
            said = (option.help or "").replace("{attacks}", ", ".join(ATTACKS.names())).replace("|", "\\|")
            default = "" if option.default in (None, False, ()) or callable(option.default) else f"`{option.default}`"
            names = ", ".join(f"`{text}`" for text in (*option.opts, *option.secondary_opts))
            rows.append([names, default, said])
        text = (command.help or "").replace("\n\n", "\n").replace("\n", " ")
        parts.append(f"## `{usage}`\n\n{text}\n\n{table(['option', 'default', 'meaning'], rows) if rows else ''}")
    return "\n".join(parts)


def recipes() -> str:
    """Every value of every recipe."""
    built = [RECIPES.build(name) for name in RECIPES.names()]
    values = [recipe.as_dict() for recipe in built]
    rows = [[f"`{key}`", *(f"{value[key]}" for value in values)] for key in values[0] if key != "name"]
    return table(["value", *(f"`{name}`" for name in RECIPES.names())], rows)


TABLES: dict[str, Callable[[], str]] = {
    "attacks": lambda: registered(ATTACKS),  # type: ignore[arg-type]
    "backends": backends,
    "commands": commands,
    "datasets": lambda: registered(DATASETS),  # type: ignore[arg-type]
    "paper-parts": paper_parts,
    "recipes": recipes,
    "regularizers": lambda: registered(REGULARIZERS),  # type: ignore[arg-type]
}


def generated(text: str) -> str:
    """`text` with every marked table as the code has it now. Raises KeyError for a table that nobody makes."""
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", text)


if __name__ == "__main__":
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (new := generated(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(f"written: {page.relative_to(ROOT)}")
