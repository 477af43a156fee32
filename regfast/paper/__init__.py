"""The figures and tables of the paper: its studies, and the files of what goes beyond (docs/reference/files.md)."""

from regfast.paper.config import PaperConfig, paper_config
from regfast.paper.run import run_paper

__all__ = ["PaperConfig", "paper_config", "run_paper"]
