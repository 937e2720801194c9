"""Writes docs/api.md from the docstrings of every public name.

What is public says docs/compatibility.md: the names that the modules of ``PUBLIC`` list in ``__all__``, and their
public members. One without a docstring (for constants: a comment) is an error. All of it is read from the source, so
that signatures show what stands there.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import TypeAlias, TypeGuard

ROOT = Path(__file__).resolve().parent.parent

__all__ = ["PATH", "PUBLIC", "Undocumented", "api_reference"]

PATH = ROOT / "docs" / "api.md"
WIDTH = 100

# In the order of the document. A name that several modules have is told at the first of them.
PUBLIC = (
    "tunnelkit",
    "tunnelkit.events",
    "tunnelkit.server_events",
    "tunnelkit.request_events",
    "tunnelkit.middleware",
    "tunnelkit.inspector",
    "tunnelkit.inspector_page",
    "tunnelkit.errors",
    "tunnelkit.transports",
    "tunnelkit.transports.base",
    "tunnelkit.transports.memory",
    "tunnelkit.handshake",
    "tunnelkit.testing",
    "tunnelkit.testing.pytest_plugin",
    "tunnelkit.accelerators",
    "tunnelkit.logs",
)
# What the calls of a module's names return, though it does not list them.
RETURNED = {
    "tunnelkit": (
        ("tunnelkit.server_session", "ServerSession"),
        ("tunnelkit.stats", "ServerSnapshot"),
        ("tunnelkit.stats", "TokenClients"),
        ("tunnelkit.stats", "TunnelRow"),
        ("tunnelkit.inside.connecting", "TunnelStream"),
        ("tunnelkit.inside.httpx_transport", "TunnelTransport"),
    ),
}
# What a program is given and never makes itself: how it is made is no matter of the document.
GIVEN = {
    *(
        "EventStream",
        "HttpExchange",
        "Inspected",
        "InspectedBody",
        "Middlebox",
        "MemoryConnection",
        "Relay",
        "Request",
    ),
    *(
        "ServerSession",
        "ServerSnapshot",
        "TokenClients",
        "TunnelPair",
        "TunnelRow",
        "TunnelStream",
        "TunnelTransport",
    ),
    *("Check", "ContractBroken", "DialRequest", "Listener", "Outcome", "Registration", "Wires"),
}
EVENTS = ("tunnelkit.event_stream", "tunnelkit.events", "tunnelkit.server_events", "tunnelkit.request_events")
# What ends and pages call on objects that a program is given, or gives them.
HIDDEN = {
    *("is_last", "Inspector.begin", "HttpAnswer.of", "HttpAnswer.head", "Registration.of", "InspectedBody.add"),
    *("Inspected.size", "Inspected.forget", "InspectedBody.forget", "ContractBroken.of"),
    *(f"ServerSession.{name}" for name in ("attachments", "idle", "label", "replaces", "whose")),
}
# Much of what these have is their owner's.
TERSE = {"Middlebox", "ServerSession", "Wires"}
# Told elsewhere, field by field.
ELSEWHERE = {"Limits": "Its fields, with their defaults, are listed in [the reference](reference.md#limits)."}

INTRODUCTION = """\
# API

Every public name, with its docstring. [Embedding](embedding.md) shows how they go together; limits, flags and codes
are in [the reference](reference.md). This file is made from the code by `make docs`, which fails
when a public name lacks its docstring; a test fails when the file is not up to date.

Times are seconds and sizes are bytes, unless something else is said. What cancelling does is told with each name, and
[in one place](cancellation.md). What is called with `async with` is an asynchronous context manager.
"""

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Assignment: TypeAlias = ast.Assign | ast.AnnAssign


class Undocumented(Exception):
    """Public names without a docstring: one a line."""


def api_reference() -> str:
    """The whole document. Raises Undocumented."""
    document = _Document()
    text = "\n".join(document.lines())
    if document.lacking:
        raise Undocumented("\n".join(document.lacking))
    return text + "\n"


# -- what stands in the source -------------------------------------------------------------------


class Source:
    """A module's statements, and the comments between them."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.name = module.__name__
        file = Path(module.__file__ or "")
        text = file.with_name(f"{file.name.partition('.')[0]}.py").read_text(encoding="utf-8")  # it may be compiled
        self.body = ast.parse(text).body
        self._lines = text.splitlines()
        tokens = tokenize.generate_tokens(StringIO(text).readline)
        self._comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}

    def words_of(self, node: ast.stmt, after: Sequence[ast.stmt]) -> str:
        """Of an assignment: the string below it, the comment behind it, or the one above it."""
        if after and (words := _string(after[0])):
            return words
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        behind = [self._comments[line] for line in lines if line in self._comments]
        return " ".join(map(_uncommented, behind or self._above(node.lineno)))

    def _above(self, line: int) -> list[str]:
        found: list[str] = []
        while (line := line - 1) in self._comments and self._lines[line - 1].lstrip().startswith("#"):
            if "# --" in self._comments[line]:
                break
            found.insert(0, self._comments[line])
        return found


