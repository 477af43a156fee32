"""What every long job shares: whole files, the folder of a run, resume, workers, progress and errors."""

from regfast.runs.errors import InputError, OtherRun, RunStopped
from regfast.runs.progress import Progress, Silent

__all__ = ["InputError", "OtherRun", "Progress", "RunStopped", "Silent"]
