#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# gdb leaves with whom it followed; make, which it let go on the way, goes on to its end.
gdb -q -nx -batch -x follow.gdb make
while pgrep -x make > /dev/null; do :; done
