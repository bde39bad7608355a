#!/usr/bin/env python3
"""Converts patches of LT-SFT's authors (cambridgeltl/composable-sft: pytorch_diff.bin) to lacuna's adapter files and back. Needs Python
only: the pickle is read by a reader that knows the few names which such a file may use, and refuses all others.

    examples/lt_sft_patch.py to-lacuna   PATCH/pytorch_diff.bin ADAPTER_DIR [--matrices-only] [--conv1d NAMES] [--base NAME]
    examples/lt_sft_patch.py from-lacuna ADAPTER_DIR PATCH/pytorch_diff.bin [--conv1d NAMES]

A patch is {"diffs": {parameter: {size, index_steps, values}}, "abs": {parameter: tensor}}. Its positions count the first dimension
fastest (position = row + rows*column), sorted, each as the distance from the one before. lacuna's files (docs/formats.md) count the
last dimension fastest. --conv1d: comma list of modules whose weights are stored in x out (GPT-2's c_attn, c_proj, c_fc).
Vectors and "abs" tensors (whole values, such as a head's) have no place in a sparse adapter: refused, or left out with --matrices-only.
"""
import argparse
import array
import collections
import io
import json
import os
import pickle
import struct
import sys
import types
import zipfile

TYPES = {"FloatStorage": ("f", 4), "DoubleStorage": ("d", 8), "HalfStorage": ("e", 2), "BFloat16Storage": (None, 2), "LongStorage": ("q", 8),
         "IntStorage": ("i", 4)}


# ---- the pickle ----

class Tensor:
    """Values (flat) and size of a contiguous tensor."""

    def __init__(self, values, size):
        self.values, self.size = values, tuple(size)


class NumpyType:
    def __init__(self, name, *rest):
        self.name, self.order = name, "<"

    def __setstate__(self, state):
        self.order = state[1]


def numpy_scalar(kind, data):
    if isinstance(data, str):
        data = data.encode("latin1")
    return int.from_bytes(data, "big" if kind.order == ">" else "little", signed=kind.name.startswith("i"))


def rebuild(storage, offset, size, stride, *rest):
    want, n = [], 1
    for s in reversed(size):
        want.insert(0, n)
        n *= s
    if any(a != b for a, b, s in zip(stride, want, size) if s > 1):
        raise SystemExit("a tensor that is not contiguous: save the patch again")
    return Tensor(storage[offset:offset + n], size)


class Reader(pickle.Unpickler):
    NAMES = {("collections", "OrderedDict"): collections.OrderedDict, ("torch", "Size"): tuple, ("torch._utils", "_rebuild_tensor_v2"): rebuild,
             ("numpy", "dtype"): NumpyType, ("_codecs", "encode"): lambda text, how: text.encode(how)}

    def __init__(self, data, archive, top):
        super().__init__(io.BytesIO(data))
        self.archive, self.top = archive, top

    def find_class(self, module, name):
        if (module, name) in self.NAMES:
            return self.NAMES[module, name]
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "scalar":
            return numpy_scalar
        if module == "torch" and name in TYPES:
            return name
        raise SystemExit(f"the pickle wants {module}.{name}: not a patch of composable-sft")

    def persistent_load(self, pid):
        _, kind, key, _, count = pid
        code, size = TYPES[kind]
        data = self.archive.read(f"{self.top}/data/{key}")
        if len(data) < count * size:
            raise SystemExit(f"storage {key}: {len(data)} bytes, {count * size} expected")
        if code is None:  # bf16: the upper half of an f32
            return [struct.unpack("<f", b"\0\0" + data[2 * i:2 * i + 2])[0] for i in range(count)]
        return list(struct.unpack(f"<{count}{code}", data[:count * size]))


def read_patch(path):
    if not zipfile.is_zipfile(path):
        raise SystemExit(f"{path}: not a file of torch.save (1.6 or later)")
    with zipfile.ZipFile(path) as z:
        top = next((n[:-len("/data.pkl")] for n in z.namelist() if n.endswith("/data.pkl")), None)
        if top is None:
            raise SystemExit(f"{path}: no data.pkl in it")
        made = Reader(z.read(f"{top}/data.pkl"), z, top).load()
    if not isinstance(made, dict) or "diffs" not in made:
        raise SystemExit(f"{path}: no 'diffs' in it")
    return made


