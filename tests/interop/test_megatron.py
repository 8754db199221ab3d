"""An imported Megatron checkpoint computes what Megatron computed with it, and nothing in the file is executed."""

import os
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from proteinlm import checkpoint, vocabulary
from proteinlm.errors import InputError
from proteinlm.interop import megatron
from proteinlm.models.backbone import Backbone
from proteinlm.models.heads import LanguageModelHead
from tests.interop import megatron_samples as samples


def ours(directory: Path, tokens: Tensor) -> Tensor:
    """Logits (S, V) of one protein (S,) by the weights in `directory`."""
    weights = checkpoint.load_weights(directory)
    backbone, head = Backbone(weights.config).eval(), LanguageModelHead(weights.config)
    checkpoint.restore({"backbone": backbone, "head": head}, weights)
    starts = torch.tensor([0, len(tokens)], dtype=torch.int32)
    with torch.inference_mode():
        return head(backbone(tokens, starts, len(tokens)), backbone.token_embedding.weight)


def protein(length: int) -> Tensor:
    tokens = torch.randint(6, 31, (length,), generator=torch.Generator().manual_seed(length))
    tokens[0], tokens[length // 2] = vocabulary.CLS, vocabulary.MASK
    return tokens


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_logits_are_megatrons(shards: int, tmp_path: Path):
    args = samples.arguments(64, 3, 4, vocab=128 * shards, positions=2176, shards=shards)
    state = samples.model(args)
    source = samples.write(tmp_path / "source", args, state)
    report = megatron.import_checkpoint(source, tmp_path / "ours")
    tokens = protein(50)
    torch.testing.assert_close(
        ours(tmp_path / "ours", tokens), samples.logits(state, args, tokens), atol=1e-5, rtol=1e-5
    )
    assert report.config == checkpoint.load_weights(tmp_path / "ours").config
    assert (report.config.head_activation, report.config.max_positions) == ("gelu", 2176)
    assert (report.shards, report.iteration, report.has_head, report.unused) == (shards, 70000, True, [])


def test_layer_norms_add_megatrons_epsilon(tmp_path: Path):
    """States of a variance of 1e-8, where an epsilon of 1e-5 would decide the result."""
    args = samples.arguments(64, 2, 4, vocab=128, positions=64, shards=1)
    state = samples.model(args)
    for table in state["language_model"]["embedding"].values():
        table["weight"] *= 1e-3
    megatron.import_checkpoint(samples.write(tmp_path / "source", args, state), tmp_path / "ours")
    tokens = protein(50)
    wanted = samples.logits(state, args, tokens) - state["lm_head"]["bias"].float()
    found = ours(tmp_path / "ours", tokens) - state["lm_head"]["bias"].float()
    assert (found - wanted).abs().max() < 1e-2 * wanted.abs().max()


@pytest.mark.parametrize(("tanh", "head"), [(False, "gelu"), (True, "gelu_tanh")])
def test_what_the_arguments_say_is_in_the_config(tanh: bool, head: str, tmp_path: Path):
    args = samples.arguments(32, 1, 4, vocab=256, positions=64, shards=1)
    args.openai_gelu, args.bias_gelu_fusion, args.hidden_dropout = tanh, not tanh, 0.25
    source = samples.write(tmp_path / "source", args, samples.model(args))
    (source / "release").rename(source / "iter_0070000")
    (source / "latest_checkpointed_iteration.txt").write_text("70000\n")
    config = megatron.import_checkpoint(source, tmp_path / "ours").config
    assert (config.head_activation, config.dropout, config.vocab_size, config.max_positions) == (head, 0.25, 256, 64)


def test_a_checkpoint_that_does_not_tell_its_dropout_had_megatrons(tmp_path: Path):
    args = samples.arguments(32, 1, 4, vocab=128, positions=64, shards=1)
    del args.hidden_dropout
    source = samples.write(tmp_path / "source", args, samples.model(args))
    assert megatron.import_checkpoint(source, tmp_path / "ours").config.dropout == 0.1


def test_weights_are_the_files_bit_for_bit(tmp_path: Path):
    args = samples.arguments(32, 1, 4, vocab=128, positions=64, shards=1)
    state = samples.model(args)
    megatron.import_checkpoint(samples.write(tmp_path / "source", args, state), tmp_path / "ours")
    tensors = checkpoint.load_weights(tmp_path / "ours").tensors
    theirs = state["language_model"]["transformer"]["layers.0.attention.query_key_value.weight"]
    assert torch.equal(tensors["backbone.blocks.0.attention.query_key_value.weight"].half(), theirs)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_the_report_names_the_row_and_what_is_unused(tmp_path: Path):
    args = samples.arguments(32, 1, 4, vocab=128, positions=64, shards=1)
    state = samples.model(args)
    del state["lm_head"]
    state["language_model"]["pooler"] = {"dense.weight": torch.zeros(32, 32).half()}
    state["classification_head"] = {"weight": torch.zeros(3, 32).half()}
    report = megatron.import_checkpoint(samples.write(tmp_path / "source", args, state), tmp_path / "ours")
    assert report.unused == ["classification_head.weight (3, 32)", "language_model.pooler.dense.weight (32, 32)"]
    assert not report.has_head
    assert not any(name.startswith("head.") for name in checkpoint.load_weights(tmp_path / "ours").tensors)
    assert report.row == "hidden-32-layer-1-head-4 (not in Table 7)"
    report.config.hidden_size, report.config.num_layers, report.config.num_heads = 2048, 24, 16
    assert megatron.row(report.config) == "hidden-2048-layer-24-head-16 (Table 7)"


class Exploit:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("executed",)


class Unknown:
    pass


@pytest.mark.parametrize("value", [Exploit(), Unknown()])
def test_nothing_in_the_file_is_executed(value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    args = samples.arguments(32, 1, 4, vocab=128, positions=64, shards=1)
    source = samples.write(tmp_path / "source", args, samples.model(args), extra=value)
    with pytest.raises(InputError, match=r"model_optim_rng.pt: refused") as refusal:
        megatron.import_checkpoint(source, tmp_path / "ours")
    assert "\n" not in str(refusal.value)
    assert not Path("executed").exists()
    assert not Path("ours").exists()


def test_what_cannot_be_imported_is_refused_in_one_line(tmp_path: Path):
    def refused(name: str, message: str, shards: int = 1, change: dict | None = None, **other: object) -> Path:
        args = samples.arguments(32, 1, 4, vocab=128, positions=64, shards=shards)
        state = samples.model(args)
        vars(args).update(change or {})
        source = samples.write(tmp_path / name, args, state, **other)
        if message:
            with pytest.raises(InputError, match=message):
                megatron.import_checkpoint(source, tmp_path / "ours")
        return source

    refused("version", "checkpoint_version 1.0, not 3.0", checkpoint_version=1.0)
    refused("erf", "bias_gelu_fusion=False", change={"bias_gelu_fusion": False})
    refused("epsilon", "layernorm_epsilon=1e-05", change={"layernorm_epsilon": 1e-5})
    refused("post", "post_layernorm=True", change={"apply_residual_connection_post_layernorm": True})
    refused("stages", "pipeline_model_parallel_size=2", change={"pipeline_model_parallel_size": 2})
    refused("heads", "num_heads=5 does not divide", change={"num_attention_heads": 5})
    refused("positions", r"\(64, 32\), not \(65, 32\)", change={"max_position_embeddings": 65})
    refused("layers", "no tensor language_model.transformer.layers.1", change={"num_layers": 2})
    refused("arguments", "no args", args=None)
    refused("model", "no tensor language_model.embedding", model=[1])
    source = refused("shards", "", shards=2)
    second = source / "release/mp_rank_01/model_optim_rng.pt"
    content = torch.load(second, weights_only=False)
    content["model"]["language_model"]["transformer"]["final_layernorm.bias"] += 1
    torch.save(content, second)
    with pytest.raises(InputError, match=r"the shards differ in language_model.transformer.final_layernorm.bias"):
        megatron.import_checkpoint(source, tmp_path / "ours")
    content["model"]["language_model"]["transformer"]["final_layernorm.bias"] -= 1
    torch.save(content | {"iteration": 60000}, second)
    with pytest.raises(InputError, match="not of the same checkpoint as"):
        megatron.import_checkpoint(source, tmp_path / "ours")
    second.parent.rename(second.parents[1] / "mp_rank_02")
    with pytest.raises(InputError, match="ranks 00, 02: not a whole checkpoint"):
        megatron.import_checkpoint(source, tmp_path / "ours")
    (second.parents[1] / "mp_rank_02").rename(second.parent)
    second.unlink()
    with pytest.raises(InputError, match="one of 2 tensor-parallel shards, of which 1 are there"):
        megatron.import_checkpoint(source, tmp_path / "ours")
    (source / "release/mp_rank_00/model_optim_rng.pt").write_bytes(b"PK\3\4 damaged")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        megatron.import_checkpoint(source, tmp_path / "ours")
    with pytest.raises(InputError, match=r"neither model_optim_rng.pt nor"):
        megatron.import_checkpoint(tmp_path, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_damage_anywhere_is_one_line(zipped: bool, tmp_path: Path):
    args = samples.arguments(8, 1, 2, vocab=128, positions=8, shards=1)
    file = samples.write(tmp_path / "source", args, samples.model(args)) / "release/mp_rank_00/model_optim_rng.pt"
    torch.save(torch.load(file, weights_only=False), file, _use_new_zipfile_serialization=zipped)
    sound, generator, messages = file.read_bytes(), random.Random(0), []
    for number in range(150):
        damaged = bytearray(sound)
        for _ in range(generator.choice((1, 3, 10))):  # where the structure is, at both ends
            place = generator.randrange(3000)
            damaged[generator.choice((place, -1 - place))] = generator.randrange(256)
        file.write_bytes(damaged[: generator.randrange(len(damaged))] if number % 10 == 0 else damaged)
        try:
            megatron.import_checkpoint(tmp_path / "source", tmp_path / f"ours-{number}")
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 60
    assert not any("\n" in message for message in messages)


def test_the_layout_before_zip_files_and_a_single_file(tmp_path: Path):
    args = samples.arguments(32, 1, 4, vocab=128, positions=64, shards=1)
    source = samples.write(tmp_path / "source", args, samples.model(args)) / "release/mp_rank_00"
    file = source / "model_optim_rng.pt"
    torch.save(torch.load(file, weights_only=False), file, _use_new_zipfile_serialization=False)
    megatron.import_checkpoint(source, tmp_path / "ours")
    with pytest.raises(InputError, match="already there"):
        megatron.import_checkpoint(source, tmp_path / "ours")
