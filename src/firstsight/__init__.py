"""Studies of when, how much and which image data enters language-model pre-training.

The folders are the stages of a study: `recipe` (specs), `plan` (steps), `data` and `synthetic`, `model`, `train`,
`evaluate`, `report`. Importing this package imports none of them.
"""

__version__ = "0.1.0"
