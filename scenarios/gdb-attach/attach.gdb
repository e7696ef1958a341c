# SPDX-License-Identifier: GPL-2.0-only
set confirm off
thread apply all bt 1
break count
signal SIGUSR1
info threads
bt
delete
detach
