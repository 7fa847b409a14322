"""When should a language model first see? Studies of image data in language-model pre-training.

The folders are the stages of a study: `recipe` (specs), `plan` (steps), `data` and `synthetic`, `model`, `train`,
`evaluate`, `report`. Importing this package imports none of them.
"""

__version__ = "0.1.0"
