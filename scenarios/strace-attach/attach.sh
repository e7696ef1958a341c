#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Attaches strace to a running tree, then lets the tree continue.
set -e
./pair &
pair=$!
# The child and its thread exist.
until [ "$(cat /proc/$pair/task/*/children)" ]; do :; done
child=$(cat /proc/$pair/task/$pair/children)
until [ "$(ls /proc/${child% }/task | wc -l)" = 2 ]; do :; done
strace -ff -qq -o log -p $pair -p ${child% } &
strace=$!
traced() { grep -q "TracerPid:	$strace" /proc/$1/status; }
until traced $pair && for t in /proc/${child% }/task/*; do traced ${child% }/task/${t##*/} || exit 1; done; do :; done
kill -USR1 $pair
wait $pair
wait $strace || true
