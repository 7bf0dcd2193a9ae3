"""Files that somebody made to do harm when they are loaded as a checkpoint, or that are something else altogether.

Those of `SEALED` carry every digest that the format asks for, computed here from its description, so that what they say
is really read. None of them is a checkpoint that could have been saved.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pathlib
import pickle
import tarfile
import zipfile

import numpy as np

ZEROS = "0" * 64
START = '{"__metadata__":{"mlpug.format":"%s","mlpug.header":"'
F32_PAIR = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
TWO = {'"a"': F32_PAIR, '"b"': '{"dtype":"F32","shape":[2],"data_offsets":[8,16]}'}
ONE = {'"a"': F32_PAIR}
A_ONE = '{"a":{"$tensor":"a"}}'


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def tensor_digest(name: str, dtype: str, shape: list[int], data: bytes) -> str:
    """Of a tensor that fits in one block."""
    block = hashlib.sha256(data).digest() if data else b""
    return digest(json.dumps([name, dtype, shape]).encode(), block)


def sealed(text: bytes, data: bytes = b"", version: str = "1") -> bytes:
    """A file with that header, whose digest of itself is right."""
    text += b" " * (-len(text) % 8)
    length = len(text).to_bytes(8, "little")
    place = len(START % version)
    own = digest(length, text[:place], ZEROS.encode(), text[place + 64 :])
    return length + text[:place] + own.encode() + text[place + 64 :] + data


def digests_of(tensors: dict[str, str], data: bytes) -> dict[str, str]:
    """What the digests should be, as far as the entries make sense."""
    found = {}
    for name, entry in tensors.items():
        try:
            what = json.loads(entry)
            start, stop = what["data_offsets"]
            value = tensor_digest(json.loads(name), what["dtype"], what["shape"], data[start:stop])
        except (ValueError, TypeError, KeyError):
            value = ZEROS
        found[json.loads(name)] = value
    return found


def forged(state=A_ONE, tensors=ONE, data=bytes(8), version="1", description="{}", digests=None, without=(), raw=""):
    """A checkpoint made by hand of JSON texts: its header says all of this, and every digest is right.

    Args:
        without: Keys of the metadata that are left out.
        raw: Text that is put at the end of the header's object.
    """
    digests = json.dumps(digests_of(tensors, data)) if digests is None else digests
    metadata = {"mlpug.state": state, "mlpug.description": description, "mlpug.digests": digests}
    rest = "".join(f',"{key}":{json.dumps(text)}' for key, text in metadata.items() if key not in without)
    entries = "".join(f",{name}:{entry}" for name, entry in tensors.items())
    return sealed((START % version + ZEROS + '"' + rest + "}" + entries + raw + "}").encode(), data, version)


class Marker:
    """When unpickled, it makes a file."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def foreign_files(marker: pathlib.Path) -> dict[str, bytes]:
    """Files of other formats; those that can hold code make the marker when it is run."""
    pickled = pickle.dumps({"model": Marker(marker)})
    files = {f"pickle {p}": pickle.dumps({"model": Marker(marker)}, protocol=p) for p in (0, 2, 4, 5)}
    torch_like, numpy_like, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(torch_like, "w") as container:
        container.writestr("archive/data.pkl", pickled)
        container.writestr("archive/../../../evil", b"outside")
    np.save(numpy_like, np.array([Marker(marker)], dtype=object), allow_pickle=True)
    with tarfile.open(fileobj=archive, mode="w") as container:
        container.addfile(tarfile.TarInfo("/absolute"), io.BytesIO())
    return files | {
        "torch.save": torch_like.getvalue(),
        "npy of objects": numpy_like.getvalue(),
        "tar": archive.getvalue(),
        "gzip bomb": gzip.compress(bytes(10_000_000)),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "Python": b"import pathlib; pathlib.Path(%r).touch()\n" % str(marker),
        "a pickle behind a length": len(pickled).to_bytes(8, "little") + pickled,
        "a pickle as the tensors": forged(data=pickled),
    }


