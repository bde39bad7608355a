"""examples/lt_sft_patch.py: the authors' file against its entries, both ways, positions beyond 2^31, and what it refuses."""
import contextlib
import filecmp
import io
import json
import os
import pickle
import random
import sys
import tempfile
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "examples"))
import lt_sft_patch as patch  # noqa: E402

GOLDEN = os.path.join(HERE, "..", "golden", "lt-sft")


def call(*argv):
    """-> what it printed; or the sentence it ended with"""
    sys.argv = ["lt_sft_patch.py", *argv]
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            patch.main()
    except SystemExit as e:
        return str(e.code)
    return out.getvalue()


def test_golden(tmp):
    said = call("to-lacuna", os.path.join(GOLDEN, "pytorch_diff.bin"), f"{tmp}/a", "--matrices-only")
    assert "3 matrices, 91 values" in said and "score.weight" in said and "model.norm.weight" in said, said
    with open(os.path.join(GOLDEN, "expected.json")) as f:
        expected = json.load(f)
    weights = patch.read_adapter(f"{tmp}/a")
    assert {n + ".weight" for n in weights} == set(expected)
    for n, (rows, columns, flat, values) in weights.items():
        assert flat == sorted(flat)
        assert sorted((f // columns, f % columns, v) for f, v in zip(flat, values)) == sorted(tuple(e) for e in expected[n + ".weight"])
    for name in ("lacuna_adapter.json", "lacuna_adapter.safetensors"):
        assert filecmp.cmp(f"{tmp}/a/{name}", os.path.join(GOLDEN, "adapter", name), shallow=False), name


def test_back(tmp):
    call("to-lacuna", os.path.join(GOLDEN, "pytorch_diff.bin"), f"{tmp}/a", "--matrices-only")
    call("from-lacuna", f"{tmp}/a", f"{tmp}/b.bin")
    was, now = patch.read_patch(os.path.join(GOLDEN, "pytorch_diff.bin"))["diffs"], patch.read_patch(f"{tmp}/b.bin")["diffs"]
    assert len(now) == 3
    for n, d in now.items():
        assert d["size"] == was[n]["size"] and list(d["index_steps"]) == list(was[n]["index_steps"]), n
        assert d["values"].values == was[n]["values"].values, n


def test_conv1d(tmp):
    """A matrix that the file has as in x out."""
    patch.write_adapter(f"{tmp}/c", {"h.0.attn.c_attn": (6, 4, [1, 9, 23], [1.0, 2.0, 3.0])})
    call("from-lacuna", f"{tmp}/c", f"{tmp}/c.bin", "--conv1d", "c_attn")
    d = patch.read_patch(f"{tmp}/c.bin")["diffs"]["h.0.attn.c_attn.weight"]
    assert d["size"] == (4, 6)
    flat = [sum(d["index_steps"][:i + 1]) for i in range(3)]
    assert {(f % 4, f // 4) for f in flat} == {(1, 0), (1, 2), (3, 5)}  # (in, out)
    call("to-lacuna", f"{tmp}/c.bin", f"{tmp}/c2", "--conv1d", "c_attn")
    assert patch.read_adapter(f"{tmp}/c2") == patch.read_adapter(f"{tmp}/c")


def test_large(tmp):
    """More than 2^31 entries: where the authors' decoder counts in 32 bits."""
    rows, columns = 70000, 40000
    flat = sorted(random.Random(1).sample(range(rows * columns), 50) + [rows * columns - 1])
    patch.write_adapter(f"{tmp}/l", {"big": (rows, columns, flat, [float(i) for i in range(51)])})
    call("from-lacuna", f"{tmp}/l", f"{tmp}/l.bin")
    d = patch.read_patch(f"{tmp}/l.bin")["diffs"]["big.weight"]
    assert sum(d["index_steps"]) == rows * columns - 1
    call("to-lacuna", f"{tmp}/l.bin", f"{tmp}/l2")
    assert patch.read_adapter(f"{tmp}/l2") == patch.read_adapter(f"{tmp}/l")


def test_refusals(tmp):
    assert "--matrices-only" in call("to-lacuna", os.path.join(GOLDEN, "pytorch_diff.bin"), f"{tmp}/r")
    assert not os.path.exists(f"{tmp}/r")
    for name, made, says in (("code", pickle.dumps(os.system), "not a patch"), ("list", pickle.dumps([1]), "no 'diffs'")):
        with zipfile.ZipFile(f"{tmp}/{name}.bin", "w") as z:
            z.writestr("x/data.pkl", made)
        assert says in call("to-lacuna", f"{tmp}/{name}.bin", f"{tmp}/r"), name
    with open(f"{tmp}/old.bin", "wb") as f:
        f.write(b"\x80\x02.")
    assert "not a file of torch.save" in call("to-lacuna", f"{tmp}/old.bin", f"{tmp}/r")
    patch.write_patch(f"{tmp}/far.bin", {"m.weight": ((2, 3), [1, 5], [1.0, 2.0])})
    assert "outside 2 x 3" in call("to-lacuna", f"{tmp}/far.bin", f"{tmp}/r")


for test in (test_golden, test_back, test_conv1d, test_large, test_refusals):
    with tempfile.TemporaryDirectory() as tmp:
        test(tmp)
    print("ok", test.__name__)
