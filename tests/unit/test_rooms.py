"""Each package knows only what lies below it, and no modules import each other in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "deepcache_ext.planning": ["deepcache_ext.sentence"],
    "deepcache_ext.features": ["deepcache_ext.sentence"],
    "deepcache_ext.network": ["deepcache_ext.sentence"],
    "deepcache_ext.correction": ["deepcache_ext.planning", "deepcache_ext.features"],
    "deepcache_ext": [
        "deepcache_ext.planning",
        "deepcache_ext.features",
        "deepcache_ext.network",
        "deepcache_ext.correction",
    ],
    "deepcache_ext.webui.hosts": [
        "deepcache_ext.planning",
        "deepcache_ext.features",
        "deepcache_ext.network",
        "deepcache_ext.sentence",
        "deepcache_ext.webui.family",
    ],
    "demo": ["deepcache_ext", "deepcache_ext.planning", "deepcache_ext.features"],
}
"""The packages and modules that a package may import beside itself; the ones that are not named here are at the top."""


def name_of(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_ours(name):
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imports(file):
    """Return the modules of this repository that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in submodules if is_ours(name)} or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if is_ours(name)} - {name_of(file)}


def files(*folders):
    return [file for folder in folders for file in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_knows_only_what_lies_below(package):
    for file in (ROOT / package.replace(".", "/")).glob("*.py"):
        for name in imports(file):
            room = name if (ROOT / name.replace(".", "/")).is_dir() else name.rpartition(".")[0]
            assert {room, name} & {package, *MAY_IMPORT[package]}, f"{file.relative_to(ROOT)} imports {name}"


def test_the_product_knows_no_workshop():
    for file in files("deepcache_ext", "scripts"):
        assert not [name for name in imports(file) if name.split(".")[0] in {"bench", "demo", "tests"}], file
    for file in [*(ROOT / "bench").glob("*.py"), *files("bench/parts")]:
        assert not [name for name in imports(file) if name.startswith("bench.research")], file


def test_no_modules_import_each_other():
    graph = {name_of(file): imports(file) for file in files("deepcache_ext", "bench", "demo")}
    assert len([*TopologicalSorter(graph).static_order()]) >= len(graph)
