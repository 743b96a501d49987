"""The boundaries of ARCHITECTURE.md that import-linter sees, and some that it cannot."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
import source

SERVICES = sorted(path.name for path in (source.ROOT / "services").iterdir() if (path / "__init__.py").exists())
RULES = [path for path in source.modules("services") if path.name == "rules.py" or path.parent.name == "rules"]
IO_MODULES = frozenset(
    [
        "aiokafka",
        "asyncio",
        "asyncpg",
        "confluent_kafka",
        "fastapi",
        "http",
        "httpx",
        "io",
        "logging",
        "os",
        "pathlib",
        "requests",
        "shutil",
        "socket",
        "sqlite3",
        "starlette",
        "structlog",
        "subprocess",
        "tempfile",
        "threading",
        "urllib",
        "uvicorn",
    ]
)
IO_CALLS = frozenset(("open", "print", "input", "exec", "eval", "compile"))
CLOCK_CALLS = frozenset((("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"),
                         ("time", "time"), ("time", "monotonic"), ("random", "random"), ("uuid", "uuid4")))  # fmt: skip


LINT = "from importlinter.cli import lint_imports_command"


def test_the_import_contracts_hold() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{LINT}; lint_imports_command()",
            "--no-cache",
        ],
        cwd=source.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("library", "home"),
    [("asyncpg", "shared/store/"), ("aiokafka", "shared/events/"), ("confluent_kafka", "shared/local/")],
)
def test_a_driver_is_imported_in_one_place_only(library: str, home: str) -> None:
    users = {
        source.name(path)
        for path in source.modules(*source.PACKAGES)
        if any(module.split(".")[0] == library for module in source.imports(path))
    }
    assert users, f"nobody imports {library}"
    assert not [user for user in users if not user.startswith(home)]


@pytest.mark.parametrize("path", source.modules("shared"), ids=source.name)
def test_shared_knows_neither_services_nor_the_command_line(path) -> None:
    assert not [module for module in source.imports(path) if module.split(".")[0] in {"services", "cli"}]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_never_imports_another(service: str) -> None:
    others = {f"services.{other}" for other in SERVICES if other != service}
    for path in source.modules(f"services/{service}"):
        found = [module for module in source.imports(path) if ".".join(module.split(".")[:2]) in others]
        assert not found, f"{source.name(path)} imports {found}"


@pytest.mark.parametrize("path", RULES, ids=source.name)
def test_rules_decide_on_values_and_do_no_io(path) -> None:
    waits = [
        node.lineno
        for node in ast.walk(source.tree(path))
        if isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith)
    ]
    assert not waits, f"lines {waits} wait for something"
    assert not {module.split(".")[0] for module in source.imports(path)} & IO_MODULES
    calls = [node for node in ast.walk(source.tree(path)) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id in IO_CALLS]


@pytest.mark.parametrize("path", RULES, ids=source.name)
def test_rules_are_told_the_time(path) -> None:
    asked = [
        call.lineno
        for call in ast.walk(source.tree(path))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and (call.func.value.id, call.func.attr) in CLOCK_CALLS
    ]
    assert not asked, f"lines {asked}: the same question would have another answer tomorrow"


@pytest.mark.parametrize("path", source.modules("services"), ids=source.name)
def test_services_do_not_read_the_environment_except_where_they_are_started(path) -> None:
    if source.name(path) == "services/run.py":
        return
    assert not [module for module in source.imports(path) if module in {"os", "os.environ"}]


@pytest.mark.parametrize("path", source.modules("services"), ids=source.name)
def test_services_speak_no_sql(path) -> None:
    words = ("SELECT ", "INSERT INTO ", "UPDATE ", "DELETE FROM ")
    found = [
        node.lineno
        for node in ast.walk(source.tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.lstrip().startswith(words)
    ]
    assert not found, f"lines {found}"