def write_patch(path, diffs):
    """diffs: {parameter: (size, index_steps, values)}"""
    modules = {m: types.ModuleType(m) for m in ("torch", "torch._utils")}
    stored = []

    def place(name, module):
        made = type(name, (), {"__module__": module}) if name == "FloatStorage" else types.FunctionType((lambda *a: None).__code__, {}, name)
        made.__module__, made.__qualname__ = module, name
        setattr(modules[module], name, made)
        return made

    storage, tensor = place("FloatStorage", "torch"), place("_rebuild_tensor_v2", "torch._utils")

    class Values:
        def __init__(self, values):
            self.values = values

        def __reduce__(self):
            return tensor, (Stored(self.values), 0, (len(self.values),), (1,), False, collections.OrderedDict())

    class Stored:
        def __init__(self, values):
            self.values = values

    class Writer(pickle.Pickler):
        def persistent_id(self, thing):
            if not isinstance(thing, Stored):
                return None
            stored.append(thing.values)
            return "storage", storage, str(len(stored) - 1), "cpu", len(thing.values)

    out = io.BytesIO()
    before = {m: sys.modules.get(m) for m in modules}
    sys.modules.update(modules)  # names that the pickle refers to, for as long as it is written
    try:
        Writer(out, protocol=2).dump({"diffs": {n: {"size": tuple(size), "index_steps": steps, "values": Values(values)}
                                                for n, (size, steps, values) in diffs.items()}, "abs": {}})
    finally:
        for m, was in before.items():
            if was is None:
                del sys.modules[m]
            else:
                sys.modules[m] = was
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
        def add(name, data):
            z.writestr(zipfile.ZipInfo(f"pytorch_diff/{name}"), data)
        add("data.pkl", out.getvalue())
        add("byteorder", "little")
        for i, values in enumerate(stored):
            add(f"data/{i}", struct.pack(f"<{len(values)}f", *values))
        add("version", "3\n")


# ---- positions ----

def to_row_major(size, steps, transposed=False):
    """-> positions row*columns + column (of the weight as out x in), in the order of the values"""
    rows, columns = size
    flat, at = [], 0
    for s in steps:
        at += int(s)
        r, c = at % rows, at // rows
        if c >= columns or at < 0:
            raise SystemExit(f"position {at} lies outside {rows} x {columns}")
        flat.append(c * rows + r if transposed else r * columns + c)
    return flat


