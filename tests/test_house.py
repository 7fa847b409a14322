"""The walls of the house, measured on the source itself; and what may only change on purpose: commands, addresses."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer
from importlinter import configuration
from importlinter.application.use_cases import lint_imports

from firstsight.cli.app import build
from firstsight.errors import QuantityError
from firstsight.plan.graph import build_graph
from firstsight.recipe.scales import SCALES
from firstsight.workspace.study_functions import find_study_function, shipped_studies

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "firstsight"
GOLDEN = Path(__file__).parent / "golden"
MODULES = sorted(SOURCE.rglob("*.py"))
FORBIDDEN = re.compile(r"(^|_)(utils?|helpers?|managers?|common|misc)(_|$)", re.IGNORECASE)

MODULE, FUNCTION, FOLDER, PARAMETERS, POSITIONAL = 500, 60, 15, 8, 3
ONE_SCREEN = {("train/loop.py", "train"): 30, ("model/vlm.py", "VLM.forward"): 30}
TENSORS = "model/"
"""Where functions are formulas: attend(q, k, v, mask) reads as the paper writes it."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def _modules(top: str) -> list[Path]:
    return sorted((ROOT / top).rglob("*.py"))


def _name(module: Path) -> str:
    return module.relative_to(SOURCE).as_posix()


@cache
def _tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text())


def _functions(module: Path) -> Iterator[tuple[str, Function]]:
    """Every function of a module with its dotted name."""
    waiting: list[tuple[str, ast.AST]] = [("", _tree(module))]
    while waiting:
        prefix, node = waiting.pop()
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, Function | ast.ClassDef)
            inside = f"{prefix}{child.name}." if named else prefix
            if isinstance(child, Function):
                yield f"{prefix}{child.name}", child
            waiting.append((inside, child))


def _lines(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _public(dotted: str) -> bool:
    return not any(part.startswith("_") for part in dotted.split("."))


def _parameters(function: Function) -> list[str]:
    """All parameters but the object itself."""
    arguments = function.args
    named = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [name for name in named if name not in ("self", "cls")]


@pytest.fixture(scope="module")
def functions() -> list[tuple[str, str, Function]]:
    return [(_name(module), dotted, found) for module in MODULES for dotted, found in _functions(module)]


@pytest.mark.parametrize("top", ["src", "tests", "benchmarks"])
def test_modules_stay_short(top: str) -> None:
    counted = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in _modules(top)}
    assert counted
    assert not {name: lines for name, lines in counted.items() if lines > MODULE}, f"over {MODULE} lines"


def test_functions_stay_short(functions: list[tuple[str, str, Function]]) -> None:
    walls = {(module, name): ONE_SCREEN.get((module, name), FUNCTION) for module, name, _ in functions}
    long = {f"{m}:{name}": _lines(found) for m, name, found in functions if _lines(found) > walls[m, name]}
    assert not long, "over the wall"


def test_the_loop_and_the_model_fit_one_screen(functions: list[tuple[str, str, Function]]) -> None:
    assert ONE_SCREEN.keys() <= {(module, name) for module, name, _ in functions}, "moved? then move the wall with it"


def test_folders_stay_small() -> None:
    folders = [SOURCE, *(path for path in SOURCE.rglob("*") if path.is_dir() and path.name != "__pycache__")]
    held = {folder: [path for path in folder.glob("*.py") if not path.name.startswith("__")] for folder in folders}
    big = {
        folder.relative_to(ROOT).as_posix(): len(modules)
        for folder, modules in held.items()
        if len(modules) > FOLDER and folder.name != "studies"  # one module for each question that the paper asks
    }
    assert not big, f"over {FOLDER} modules"


def test_functions_take_few_parameters(functions: list[tuple[str, str, Function]]) -> None:
    many = {f"{m}:{name}": n for m, name, found in functions if (n := len(_parameters(found))) > PARAMETERS}
    assert not many, f"over {PARAMETERS} parameters"


def test_public_functions_name_their_arguments(functions: list[tuple[str, str, Function]]) -> None:
    """Two are the rule, three the wall; formulas over tensors and the loop itself are read by place."""
    loose = []
    for module, name, found in functions:
        places = [one.arg for one in (*found.args.posonlyargs, *found.args.args) if one.arg not in ("self", "cls")]
        by_place = module.startswith(TENSORS) or (module, name) in ONE_SCREEN
        if len(places) > POSITIONAL and _public(name) and not by_place:
            loose.append(f"{module}:{name}({', '.join(places)})")
    assert not loose, "write a * before the last:\n" + "\n".join(loose)


def test_nothing_is_named_after_nothing() -> None:
    paths = [path.relative_to(ROOT) for top in ("src", "tests", "benchmarks") for path in _modules(top)]
    assert not [path.as_posix() for path in paths if any(FORBIDDEN.search(Path(part).stem) for part in path.parts)]
    found = [
        f"{_name(module)}:{node.name}"
        for module in MODULES
        for node in ast.walk(_tree(module))
        if isinstance(node, Function | ast.ClassDef) and FORBIDDEN.search(node.name)
    ]
    assert not found


def test_nothing_is_left_for_later() -> None:
    marks = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")))
    tops = [ROOT / top for top in ("src", "tests", "benchmarks", "docs")]
    files = [path for top in tops for path in top.rglob("*") if path.suffix in (".py", ".md")]
    assert not [path.relative_to(ROOT).as_posix() for path in files if marks.search(path.read_text())]


