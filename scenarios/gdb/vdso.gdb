# SPDX-License-Identifier: GPL-2.0-only
break clocks
run clocks
break __vdso_clock_gettime
continue
bt
finish
continue
bt
x/1i $pc
delete
continue