def to_steps(size, flat, values, transposed=False):
    """-> index_steps, values in their order"""
    rows, columns = size
    at = [((f % rows) + rows * (f // rows) if transposed else (f // columns) + rows * (f % columns), v) for f, v in zip(flat, values)]
    at.sort()
    steps = [p - q for (p, _), q in zip(at, [0] + [p for p, _ in at])]
    return steps, [v for _, v in at]


# ---- lacuna's own layout ----

def gaps_of(flat):
    out, after = bytearray(), 0
    for f in flat:
        gap, after = f - after, f + 1
        while gap >= 0x80:
            out.append(gap & 0x7f | 0x80)
            gap >>= 7
        out.append(gap)
    return bytes(out)


def positions_of(data):
    flat, at, gap, shift = [], 0, 0, 0
    for b in data:
        gap |= (b & 0x7f) << shift
        shift += 7
        if not b & 0x80:
            flat.append(at + gap)
            at, gap, shift = at + gap + 1, 0, 0
    return flat


def write_adapter(directory, weights, base="unknown", method="lt-sft"):
    """weights: {module: (rows, columns, sorted positions, values)}"""
    os.makedirs(directory, exist_ok=True)
    header, data = {"__metadata__": {"format": "pt"}}, bytearray()

    def add(name, dtype, count, blob):
        header[name] = {"dtype": dtype, "shape": [count], "data_offsets": [len(data), len(data) + len(blob)]}
        data.extend(blob)
    for m, (_, _, flat, values) in sorted(weights.items()):
        add(f"{m}.values", "F32", len(flat), array.array("f", values).tobytes())
    for m, (_, _, flat, _) in sorted(weights.items()):
        blob = gaps_of(flat)
        add(f"{m}.gaps", "U8", len(blob), blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(directory, "lacuna_adapter.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
    stored, entries = sum(len(w[2]) for w in weights.values()), sum(w[0] * w[1] for w in weights.values())
    with open(os.path.join(directory, "lacuna_adapter.json"), "w") as f:
        json.dump({"format": "lacuna adapter", "version": 1, "layout": "native", "method": method, "base_model": base, "values": stored,
                   "density": stored / max(entries, 1), "weights": {m: [w[0], w[1], len(w[2])] for m, w in sorted(weights.items())}}, f, indent=2)


def read_adapter(directory):
    """-> {module: (rows, columns, sorted positions, values)}"""
    with open(os.path.join(directory, "lacuna_adapter.json")) as f:
        about = json.load(f)
    if about.get("layout") != "native":
        raise SystemExit(f"{directory}: layout {about.get('layout')}, this reads native")
    with open(os.path.join(directory, "lacuna_adapter.safetensors"), "rb") as f:
        head = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()

    def blob(name):
        a, b = head[name]["data_offsets"]
        return data[a:b]
    weights = {}
    for m, (rows, columns, count) in about["weights"].items():
        values = array.array("f", blob(f"{m}.values"))
        weights[m] = (rows, columns, positions_of(blob(f"{m}.gaps")), values.tolist())
        if len(weights[m][2]) != count or len(values) != count:
            raise SystemExit(f"{directory}: '{m}' has {len(values)} values, {count} expected")
    return weights


# ---- commands ----

def is_conv1d(module, names):
    return any(module == n or module.endswith("." + n) for n in names)


def to_lacuna(a):
    patch, weights, left = read_patch(a.source), {}, list(read_patch(a.source).get("abs", {}))
    for name, d in patch["diffs"].items():
        size, values = tuple(d["size"]), d["values"]
        values = values.values if isinstance(values, Tensor) else list(values)
        steps = d["index_steps"].values if isinstance(d["index_steps"], Tensor) else d["index_steps"]
        if len(steps) != len(values):
            raise SystemExit(f"'{name}': {len(steps)} positions, {len(values)} values")
        if len(size) != 2 or not name.endswith(".weight"):
            left.append(name)
            continue
        if not steps:
            continue
        module = name[:-len(".weight")]
        turned = is_conv1d(module, a.conv1d)
        entries = sorted(zip(to_row_major(size, steps, turned), values))
        rows, columns = reversed(size) if turned else size
        weights[module] = (rows, columns, [f for f, _ in entries], [v for _, v in entries])
    if left and not a.matrices_only:
        raise SystemExit(f"{len(left)} tensors have no place in a sparse adapter ({', '.join(left[:3])}, ...): --matrices-only leaves them out")
    write_adapter(a.target, weights, a.base)
    print(f"{len(weights)} matrices, {sum(len(w[2]) for w in weights.values())} values" + (f"; left out: {', '.join(left)}" if left else ""))


def from_lacuna(a):
    diffs = {}
    for module, (rows, columns, flat, values) in read_adapter(a.source).items():
        turned = is_conv1d(module, a.conv1d)
        size = (columns, rows) if turned else (rows, columns)
        steps, values = to_steps(size, flat, values, turned)
        diffs[module + ".weight"] = (size, steps, values)
    write_patch(a.target, diffs)
    print(f"{len(diffs)} matrices, {sum(len(d[2]) for d in diffs.values())} values")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("direction", choices=["to-lacuna", "from-lacuna"])
    p.add_argument("source")
    p.add_argument("target")
    p.add_argument("--matrices-only", action="store_true", help="leave out vectors and whole tensors")
    p.add_argument("--conv1d", type=lambda s: [n for n in s.split(",") if n], default=[], help="modules stored as in x out")
    p.add_argument("--base", default="unknown", help="the base's name, for the adapter's description")
    a = p.parse_args()
    (to_lacuna if a.direction == "to-lacuna" else from_lacuna)(a)


if __name__ == "__main__":
    main()
