"""Which files make the model."""

import pytest

from inference.download.choice import choose
from inference.download.errors import DownloadError
from inference.download.order import Order


def chosen(*names: str, repo: str = "o/n") -> list[str]:
    return choose(names, Order(repo, "http://hub", "/cache"))


def test_a_model_without_q4_gives_its_first_file() -> None:
    assert chosen("b-Q8_0.gguf", "a-Q5_K.gguf", "mmproj-a.gguf") == ["a-Q5_K.gguf"]
    assert chosen("a-Q4_0.gguf", "a-F16.gguf") == ["a-Q4_0.gguf"]


def test_a_split_model_gives_all_its_parts_in_order() -> None:
    parts = [f"q/a-Q4_K_M-0000{n}-of-00002.gguf" for n in (1, 2)]
    assert chosen(*reversed(parts), "a-F16.gguf") == parts


def test_safetensors_come_before_gguf_and_before_pickles() -> None:
    names = ["model.safetensors", "config.json", "a-Q4_K_M.gguf", "pytorch_model.bin", "pytorch_model.bin.index.json"]
    assert chosen(*names) == ["model.safetensors", "config.json"]
    assert chosen(*names, repo="o/n:Q4_K_M") == ["a-Q4_K_M.gguf"]


def test_the_weights_of_another_runtime_are_left() -> None:
    assert chosen("consolidated.safetensors", "model.safetensors") == ["model.safetensors"]
    assert chosen("consolidated.safetensors") == ["consolidated.safetensors"]


def test_weights_in_folders_are_those_of_another_kind_of_model() -> None:
    with pytest.raises(DownloadError, match="safetensors"):
        chosen("README.md", "unet/model.safetensors")
