# SPDX-License-Identifier: GPL-2.0-only
break work
run work
watch total
continue
continue
print total
rwatch handled
info watchpoints
delete 2
delete 3
delete 1
continue
