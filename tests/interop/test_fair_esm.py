"""A checkpoint of fair-esm gives the states, logits and contact maps of fair-esm; nothing in it is executed."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from proteinlm import load
from proteinlm.data.batches.packing import pack_letters
from proteinlm.inference import attention_contacts
from proteinlm.interop import fair_esm
from tests.data.samples import protein
from tests.inference.commands import assert_refused, run

LAYERS, HEADS, HIDDEN = 2, 4, 80
SEQUENCES = [protein(length, length) for length in (40, 7, 60)] + ["MKXBOUZA"]
SETTINGS = {"encoder_attention_heads": HEADS, "token_dropout": True}


def tensors(*, esm1b: bool) -> dict[str, Tensor]:
    """Random weights by the names in a published file, without the prefix."""
    torch.manual_seed(0)

    def linear(name: str, inputs: int, outputs: int) -> dict[str, Tensor]:
        return {f"{name}.weight": torch.randn(outputs, inputs) * 0.1, f"{name}.bias": torch.randn(outputs) * 0.1}

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + 0.1 * torch.randn(HIDDEN), f"{name}.bias": torch.randn(HIDDEN) * 0.1}

    result = {"embed_tokens.weight": torch.randn(33, HIDDEN) * 0.3}
    if esm1b:
        result |= {"embed_positions.weight": torch.randn(130, HIDDEN) * 0.3, **norm("emb_layer_norm_before")}
    for layer in (f"layers.{index}" for index in range(LAYERS)):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            result |= linear(f"{layer}.self_attn.{part}", HIDDEN, HIDDEN)
        result |= linear(f"{layer}.fc1", HIDDEN, 4 * HIDDEN) | linear(f"{layer}.fc2", 4 * HIDDEN, HIDDEN)
        result |= norm(f"{layer}.self_attn_layer_norm") | norm(f"{layer}.final_layer_norm")
        if not esm1b:
            angles = torch.arange(0, HIDDEN // HEADS, 2).float() / (HIDDEN // HEADS)
            result[f"{layer}.self_attn.rot_emb.inv_freq"] = 10000**-angles
    result |= norm("emb_layer_norm_after") | linear("lm_head.dense", HIDDEN, HIDDEN) | norm("lm_head.layer_norm")
    return result | {"lm_head.weight": result["embed_tokens.weight"], "lm_head.bias": torch.randn(33) * 0.1}


def saved(directory: Path, *, esm1b: bool) -> Path:
    """A checkpoint in either of the two forms of published files, and its regression of contacts."""
    directory.mkdir()
    file = directory / ("esm1b.pt" if esm1b else "esm2.pt")
    content: dict[str, Any] = {}
    for name, tensor in tensors(esm1b=esm1b).items():
        prefix = "encoder." if name.startswith("lm_head") else "encoder.sentence_encoder."
        content[prefix + name] = tensor
    if esm1b:
        torch.save({"args": Namespace(arch="roberta_large", **SETTINGS), "model": content}, file)
    else:
        torch.save({"cfg": {"model": Namespace(**SETTINGS)}, "model": content}, file)
    torch.manual_seed(1)
    head = {
        "contact_head.regression.weight": torch.randn(1, LAYERS * HEADS),
        "contact_head.regression.bias": torch.randn(1),
    }
    torch.save({"model": head}, directory / f"{file.stem}-contact-regression.pt")
    return file


def theirs(esm: Any, file: Path, *, esm1b: bool) -> Any:
    alphabet = esm.Alphabet.from_architecture("ESM-1b")
    if esm1b:
        shape = Namespace(
            arch="roberta_large", layers=LAYERS, embed_dim=HIDDEN, ffn_embed_dim=4 * HIDDEN, attention_heads=HEADS
        )
        vars(shape).update(token_dropout=True, emb_layer_norm_before=True, max_positions=128, final_bias=True)
        model = esm.ProteinBertModel(shape, alphabet)
    else:
        model = esm.ESM2(LAYERS, HIDDEN, HEADS, alphabet, token_dropout=True)
    regression = torch.load(file.with_name(f"{file.stem}-contact-regression.pt"))["model"]
    model.load_state_dict(tensors(esm1b=esm1b) | regression)
    return model.eval()


@pytest.mark.parametrize("esm1b", [False, True], ids=["ESM-2", "ESM-1b"])
def test_states_logits_and_contacts(esm1b: bool, tmp_path: Path):
    esm = pytest.importorskip("esm", reason="needs fair-esm 2.0.0")
    file = saved(tmp_path / "theirs", esm1b=esm1b)
    code, output, _ = run("import", "fair-esm", file, tmp_path / "ours")
    assert code == 0
    assert "contacts: with" in output
    original, model = theirs(esm, file, esm1b=esm1b), load(tmp_path / "ours", device="cpu")
    ids = {token: index for index, token in enumerate(fair_esm.ALPHABET)}
    packed = pack_letters([np.frombuffer(sequence.encode(), np.uint8) for sequence in SEQUENCES])
    hidden = model.hidden_states(packed).split(packed.starts.diff().tolist())
    readout = attention_contacts.load(model, tmp_path / "ours")
    for sequence, mine in zip(SEQUENCES, hidden, strict=True):
        tokens = torch.tensor([[0, *(ids[letter] for letter in sequence), 2]])
        with torch.inference_mode():
            wanted = original(tokens, repr_layers=[LAYERS], return_contacts=True)
        torch.testing.assert_close(mine, wanted["representations"][LAYERS][0, :-1], atol=1e-5, rtol=1e-5)
        found = readout.probabilities(model, np.frombuffer(sequence.encode(), np.uint8))
        torch.testing.assert_close(found, wanted["contacts"][0], atol=1e-5, rtol=1e-5)
        tokens[0, 3] = 32
        alone = pack_letters([np.frombuffer(sequence.encode(), np.uint8)])
        alone.tokens[3] = 1  # [MASK]
        with torch.inference_mode():
            wanted = original(tokens)["logits"][0, 3].log_softmax(dim=-1)
        found = model.log_probabilities(alone, torch.tensor([3]))[0]
        torch.testing.assert_close(found, wanted[model.config.tokens], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("esm1b", [False, True], ids=["ESM-2", "ESM-1b"])
def test_an_import_is_whole_and_its_shape_is_that_of_the_tensors(esm1b: bool, tmp_path: Path):
    encoder = fair_esm.import_checkpoint(saved(tmp_path / "theirs", esm1b=esm1b), tmp_path / "ours")
    config = encoder.config
    assert (config.hidden_size, config.num_layers, config.num_heads) == (HIDDEN, LAYERS, HEADS)
    assert config.max_positions == (130 - 2 - 1 if esm1b else 65_536)
    assert all("inv_freq" in name for name in encoder.unused)
    assert len(load(tmp_path / "ours", device="cpu").embed(SEQUENCES)) == 4


def test_what_cannot_be_imported_is_refused(tmp_path: Path):
    file = saved(tmp_path / "theirs", esm1b=False)
    content = torch.load(file, weights_only=False)

    def refused(message: str) -> None:
        assert_refused(run("import", "fair-esm", file, tmp_path / "ours"), message)
        assert not (tmp_path / "ours").exists()

    torch.save({**content, "cfg": {"model": Namespace(token_dropout=True)}}, file)
    refused("not the shape of an ESM: no 'encoder_attention_heads'")
    torch.save({"model": content["model"], "args": Namespace(arch="msa_transformer", **SETTINGS)}, file)
    refused("architecture msa_transformer: neither ESM-1b nor ESM-2")
    torch.save({"model": content["model"]}, file)
    refused("no settings in it")
    del content["model"]["encoder.sentence_encoder.layers.1.fc2.weight"]
    torch.save(content, file)
    refused("no tensor layers.1.fc2.weight")
    torch.save({"model": content["model"], "args": Path("x")}, file)
    refused("refused: it names pathlib")
    file.write_bytes(file.read_bytes()[:5000])
    refused("damaged")
    file.unlink()
    refused("no such file")
