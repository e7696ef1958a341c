#!/bin/sh
# Two forks, a pipe, an exec. The second is busy for longer than it takes to hear of the first's end.
echo "through the pipe" | (read line; /bin/echo "$line"; cat session.sh > /dev/null)
exec /bin/true
