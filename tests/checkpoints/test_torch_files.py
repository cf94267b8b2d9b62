"""Torch's own files: the bits that torch has, and a line for whatever is no array by a name."""

import random

import numpy as np
import pytest
import torch

from vlm_jax.checkpoints.torch_files import TorchFile
from vlm_jax.errors import InputError

BITS = {
    torch.bfloat16: (torch.int16, "bfloat16"),
    torch.float16: (torch.int16, "float16"),
    torch.float32: (torch.int32, "float32"),
}


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("kind", BITS, ids=str)
def test_values_keep_their_type_and_bits(kind, modern, tmp_path):
    integer, name = BITS[kind]
    wide = torch.linspace(-300, 300, 77).reshape(7, 11)
    tensors = {"a": wide.to(kind), "turned": wide.to(kind).T, "one": torch.tensor(1.5, dtype=kind)}
    torch.save(tensors, tmp_path / "x.bin", _use_new_zipfile_serialization=modern)
    file = TorchFile(tmp_path / "x.bin")
    for key, tensor in tensors.items():
        read = file.read(key)
        assert str(read.dtype) == str(file.dtypes()[key]) == name
        assert read.shape == file.shapes()[key] == tuple(tensor.shape)
        np.testing.assert_array_equal(read.astype(np.float64), tensor.to(torch.float64).numpy())
        bits = tensor.contiguous().view(integer).numpy()
        np.testing.assert_array_equal(read.view(bits.dtype), bits)


ODD = {
    "a name of type int": lambda: {1: torch.zeros(2)},
    "a name of type tuple": lambda: {("a",): torch.zeros(2)},
    "dict": lambda: {"state_dict": {"a": torch.zeros(2)}},
    "sparse_coo": lambda: {"a": torch.eye(3).to_sparse()},
    "sparse_csr": lambda: {"a": torch.eye(3).to_sparse_csr()},
    "on meta": lambda: {"a": torch.zeros(3, device="meta")},
    "a view that negates": lambda: {"a": torch._neg_view(torch.ones(3))},
    "complex64": lambda: {"a": torch.zeros(3, dtype=torch.complex64).conj()},
    "float8_e4m3fn": lambda: {"a": torch.zeros(3).to(torch.float8_e4m3fn)},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("why", ODD)
def test_what_is_no_array_by_a_name_is_refused(why, tmp_path):
    torch.save({"fine": torch.zeros(1), **ODD[why]()}, tmp_path / "x.bin")
    with pytest.raises(InputError, match=rf"x.bin: found .* \({why}\); expected dense tensors by name"):
        TorchFile(tmp_path / "x.bin")


@pytest.mark.filterwarnings("ignore")
def test_nested_tensors_are_refused(tmp_path):
    torch.save({"a": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])}, tmp_path / "x.bin")
    with pytest.raises(InputError, match=r"x.bin: found .*; expected dense tensors by name"):
        TorchFile(tmp_path / "x.bin")


def test_parameters_are_read(tmp_path):
    torch.save({"a": torch.nn.Parameter(torch.ones(2, 3))}, tmp_path / "x.bin")
    np.testing.assert_array_equal(TorchFile(tmp_path / "x.bin").read("a"), np.ones((2, 3)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("modern", [True, False])
def test_damaged_files_end_in_one_line(modern, tmp_path):
    path = tmp_path / "x.bin"
    tensors = {"a.weight": torch.randn(4, 5), "b.weight": torch.randn(3)}
    torch.save(tensors, path, _use_new_zipfile_serialization=modern)
    whole, rng, lines = path.read_bytes(), random.Random(0), []
    for _ in range(400):
        damaged = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.3 else whole)
        for _ in range(rng.choice([1, 1, 2, 4])):
            if damaged:
                damaged[rng.randrange(min(len(damaged), 700))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            file = TorchFile(path)
            for name in file.shapes():
                file.read(name)
        except InputError as error:
            lines.append(str(error))
    assert len(lines) > 100
    assert not any("\n" in line for line in lines)
