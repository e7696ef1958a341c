# SPDX-License-Identifier: Apache-2.0 OR MIT
"""gdb goes back in a replay: to a snapshot before the place, and forwards from there.

QEMU's own way back hangs. A snapshot is named by its number of instructions and by the number of
bytes that the guest had written to its channel. What QEMU then writes to the channel's file a second
time is found by `loads`: a line for each load, with the length of the file and of the channel.
"""

import contextlib
import os
import re

import gdb

PLACE = os.path.dirname(os.path.abspath(__file__))
CHANNEL = os.path.join(PLACE, "channel.out")
LOADS = os.path.join(PLACE, "loads")
STORE = os.path.join(PLACE, "snapshots")

# Distances in instructions of new snapshots from the place to go to, because the next places are
# near it.
NEAR = 16_000_000, 1_000_000

# Number of instructions by which a snapshot is postponed if it cannot be made here.
PUT_OFF = 1_000

# Maximum number of bytes of all snapshots, and their minimum number.
MOST_BYTES = 2 << 30
FEWEST = 4


def monitor(line):
    return gdb.execute("monitor " + line, to_string=True)


def count():
    """Returns the number of instructions that the guest has executed."""
    answer = monitor("info replay")
    found = re.search(r"instruction count = (\d+)", answer)
    if not found:
        raise gdb.GdbError("this is no replay of crucible's: " + answer.strip())
    return int(found.group(1))


def written():
    """Returns the number of bytes that the guest has written to its channel."""
    length = os.path.getsize(CHANNEL)
    with contextlib.suppress(FileNotFoundError), open(LOADS) as loads:
        for last in loads:
            pass
        file, channel = map(int, last.split())
        return channel + length - file
    return length


def snapshots():
    """Returns the snapshots in their order: number of instructions, and of bytes of the channel."""
    names = re.findall(r"^\S+\s+(\d+)-(\d+)\s", monitor("info snapshots"), re.MULTILINE)
    return sorted((int(count), int(channel)) for count, channel in names)


def idle():
    """Returns true when no disk has a request of the guest's, which no snapshot would hold."""
    for path in re.findall(r"^\s*(\S+) \[virtio-blk\]", monitor("info virtio"), re.MULTILINE):
        queue = monitor(f"info virtio-queue-status {path} 0")
        if not re.search(r"inuse:\s+0\s", queue):
            return False
    return True


def save():
    """Saves a snapshot. Returns false if that is not possible between these two instructions."""
    if not idle():
        return False
    saved = snapshots()
    # The least useful snapshot: the gap between its neighbours is the shortest.
    while os.stat(STORE).st_blocks * 512 > MOST_BYTES and len(saved) > FEWEST:
        gaps = [b[0] - a[0] for a, b in zip(saved, saved[2:])]
        count_, channel = saved.pop(1 + gaps.index(min(gaps)))
        monitor(f"delvm {count_}-{channel}")
    answer = monitor(f"savevm {count()}-{written()}")
    if "Try once more later" in answer:
        return False
    if "Error" in answer:
        raise gdb.GdbError(answer.strip())
    return True


def load(snapshot):
    count_, channel = snapshot
    length = os.path.getsize(CHANNEL)
    # QEMU asserts that no breakpoint of the replay is earlier than the snapshot.
    monitor("replay_delete_break")
    answer = monitor(f"loadvm {count_}-{channel}")
    if "Error" in answer:
        raise gdb.GdbError(answer.strip())
    with open(LOADS, "a") as loads:
        loads.write(f"{length} {channel}\n")
    gdb.execute("maintenance flush register-cache", to_string=True)
    gdb.execute("maintenance flush dcache", to_string=True)


@contextlib.contextmanager
def silence():
    """Drops what gdb prints: it says why the guest stops even if it is to return that as a string."""
    gdb.flush()
    output = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        yield
    finally:
        gdb.flush()
        os.dup2(output, 1)
        os.close(output)


def go():
    """Continues to the next stop. Returns the numbers of the breakpoints there."""
    hit = []

    def stopped(event):
        if isinstance(event, gdb.BreakpointEvent):
            hit.extend(breakpoint.number for breakpoint in event.breakpoints)

    gdb.events.stop.connect(stopped)
    try:
        with silence():
            gdb.execute("continue")
    finally:
        gdb.events.stop.disconnect(stopped)
    if not gdb.selected_inferior().pid:
        raise gdb.GdbError("the replay has ended")
    return hit


