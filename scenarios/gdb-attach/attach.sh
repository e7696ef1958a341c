#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Attaches gdb to a program that waits with both its threads in their sigwait().
./waits &
waits=$!
# Nobody is born before its thread, whose number is so always the same.
until [ -s ready ]; do :; done
waiting() { grep -lsx "128 .*" /proc/$waits/task/*/syscall | wc -l; }
until [ "$(waiting)" = 2 ]; do :; done
gdb -q -nx -batch -x attach.gdb -p $waits
wait $waits
