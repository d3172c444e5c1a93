import struct
from pathlib import Path

import pytest

from inference.errors import LoadError
from inference.gguf import BadGgufError, Shape, read_shape, read_values
from inference.llamaserver import LEAST, Plan, _plan, plan
from inference.protocol import Spec


def make_spec(**kwargs: object) -> Spec:
    return Spec(**{"engine": "llamacpp", "path": "m.gguf", "slots": 4, **kwargs})  # type: ignore[arg-type]


def test_it_reads_a_real_header(starter_gguf: Path) -> None:
    values = read_values(starter_gguf)
    assert values["general.architecture"] == "llama"
    assert values["tokenizer.ggml.tokens"] is None
    # 30 layers, 3 KV heads of 64, keys and values of two bytes each
    assert read_shape(starter_gguf) == Shape(context=8192, kv_bytes=30 * 3 * 2 * 64 * 2)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello world", b"GGUF", b"GGUF" + b"\xff" * 100, b"GGUF" + struct.pack("<IQQ", 3, 1, 1 << 60)],
    ids=["empty", "text", "short", "garbage", "huge"],
)
def test_what_is_no_gguf_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(BadGgufError):
        read_values(path)
    with pytest.raises(LoadError, match="Pull the model again") as caught:
        plan(make_spec(path=str(path)), 1 << 30)
    assert caught.value.code == "bad_model"


def test_a_missing_file_is_a_bad_model(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="No such file") as caught:
        plan(make_spec(path=str(tmp_path / "none.gguf")), 1 << 30)
    assert caught.value.code == "bad_model"


def test_with_memory_enough_a_request_gets_the_models_own_context() -> None:
    assert _plan(Shape(8192, 1000), make_spec(), budget=1 << 30) == Plan(8192, 8192)
    assert _plan(Shape(8192, 1000), make_spec(slots=16), budget=1 << 30) == Plan(8192, 16384)


def test_a_context_that_memory_cannot_hold_is_cut() -> None:
    assert _plan(Shape(131072, 131072), make_spec(), budget=1 << 30) == Plan(8192, 8192)
    assert _plan(Shape(131072, 131072), make_spec(), budget=0) == Plan(LEAST, LEAST)


def test_a_context_that_was_asked_for_is_kept_up_to_the_models_own() -> None:
    assert _plan(Shape(8192, 1000), make_spec(context=512), budget=1 << 30) == Plan(512, 2048)
    assert _plan(Shape(8192, 1000), make_spec(context=100), budget=1 << 30) == Plan(100, 512)
    assert _plan(Shape(8192, 1000), make_spec(context=99999), budget=0) == Plan(8192, 8192)
