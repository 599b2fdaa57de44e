"""What this machine can hold, and gets back."""

import platform

import psutil
import pytest

from ptq_export.machine import release_memory

BLOCK = 2**16  # small enough for the heap, where glibc keeps the pages between two blocks


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_pages_between_blocks_that_are_used_go_back_to_the_system() -> None:
    process = psutil.Process()
    blocks = [bytes([index % 251]) * BLOCK for index in range(4000)]
    full = process.memory_info().rss
    kept = blocks[::100]
    del blocks
    release_memory()
    assert full - process.memory_info().rss > 0.8 * 4000 * BLOCK
    assert all(block[0] == index * 100 % 251 for index, block in enumerate(kept))