def _length(length: int) -> bytes:
    return length.to_bytes(8, "little")


BROKEN = {
    "empty": b"",
    "one byte": b"\0",
    "seven bytes": bytes(7),
    "a length of zero": bytes(8),
    "a length of zero, and data": bytes(1000),
    "a length and no header": _length(16),
    "a length one beyond the end": _length(3) + b"{}",
    "a length of 100 MB": _length(100_000_000) + b"{}",
    "a length of 4 GB": _length(2**32) + b"{}",
    "the largest signed length": _length(2**63 - 1) + b"{}",
    "the largest length": _length(2**64 - 1) + b"{}",
    "no JSON": _length(8) + b"nothing!",
    "half of JSON": _length(8) + b'{"a": [1',
    "a list": _length(8) + b"[]      ",
    "null": _length(8) + b"null    ",
    "brackets": _length(500_000) + b"[" * 500_000,
    "objects in objects": _length(500_000) + b'{"a":' * 100_000,
    "not UTF-8": _length(8) + b'{"\xff\xfe":1',
    "a byte order mark": _length(8) + b"\xef\xbb\xbf{}   ",
    "UTF-16": _length(8) + "{}  ".encode("utf-16-le"),
    "zeros as text": _length(64) + bytes(64),
    "the start and no more": _length(len(START % 1)) + (START % 1).encode(),
    "the start and half a digest": _length(len(START % 1) + 8) + (START % 1).encode() + b"0" * 8,
    "a safetensors file": _length(56) + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  ' + bytes(8),
    "a digest of zeros": forged().replace(forged()[8 + len(START % 1) :][:64], ZEROS.encode()),
    "two checkpoints": forged() * 2,
}


def _entry(dtype='"F32"', shape="[2]", offsets="[0,8]") -> dict[str, str]:
    return {'"a"': f'{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}'}


