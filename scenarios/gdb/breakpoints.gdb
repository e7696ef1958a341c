# SPDX-License-Identifier: GPL-2.0-only
break work
run work
bt full
info registers rip rsp rax rdi
break scale if value == 3
continue
print value
bt
finish
step
step
info locals
delete
continue
