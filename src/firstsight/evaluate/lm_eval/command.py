"""lm-eval's own command with our model known to it, also where lm-eval does not look for other people's models.

`python -m firstsight.evaluate.lm_eval.command --model firstsight --model_args path=FOLDER --tasks arc_easy` is `lm_eval`
with the same words.
"""

from __future__ import annotations

from lm_eval.__main__ import cli_evaluate

from firstsight.evaluate.lm_eval import adapter

__all__ = ["adapter"]

if __name__ == "__main__":
    cli_evaluate()
