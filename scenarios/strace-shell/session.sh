#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Two forks, a pipe, an exec. The first is busy for longer than the second takes to be forked,
# and that for longer than it takes to hear of the first's end.
busy() {
	n=0
	while [ $n -lt 3000 ]; do n=$((n + 1)); done
}
(busy; echo pipe) | (read line; busy; echo "$line")
exec /bin/true
