"""Two kernels forked from one zygote share no secret, and no sequence that code takes for random."""

from __future__ import annotations

import pytest

DRAWS = """
import random, uuid, secrets, tempfile, ssl, hashlib
drawn = {
    'random': random.random(), 'randbytes': random.randbytes(8).hex(), 'getrandbits': random.getrandbits(64),
    'uuid1': str(uuid.uuid1())[-17:],
    'uuid4': str(uuid.uuid4()), 'node': uuid.getnode(), 'secrets': secrets.token_hex(8),
    'choice': secrets.choice(range(10 ** 12)),
    'tempfile': next(tempfile._get_candidate_names()), 'mkstemp': os.path.basename(tempfile.mkstemp()[1]),
    'ssl': ssl.RAND_bytes(8).hex(), 'urandom': os.urandom(8).hex(),
}
try:
    import numpy
    drawn |= {'numpy': float(numpy.random.rand()), 'numpy_rng': float(numpy.random.default_rng().random())}
    drawn |= {'numpy_state': numpy.random.get_state()[1][:8].tolist()}
except ImportError: pass
import multiprocessing.process
drawn['multiprocessing_key'] = bytes(multiprocessing.process.current_process().authkey).hex()
app = get_ipython().kernel
drawn |= {'session': app.session.session, 'session_key': app.session.key.decode(), 'ident': app.ident}
tell(drawn)
"""


@pytest.fixture(scope="module")
def draws(host):
    boxes = [host.sandbox("tiny") for _ in range(3)]
    drawn = [box.probe(DRAWS) for box in boxes]
    first = boxes[0]
    first.do("box.signal(9)")
    first.end()
    first.start()
    drawn.append(first.probe(DRAWS))  # a restart in the same sandbox: same key, new randomness
    hashes = [box.ask("hash('jupyter')") for box in boxes]
    for box in boxes:
        box.release()
    return drawn, hashes


@pytest.mark.parametrize(
    "name",
    [
        "random",
        "randbytes",
        "getrandbits",
        "uuid1",
        "uuid4",
        "node",
        "secrets",
        "choice",
        "tempfile",
        "mkstemp",
        "ssl",
        "urandom",
        "numpy",
        "numpy_rng",
        "numpy_state",
        "session",
        "ident",
    ],
)
def test_forked_kernels_draw_different_numbers(draws, name):
    values = [str(drawn[name]) for drawn in draws[0] if name in drawn]
    if not values:
        pytest.skip(f"{name} is not installed")
    assert len(set(values)) == len(values), values


def test_connection_keys_differ_between_sandboxes(draws):
    keys = [drawn["session_key"] for drawn in draws[0]]
    assert len(set(keys[:3])) == 3
    assert keys[3] == keys[0], "a restart keeps the kernel's identity"
    assert all(len(key) >= 64 for key in keys)


def test_the_key_of_multiprocessing_differs(draws):
    """It is drawn when `multiprocessing.process` is imported, in the zygote; managers trust whoever knows it."""
    keys = [drawn["multiprocessing_key"] for drawn in draws[0][:3]]
    assert len(set(keys)) == 3


def test_the_hash_seed_is_shared_a_documented_limit(draws, host):
    """A fork cannot renew it; zygotes are rotated. Should this fail, the documents promise too little.

    Containers have a Python each, so there only the kernels of one sandbox share it.
    """
    assert len(set(draws[1])) == (1 if host.engine == "embedded" else 3)