def run(end):
    """Runs to this number of instructions. Returns the breakpoints before it: numbers of instructions
    and of breakpoints."""
    hits = []
    now = count()
    if now < end:
        monitor(f"replay_break {end}")
    try:
        while now < end:
            numbers = go()
            now = count()
            if now < end:
                if not numbers:
                    raise gdb.GdbError(f"interrupted at instruction {now}")
                hits.append((now, numbers))
    finally:
        monitor("replay_delete_break")
    return hits


@contextlib.contextmanager
def breakpoints():
    """Takes all breakpoints away. Gives a function that sets those again that stay when they are hit,
    without what is to be done there, and returns them."""
    enabled = [it for it in gdb.breakpoints() if it.enabled]
    commands = [(it, it.commands) for it in enabled if it.commands]
    ignored = [(it, it.ignore_count) for it in enabled if it.ignore_count]

    def arm():
        armed = [it for it in enabled if not it.temporary]
        for it in armed:
            it.enabled = True
        return armed

    for it in enabled:
        it.enabled = False
    for it, _ in commands:
        it.commands = None
    for it, _ in ignored:
        it.ignore_count = 0
    try:
        yield arm
    finally:
        for it in enabled:
            it.enabled = True
        for it, lines in commands:
            it.commands = lines
        for it, number in ignored:
            it.ignore_count = number


def seek(end):
    """Goes to this number of instructions, without breakpoints."""
    earlier = [it for it in snapshots() if it[0] <= end]
    if not earlier:
        raise gdb.GdbError("this is where the replay began")
    now, _ = before = earlier[-1]
    load(before)
    for near in NEAR:
        if end - now < 4 * near:
            continue
        run(end - near)
        while not save() and count() + PUT_OFF < end:
            run(count() + PUT_OFF)
        now = count()
    run(end)


def show(numbers=()):
    """Says where the guest is."""
    place = gdb.execute("frame", to_string=True)
    hit = ", ".join(f"Breakpoint {number}" for number in numbers)
    print(f"{hit}, instruction {count()}" if hit else f"instruction {count()}")
    print(place.rstrip())


class Back(gdb.Command):
    """Go back to where a breakpoint was hit last in this replay.
The breakpoints are those that are set now; without such a place the guest stays here."""

    def __init__(self):
        super().__init__("reverse-continue", gdb.COMMAND_RUNNING)

    def invoke(self, argument, from_tty):
        if argument:
            raise gdb.GdbError("it takes no argument in a replay")
        here = count()
        with breakpoints() as arm:
            hit = search(here, arm)
            seek(hit[0] if hit else here)
        show(hit[1] if hit else ())


def search(here, arm):
    """Finds where a breakpoint was hit last before this number of instructions."""
    end = here
    for snapshot in reversed([it for it in snapshots() if it[0] < here]):
        load(snapshot)
        armed = arm()
        if any(it.type == gdb.BP_WATCHPOINT for it in armed):
            # Disable the watchpoints: otherwise gdb would read the value after
            # each instruction.
            print(f"gdb cannot read a watched value at instruction {snapshot[0]}")
            for it in armed:
                it.enabled = False
            break
        hits = run(end)
        for it in armed:
            it.enabled = False
        if hits:
            return hits[-1]
        # Includes breakpoints that are hit right at the snapshot.
        end = snapshot[0] + 1
    print(f"no breakpoint is hit between instructions {end} and {here}")
    return None


class StepBack(gdb.Command):
    """Go back by one instruction, or by this number of instructions."""

    def __init__(self):
        super().__init__("reverse-stepi", gdb.COMMAND_RUNNING)

    def invoke(self, argument, from_tty):
        number = int(gdb.parse_and_eval(argument)) if argument else 1
        end = count() - number
        saved = snapshots()
        if not saved or end < saved[0][0]:
            raise gdb.GdbError("this is where the replay began")
        with breakpoints():
            seek(end)
        show()


# gdb's usual short names, rc and rsi, then run these commands.
Back()
StepBack()
# QEMU offers these, and hangs.
gdb.execute("set remote reverse-continue-packet off")
gdb.execute("set remote reverse-step-packet off")
