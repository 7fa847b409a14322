"""Text tasks through EleutherAI's lm-eval: its own task definitions, over offline copies of their data."""

from firstsight.evaluate.lm_eval.run import LmEvalResult, evaluate_lm_eval_tasks
from firstsight.evaluate.lm_eval.tasks import definition_version

__all__ = ["LmEvalResult", "definition_version", "evaluate_lm_eval_tasks"]
