# SPDX-License-Identifier: GPL-2.0-only
handle SIGUSR1 nostop noprint pass
handle SIGUSR2 stop print pass
run signals
print handled
bt
stepi
print $_siginfo.si_signo
signal 0
