"""What a model's own files tell, and what hostile ones may not do."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inference.facts import Facts, FactsError, File, read
from tests.modelfiles import LLAMA, WEIGHTS, gguf, safetensors, write_folder, write_gguf


def test_a_folder_of_safetensors_tells_its_facts(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "m", chat_template_jinja="{{ messages }}", README_md="---\nlicense: apache-2.0\n---\n# M"
    )

    facts = read(folder)

    assert facts == Facts(
        format="safetensors",
        architecture="LlamaForCausalLM",
        family="llama",
        task="generate",
        parameters=101 * 64,
        context=2048,
        dtype="bfloat16",
        quantization=None,
        template="{{ messages }}",
        licence="apache-2.0",
        kv_bytes=2 * 2 * 16 * 2 * 2,  # layers, KV heads of 16, keys and values, two bytes each
        weights_bytes=101 * 64 * 2,
        size_bytes=sum(path.stat().st_size for path in folder.iterdir()),
        files=[File(path.name, path.stat().st_size) for path in sorted(folder.iterdir())],
    )


def test_a_real_gguf_file_tells_its_facts(starter_gguf: Path) -> None:
    facts = read(starter_gguf)

    assert (facts.format, facts.architecture, facts.task, facts.licence) == ("gguf", "llama", "generate", "apache-2.0")
    assert (facts.parameters, facts.context, facts.quantization) == (134_515_008, 8192, "Q4_1")
    assert facts.template is not None
    assert "<|im_start|>" in facts.template
    assert facts.kv_bytes == 30 * 3 * 2 * 64 * 2
    assert facts.size_bytes == starter_gguf.stat().st_size


def test_a_sharded_model_is_counted_over_its_shards(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "model.safetensors").unlink()
    for n, (name, tensor) in enumerate(WEIGHTS.items(), start=1):
        (folder / f"model-{n:05d}-of-00002.safetensors").write_bytes(safetensors({name: tensor}))
    shards = {name: f"model-{n:05d}-of-00002.safetensors" for n, name in enumerate(WEIGHTS, start=1)}
    assert read(folder).parameters == 101 * 64

    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert read(folder).parameters == 101 * 64

    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FactsError, match="1 of its 2 weight files are missing") as caught:
        read(folder)
    assert caught.value.code == "bad_model"
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(FactsError, match="not downloaded whole"):
        read(folder)


def test_a_gguf_model_in_parts_is_counted_over_its_parts(tmp_path: Path) -> None:
    first = write_gguf(tmp_path / "m-00001-of-00002.gguf")
    with pytest.raises(FactsError, match="its part m-00002"):
        read(first)
    second = write_gguf(tmp_path / "m-00002-of-00002.gguf", tensors=3)

    facts = read(first)

    assert (facts.parameters, [file.name for file in facts.files]) == (5 * 64, [first.name, second.name])
    with pytest.raises(FactsError, match="first part stands for it") as caught:
        read(second)
    assert caught.value.code == "not_a_model"
    assert read(write_gguf(tmp_path / "m-00001-of-00000.gguf")).parameters == 2 * 64


@pytest.mark.parametrize(
    ("quantized", "tensors", "method", "parameters"),
    [
        (
            {"quant_method": "gptq", "bits": 4},
            {"l.qweight": ("I32", [8, 64]), "l.scales": ("F16", [1, 64]), "l.g_idx": ("I32", [64])},
            "gptq",
            4096,
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            {"l.weight": ("U8", [2048, 1]), "l.weight.absmax": ("U8", [64]), "n.weight": ("F32", [64])},
            "bitsandbytes",
            4096 + 64,
        ),
        ({"group_size": 64, "bits": 4}, {"l.weight": ("I32", [8, 64]), "l.scales": ("F16", [1, 64])}, "mlx", 4096),
    ],
    ids=["gptq", "nf4", "mlx"],
)
def test_packed_weights_count_what_they_hold(
    tmp_path: Path,
    quantized: dict[str, Any],
    tensors: dict[str, tuple[str, list[int]]],
    method: str,
    parameters: int,
) -> None:
    key = "quantization" if method == "mlx" else "quantization_config"
    folder = write_folder(tmp_path, {**LLAMA, key: quantized})
    (folder / "model.safetensors").write_bytes(safetensors(tensors))

    assert (read(folder).quantization, read(folder).parameters) == (method, parameters)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "gpt2", "n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 1024}, (1024, 2 * 64 * 2 * 2)),
        ({"text_config": {"num_hidden_layers": 1, "kv_lora_rank": 512, "qk_rope_head_dim": 64}}, (None, 1152)),
        (
            {
                "thinker_config": {
                    "text_config": {
                        "num_hidden_layers": 2,
                        "num_attention_heads": 4,
                        "hidden_size": 64,
                        "head_dim": 32,
                        "max_position_embeddings": 77,
                    }
                }
            },
            (77, 2 * 4 * 32 * 4),
        ),
        ({"num_hidden_layers": "many", "hidden_size": -1, "max_position_embeddings": 1e30}, (None, None)),
    ],
    ids=["gpt2", "latent", "omni", "nonsense"],
)
def test_shapes_are_read_from_every_form_of_configuration(
    tmp_path: Path, config: dict[str, Any], expected: tuple[int | None, int | None]
) -> None:
    facts = read(write_folder(tmp_path, config))
    assert (facts.context, facts.kv_bytes) == expected


def test_the_template_is_the_default_one_of_several(tmp_path: Path) -> None:
    templates = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    folder = write_folder(tmp_path, tokenizer_config_json=json.dumps({"chat_template": templates}))
    assert read(folder).template == "plain"
    (folder / "chat_template.jinja").write_text("newer")
    assert read(folder).template == "newer"


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("---\nlicense: other\nlicense_name: llama3.2\n---", "llama3.2"),
        ("---\ntags:\n- x\nlicense: 'mit'\n---", "mit"),
        ("# no front matter\nlicense: mit", None),
        ("---\n---\nlicense: mit", None),
        ("", None),
    ],
)
def test_the_licence_is_in_the_cards_front_matter(tmp_path: Path, front: str, licence: str | None) -> None:
    assert read(write_folder(tmp_path, README_md=front)).licence == licence


def test_what_no_model_for_texts_is_says_what_it_is(tmp_path: Path) -> None:
    encoder = {"architectures": ["WhisperForConditionalGeneration"], "is_encoder_decoder": True}
    assert read(write_folder(tmp_path / "w", encoder)).task is None
    assert read(write_folder(tmp_path / "b", {"architectures": ["BertModel"]})).task == "embed"
    assert read(write_folder(tmp_path / "s", modules_json="[]")).task == "embed"
    assert read(write_gguf(tmp_path / "n.gguf", {"llama.pooling_type": 1})).task == "embed"


def _folder_without(name: str) -> Any:
    def make(path: Path) -> Path:
        folder = write_folder(path)
        (folder / name).unlink()
        return folder

    return make


def _bytes(name: str, data: bytes) -> Any:
    def make(path: Path) -> Path:
        folder = write_folder(path)
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(data)
        return folder

    return make


def _gguf(data: bytes) -> Any:
    def make(path: Path) -> Path:
        path.with_suffix(".gguf").write_bytes(data)
        return path.with_suffix(".gguf")

    return make


def _pickles(path: Path) -> Path:
    folder = _folder_without("model.safetensors")(path)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    return folder


def _dangling(path: Path) -> Path:
    folder = _folder_without("model.safetensors")(path)
    (folder / "model.safetensors").symlink_to("../blobs/gone")
    return folder


def _pipe(path: Path) -> Path:
    folder = _folder_without("config.json")(path)
    os.mkfifo(folder / "config.json")
    return folder


def _header(length: int, raw: bytes) -> bytes:
    return struct.pack("<Q", length) + raw


BEYOND = b'{"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}'
LYING = b'{"a": {"dtype": "F32", "shape": [800000], "data_offsets": [0, 4]}}'
FAR = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 64, 2, 1 << 40)


@pytest.mark.parametrize(
    ("make", "code", "reason"),
    [
        (lambda path: path, "unreadable", "nothing at"),
        (_folder_without("config.json"), "not_a_model", "no config.json"),
        (_folder_without("model.safetensors"), "not_a_model", "no weights"),
        (_pickles, "not_a_model", "pickle"),
        (_dangling, "bad_model", "not downloaded whole"),
        (_pipe, "bad_model", "no file of configuration"),
        (_bytes("config.json", b"[" * 100_000), "bad_model", "not JSON"),
        (_bytes("config.json", b"\xff\xfe"), "bad_model", "not JSON"),
        (_bytes("model.safetensors", b"\0"), "bad_model", "only a part"),
        (_bytes("model.safetensors", _header(1 << 62, b"{}")), "bad_model", "only a part"),
        (_bytes("model.safetensors", _header(200_000, b"[" * 200_000)), "bad_model", "cannot be read"),
        (_bytes("model.safetensors", _header(len(BEYOND), BEYOND)), "bad_model", "ends before its last tensor"),
        (_bytes("model.safetensors", _header(len(LYING), LYING) + bytes(4)), "bad_model", "makes no sense"),
        (_gguf(b"GGUF"), "bad_model", "ends within its header"),
        (_gguf(gguf()[:-1]), "bad_model", "before its last tensor"),
        (_gguf(FAR), "bad_model", "before its last tensor"),
        (_gguf(gguf({"general.type": "mmproj"})), "not_a_model", "a part for one"),
        (_gguf(gguf(tensors=0)), "not_a_model", "only a vocabulary"),
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused_with_its_reason(tmp_path: Path, make: Any, code: str, reason: str) -> None:
    with pytest.raises(FactsError, match=reason) as caught:
        read(make(tmp_path / "m"))
    assert caught.value.code == code
    assert str(tmp_path) not in caught.value.message


def test_the_weights_of_a_file_are_where_its_index_says_and_nowhere_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(safetensors(WEIGHTS))
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(FactsError, match="are missing"):
        read(folder)


def child(path: Path) -> "tuple[int, dict[str, Any]]":
    done = subprocess.run([sys.executable, "-m", "inference.facts", str(path)], env={}, capture_output=True, timeout=60)
    return done.returncode, json.loads(done.stdout)


def test_the_child_prints_facts_or_a_reason(tmp_path: Path) -> None:
    status, facts = child(write_folder(tmp_path / "m"))
    assert (status, facts["format"], facts["parameters"]) == (0, "safetensors", 101 * 64)
    status, reason = child(tmp_path / "none.gguf")
    assert (status, reason["error"]) == (1, "unreadable")


def test_a_header_is_not_read_without_end(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with path.open("wb") as file:  # sparse: 4 GiB of text that takes no room on the disk
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 1, 1 << 12))
        for n in range(1 << 12):
            file.write(struct.pack("<QIIQ", 4, n, 8, 1 << 20))
            file.seek(1 << 20, 1)
        file.truncate()

    status, reason = child(path)

    assert (status, reason["error"]) == (1, "bad_model")
    assert "longer than any real one" in reason["message"]
