"""Attack evaluations at scale: any model, any number of workers, nothing lost."""

from regfast.evaluation.compare import Comparison, compare
from regfast.evaluation.identity import OtherRun
from regfast.evaluation.run import EvaluationResult, EvaluationStopped, evaluate
from regfast.evaluation.store import DamagedPart

__all__ = ["Comparison", "DamagedPart", "EvaluationResult", "EvaluationStopped", "OtherRun", "compare", "evaluate"]
