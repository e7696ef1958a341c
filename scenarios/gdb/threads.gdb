# SPDX-License-Identifier: GPL-2.0-only
break in_thread
run threads
thread
bt 2
watch total
continue
continue
thread
print total
delete
continue
