# SPDX-License-Identifier: GPL-2.0-only
set pagination off
set confirm off
set print thread-events off
catch exec
# which of gdb's thread numbers it has is chance
commands
silent
echo caught an exec\n
continue
end
run