def _uncommented(comment: str) -> str:
    return comment.lstrip("#").strip()


def _string(node: ast.stmt) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return inspect.cleandoc(node.value.value)
    return ""


@cache
def source_of(module: str) -> Source:
    return Source(importlib.import_module(module))


@dataclass(frozen=True)
class Found:
    """Where a name is defined."""

    source: Source
    name: str
    node: ast.stmt
    after: Sequence[ast.stmt]

    @property
    def key(self) -> tuple[str, str]:
        return self.source.name, self.name

    @property
    def given(self) -> bool:
        return self.name in GIVEN or self.source.name in EVENTS


def find(module: str, name: str) -> Found:
    """Where ``name`` of a module is defined: there, or where it is imported from."""
    source = source_of(module)
    for number, node in enumerate(source.body):
        if _defines(node, name):
            return Found(source, name, node, source.body[number + 1 :])
    for node in _walk(source.body):
        if isinstance(node, ast.ImportFrom) and any(name == (alias.asname or alias.name) for alias in node.names):
            package = module if hasattr(source.module, "__path__") else module.rpartition(".")[0]
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            return find(".".join([*base, *([node.module] if node.module else [])]), name)
    raise LookupError(f"{module}.{name} is not defined anywhere")


def _walk(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, and of ``if TYPE_CHECKING``."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from node.body


def _defines(node: ast.stmt, name: str) -> bool:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return node.name == name
    return isinstance(node, (ast.Assign, ast.AnnAssign)) and _target(node) == name


def _target(node: ast.stmt, *, of_self: bool = False) -> str:
    """The name that an assignment gives a value, or that of an attribute of ``self``; else ""."""
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return ""
    target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
    if of_self:
        return target.attr if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self" else ""
    return target.id if isinstance(target, ast.Name) else ""


# -- the document --------------------------------------------------------------------------------


class _Document:
    def __init__(self) -> None:
        self.lacking: list[str] = []
        self._places: dict[tuple[str, str], str] = {}  # of each definition: the module that tells of it

    def lines(self) -> Iterator[str]:
        yield INTRODUCTION
        yield "| module | what it has |\n|---|---|"
        for module in PUBLIC:
            about = _plain(ast.get_docstring(ast.Module(source_of(module).body, [])) or "").split("\n\n")[0]
            yield f"| [`{module}`](#module-{_slug(module)}) | {_cell(about)} |"
            for found in self._public(module):
                place = found.source.name if found.source.name in PUBLIC and module != PUBLIC[0] else module
                self._places.setdefault(found.key, place)
        for module in PUBLIC:
            yield f"\n## Module {module}"
            yield from self._module(module)

    def _public(self, module: str) -> Iterator[Found]:
        for name in source_of(module).module.__all__:
            yield find(module, name)
        for home, name in RETURNED.get(module, ()):
            yield find(home, name)

    def _module(self, module: str) -> Iterator[str]:
        elsewhere: list[str] = []
        for found in self._public(module):
            place = self._places[found.key]
            if place == module:
                yield f"\n### {module}.{found.name}\n"
                yield from self._name(found)
            else:
                elsewhere.append(f"[`{place}.{found.name}`](#{_slug(f'{place}.{found.name}')})")
        if elsewhere:
            yield f"\nAlso here: {', '.join(elsewhere)}."

    def _name(self, found: Found) -> Iterator[str]:
        node = found.node
        if isinstance(node, ast.ClassDef):
            yield from self._class(found, node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _code(_signature(node))
            yield self._need(_plain(ast.get_docstring(node) or ""), found.name)
        else:
            yield from _code(ast.unparse(node))
            yield self._need(_plain(found.source.words_of(node, found.after)), found.name)

    def _need(self, words: str, name: str) -> str:
        if not words:
            self.lacking.append(f"{name} has no docstring")
        return words

    # -- classes -------------------------------------------------------------------------------

    def _class(self, found: Found, node: ast.ClassDef) -> Iterator[str]:
        members = list(_members(found, node))
        made = next((each for each in members if _is_function(each) and each.name == "__init__"), None)
        yield from _code(_made(found, node, made))
        yield self._need(_plain(ast.get_docstring(node) or ""), node.name)
        if node.name in ELSEWHERE:
            yield f"\n{ELSEWHERE[node.name]}"
            return
        yield from self._attributes(found, node, members, made)
        for method in members:
            if _is_function(method) and not (method.name.startswith("_") or _is_property(method)):
                yield from self._method(found, node, method)

    def _attributes(
        self, found: Found, node: ast.ClassDef, members: Sequence[ast.stmt], made: Function | None
    ) -> Iterator[str]:
        """With a table for those that anything is said of; a constructor that is shown has the types of others."""
        rows: dict[str, tuple[str, str]] = {}
        inside = _assigned(found, made.body if made else (), of_self=True)
        for name, (kind, words) in [*_assigned(found, members), *inside]:
            before = rows.get(name, ("", ""))
            rows[name] = (kind or before[0], words or before[1])
        for each in members:
            if _is_function(each) and _is_property(each) and not self._inherited(found, node, each):
                words = self._need(_plain(ast.get_docstring(each) or ""), f"{node.name}.{each.name}")
                rows[each.name] = (ast.unparse(each.returns) if each.returns is not None else "", words)
        rows = {name: row for name, row in rows.items() if _is_shown(node, name)}
        told = {name: row for name, row in rows.items() if row[1] or (found.given and made is None)}
        bare = [f"`{name}`" for name in rows if name not in told]
        if bare and (made is not None or not found.given) and node.name not in TERSE and not _is_dataclass(node):
            yield f"\nAttributes: {', '.join(bare)}."
        if told:
            yield "\n| attribute | type | |\n|---|---|---|"
            for name, (kind, words) in told.items():
                yield f"| `{name}` | {_cell(f'`{kind}`' if kind else '')} | {_cell(words)} |"

    def _method(self, found: Found, node: ast.ClassDef, method: Function) -> Iterator[str]:
        if f"{node.name}.{method.name}" in HIDDEN or self._inherited(found, node, method):
            return
        yield f"\n**{node.name}.{method.name}**\n"
        yield from _code(_signature(method))
        yield self._need(_plain(ast.get_docstring(method) or ""), f"{node.name}.{method.name}")

    def _inherited(self, found: Found, node: ast.ClassDef, method: Function) -> bool:
        """Whether what it promises is told by a base."""
        if ast.get_docstring(method):
            return False
        cls = getattr(found.source.module, node.name)
        return any(getattr(vars(base).get(method.name), "__doc__", None) for base in cls.__mro__[1:])


def _assigned(
    found: Found, body: Sequence[ast.stmt], *, of_self: bool = False
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Public names that are given a value, each with its type and what is said of it."""
    for number, each in enumerate(body):
        name = _target(each, of_self=of_self)
        if name and not name.startswith("_"):
            kind = ast.unparse(each.annotation) if isinstance(each, ast.AnnAssign) else ""
            yield name, (kind, _plain(found.source.words_of(each, body[number + 1 :])))


def _members(found: Found, node: ast.ClassDef) -> Iterator[ast.stmt]:
    """Of a class, and of a private base, which nobody can look up."""
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id.startswith("_"):
            private = find(found.source.name, base.id).node
            assert isinstance(private, ast.ClassDef)
            yield from private.body
    yield from node.body


def _is_function(node: ast.stmt) -> TypeGuard[Function]:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def _is_property(method: Function) -> bool:
    return any(ast.unparse(each) == "property" for each in method.decorator_list)


# -- text ----------------------------------------------------------------------------------------


def _made(found: Found, node: ast.ClassDef, made: Function | None) -> str:
    """How an object is made, where programs make it."""
    bases = [ast.unparse(base) for base in node.bases]
    public = [base for base in bases if base.endswith(("Event", "Error", "Exception"))]
    plain = f"class {node.name}({', '.join(public)})" if public else f"class {node.name}"
    if found.given or {"Protocol", "ABC", "enum.Enum"} & set(bases):
        return plain
    if made is not None:
        return _called(node.name, _arguments(made.args))
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign) and _is_shown(node, _target(each))]
    if _is_dataclass(node) and fields and node.name not in ELSEWHERE:
        keywords = ["*"] if any("kw_only=True" in ast.unparse(each) for each in node.decorator_list) else []
        return _called(node.name, [*keywords, *map(_field, fields)])
    return plain


def _is_shown(node: ast.ClassDef, name: str) -> bool:
    return not (name.startswith("_") or {name, f"{node.name}.{name}"} & HIDDEN)


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(each) for each in node.decorator_list)


def _field(node: ast.AnnAssign) -> str:
    """One of a dataclass, as an argument."""
    value = node.value
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        given = {each.arg: each.value for each in value.keywords}
        value = given.get("default", ast.Constant(...) if "default_factory" in given else None)
    return f"{_target(node)}: {ast.unparse(node.annotation)}" + (f" = {ast.unparse(value)}" if value else "")


def _signature(function: Function) -> str:
    """As it is called: without ``self``, with ``await``, ``async with`` or neither."""
    decorators = {ast.unparse(each).split("(")[0] for each in function.decorator_list}
    returns = f" -> {ast.unparse(function.returns)}" if function.returns is not None else ""
    prefix = ""
    if "asynccontextmanager" in decorators:
        prefix, returns = "async with ", re.sub(r" -> \w+\[(\w+).*", r" as \1", returns)
    elif isinstance(function, ast.AsyncFunctionDef) and "pytest.fixture" not in decorators:
        prefix = "await "
    return _called(f"{prefix}{function.name}", _arguments(function.args), returns)


def _called(name: str, arguments: Sequence[str], returns: str = "") -> str:
    line = f"{name}({', '.join(arguments)}){returns}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {each},\n" for each in arguments) + f"){returns}"


def _arguments(given: ast.arguments) -> list[str]:
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    found = [_argument(each, default) for each, default in zip(plain, defaults, strict=True)]
    if given.vararg is not None:
        found.append(f"*{_argument(given.vararg)}")
    elif given.kwonlyargs:
        found.append("*")
    found += [_argument(each, default) for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    if given.kwarg is not None:
        found.append(f"**{_argument(given.kwarg)}")
    return [each for each in found if each not in ("self", "cls")]


def _argument(argument: ast.arg, default: ast.expr | None = None) -> str:
    kind = f": {ast.unparse(argument.annotation)}" if argument.annotation is not None else ""
    equals = " = " if kind else "="
    return f"{argument.arg}{kind}" + (f"{equals}{ast.unparse(default)}" if default is not None else "")


def _quoted(text: str) -> str:
    """``ast.unparse`` likes the other quotes."""
    return re.sub(r"'([^'\"]*)'", r'"\1"', text)


def _code(text: str) -> Iterator[str]:
    yield f"```python\n{_quoted(text)}\n```\n"


def _plain(docstring: str) -> str:
    """A docstring as Markdown: code by single backticks, terms with their explanation as a list."""
    lines: list[str] = []
    source = docstring.splitlines()
    in_term = False
    for number, line in enumerate(source):
        below = source[number + 1] if number + 1 < len(source) else ""
        if re.fullmatch(r"``.*``", line) and below.startswith("    ") and below.strip():
            in_term = True
            lines.append(f"- {line}:")
        elif in_term and line.startswith("    "):
            lines.append(f"  {line.strip()}")
        else:
            in_term = False if line.strip() else in_term
            lines.append(line)
    text = re.sub(r"``(.+?)``", r"`\1`", "\n".join(lines), flags=re.DOTALL)
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    text = re.sub(
        r"^>>> (?:.+\n?)+", lambda match: f"```python\n{match[0].rstrip()}\n```\n", text, flags=re.MULTILINE
    )
    return re.sub(r"\n((?:    .*\n?|\n)+)", _fenced, text).strip()


def _fenced(match: re.Match[str]) -> str:
    block = match[1]
    if not block.startswith("    ") and not block.lstrip("\n").startswith("    "):
        return match[0]
    return "\n\n```python\n" + inspect.cleandoc("\n" + block) + "\n```\n\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def main() -> int:
    try:
        text = api_reference()
    except Undocumented as lacking:
        print(lacking, file=sys.stderr)
        return 1
    PATH.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
