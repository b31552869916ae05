"""Find every check of the verifier in its source, and put a switch into each.

A site is one of these; with its switch off the code goes on as if the check had held:
  raise    a `raise` statement does nothing;
  operand  of a condition that leads to a `raise`: `a or b` are two, `not (a and b)`, `not lo <= x <= hi` too;
  conjunct of a truth value that `attest` computes: `return a and b`, `held=a and b`;
  false    `return False` of a signature check does nothing;
  row      of a literal table that a loop with a `raise` walks over: the row is left out;
  call     of a function whose name begins with "require": it is not called.
Checks of an appraisal have names of their own; `make_check` has one switch for each, found as they come.

It changes syntax trees and runs nothing.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

HOUSE = Path(__file__).parent.parent.parent
SWITCHES = "__krunpy_switches__"
ATTEST = sorted(path.stem for path in (HOUSE / "krunpy" / "attest").glob("*.py") if path.stem != "__init__")
FORMATS = (
    *("der", "x509", "narrow", "snp_report", "snp_certs", "snp_tcb", "pck_chain", "pck_extension"),
    *("tdx_collateral", "tdx_json", "tdx_levels", "tdx_qe", "tdx_quote", "tdx_tcb_info", "tpm_quote"),
    *("evidence_azure", "evidence_encodings", "evidence_hcl", "evidence_sev", "evidence_text"),
)
MODULES = tuple(f"krunpy.attest.{name}" for name in ATTEST) + tuple(
    f"krunpy.formats.{name}" for name in FORMATS
)
SIGNATURES = {"krunpy.attest.signatures", "krunpy.attest.tdx_signatures"}
NAMED_MODULE = "krunpy.attest.appraise_checks"
_SHOWN = 72  # characters of source in a name


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One check. `key` has no line number: it stays the same while the check does."""

    module: str
    function: str
    kind: str
    text: str
    line: int
    copy: int = 1

    @property
    def key(self) -> str:
        again = f" ({self.copy})" if self.copy > 1 else ""
        return f"{self.module.removeprefix('krunpy.')} {self.function}: {self.kind} {self.text}{again}"

    @property
    def place(self) -> str:
        return f"{self.module.replace('.', '/')}.py:{self.line}"


def find_sites(module: str) -> list[Site]:
    return instrument(module, read_source(module))[1]


def read_source(module: str) -> str:
    return (HOUSE / (module.replace(".", "/") + ".py")).read_text()


def instrument(module: str, source: str) -> tuple[ast.Module, list[Site]]:
    """Return the module's tree with a switch in every site, and the sites."""
    transformer = _Switcher(module)
    tree = transformer.visit(ast.parse(source))
    return ast.fix_missing_locations(tree), transformer.sites


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split()).replace("|", "¦").replace("`", "'")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _describe_raise(node: ast.Raise) -> str:
    """Return the refusal's code, or else the constant words of the error."""
    if node.exc is None:
        return "again"
    calls = [part for part in ast.walk(node.exc) if isinstance(part, ast.Call)]
    for call in calls:
        for argument in call.args:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                why = next((word.value for word in call.keywords if word.arg == "why"), None)
                is_code = " " not in argument.value
                return argument.value if is_code or why is None else _short(why)
            if isinstance(argument, ast.JoinedStr):
                return _short(argument)
    for call in calls:
        for word in call.keywords:
            if word.arg == "why":
                return _short(word.value)
    return _short(node.exc)


def _called(node: ast.stmt) -> str:
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return ""
    function = node.value.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name.lstrip("_")


def _rows_of(node: ast.For, tables: dict[str, ast.expr]) -> list[ast.expr]:
    """Return the rows of the literal that a loop walks over; none if it is no literal."""
    iterable = node.iter
    if isinstance(iterable, ast.Call) and isinstance(iterable.func, ast.Attribute) and not iterable.args:
        iterable = iterable.func.value if iterable.func.attr == "items" else iterable
    if isinstance(iterable, ast.Name):
        iterable = tables.get(iterable.id, iterable)
    if isinstance(iterable, ast.Dict):
        return [key for key in iterable.keys if key is not None]
    rows = list(iterable.elts) if isinstance(iterable, ast.Tuple | ast.List) else []
    return [] if any(isinstance(row, ast.Starred) for row in rows) else rows


