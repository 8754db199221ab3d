"""An exported model is the same model to transformers, which alone is enough to use it, and comes back bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoTokenizer, MegatronBertConfig, MegatronBertForMaskedLM

from proteinlm import checkpoint, vocabulary
from proteinlm.config import ModelConfig
from proteinlm.errors import InputError
from proteinlm.interop import huggingface, megatron
from tests.inference.models import saved
from tests.interop import megatron_samples as samples
from tests.interop.test_megatron import ours, protein
from tests.runs import equal

SEQUENCES = ("MKTAYIAKQR", "mktayiakqr", "M K T\nA", "BOUXZ", "MJ*-K", "MK[MASK]T", "")


def theirs(directory: Path, tokens: Tensor) -> Tensor:
    """Logits (S, V) of one protein (S,) by transformers."""
    model, loading = AutoModelForMaskedLM.from_pretrained(directory, output_loading_info=True)
    assert not any(loading.values()), loading
    with torch.inference_mode():
        return model.eval()(tokens.unsqueeze(0)).logits.squeeze(0)


@pytest.mark.parametrize("head_dim", [32, 48, 64, 128, 192, 256])
def test_megatron_to_ours_to_hugging_face_to_ours(head_dim: int, tmp_path: Path):
    args = samples.arguments(2 * head_dim, 2, 2, vocab=128, positions=96, shards=1)
    state, tokens = samples.model(args), protein(60)
    first, exported, second = (tmp_path / name for name in ("first", "exported", "second"))
    megatron.import_checkpoint(samples.write(tmp_path / "megatron", args, state), first)
    wanted = samples.logits(state, args, tokens)
    torch.testing.assert_close(ours(first, tokens), wanted, atol=1e-5, rtol=1e-5)

    with pytest.raises(InputError, match="--approximate"):
        huggingface.export(first, exported)
    assert not exported.exists()
    difference = huggingface.export(first, exported, approximate=True).difference
    huggingface.import_directory(exported, second)
    assert equal(checkpoint.load_weights(first).tensors, checkpoint.load_weights(second).tensors)
    torch.testing.assert_close(theirs(exported, tokens), ours(second, tokens), atol=1e-5, rtol=1e-5)
    assert difference is not None
    assert 1e-4 < difference < 1.0
    assert float((theirs(exported, tokens) - wanted).abs().max()) < 3 * difference


def test_equal_activations_give_equal_logits_both_ways(tmp_path: Path):
    config = ModelConfig(96, 3, 2, max_positions=80, dropout=0.2)
    source, tokens = saved(tmp_path / "source", config), protein(70)
    report = huggingface.export(source, tmp_path / "exported")
    assert (report.has_head, report.left_out, report.difference) == (True, [], None)
    torch.testing.assert_close(theirs(tmp_path / "exported", tokens), ours(source, tokens), atol=1e-5, rtol=1e-5)
    assert huggingface.import_directory(tmp_path / "exported", tmp_path / "back").config == config
    assert equal(checkpoint.load_weights(source).tensors, checkpoint.load_weights(tmp_path / "back").tensors)


@pytest.mark.parametrize("layout", ["one file", "shards", "pickle"])
def test_a_model_that_transformers_saved(tmp_path: Path, layout: str):
    torch.manual_seed(0)
    config = MegatronBertConfig(
        vocab_size=128,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        max_position_embeddings=80,
        hidden_act="gelu_new",
    )
    model = MegatronBertForMaskedLM(config)
    with torch.no_grad():
        for parameter in model.parameters():  # token types and biases too
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="100KB" if layout == "shards" else "1GB")
    if layout == "pickle":
        (tmp_path / "theirs/model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "theirs/pytorch_model.bin")
    assert (len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 1) == (layout == "shards")
    report = huggingface.import_directory(tmp_path / "theirs", tmp_path / "ours")
    assert report.unused == []
    tokens = protein(70)
    torch.testing.assert_close(
        ours(tmp_path / "ours", tokens), theirs(tmp_path / "theirs", tokens), atol=1e-5, rtol=1e-5
    )


def test_token_ids_are_ours(tmp_path: Path):
    huggingface.export(saved(tmp_path / "source", ModelConfig(32, 1, 4, max_positions=64)), tmp_path / "exported")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    for sequence in SEQUENCES:
        letters = sequence.replace(" ", "").replace("\n", "").replace("[MASK]", "?")
        wanted = [vocabulary.CLS, *vocabulary.encode(letters, unknown_as_unk=True).tolist()]
        wanted = [vocabulary.MASK if "?" in letters and token == vocabulary.UNK else token for token in wanted]
        assert tokenizer(sequence)["input_ids"] == wanted, sequence
    assert tokenizer.get_vocab() == vocabulary.IDS
    assert tokenizer.model_max_length == 64
    ids = tokenizer("MK[MASK]T")["input_ids"]
    alone = Tokenizer.from_file(str(tmp_path / "exported/tokenizer.json"))  # without what transformers knows besides
    assert alone.decode(ids).replace(" ", "") == "MKT"
    padded = tokenizer(["MK", "MKTA"], padding=True)
    assert padded["input_ids"][0][-2:] == [vocabulary.PAD] * 2
    assert padded["attention_mask"][0] == [1, 1, 1, 0, 0]


FOREIGN = """
import json, sys
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
tokenizer, model = AutoTokenizer.from_pretrained(sys.argv[1]), AutoModelForMaskedLM.from_pretrained(sys.argv[1])
batch = tokenizer(["MKTAYIAKQR", "ACD"], padding=True, return_tensors="pt")
with torch.inference_mode():
    logits = model(**batch).logits
