# SPDX-License-Identifier: GPL-2.0-only
set confirm off
set follow-fork-mode child
set detach-on-fork on
catch vfork
catch exec
run -s
bt 1
continue
bt 1
continue
continue
info inferiors
delete
continue
