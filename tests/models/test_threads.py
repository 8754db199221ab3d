"""Parts are computed once each, side by side in PyTorch's threads or in others, and what goes wrong in one is raised."""

import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
import torch

from proteinlm.models.kernels import threads
from proteinlm.models.kernels.threads import share


@pytest.fixture(autouse=True, params=["OpenMP's", "others"])
def of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Whose threads they are."""
    if request.param == "others":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    elif sys.platform != "linux":
        pytest.skip("PyTorch has the library of OpenMP that is asked on Linux alone")
    torch.set_num_threads(3)
    yield request.param
    torch.set_num_threads(1)


def ranges_of(sizes: list[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    share(lambda first, last: found.append((first, last)), sizes)
    return sorted(found)


def test_pytorch_on_linux_has_openmp(of: str):
    assert (threads._openmp() is None) == (of == "others")


def test_parts_are_shared_by_their_sizes():
    assert ranges_of([1, 1, 1, 1, 4, 4]) == [(0, 4), (4, 5), (5, 6)]
    assert sorted(part for first, last in ranges_of([9, 1]) for part in range(first, last)) == [0, 1]


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 100])
def test_every_part_is_in_one_range(parts: int):
    sizes = [1 + 5 * (part % 3) for part in range(parts)]
    for _ in range(20):
        ranges = ranges_of(sizes)
        assert [part for first, last in ranges for part in range(first, last)] == [*range(parts)]
        assert len(ranges) <= 3


def test_ranges_are_computed_side_by_side():
    met = threading.Barrier(3, timeout=20)
    share(lambda first, last: (met.wait(), None)[1], [1, 1, 1])
    assert met.n_waiting == 0


@pytest.mark.parametrize("failing", [0, 2])
def test_an_error_in_any_range_is_raised_once_all_have_ended(failing: int):
    ended: list[int] = []

    def work(first: int, last: int) -> None:
        if first == failing:
            raise ValueError(f"part {first}")
        ended.append(first)

    with pytest.raises(ValueError, match=f"part {failing}"):
        share(work, [1, 1, 1])
    assert sorted(ended) == [part for part in range(3) if part != failing]
    assert len(ranges_of([1, 1, 1])) == 3


def test_an_interruption_is_not_lost():
    main = threading.get_ident()

    def work(first: int, last: int) -> None:
        if threading.get_ident() == main:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        share(work, [1, 1, 1])


def test_a_thread_of_python_may_share_too():
    found: Future[list[tuple[int, int]]] = Future()
    other = threading.Thread(target=lambda: found.set_result(ranges_of([1, 1, 1])))
    other.start()
    assert found.result(timeout=20) == [(0, 1), (1, 2), (2, 3)]
    other.join()


def in_child(answer: Callable[[list[tuple[int, int]]], None]) -> None:
    answer(ranges_of([1, 1, 1]))


def test_a_forked_child_does_without_the_threads_of_its_parent():
    assert len(ranges_of([1, 1, 1])) == 3
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=in_child, args=(sending.send,))
    child.start()
    assert receiving.poll(20)
    assert receiving.recv() == [(0, 1), (1, 2), (2, 3)]
    child.join(20)
    assert child.exitcode == 0
