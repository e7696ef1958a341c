# SPDX-License-Identifier: GPL-2.0-only
break count
run
continue
print counts
finish
stepi
delete
continue
