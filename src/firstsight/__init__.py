"""Studies of when, how much and which image data enters language-model pre-training.

    import firstsight as fs

    ws = fs.Workspace("runs")                       # a folder of results, and this machine
    study = fs.study("when", scale="cpu", seeds=4)  # or a function or a file of your own
    print(ws.plan(study))                           # what would run, and what it costs
    ws.run(study, on_progress=print).check()        # runs what is not stored yet
    ws.results(study).scores                        # a polars DataFrame

The folders are the stages of a study: `recipe` (specs), `plan` (steps), `data` and `synthetic`, `model`, `train`,
`evaluate`, `report`, `workspace`. Importing this package imports none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from firstsight.site import Site
    from firstsight.workspace.study_functions import study
    from firstsight.workspace.workspace import Workspace

__version__ = "0.1.0"
__all__ = ["Site", "Workspace", "__version__", "study"]

_MODULES = {
    "Site": "firstsight.site",
    "Workspace": "firstsight.workspace.workspace",
    "study": "firstsight.workspace.study_functions",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'firstsight' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
