"""One image on several threads: the same to the last bit, whatever their number."""

import psutil
import pytest
import torch
from cluster import wait_for
from priors import apart, run, tasks

from tandem_defense.restoration import native, reference
from tandem_defense.restoration.native import Network
from tandem_defense.restoration.reference import Architecture, dip1, dip2

# Narrow and wide layers, normalized and not; widths that are no multiple of a vector.
SHARED = {
    "dip2": dip2(3, 8),
    "dip2 affine": dip2(32, 16, "affine"),
    "dip2 odd widths, without norm": dip2(5, 20, "none"),
    "dip1": dip1(0.25),
    "dip1 instance": dip1(0.125, "instance"),
    "dip1 without norm": dip1(0.5, "none"),
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def started(architecture: Architecture, size: tuple[int, int], dtype=torch.float32) -> Network:
    """A network before its first step."""
    (task,) = tasks(architecture, 1, *size)
    network = Network(architecture, *size, dtype)
    network.start(*reference.draw(architecture, task), task.target)
    return network


def equal(one: Network, other: Network) -> bool:
    """Whether the images, the weights and Adam's averages are the same to the last bit."""
    states = one.save(), other.save()
    same = all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    return same and torch.equal(one.output, other.output)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("size", [(64, 64), (131, 67), (97, 170)])
@pytest.mark.parametrize("prior", SHARED)
def test_the_number_of_threads_changes_nothing(prior, size, precision):
    """1, 2, 3 and 5 threads, more than this machine may have."""
    networks = {n: started(SHARED[prior], size, DTYPES[precision]) for n in (1, 2, 3, 5)}
    losses = {networks[n].fit(3, 1e-3, 0.9, threads=n) for n in networks}
    assert len(losses) == 1
    assert all(equal(networks[1], network) for network in networks.values())


@pytest.mark.parametrize("prior", SHARED)
def test_a_fit_goes_on_with_another_number_of_threads(prior):
    """From a state, as from a checkpoint, and within a network."""
    whole, half, other = (started(SHARED[prior], (80, 93)) for _ in range(3))
    whole.fit(6, 1e-3, 0.9, threads=1)
    half.fit(3, 1e-3, 0.9, threads=3)
    other.resume(half.save() | {"iteration": torch.tensor(3)})
    half.fit(3, 1e-3, 0.9, threads=2)
    other.fit(3, 1e-3, 0.9, threads=2)
    assert equal(half, whole) and equal(other, whole)


@pytest.mark.parametrize("prior", SHARED)
def test_several_threads_equal_the_reference(prior):
    architecture = SHARED[prior]
    work = tasks(architecture, 1, 70, 85)
    expected = run(reference.fit, architecture, work, steps=(5,))
    network = started(architecture, (70, 85), torch.float64)
    loss = network.fit(5, 1e-3, 0.9, threads=3)
    found = {(0, 5): (network.output, network.average, torch.tensor(loss, dtype=torch.float64))}
    assert apart(found, expected) < 1e-9


def test_fewer_images_than_threads_share_them(monkeypatch):
    """Evenly; when an image is done and none waits, its threads go to the others."""
    monkeypatch.setattr(native.device, "cpus", lambda: 5)
    torch.set_num_threads(5)
    architecture, seen = SHARED["dip1 instance"], []
    fit = Network.fit

    def watched(self, steps, rate, smoothing, threads=1):
        seen.append(threads)
        return fit(self, steps, rate, smoothing, threads)

    work = tasks(architecture, 3)
    alone = run(native.fit, architecture, work[:1], steps=(30,), batch=1)
    monkeypatch.setattr(Network, "fit", watched)
    both = run(native.fit, architecture, work[:2], steps=(30,))
    assert seen[0] == 2 and set(seen) <= {2, 5}
    seen.clear()
    run(native.fit, architecture, work, steps=(30,), batch=1)
    assert set(seen) == {5}
    seen.clear()
    run(native.fit, architecture, work, steps=(30,), batch=3)
    assert seen[0] == 1
    assert apart({0: both[0, 30]}, {0: alone[0, 30]}) == 0


def test_threads_end_with_their_network():
    def threads() -> set[int]:
        return {thread.id for thread in psutil.Process().threads()}

    networks = [started(SHARED["dip2"], (64, 64)) for _ in range(3)]
    before = threads()
    for network in networks:
        network.fit(1, 1e-3, 0.9, threads=4)
    own = threads() - before
    assert len(own) == 3 * 3
    del network, networks
    # The system may list a thread for a little longer than there is one.
    wait_for(lambda: not own & threads(), "the threads to end")