class _Conditions:
    """Take conditions apart. rejects: a true value leads to a refusal; else a false one does."""

    def __init__(self, switch) -> None:
        self._switch = switch  # (node, *, rejects) -> node

    def count(self, node: ast.expr, *, rejects: bool) -> int:
        return sum(self.count(part, rejects=way) for part, way in self._parts(node, rejects=rejects)) or 1

    def rebuild(self, node: ast.expr, *, rejects: bool) -> ast.expr:
        """Return the condition with a switch at each of its atoms."""
        match node:
            case ast.UnaryOp(op=ast.Not()) if self.count(node, rejects=rejects) > 1:
                return ast.UnaryOp(op=node.op, operand=self.rebuild(node.operand, rejects=not rejects))
            case ast.BoolOp(op=op) if isinstance(op, ast.Or) is rejects:
                return ast.BoolOp(op=op, values=[self.rebuild(part, rejects=rejects) for part in node.values])
            case ast.BoolOp() if self.count(node, rejects=rejects) > 1:
                wide = [part for part in node.values if self.count(part, rejects=rejects) > 1]
                values = [
                    self.rebuild(part, rejects=rejects) if part in wide else part for part in node.values
                ]
                return ast.BoolOp(op=node.op, values=values)
            case ast.Compare() if parts := self._parts(node, rejects=rejects):
                op = ast.Or() if rejects else ast.And()
                return ast.BoolOp(op=op, values=[self._switch(part, rejects=rejects) for part, _ in parts])
        return self._switch(node, rejects=rejects)

    def _parts(self, node: ast.expr, *, rejects: bool) -> list[tuple[ast.expr, bool]]:
        match node:
            case ast.UnaryOp(op=ast.Not()):
                return [(node.operand, not rejects)]
            case ast.BoolOp(op=op) if isinstance(op, ast.Or) is rejects:
                return [(part, rejects) for part in node.values]
            case ast.BoolOp():
                return [(part, rejects) for part in node.values if self.count(part, rejects=rejects) > 1]
            case ast.Compare() if len(node.ops) > 1 and not rejects:
                sides = [node.left, *node.comparators]
                return [
                    (ast.copy_location(ast.Compare(sides[i], [op], [sides[i + 1]]), node), rejects)
                    for i, op in enumerate(node.ops)
                ]
            case ast.Compare(left=ast.Tuple() as left, comparators=[ast.Tuple() as right], ops=[op]) if (
                isinstance(op, ast.NotEq if rejects else ast.Eq) and len(left.elts) == len(right.elts)
            ):
                pairs = zip(left.elts, right.elts, strict=True)
                return [(ast.copy_location(ast.Compare(a, [op], [b]), node), rejects) for a, b in pairs]
        return []


