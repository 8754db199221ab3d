"""ESM-1b, ESM-2, BERT and MegatronBert give the states, logits and contact maps of transformers, alone and in company."""

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from proteinlm import checkpoint, load, vocabulary
from proteinlm.checkpoint import published
from proteinlm.config import PublishedConfig
from proteinlm.data.batches.packing import pack_letters
from proteinlm.errors import InputError
from proteinlm.inference import attention_contacts
from proteinlm.models import fused_layers, registry
from proteinlm.planner.memory import parameter_shapes
from tests.data.samples import protein
from tests.inference.commands import assert_refused, run
from tests.models import published_encoders as encoders

SEQUENCES = [protein(length, length) for length in (40, 7, 41, 1, 90)] + ["MKXBOUZA"]
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def theirs(directory: Path, sequence: str, masked: tuple[int, ...] = ()) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states (L + 1, H) and logits (L + 1, V) of one protein alone, by transformers."""
    tokens = encoders.tokens_of(directory)
    special = {
        name: tokens.index(name) for name in ("<cls>", "<eos>", "<mask>", "[CLS]", "[SEP]", "[MASK]") if name in tokens
    }
    cls, end, mask = (
        special.get(ours, special.get(other))
        for ours, other in (("<cls>", "[CLS]"), ("<eos>", "[SEP]"), ("<mask>", "[MASK]"))
    )
    ids = [mask if place in masked else tokens.index(letter) for place, letter in enumerate(sequence)]
    model, loading = transformers.AutoModelForMaskedLM.from_pretrained(directory, output_loading_info=True)
    assert not loading["missing_keys"]
    with torch.inference_mode():
        ids = torch.tensor([[cls, *ids, end]])
        hidden = model.eval().base_model(input_ids=ids).last_hidden_state
        return hidden[0, :-1], model(input_ids=ids).logits[0, :-1]


def ours(
    directory: Path, sequences: list[str], masked: tuple[int, ...] = ()
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same of proteins packed together, by this suite, with `masked` hidden in the first of them."""
    weights = checkpoint.load_weights(directory)
    modules = {"backbone": registry.build(weights.config).eval(), "head": registry.language_model_head(weights.config)}
    checkpoint.restore(modules, weights)
    packed = pack_letters([np.frombuffer(sequence.encode(), np.uint8) for sequence in sequences])
    packed.tokens[[1 + place for place in masked]] = vocabulary.MASK
    with torch.inference_mode():
        hidden = modules["backbone"](packed.tokens, packed.starts, packed.longest)
        logits = modules["head"](hidden, registry.token_table(modules["backbone"]))
    sizes = packed.starts.diff().tolist()
    return list(zip(hidden.split(sizes), logits.split(sizes), strict=True))


@pytest.mark.parametrize("fewest", [0, fused_layers.FEWEST])
@pytest.mark.parametrize("head_dim", [16, 20, 24, 64])
@pytest.mark.parametrize("maker", encoders.MAKERS)
def test_states_and_logits_with_and_without_masks(
    maker, head_dim: int, fewest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fused_layers, "FEWEST", fewest)
    torch.manual_seed(head_dim)
    directory = maker(tmp_path / "theirs", head_dim)
    masked = (0, 3, 17)
    for order in (SEQUENCES, SEQUENCES[:1]):
        found = ours(directory, order, masked)
        for place, sequence in enumerate(order):
            for mine, wanted in zip(
                found[place], theirs(directory, sequence, masked if not place else ()), strict=True
            ):
                torch.testing.assert_close(mine, wanted, **TOLERANCE)


@pytest.mark.parametrize("maker", [encoders.esm2, encoders.esm1b])
def test_contact_maps_of_the_regression_that_esm_carries(maker, tmp_path: Path):
    directory = maker(tmp_path / "theirs", 20)
    model = transformers.AutoModelForMaskedLM.from_pretrained(directory, attn_implementation="eager").eval()
    for sequence in (SEQUENCES[0], SEQUENCES[4]):
        tokens = encoders.tokens_of(directory)
        ids = torch.tensor([[0, *(tokens.index(letter) for letter in sequence), 2]])
        with torch.inference_mode():
            wanted = model.predict_contacts(ids, torch.ones_like(ids))[0]
        mine = load(directory, device="cpu")
        readout = attention_contacts.load(mine, directory)
        found = readout.probabilities(mine, np.frombuffer(sequence.encode(), np.uint8))
        torch.testing.assert_close(found, wanted, **TOLERANCE)


@pytest.mark.parametrize("layout", ["classic names", "shards", "pickle", "without prefix"])
def test_every_layout_of_the_same_weights(layout: str, tmp_path: Path):
    plain, other = encoders.esm2(tmp_path / "plain"), tmp_path / "other"
    model = transformers.EsmForMaskedLM.from_pretrained(plain)
    if layout == "without prefix":
        model = model.esm
    model.save_pretrained(other, max_shard_size="20KB" if layout == "shards" else "1GB")
    (other / "vocab.txt").write_text((plain / "vocab.txt").read_text())
    if layout == "classic names":
        encoders.with_classic_names(other)
        assert "esm.encoder.layer.0.LayerNorm.weight" in load_file(other / "model.safetensors")
    if layout == "pickle":
        (other / "model.safetensors").unlink()
        torch.save(model.state_dict(), other / "pytorch_model.bin")
    if layout == "shards":
        assert len(list(other.glob("model-*.safetensors"))) > 1
    wanted, found = published.read(plain), published.read(other)
    assert all("inv_freq" in name for name in found.unused)
    for name, tensor in found.tensors.items():
        assert torch.equal(tensor, wanted.tensors[name]), name
    missing = wanted.tensors.keys() - found.tensors.keys()
    assert all(name.startswith("head.") for name in missing)
    assert bool(missing) == (layout == "without prefix")


