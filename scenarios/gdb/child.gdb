# SPDX-License-Identifier: GPL-2.0-only
set follow-fork-mode child
set detach-on-fork off
break in_child
run children
bt
next
info inferiors
delete
continue
inferior 1
continue
