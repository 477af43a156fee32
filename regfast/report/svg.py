"""Small SVG files: matplotlib's in about a third of the bytes, and nothing moved by more than a tenth of a point."""

from __future__ import annotations

import re
from collections.abc import Iterator

_DIGITS = 100  # coordinates are kept to a hundredth of a point, a fiftieth of a pixel on the page
_FLAT = 5  # hundredths that a point left out of a straight run lies beside it, at most
_RUN = 60  # points left out in a row, at most: each is checked again for every further one

_TOKEN = re.compile(r"[A-Za-z]|-?\d*\.?\d+(?:e-?\d+)?")
_COUNTS = {"M": 1, "L": 1, "Q": 2, "C": 3, "z": 0, "Z": 0}  # points that a command takes

Point = tuple[int, int]


def compact(text: str) -> str:
    """The same picture in fewer bytes: short paths, a class for each style, no metadata, comments or unused names.

    Takes what matplotlib writes (paths of absolute commands M, L, Q, C and z; text as text or as paths).
    """
    text = re.sub(r">[^<]*<", lambda found: found[0].replace('"', "&quot;"), text)  # in text, no quote is an attribute
    text = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' d="([^"]*)"', lambda found: f' d="{short_path(found[1])}"', text)
    text = re.sub(r'(?<= )(x|y)="(-?[\d.]+)"', lambda found: f'{found[1]}="{_number(_round(found[2]))}"', text)
    text = re.sub(r'href="data:image/png;base64,([^"]*)"', lambda found: found[0].replace("\n", ""), text)
    text = re.sub(r">\s+<", "><", text).strip()
    text = _drop_unused_names(text)
    text = _merge_clipped(text)
    return _classes(text)


def short_path(path: str) -> str:
    """A path's data with relative coordinates in hundredths; points on a straight run are left out."""
    parts: list[str] = []
    here = start = (0, 0)
    last = ""
    for command, points in _thinned(list(_commands(path))):
        if command in "zZ":
            parts.append("z")
            here, last = start, "z"
            continue
        numbers = []
        for x, y in points:
            numbers += [_number(x - here[0]), _number(y - here[1])]
        if command == "M" and not parts:
            numbers = [_number(value) for value in points[0]]
        name = "M" if command == "M" and not parts else command.lower()
        # After m further pairs are lines, and a repeated command needs no letter.
        parts.append((" " if name == last and name != "m" else name) + " ".join(numbers))
        here, last = points[-1], name
        if command == "M":
            start = here
    return re.sub(r" ?(?=-)| (?=[a-z])", "", "".join(parts))


def _commands(path: str) -> Iterator[tuple[str, list[Point]]]:
    tokens = _TOKEN.findall(path)
    place, command = 0, ""
    while place < len(tokens):
        if tokens[place].isalpha():
            command = tokens[place]
            place += 1
        count = 2 * _COUNTS[command]
        numbers = [_round(token) for token in tokens[place : place + count]]
        yield command, list(zip(numbers[::2], numbers[1::2], strict=True))
        place += count


def _thinned(commands: list[tuple[str, list[Point]]]) -> list[tuple[str, list[Point]]]:
    """Without lines that go nowhere, and without points between two lines in the same direction."""
    kept: list[tuple[str, list[Point]]] = []
    skipped: list[Point] = []  # between the last two that are kept
    for command, points in commands:
        if command == "L" and kept and kept[-1][0] == "L":
            here = kept[-1][1][0]
            if here == points[0]:
                continue
            if kept[-2][0] in ("M", "L") and len(skipped) < _RUN:
                run = [*skipped, here]
                if _straight(kept[-2][1][0], run, points[0]):
                    kept[-1], skipped = (command, points), run
                    continue
        skipped = []
        kept.append((command, points))
    return kept


def _straight(start: Point, run: list[Point], end: Point) -> bool:
    """Whether the points of ``run`` lie on the way from ``start`` to ``end``, in order."""
    bx, by = end[0] - start[0], end[1] - start[1]
    length = (bx * bx + by * by) ** 0.5
    before = 0
    for x, y in [*run, end]:
        ax, ay = x - start[0], y - start[1]
        along = ax * bx + ay * by
        if along < before or abs(ax * by - ay * bx) > _FLAT * length:
            return False
        before = along
    return length > 0


def _round(number: str) -> int:
    return round(float(number) * _DIGITS)


def _number(hundredths: int) -> str:
    sign, whole, part = "-" if hundredths < 0 else "", *divmod(abs(hundredths), _DIGITS)
    if not part:
        return f"{sign}{whole}"
    return f"{sign}{whole or ''}.{part:02d}".rstrip("0")


def _drop_unused_names(text: str) -> str:
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    names = {name: f"n{place}" for place, name in enumerate(sorted(used))}
    return re.sub(r'(id="|url\(#|href="#)([^")]+)', lambda found: found[1] + names.get(found[2], found[2]), text)


def _merge_clipped(text: str) -> str:
    """Neighbors that are clipped alike share a group; a group without attributes is none."""
    before = ""
    while text != before:
        before = text
        text = re.sub(r"<g>((?:<(?:path|use|image)[^>]*/>)*)</g>", r"\1", text)
        text = re.sub(r'(<g clip-path="[^"]*">)((?:<(?:path|use|image)[^>]*/>)*)</g>\1', r"\1\2", text)
    return text


def _classes(text: str) -> str:
    styles = {style: f"s{place}" for place, style in enumerate(dict.fromkeys(re.findall(r' style="([^"]*)"', text)))}
    text = re.sub(r' style="([^"]*)"', lambda found: f' class="{styles[found[1]]}"', text)
    rules = "".join(f".{name}{{{style}}}" for style, name in styles.items())
    return text.replace("</style>", rules + "</style>", 1)
