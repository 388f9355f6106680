"""The kernels on a GPU, from the sources that the CPU compiles: there a lane is a thread, and a chunk of rows a block.

No kernel lets a lane see another one, so nothing but the loop over lanes has to change. `on_threads` reads the modules
of kernels once more, and in their syntax trees

- `for lane in range(LANES):` becomes a loop of one trip, over the thread's own lane: `continue` keeps its meaning;
- every function becomes a device function of numba-cuda, whatever decorates it;
- the lengths `three` and `four`, which the CPU reads from memory, are written in, so that loops are unrolled.

What the CPU calls kernel by kernel from Python, the GPU calls within one launch; `fitting.lanes.launches` says which.
What a kernel returns is a thread's own answer. With NUMBA_ENABLE_CUDASIM=1 all of it runs in numba's simulator.
"""

import ast
import functools
import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from numba import cuda

from fitting.lanes import arrive, launches, newton, quadratic, skeleton, state, surface

_LENGTHS = {"three": 3, "four": 4}
_BLOCKS = {"b": "cuda.blockIdx.x", "k": "cuda.blockIdx.y"}


class _OnThreads(ast.NodeTransformer):
    """Rewrites a module; names that it imports from modules that were rewritten before go into `names`."""

    def __init__(self, rewritten: dict[str, dict[str, Any]], names: dict[str, Any], decorator: str) -> None:
        self.rewritten, self.names, self.decorator = rewritten, names, decorator

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom | None:
        if node.module not in self.rewritten:
            return node
        self.names |= {alias.name: self.rewritten[node.module][alias.name] for alias in node.names}
        return None

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list = [ast.Name(self.decorator, ast.Load())]
        if self.decorator == "_launched":
            blocks = [argument.arg for argument in node.args.args if argument.arg in _BLOCKS]
            del node.args.args[: len(blocks)]
            node.body[:0] = [ast.parse(f"{name} = {_BLOCKS[name]}").body[0] for name in blocks]
        return self.generic_visit(node)

    def visit_For(self, node: ast.For) -> ast.AST:
        if isinstance(node.target, ast.Name) and node.target.id == "lane":
            node.iter = ast.parse("range(cuda.threadIdx.x, cuda.threadIdx.x + 1)", mode="eval").body
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return ast.Constant(_LENGTHS[node.attr]) if node.attr in _LENGTHS else self.generic_visit(node)


@functools.cache
def on_threads() -> SimpleNamespace:
    """The functions of `fitting.lanes.launches`, each a kernel of numba-cuda that is compiled on first use."""
    # A small batch is no mistake, of which users should be warned.
    setattr(importlib.import_module("numba.cuda.core.config"), "CUDA_LOW_OCCUPANCY_WARNINGS", 0)  # noqa: B010
    rewritten = {state.__name__: vars(state)}
    for module in (skeleton, quadratic, newton, arrive, surface, launches):
        path = Path(str(module.__file__))
        names = {"cuda": cuda, "_called": cuda.jit(device=True), "_launched": cuda.jit, "__name__": module.__name__}
        rewriter = _OnThreads(rewritten, names, "_launched" if module is launches else "_called")
        tree = ast.fix_missing_locations(rewriter.visit(ast.parse(path.read_text())))
        exec(compile(tree, str(path), "exec"), names)
        rewritten[module.__name__] = names
    return SimpleNamespace(**rewritten[launches.__name__])
