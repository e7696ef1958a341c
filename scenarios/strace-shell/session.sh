#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Two forks, a pipe, an exec. The first child runs for longer than forking the second takes, and
# the second for longer than reaping the first takes, so that the order is always the same.
busy() {
	n=0
	while [ $n -lt 3000 ]; do n=$((n + 1)); done
}
(busy; echo pipe) | (read line; busy; echo "$line")
exec /bin/true
