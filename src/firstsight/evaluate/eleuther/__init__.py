"""Text tasks through lm-eval (EleutherAI): its own task definitions, over offline copies of their data."""

from firstsight.evaluate.eleuther.judging import Result, examine, judge_text
from firstsight.evaluate.eleuther.known import text_version

__all__ = ["Result", "examine", "judge_text", "text_version"]
