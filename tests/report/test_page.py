import dataclasses
import html.parser
import re
import shutil
import subprocess
import urllib.parse

import pytest

from regfast.report import write_report
from regfast.report.claims import verdicts
from regfast.report.drawing import data_address
from regfast.report.page import Numbers, render
from regfast.report.results import Study
from regfast.report.study_page import notice, study_page

VOID = {"meta", "link", "img", "br", "hr", "mspace", "input"}
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


class Checker(html.parser.HTMLParser):
    """Tags that balance, ids that are unique, links that lead somewhere, images with a description."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.anchors, self.addresses, self.images = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        for key in ("href", "src"):
            if key in attributes:
                (self.anchors if attributes[key].startswith("#") else self.addresses).append(attributes[key])
        if tag == "img":
            self.images.append(attributes)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, (tag, self.getpos())


def check(text):
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert {a[1:] for a in checker.anchors} <= set(checker.ids)
    assert all(a.startswith("data:") for a in checker.addresses), "the page must not need the network"
    assert all(image.get("alt") for image in checker.images)
    return checker


@pytest.fixture(scope="module")
def page(run_dir):
    return write_report(run_dir)


@pytest.fixture(scope="module")
def paper(paper_dir):
    return write_report(paper_dir)


def test_the_page_is_well_formed_and_self_contained(page):
    checker = check(page.read_text(encoding="utf-8"))
    assert len(checker.images) == len(list((page.parent / "figures").glob("*.svg"))) >= 5
    assert {"verdicts", "figures", "measures", "words", "settings", "origin"} <= set(checker.ids)


def test_verdicts_come_before_figures_and_every_regularizer_is_named(page):
    text = page.read_text(encoding="utf-8")
    assert text.index('id="verdicts"') < text.index('id="figures"')
    for name in ("Hard labels", "Label smoothing", "Mixup", "CutMix"):
        assert name in text
    assert "<math" in text and "regfast study --out runs/made-up" in text


def test_every_download_holds_the_rows_it_promises(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r'download="([^"]+\.csv)" href="data:text/csv;charset=utf-8,([^"]+)">all (\d+) rows', text)
    assert len(links) >= 6
    for name, encoded, rows in links:
        content = urllib.parse.unquote(encoded).splitlines()
        assert len(content) == int(rows) + 1, name


def test_the_same_files_give_the_same_bytes(page, tmp_path):
    results = ("config.json", "metrics.json", "samples.parquet", "sweep.parquet", "curves.parquet")
    for name in results:
        shutil.copy(page.parent / name, tmp_path / name)
    again = write_report(tmp_path)
    assert again.read_bytes() == page.read_bytes()
    for path in sorted((page.parent / "figures").iterdir()):
        assert path.read_bytes() == (tmp_path / "figures" / path.name).read_bytes(), path.name


def test_names_given_by_users_are_escaped(make_study, tmp_path):
    hostile = '<script>alert(1)</script> & "co"'
    study = Study.read(make_study(tmp_path, seeds=1, samples=40, dataset=hostile))
    page = dataclasses.replace(study_page(study, [], verdicts(study, resamples=20)), glance=None)
    text = render(page, tmp_path, study.regularizers)
    check(text)
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;co&#34;") >= 3


def test_a_download_gives_any_text_back_and_cannot_end_its_attribute():
    content = 'a,"b"\n100 % <script> & #é\t\r\n'
    address = data_address(content, "text/csv;charset=utf-8")
    assert not set('"<>&#\n') & set(address)
    assert urllib.parse.unquote(address.partition(",")[2]) == content


def test_the_page_of_a_paper_run_has_every_part(paper):
    text = paper.read_text(encoding="utf-8")
    checker = check(text)
    parts = [
        "two-dimensions",
        "representation-space",
        "theorem",
        "scaling-section",
        "measures",
        "radius-section",
        "beyond",
    ]
    places = [text.index(f'id="{name}"') for name in ["verdicts", *parts, "words", "settings"]]
    assert places == sorted(places)
    for name in (
        "plane",
        "confidence-hard",
        "confidence-mixup",
        "gradient-field",
        "theorem1",
        "scaling",
        "smooth",
        "radius",
        "predictors-auc",
        "boundary",
        "feature-attack",
        "counterfactual",
        "transfer",
        "objectives",
        "collapse",
    ):
        assert name in checker.ids
        assert (paper.parent / "figures" / f"{name}.svg").is_file() and (
            paper.parent / "figures" / f"{name}.png"
        ).is_file()
    assert (paper.parent / "studies" / "digits-small-cnn" / "report.html").is_file()
    assert {"across.md", "across.tex", "across.csv"} <= {p.name for p in (paper.parent / "tables").iterdir()}


def test_the_numbers_behind_several_figures_are_held_once(paper):
    text = paper.read_text(encoding="utf-8")
    assert text.count('download="plane-points.csv"') == 1
    figure = text[text.index('<figure id="gradient-field"') :]
    details = figure[figure.index("<details>") : figure.index("</details>")]
    assert '<a href="#plane">' in details and "text/csv" not in details


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        write_report(tmp_path)


def run_chromium(folder, *arguments):
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr",
        "--v=0",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the page is not opened in a browser")
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("run", ["page", "paper"])
def test_the_page_opens_without_console_errors_and_fits_the_window(run, width, tmp_path, request):
    page = request.getfixturevalue(run)
    # A window can't be made narrower than about 500 px, a frame can: the page sees the frame's width.
    script = """<script>onload = () => setTimeout(() => {
        const page = document.querySelector('iframe').contentDocument;
        const images = [...page.querySelectorAll('img')];
        const loaded = images.filter(image => image.complete && image.naturalWidth > 0);
        const root = page.documentElement;
        document.title = [root.scrollWidth, root.clientWidth, images.length, loaded.length].join(' ');
    }, 300)</script>"""
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<!DOCTYPE html><title>wait</title><body style='margin:0'>"
        f"<iframe src='{page.as_uri()}' style='border:0;width:{width}px;height:3000px'></iframe>{script}"
    )
    shot = tmp_path / f"{width}.png"
    local = ("--allow-file-access-from-files", f"--window-size={max(width, 500)},3000", "--virtual-time-budget=5000")
    answer = run_chromium(tmp_path, *local, "--dump-dom", frame.as_uri())
    assert "CONSOLE" not in answer.stderr, answer.stderr
    measured = re.search(r"<title>(\d+) (\d+) (\d+) (\d+)</title>", answer.stdout)
    assert measured, answer.stdout[:300]
    scroll, client, images, loaded = map(int, measured.groups())
    assert client == width
    assert scroll <= width, "the page is wider than the window"
    assert images == loaded > 0
    run_chromium(tmp_path, *local, f"--screenshot={shot}", frame.as_uri())
    assert shot.stat().st_size > 20_000


def test_the_first_screen_answers_each_claim_in_words(page, paper):
    for text in (page.read_text(encoding="utf-8"), paper.read_text(encoding="utf-8")):
        first = text[: text.index("<nav")]
        claims = re.findall(r'<section class="card">\n<h2>([^<]+)</h2>\n<p>([^<]+)</p>', first)
        assert [claim for claim, _ in claims] == [
            "Magnitude falls",
            "Cosine rises",
            "Calibration error falls",
            "Attacks succeed less",
        ]
        assert "label smoothing" in claims[0][1] and claims[0][1].endswith(".")
        assert first.count('class="estimate"') == 3 * len(claims)
        assert "comparisons, the claim" not in text, "answers to different claims are not added up"
        assert "<details open" not in text
        assert first.index('class="cards"') < first.index('<figure id="glance"')


@pytest.mark.parametrize(
    ("command", "seeds", "samples", "said"),
    [
        ("regfast study --size smoke", 2, 300, "Smoke run"),
        ("regfast study", 1, 60, "Tiny run"),
        ("regfast study --size small", 2, 60, ""),
    ],
)
def test_a_run_that_shows_nothing_says_so(make_study, tmp_path, command, seeds, samples, said):
    study = Study.read(make_study(tmp_path, seeds=seeds, samples=samples))
    study.config["command"] = command
    assert notice(study).startswith(said) and bool(notice(study)) == bool(said)


def test_a_page_holds_a_part_of_many_rows_and_says_so():
    many = Numbers.of({"k": list(range(50_000))})
    assert (many.rows, many.columns["k"][0], many.columns["k"][-1]) == (50_000, 0, 49_999)
    assert len(many.columns["k"]) == 3000
