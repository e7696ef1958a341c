# SPDX-License-Identifier: GPL-2.0-only
catch exec
run exec
info inferiors
break work
continue
bt full
delete
continue