assert not any(name.startswith("proteinlm") for name in sys.modules)
print(json.dumps([logits[0, 3].tolist(), logits[1, 3].tolist()]))
"""


def test_transformers_alone_uses_an_exported_model(tmp_path: Path):
    source = saved(tmp_path / "source", ModelConfig(32, 2, 4, max_positions=64))
    huggingface.export(source, tmp_path / "exported")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", FOREIGN, str(tmp_path / "exported")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    for sequence, logits in zip(("MKTAYIAKQR", "ACD"), json.loads(result.stdout), strict=True):
        tokens = torch.tensor([vocabulary.CLS, *vocabulary.encode(sequence)])
        torch.testing.assert_close(torch.tensor(logits), ours(source, tokens)[3], atol=1e-5, rtol=1e-5)


def test_a_fine_tuned_model_exports_its_backbone(tmp_path: Path):
    config = ModelConfig(32, 1, 4, max_positions=64)
    weights = checkpoint.load_weights(saved(tmp_path / "source", config, head=False))
    task_head = {"head.output.weight": torch.zeros(3, 32)}
    checkpoint.save_tensors(tmp_path / "source", weights.tensors | task_head, config)
    report = huggingface.export(tmp_path / "source", tmp_path / "exported")
    assert (report.has_head, report.left_out) == (False, ["head.output.weight (3, 32)"])
    huggingface.import_directory(tmp_path / "exported", tmp_path / "back")
    assert equal(weights.tensors, checkpoint.load_weights(tmp_path / "back").tensors)


@pytest.mark.parametrize("knob", [{"positions": "rotary"}, {"feed_forward": "gated"}], ids=str)
def test_what_megatron_bert_has_no_place_for_is_not_exported(knob: dict[str, str], tmp_path: Path):
    source = saved(tmp_path / "source", ModelConfig(32, 1, 4, max_positions=64, **knob))
    with pytest.raises(InputError, match=f"model.{next(iter(knob))}=.* has no place in MegatronBert"):
        huggingface.export(source, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_what_cannot_be_imported_is_refused_in_one_line(tmp_path: Path):
    huggingface.export(saved(tmp_path / "source", ModelConfig(32, 1, 4, max_positions=64)), tmp_path / "exported")
    file = tmp_path / "exported/config.json"
    original = json.loads(file.read_text())

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message) as refusal:
            huggingface.import_directory(tmp_path / "exported", tmp_path / "ours")
        assert "\n" not in str(refusal.value)
        assert not (tmp_path / "ours").exists()

    changes = (
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not one of esm, bert, megatron-bert"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"intermediate_size": 64}, r"shape \(128, 32\), not \(64, 32\)"),
        ({"num_hidden_layers": 2}, "no tensor bert.encoder.layer.1"),
        ({"vocab_size": 31}, r"shape \(128, 32\), not \(31, 32\)"),
        ({"hidden_size": "32"}, "not the shape of an encoder"),
    )
    for change, message in changes:
        file.write_text(json.dumps(original | change))
        refused(message)
    file.write_text(json.dumps(original))
    weights = tmp_path / "exported/model.safetensors"
    tensors = load_file(weights)
    save_file(tensors | {"cls.predictions.decoder.weight": torch.zeros(128, 32)}, weights)
    refused("cls.predictions.decoder.weight is not tied")
    save_file(tensors | {"cls.predictions.decoder.bias": tensors["cls.predictions.bias"] + 1}, weights)
    refused("cls.predictions.decoder.bias is not tied")
    weights.write_bytes(b"nothing")
    refused("model.safetensors: damaged")
    weights.unlink()
    refused("neither model.safetensors nor pytorch_model.bin in it, so no weights")
    (tmp_path / "exported/tokenizer.json").unlink()
    (tmp_path / "exported/vocab.txt").write_text("[PAD]\n[UNK]\n")
    refused("its vocabulary has no token for the amino acid A")
    file.write_text("{")
    refused("damaged")
