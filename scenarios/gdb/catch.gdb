# SPDX-License-Identifier: GPL-2.0-only
catch syscall getppid
catch fork
catch vfork
run children
bt 1
continue
continue
continue
info breakpoints
delete
continue
