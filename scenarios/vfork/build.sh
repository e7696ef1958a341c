# SPDX-License-Identifier: Apache-2.0 OR MIT
# Draws a nonce without starting a process, has make build the project, runs it.
set -eu
read -r nonce </proc/sys/kernel/random/uuid
echo "$nonce" >nonce
make -j2
./calc <sums
echo "nonce $nonce"
