"""lm-eval's own command with the model `firstsight` registered, for versions of lm-eval that read no entry points.

`python -m firstsight.evaluate.lm_eval.command --model firstsight --model_args path=FOLDER --tasks arc_easy` takes the
same arguments as `lm_eval`.
"""

from __future__ import annotations

from lm_eval.__main__ import cli_evaluate

from firstsight.evaluate.lm_eval import adapter

__all__ = ["adapter"]

if __name__ == "__main__":
    cli_evaluate()
