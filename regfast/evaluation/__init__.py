"""Attack evaluations at scale: any model, any number of workers, nothing lost."""

from regfast.evaluation.compare import Comparison, compare
from regfast.evaluation.run import EvaluationResult, EvaluationStopped, evaluate
from regfast.evaluation.store import DamagedPart
from regfast.runs.errors import OtherRun

__all__ = ["Comparison", "DamagedPart", "EvaluationResult", "EvaluationStopped", "OtherRun", "compare", "evaluate"]
