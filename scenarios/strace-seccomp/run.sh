#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# A few programs, one after the other: so each has one order with its parent.
set -e
sort < run.sh > sorted
uniq -c < sorted > counted
head -n 3 counted
cat /etc/debian_version > version
test -s version
