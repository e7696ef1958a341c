#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# gdb exits with the process that it follows; make, from which it has detached, completes.
gdb -q -nx -batch -x follow.gdb make
while pgrep -x make > /dev/null; do :; done
