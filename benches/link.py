#!/usr/bin/env python3
"""Two network namespaces, rank0 and rank1, joined by a slow link: two tun devices, and this program between them.

    link.py MBIT_A_SECOND MILLISECONDS

Each packet arrives so many milliseconds after it has gone over the link at that rate. It is for kernels without netem; a
fast link would take much of a core. Needs root. Says "ready" and goes on until it is ended.
"""

import collections
import fcntl
import os
import select
import struct
import subprocess
import sys
import time

SET_INTERFACE = 0x400454CA  # TUNSETIFF
TUN_WITHOUT_HEADER = 0x0001 | 0x1000
# Seconds of packets that wait for the link; more are lost, as in a router.
LONGEST = 0.5

bytes_a_second = float(sys.argv[1]) * 1e6 / 8
delay = float(sys.argv[2]) / 1e3


def shell(*commands):
    for command in commands:
        subprocess.run(command, shell=True, check=True)


ends = []
for number in range(2):
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, SET_INTERFACE, struct.pack("16sH", f"link{number}".encode(), TUN_WITHOUT_HEADER))
    inside = f"ip -n rank{number}"
    shell(
        f"ip netns add rank{number}",
        f"ip link set link{number} netns rank{number}",
        f"{inside} link set link{number} mtu 60000 up",
        f"{inside} addr add 10.9.0.{number + 1}/24 dev link{number}",
        f"{inside} link set lo up",
    )
    ends.append(end)
print("ready", flush=True)

waiting = [collections.deque(), collections.deque()]
free_from = [0.0, 0.0]
while True:
    due = [queue[0][0] for queue in waiting if queue]
    readable, _, _ = select.select(ends, [], [], max(0.0, min(due) - time.monotonic()) if due else 1.0)
    for side, (end, queue) in enumerate(zip(ends, waiting)):
        now = time.monotonic()
        while end in readable:
            try:
                packet = os.read(end, 1 << 16)
            except BlockingIOError:
                break
            sent = max(free_from[side], now) + len(packet) / bytes_a_second
            if sent - now <= LONGEST:
                free_from[side] = sent
                queue.append((sent + delay, packet))
        while queue and queue[0][0] <= time.monotonic():
            try:
                os.write(ends[1 - side], queue.popleft()[1])
            except BlockingIOError:
                pass  # lost: TCP sends it again