class _Switcher(ast.NodeTransformer):
    """Put the switches in."""

    def __init__(self, module: str) -> None:
        self.sites: list[Site] = []
        self._module = module
        self._path: list[str] = []
        self._tables: dict[str, ast.expr] = {}
        self._loops: list[str] = []  # names of the loops over tables around a statement
        self._counts: dict[str, int] = {}
        self._kind = "operand"
        self._conditions = _Conditions(self._switch_atom)

    def _add(self, kind: str, text: str, node: ast.AST) -> Site:
        function = ".".join(self._path) or "module"
        site = Site(module=self._module, function=function, kind=kind, text=text, line=node.lineno)
        self._counts[site.key] = self._counts.get(site.key, 0) + 1
        if self._counts[site.key] > 1:
            copy = self._counts[site.key]
            site = Site(
                module=site.module, function=function, kind=kind, text=text, line=node.lineno, copy=copy
            )
        self.sites.append(site)
        return site

    def _ask(self, method: str, *arguments: object) -> ast.Call:
        values = [one if isinstance(one, ast.expr) else ast.Constant(one) for one in arguments]
        target = ast.Attribute(ast.Name(SWITCHES, ast.Load()), method, ast.Load())
        return ast.Call(target, values, [])

    def _switch_atom(self, node: ast.expr, *, rejects: bool) -> ast.expr:
        site = self._add(self._kind, _short(node), node)
        return self._ask("reject" if rejects else "accept", site.key, node)

    # --- places

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        outer = self._tables
        self._tables = {
            one.targets[0].id: one.value
            for one in ast.walk(node)
            if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name)
        }
        self._path.append(node.name)
        self.generic_visit(node)
        self._path.pop()
        self._tables = outer
        if self._module == NAMED_MODULE and node.name == "make_check":
            ask = self._ask("name", ast.Name("name", ast.Load()))
            ask.keywords = [ast.keyword("held", ast.Name("held", ast.Load()))]
            node.body.insert(1, ast.Assign([ast.Name("held", ast.Store())], ask))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self._path.append(node.name)
        self.generic_visit(node)
        self._path.pop()
        return node

    # --- sites

    def visit_If(self, node: ast.If) -> ast.If:
        last = node.body[-1]
        if (isinstance(last, ast.Raise) or self._is_false(last)) and self._conditions.count(
            node.test, rejects=True
        ) > 1:
            node.test = self._conditions.rebuild(node.test, rejects=True)
            node.body = [self.visit(one) for one in node.body[:-1]] + [self._announce(last)]
            node.orelse = [self.visit(one) for one in node.orelse]
            return node
        return self.generic_visit(node)

    def _is_false(self, node: ast.stmt) -> bool:
        return (
            self._module in SIGNATURES
            and isinstance(node, ast.Return)
            and isinstance(node.value, ast.Constant)
            and node.value.value is False
        )

    def _announce(self, node: ast.stmt) -> ast.stmt:
        """Return a raise that says that it happens, and has no switch: its operands have."""
        if isinstance(node, ast.Raise):
            if node.exc is None:
                ask = ast.Expr(self._ask("fire", "", ast.Constant(None), *self._loops))
                return ast.If(ast.Constant(True), [ask, node], [])
            node.exc = self._ask("fire", "", node.exc, *self._loops)
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.If:
        site = self._add("raise", _describe_raise(node), node)
        body: list[ast.stmt] = [node]
        if node.exc is None:
            body.insert(0, ast.Expr(self._ask("fire", site.key, ast.Constant(None), *self._loops)))
        else:
            node.exc = self._ask("fire", site.key, node.exc, *self._loops)
        return ast.copy_location(ast.If(self._ask("is_on", site.key), body, []), node)

    def visit_Return(self, node: ast.Return) -> ast.stmt:
        if self._is_false(node):
            site = self._add("false", "return False", node)
            return ast.copy_location(
                ast.If(self._ask("reject", site.key, ast.Constant(True)), [node], []), node
            )
        if node.value is not None:
            node.value = self._split_truth(node.value)
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        node.value = self._split_truth(node.value)
        return self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> ast.keyword:
        if node.arg == "held":
            node.value = self._split_truth(node.value)
        return self.generic_visit(node)

    def _split_truth(self, node: ast.expr) -> ast.expr:
        is_truth = isinstance(node, ast.BoolOp | ast.Compare)
        if not (is_truth and ".attest." in self._module and self._conditions.count(node, rejects=False) > 1):
            return node
        self._kind = "conjunct"
        node = self._conditions.rebuild(node, rejects=False)
        self._kind = "operand"
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        if not _called(node).startswith("require"):
            return self.generic_visit(node)
        site = self._add("call", _short(node.value), node)
        note = ast.Expr(self._ask("note", site.key, *self._loops))
        handler = ast.ExceptHandler(ast.Name("Exception", ast.Load()), None, [note, ast.Raise()])
        tried = ast.Try([self.generic_visit(node)], [handler], [], [])
        return ast.copy_location(ast.If(self._ask("is_on", site.key), [tried], []), node)

    def visit_For(self, node: ast.For) -> ast.For:
        rows = _rows_of(node, self._tables)
        refuses = any(
            isinstance(one, ast.Raise) or _called(one).startswith("require") for one in _statements(node)
        )
        if len(rows) < 2 or not refuses:
            return self.generic_visit(node)
        keys = [self._add("row", _short(row), row).key for row in rows]
        node.iter = self._ask("rows", node.iter, *keys)
        loop = keys[0]
        self._loops.append(loop)
        self.generic_visit(node)
        self._loops.pop()
        return node


def _statements(node: ast.For) -> list[ast.stmt]:
    return [one for one in ast.walk(node) if isinstance(one, ast.stmt)]
