"""Imports run one way: no circle among the folders of any folder, and at most eight layers of them above each other.

``python -m tests.test_imports`` prints the layers.
"""

import functools
from graphlib import TopologicalSorter

import grimp

DEEPEST = 8
PACKAGES = ("proteinlm", "experiments")


@functools.cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True)


def needs(folder: str) -> dict[str, set[str]]:
    """For each child of `folder` its siblings that it, or anything in it, imports."""
    children = sorted(graph().find_children(folder))
    home = {module: child for child in children for module in {child, *graph().find_descendants(child)}}
    return {
        child: {
            home[imported]
            for module in (child, *graph().find_descendants(child))
            for imported in graph().find_modules_directly_imported_by(module)
            if home.get(imported, child) != child
        }
        for child in children
    }


def depths() -> dict[str, int]:
    """The layer of each folder of the library, 1 for those that import none, and of the experiments on top."""
    below = needs("proteinlm")
    del below["proteinlm.__main__"]  # a caller of cli, not a room
    below["experiments"] = set(below)
    deep: dict[str, int] = {}
    for name in TopologicalSorter(below).static_order():
        deep[name] = 1 + max((deep[other] for other in below[name]), default=0)
    return deep


def test_there_is_no_circle_in_any_folder():
    folders = [name for name in graph().modules if graph().find_children(name)]
    assert len(folders) > 15
    for folder in folders:
        tuple(TopologicalSorter(needs(folder)).static_order())  # CycleError names the circle


def test_the_layers_are_few():
    assert max(depths().values()) <= DEEPEST


def test_the_graph_sees_imports_inside_functions():
    assert "proteinlm.data.store" in needs("proteinlm.data")["proteinlm.data.sources"]


if __name__ == "__main__":
    for name, depth in sorted(depths().items(), key=lambda item: (-item[1], item[0])):
        print(depth, name)
