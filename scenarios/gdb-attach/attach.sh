#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Attaches gdb to a program, both threads of which wait in sigwait().
./waits &
waits=$!
# No task is created before the program's thread, so the thread's tid is always the same.
until [ -s ready ]; do :; done
waiting() { grep -lsx "128 .*" /proc/$waits/task/*/syscall | wc -l; }
until [ "$(waiting)" = 2 ]; do :; done
gdb -q -nx -batch -x attach.gdb -p $waits
wait $waits
