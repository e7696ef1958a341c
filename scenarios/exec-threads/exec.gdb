# SPDX-License-Identifier: GPL-2.0-only
set pagination off
set confirm off
set print thread-events off
catch exec
# gdb's number for this thread varies
commands
silent
echo caught an exec\n
continue
end
run
