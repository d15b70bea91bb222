"""Who may import whom: a table of layers, checked against every import statement."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support import ROOT

LAYERS = {
    "errors": 0, "ids": 0,
    "schema": 1, "migrate": 1,
    "config": 2, "ray_cluster": 2, "registry": 2, "provenance": 2, "progress": 2, "atomic": 2, "media": 2,
    "workers.protocol": 2,
    "manifests": 3, "mini": 3, "store.rows": 3, "store.run": 3, "metrics.series": 3, "metrics.base": 3, "speed": 3,
    "workers": 3, "systems.spec": 3, "data": 3, "nets": 3, "weights": 3, "metrics.networks": 3, "metrics.regroup": 3,
    "store": 4, "systems": 4, "metrics": 4,
    "calibrate": 5, "metrics.score": 5, "metrics.jobs": 5, "metrics.cluster": 5,
    "metrics.pool": 5, "stats": 5, "validity": 5,
    "api": 6, "checks": 6, "environments": 6, "profiling": 6, "vetting": 6, "cli": 6, "__init__": 6, "__main__": 6,
}  # fmt: skip
PRESENTATION_MAY_USE = ("schema", "store", "stats", "validity", "metrics.base", "metrics.drift", "errors", "atomic",
                        "ids", "registry", "cli.console", "manifests", "speed", "media.clip", "media.stills",
                        "mini")  # fmt: skip

MODEL_MAY_USE = {"errors", "ids", "atomic", "data", "media", "mini", "progress", "provenance", "schema", "weights"}


def layer(module: str) -> int:
    """Return the layer of a dotted module below talkbench, by its longest listed prefix."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (found := LAYERS.get(".".join(parts[:length]))) is not None:
            return found
    raise AssertionError(f"talkbench.{module} has no layer: add it to the table")


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Return the dotted names that a file imports from talkbench, without the leading `talkbench.`."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found.update(names)
    return found


def own(names: set[str]) -> set[str]:
    return {name.removeprefix("talkbench.") for name in names if name.startswith("talkbench.")}


def files(folder: str) -> list[Path]:
    """Return the modules of a folder; scripts run in foreign environments are none."""
    found = sorted(path for path in (ROOT / folder).rglob("*.py") if "oracles" not in path.parts)
    assert found, f"{folder} has no modules: tests of every one of them would test nothing"
    return found


@pytest.mark.parametrize("path", files("talkbench"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_its_own_layer_or_lower(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT / "talkbench").with_suffix("").parts).removesuffix(".__init__")
    mine = layer(module)
    for name in own(imports(path)):
        if name.split(".")[0] == "__version__":
            continue
        assert layer(name) <= mine, f"{module} [{mine}] imports talkbench.{name} [{layer(name)}]"


@pytest.mark.parametrize("path", files("talkbench"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_never_imports_reports_baselines_or_model(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"reports", "talkbench_reports", "model", "talkbench_model", "baselines"}


@pytest.mark.parametrize("path", files("reports"), ids=lambda p: str(p.relative_to(ROOT)))
def test_presentation_reads_rows_and_never_media_runners_or_torch(path: Path) -> None:
    names = imports(path)
    assert not {name.split(".")[0] for name in names} & {"torch", "av", "reports", "talkbench_reports"}
    for name in own(names):
        assert name == "__version__" or name.startswith(PRESENTATION_MAY_USE), f"{path.name} imports talkbench.{name}"


@pytest.mark.parametrize("path", files("model"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_model_uses_the_plain_parts_of_the_core_and_names_itself_by_relative_imports_only(path: Path) -> None:
    names = imports(path)
    assert not {name.split(".")[0] for name in names} & {"model", "talkbench_model", "reports", "talkbench_reports"}
    for name in own(names):
        assert name.split(".")[0] in MODEL_MAY_USE, f"{path.name} imports talkbench.{name}"


@pytest.mark.parametrize("path", files("talkbench"), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_but_networks_needs_torch_when_it_is_imported(path: Path) -> None:
    if path.parent.name == "nets":
        return
    assert "torch" not in {name.split(".")[0] for name in imports(path, top_level_only=True)}