HUGE = "9" * 5000
DEEP = 100_000
_SEALED: dict[str, dict[str, object]] = {
    # tensors
    "a negative size": {"tensors": _entry(shape="[-2]")},
    "two negative sizes": {"tensors": _entry(shape="[-1,-2]")},
    "a size too large": {"tensors": _entry(shape="[4611686018427387904]")},
    "sizes whose product overflows": {"tensors": _entry(shape="[4294967296,4294967296,2]")},
    "sizes whose product overflows to the right one": {"tensors": _entry(shape="[2,9223372036854775809]")},
    "nothing of something huge": {"tensors": _entry(shape="[0,4611686018427387904]", offsets="[0,0]"), "data": b""},
    "nothing of more than there is": {
        "tensors": _entry(shape="[0,1099511627776,1099511627776]", offsets="[0,0]"),
        "data": b"",
    },
    "a size of 5,000 digits": {"tensors": _entry(shape=f"[{HUGE}]")},
    "a size that is a float": {"tensors": _entry(shape="[2.0]")},
    "a size that is NaN": {"tensors": _entry(shape="[NaN]")},
    "a size that is true": {"tensors": _entry(shape="[2,true]")},
    "a shape that is text": {"tensors": _entry(shape='"2"')},
    "a shape of a hundred axes": {"tensors": _entry(shape=f"[2{',1' * 99}]")},
    "a shape of a million axes": {"tensors": _entry(shape=f"[2{',1' * 999_999}]")},
    "a type that is unknown": {"tensors": _entry(dtype='"F128"')},
    "a type of objects": {"tensors": _entry(dtype='"O"', shape="[1]")},
    "a type that is a number": {"tensors": _entry(dtype="4")},
    "overlapping tensors": {
        "tensors": {**ONE, '"b"': '{"dtype":"F32","shape":[2],"data_offsets":[4,12]}'},
        "data": bytes(12),
    },
    "a tensor inside another": {"tensors": {**ONE, '"b"': F32_PAIR}},
    "a gap between tensors": {
        "tensors": {**ONE, '"b"': '{"dtype":"F32","shape":[1],"data_offsets":[12,16]}'},
        "data": bytes(16),
    },
    "a gap at the start": {"tensors": _entry(offsets="[8,16]"), "data": bytes(16)},
    "bytes of no tensor": {"data": bytes(16)},
    "no data": {"data": b""},
    "offsets beyond the end": {"tensors": _entry(offsets="[8,16]")},
    "offsets before the start": {"tensors": _entry(offsets="[-8,0]")},
    "offsets that end before they start": {"tensors": _entry(offsets="[8,0]")},
    "offsets of 64 bits": {"tensors": _entry(offsets="[18446744073709551608,18446744073709551616]")},
    "offsets of 5,000 digits": {"tensors": _entry(offsets=f"[0,{HUGE}]")},
    "offsets that are floats": {"tensors": _entry(offsets="[0.0,8.0]")},
    "offsets that are NaN": {"tensors": _entry(offsets="[0,NaN]")},
    "offsets that are false and text": {"tensors": _entry(offsets='[false,"8"]')},
    "three offsets": {"tensors": _entry(offsets="[0,4,8]")},
    "a tensor that is a list": {"tensors": {'"a"': "[]"}},
    "a tensor that is null": {"tensors": {'"a"': "null"}},
    "a tensor twice": {"raw": f',"a":{F32_PAIR}'},
    "the metadata twice": {"raw": ',"__metadata__":{}'},
    "a tensor that is nowhere in the state": {"state": "{}"},
    # the state
    "a tensor that is not there": {"state": '{"a":{"$tensor":"b"}}'},
    "a tensor for two places": {"state": '{"a":{"$tensor":"a"},"b":{"$tensor":"a"}}'},
    "a tensor by number": {"state": '{"a":{"$tensor":0}}'},
    "a tensor by itself": {"state": '{"a":{"$tensor":{"$tensor":"a"}}}'},
    "a tensor and more": {"state": '{"a":{"$tensor":"a","b":1}}'},
    "a placeholder that is unknown": {"state": '{"a":{"$tensor":"a"},"b":{"$pickle":"gASVAAAA"}}'},
    "a reference to the state itself": {"state": '{"a":{"$tensor":"a"},"b":{"$ref":"#"}}'},
    "a class to make": {"state": '{"a":{"$tensor":"a"},"b":{"$class":"os.system","$args":["true"]}}'},
    "pairs that are no pairs": {"state": '{"a":{"$complex":"a"}}'},
    "a float of too few bits": {"state": '{"a":{"$tensor":"a"},"b":{"$float":"7ff8"}}'},
    "a float that is text": {"state": '{"a":{"$tensor":"a"},"b":{"$float":"__import__(1)"}}'},
    "an integer that is text": {"state": '{"a":{"$tensor":"a"},"b":{"$int":"zz"}}'},
    "text that is no UTF-8": {"state": '{"a":{"$tensor":"a"},"b":{"$text":"ff"}}'},
    "text that is no hexadecimal": {"state": '{"a":{"$tensor":"a"},"b":{"$text":"x"}}'},
    "a key that is no hexadecimal": {"state": '{"a":{"$tensor":"a"},"$xzz":1}'},
    "a key twice": {"state": '{"a":{"$tensor":"a"},"b":1,"b":2}'},
    "a key twice in two ways": {"state": '{"a":{"$tensor":"a"},"b":1,"\\u0062":2}'},
    "NaN": {"state": '{"a":{"$tensor":"a"},"b":NaN}'},
    "infinity": {"state": '{"a":{"$tensor":"a"},"b":-Infinity}'},
    "an integer of 5,000 digits": {"state": f'{{"a":{{"$tensor":"a"}},"b":{HUGE}}}'},
    "an exponent of 5,000 digits": {"state": f'{{"a":{{"$tensor":"a"}},"b":1e-{HUGE}}}'},
    "a state that is a list": {"state": '[{"$tensor":"a"}]'},
    "a state that is no JSON": {"state": "{'a': 1}"},
    "an empty state": {"state": ""},
    "a state that is not UTF-8": {"state": '{"a":"\ud800"}'},
    "a deep state": {"state": '{"a":{"$tensor":"a"},"b":' + "[" * DEEP + "]" * DEEP + "}"},
    "a state of deep objects": {"state": '{"a":' * DEEP + "1" + "}" * DEEP},
    "a deep description": {"description": '{"a":' + "[" * DEEP + "]" * DEEP + "}"},
    "deep digests": {"digests": "[" * DEEP + "]" * DEEP},
    "a deep header": {"raw": ',"b":' + "[" * DEEP + "]" * DEEP},
    # the metadata
    "no state": {"without": ("mlpug.state",)},
    "no digests": {"without": ("mlpug.digests",)},
    "no description": {"without": ("mlpug.description",)},
    "a description that is a number": {"description": "1"},
    "digests that are a list": {"digests": "[]"},
    "no digest of the tensor": {"digests": "{}"},
    "a digest of no tensor": {"digests": json.dumps({**digests_of(ONE, bytes(8)), "b": ZEROS})},
    "a digest of other data": {"digests": json.dumps({"a": ZEROS})},
    "a digest that is null": {"digests": '{"a":null}'},
    "a digest that is short": {"digests": '{"a":""}'},
    "version 0": {"version": "0"},
    "version 2": {"version": "2"},
    "version 999999999": {"version": "999999999"},
    "version 1.0": {"version": "1.0"},
    "version -1": {"version": "-1"},
    "no version": {"version": ""},
}


