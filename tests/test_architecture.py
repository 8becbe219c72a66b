"""Rules of the code that a test can check. import-linter's contracts in pyproject.toml check the floors."""

import ast
import re
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
FILES = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in (ROOT / "dat_train").rglob("*.py")}
TREES = {path: ast.parse(text) for path, text in FILES.items()}
QUESTION = re.compile(r"(What|Who|Whose|Where|When|Whether|Which|How|Why)\b")


def nodes(*kinds):
    """All nodes of these kinds, each with its place."""
    return [
        (f"{path}:{getattr(node, 'lineno', 1)}", node)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, kinds)
    ]


def test_no_module_imports_itself_in_a_circle():
    """Imports inside functions count, those for type checkers do not."""
    graph = grimp.build_graph("dat_train", exclude_type_checking_imports=True)
    cycles = []
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            chain = graph.find_shortest_chain(importer=imported, imported=module)
            if chain:
                cycles.append(chain)
    assert cycles == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_has_at_most_400_lines(path):
    assert FILES[path].count("\n") <= 400


def test_a_function_has_at_most_70_lines():
    functions = nodes(ast.FunctionDef, ast.AsyncFunctionDef)
    assert [place for place, node in functions if node.end_lineno - node.lineno >= 70] == []


def test_a_call_has_at_most_five_positional_arguments():
    """Of functions and classes of this package; kernels call operators of PyTorch and Triton, which have more."""
    variadic = {node.name for _, node in nodes(ast.FunctionDef) if node.args.vararg}
    own = {node.name for _, node in nodes(ast.FunctionDef, ast.ClassDef)} - variadic
    calls = [(place, node) for place, node in nodes(ast.Call) if "models/kernels/" not in place]
    named = [(place, node) for place, node in calls if getattr(node.func, "id", "") in own]
    assert [place for place, node in named if len(node.args) > 5] == []


def test_no_docstring_begins_with_a_question_word():
    documented = nodes(ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    assert [place for place, node in documented if QUESTION.match(ast.get_docstring(node) or "")] == []


def test_documents_in_the_repository_are_cited():
    assert [str(path) for path, text in FILES.items() if re.search(r"\bspec:", text)] == []


def test_texts_are_written_and_read_in_utf_8():
    """Without `encoding=`, the machine's locale decides."""
    calls = [(place, node) for place, node in nodes(ast.Call) if isinstance(node.func, ast.Attribute)]
    texts = [(place, node) for place, node in calls if node.func.attr in ("read_text", "write_text")]
    assert [place for place, node in texts if "encoding" not in {keyword.arg for keyword in node.keywords}] == []


ROWS = re.findall(r"^\| ([^|]+) \| (`[^|]+) \| ([^|]*) ?\|$", (ROOT / "docs/code.md").read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize(("subject", "files", "names"), ROWS, ids=[row[0] for row in ROWS])
def test_the_page_of_the_code_names_files_and_definitions_that_exist(subject, files, names):
    paths = [ROOT / "dat_train" / path for path in re.findall(r"`([^`]+)`", files)]
    assert paths and all(path.exists() for path in paths)
    text = "".join(path.read_text(encoding="utf-8") for path in paths if path.is_file())
    for name in re.findall(r"`([^`]+)`", names):
        assert re.search(rf"^\s*(def|class) {name}\b|^{name}\b.* = ", text, re.M), name
