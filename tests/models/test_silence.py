"""Importing the libraries of Hugging Face says nothing, in a process of its own."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "code",
    [
        "from proteinlm.models import lora; lora._peft().LoraConfig",
        "from proteinlm.models import huggingface; huggingface._transformers().EsmModel",
    ],
    ids=["peft", "transformers"],
)
def test_an_import_is_silent(code: str):
    pytest.importorskip("peft")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")
