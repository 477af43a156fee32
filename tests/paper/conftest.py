"""The made-up paper run of tests/report."""

from tests.report.conftest import make_paper, paper_dir

__all__ = ["make_paper", "paper_dir"]