@pytest.mark.parametrize("maker", encoders.MAKERS)
def test_an_imported_copy_is_the_same_model_and_counts_its_parameters(maker, tmp_path: Path):
    directory = maker(tmp_path / "theirs")
    code, output, _ = run("import", "hf", directory, tmp_path / "ours")
    assert code == 0
    weights = checkpoint.load_weights(directory)
    copy = checkpoint.load_weights(tmp_path / "ours")
    assert copy.config == weights.config
    assert isinstance(copy.config, PublishedConfig)
    assert {name: tuple(x.shape) for name, x in copy.tensors.items() if not name.startswith("contacts.")} == {
        name: tuple(shape) for name, shape in parameter_shapes(copy.config).items()
    }
    assert all(torch.equal(tensor, copy.tensors[name]) for name, tensor in weights.tensors.items())
    count = sum(tensor.numel() for name, tensor in copy.tensors.items() if not name.startswith("contacts."))
    assert copy.config.parameters == count
    assert f"{count:,} parameters" in output


def test_the_commands_take_a_directory_of_hugging_face(tmp_path: Path):
    directory, fasta = encoders.esm2(tmp_path / "esm2"), tmp_path / "in.fasta"
    fasta.write_text(f">a\n{SEQUENCES[0]}\n")
    (tmp_path / "variants.csv").write_text(f"mutant\n{SEQUENCES[0][4]}5W\n")
    code, output, _ = run("pppl", fasta, "--model", directory, "--device", "cpu")
    assert code == 0
    logs = []
    tokens = encoders.tokens_of(directory)
    for place in range(len(SEQUENCES[0])):
        _, logits = theirs(directory, SEQUENCES[0], (place,))
        logs.append(logits[1 + place].log_softmax(dim=-1))
    own = [log[tokens.index(letter)] for log, letter in zip(logs, SEQUENCES[0], strict=True)]
    assert float(output.splitlines()[1].split(",")[-1]) == pytest.approx(
        float(torch.stack(own).mean().neg().exp()), rel=1e-5
    )
    out = tmp_path / "scores.csv"
    assert run("score", fasta, tmp_path / "variants.csv", "--out", out, "--model", directory, "--device", "cpu")[0] == 0
    wanted = float(logs[4][tokens.index("W")] - own[4])
    assert float(out.read_text().splitlines()[1].split(",")[1]) == pytest.approx(wanted, abs=1e-5)
    maps = tmp_path / "maps.npz"
    assert run("contacts", fasta, "--out", maps, "--model", directory, "--device", "cpu")[0] == 0
    assert np.load(maps)["a"].shape == (40, 40)
    outcome = run("contacts", fasta, "--out", tmp_path / "b.npz", "--model", directory, "--method", "best-heads")
    assert_refused(outcome, "no best heads")


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path):
    directory = encoders.protbert(tmp_path / "theirs")
    config, vocabulary_file, weights = (directory / name for name in ("config.json", "vocab.txt", "model.safetensors"))
    originals = {file: file.read_bytes() for file in (config, vocabulary_file, weights)}

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message) as refusal:
            load(directory)
        assert "\n" not in str(refusal.value)
        assert str(directory) in str(refusal.value)
        for file, content in originals.items():
            file.write_bytes(content)

    for changes, message in (
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is relative_key"),
        ({"num_hidden_layers": 3}, "no tensor bert.encoder.layer.2"),
        ({"hidden_size": 64}, r"tensor .* has shape \(30, 32\), not \(30, 64\)"),
        ({"hidden_size": "32"}, "not the shape of an encoder"),
        ({"num_attention_heads": 5}, "5 heads do not divide"),
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not one of esm, bert, megatron-bert, t5"),
    ):
        encoders.change_config(directory, **changes)
        refused(message)
    vocabulary_file.write_text("\n".join(token for token in encoders.BERT_TOKENS if token != "W"))
    refused("no token for the amino acid W: not a model of proteins")
    vocabulary_file.write_text("\n".join(["more"] * 20 + encoders.BERT_TOKENS))
    refused("a token of the vocabulary is not below 30")
    vocabulary_file.unlink()
    refused("no vocabulary of its tokenizer in it: neither tokenizer.json nor vocab.txt")
    weights.write_bytes(originals[weights][:-8])
    refused("model.safetensors: damaged")
    weights.unlink()
    refused("neither model.safetensors nor pytorch_model.bin in it, so no weights")
    tensors = load_file(weights)
    save_file(tensors | {"cls.predictions.decoder.weight": torch.zeros(30, 32)}, weights)
    refused("cls.predictions.decoder.weight is not tied")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    refused("names no files of this directory")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "missing.safetensors"}}))
    refused("no missing.safetensors in it, which its index names")
    shard = directory / "model-00001-of-00002.safetensors"
    shard.write_bytes(originals[weights][:-8])
    index = {"weight_map": dict.fromkeys(tensors, shard.name)}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(f"{shard.name}: damaged")


def test_a_directory_without_a_head_is_not_scored(tmp_path: Path):
    directory = encoders.esm2(tmp_path / "theirs")
    transformers.EsmModel.from_pretrained(directory).save_pretrained(directory)
    fasta = tmp_path / "in.fasta"
    fasta.write_text(">a\nACDEF\n")
    assert_refused(run("pppl", fasta, "--model", directory), "no language-model head in it")
    assert run("embed", fasta, "--model", directory, "--out", tmp_path / "out.npz", "--device", "cpu")[0] == 0
