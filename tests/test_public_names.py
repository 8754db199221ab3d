"""The package hands out its public names, complete in its list, and loads no torch for those that need none."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import proteinlm


def test_every_public_name_is_that_of_its_module():
    assert set(proteinlm.__all__) == set(proteinlm._HOMES) == set(dir(proteinlm))
    for name, home in proteinlm._HOMES.items():
        assert getattr(proteinlm, name) is getattr(import_module(home), name)


def test_the_package_says_that_it_is_typed():
    assert (Path(proteinlm.__file__).parent / "py.typed").is_file()


def test_names_that_need_no_torch_load_none():
    code = "import sys; from proteinlm import InputError, ModelConfig; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