def test_no_handler_swallows_everything() -> None:
    wide = [
        f"{_name(module)}:{node.lineno}"
        for module in MODULES
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")))
        and not isinstance(node.body[-1], ast.Raise)
    ]
    assert not wide


def test_public_names_say_what_they_promise() -> None:
    silent = []
    for module in MODULES:
        tree = _tree(module)
        if not ast.get_docstring(tree):
            silent.append(_name(module))
        for node in tree.body:
            if isinstance(node, Function | ast.ClassDef) and _public(node.name) and not ast.get_docstring(node):
                silent.append(f"{_name(module)}:{node.name}")
    assert not silent, "without a docstring:\n" + "\n".join(silent)


def test_inheritance_is_one_level_deep() -> None:
    """A class of ours that has a base of ours has a base without one; the tree of errors is drawn in its docstring."""
    bases: dict[str, list[str]] = {}
    for module in MODULES:
        for node in ast.walk(_tree(module)):
            if isinstance(node, ast.ClassDef) and _name(module) != "errors.py":
                bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
    deep = [name for name, own in bases.items() for base in own if any(up in bases for up in bases.get(base, []))]
    assert not deep


def test_imports_go_one_way() -> None:
    configuration.configure()
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None), "run: lint-imports"


def test_importing_the_package_is_free() -> None:
    script = "import sys; import firstsight; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert _python("-c", script).strip() == "False False"
    assert min(_seconds("-c", "import firstsight") - _seconds("-c", "pass") for _ in range(3)) < 0.2


def test_plan_loads_no_torch_and_answers_at_once() -> None:
    for words in (["plan", "when", "--scale", "1b"], ["plan", "when", "--donor", "pythia-1.4b"], ["donors"]):
        script = (
            f"import sys; from firstsight.cli.app import command; code = command({words});"
            "print('heavy:', {'torch', 'numpy', 'transformers', 'polars'} & set(sys.modules)); sys.exit(code)"
        )
        assert _python("-c", script).splitlines()[-1] == "heavy: set()"
        assert min(_seconds("-m", "firstsight", *words) for _ in range(2)) < 1.0


def _python(*words: str) -> str:
    found = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 0, found.stderr
    return found.stdout


def _seconds(*words: str) -> float:
    """Of processor time, so that a busy neighbour does not count."""
    before = os.times()
    _python(*words)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def _against_golden(name: str, text: str) -> None:
    """Equal to the file that was reviewed; `make golden` writes it anew."""
    path = GOLDEN / name
    if os.environ.get("FIRSTSIGHT_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text(), f"{name} has moved. If that is meant: make golden, and review the diff."


COMMANDS = (
    "plan",
    "run",
    "next",
    "report",
    "preview",
    "power",
    "noise",
    "explain",
    "ask",
    "evaluate",
    "answers",
    "score",
    "prepare",
    "data verify",
    "donors",
    "sources",
    "fetch",
    "import",
    "export",
    "doctor",
)


def _command(group: typer.core.TyperGroup, words: str) -> typer.core.TyperCommand:
    """The command that `words` name, below the groups that they name first."""
    first, _, rest = words.partition(" ")
    found = group.commands[first]
    return _command(found, rest) if rest else found  # type: ignore[arg-type]


def test_golden_commands() -> None:
    """Every command, argument, option and default: a new one is a decision."""
    lines: list[str] = []
    for study in shipped_studies():
        words = {name: [name, study] for name in ("plan", "run", "next", "report", "preview", "power", "noise")}
        for command in COMMANDS:
            group = typer.main.get_command(build(words.get(command, [])))
            assert isinstance(group, typer.core.TyperGroup)
            assert set(group.commands) == {name.partition(" ")[0] for name in COMMANDS}
            lines.append(f"{command} {study}" if command in words else command)
            lines += [f"  {_told(option)}" for option in _command(group, command).params]
    _against_golden("cli.txt", "\n".join(dict.fromkeys(_blocks(lines))) + "\n")


def _blocks(lines: list[str]) -> Iterator[str]:
    """Each command with its options as one text, so that commands which no study changes are told once."""
    block: list[str] = []
    for line in lines:
        if not line.startswith(" ") and block:
            yield "\n".join(block)
            block = []
        block.append(line)
    yield "\n".join(block)


def _told(option: object) -> str:
    names = "/".join([*option.opts, *option.secondary_opts])  # type: ignore[attr-defined]
    needed = " (required)" if option.required else f" = {option.default}"  # type: ignore[attr-defined]
    return names + needed


def test_golden_addresses() -> None:
    """The address of every step of every shipped study at every scale: moved ones are run again by everybody."""
    lines: list[str] = []
    for study in shipped_studies():
        for scale in SCALES:
            lines.append(f"{study} --scale {scale}")
            try:
                built = find_study_function(study).build(scale, seeds=1, options={})
                if built.parts:  # tests/studies/test_paper.py: its steps are theirs
                    lines.append(f"  the steps of {', '.join(part.name for part in built.parts)}")
                    continue
                steps = build_graph(built)
            except QuantityError as error:
                lines.append(f"  refused: {error}")
                continue
            lines += [f"  {label}: {steps.final_step(label).address}" for label in steps.arms]
            lines += [f"    {step.address}" for step in steps.steps]
    _against_golden("addresses.txt", "\n".join(lines) + "\n")