# What no save would write, and what does no harm: the file is refused, or it is a state like any other.
_ODD: dict[str, dict[str, object]] = {
    "a float that could be plain": {"state": '{"a":{"$tensor":"a"},"b":{"$float":"3ff0000000000000"}}'},
    "a float beyond all": {"state": '{"a":{"$tensor":"a"},"b":1e999}'},
    "an integer with underscores": {"state": '{"a":{"$tensor":"a"},"b":{"$int":" 1_0 "}}'},
    "an integer of a million digits": {"state": '{"a":{"$tensor":"a"},"b":{"$int":"%s"}}' % ("f" * 1_000_000)},
    "a state that is a tensor": {"state": '{"$tensor":"a"}'},
    "a state that is a number": {"state": '{"$int":"1"}', "tensors": {}, "data": b""},
    "a description with a tensor": {"description": '{"a":{"$tensor":"a"}}'},
    "a description that is a text": {"description": '{"$text":"41"}'},
    "a tensor with more to it": {"tensors": {'"a"': F32_PAIR[:-1] + ',"run":"me"}'}},
    "a state with methods": {"state": '{"a":{"$tensor":"a"},"__class__":"os","__reduce__":["os.system","true"]}'},
}

# Names of tensors that would lead to other files, where names were paths.
_PATH_LIKE = ["../../outside", "..", "/etc/passwd", "C:\\outside", "a\0b", "", "\ud800", "a" * 5000]


def odd_files() -> dict[str, bytes]:
    """Each with right digests, and one thing that no save would write but that does no harm."""
    names = {f"the name {name[:20]!a}": {"tensors": {json.dumps(name): F32_PAIR}} for name in _PATH_LIKE}
    states = [json.dumps({"a": {"$tensor": name}}) for name in _PATH_LIKE]
    named = {title: what | {"state": state} for (title, what), state in zip(names.items(), states, strict=True)}
    return {title: forged(**what) for title, what in (_ODD | named).items()}


def sealed_files() -> dict[str, bytes]:
    """Each with right digests, and one thing that no save would write."""
    return {title: forged(**what) for title, what in _SEALED.items()}


SEALED_TITLES = list(_SEALED)
