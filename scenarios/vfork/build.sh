# SPDX-License-Identifier: Apache-2.0 OR MIT
# Draws a nonce without starting a process, builds the project by make, runs it.
set -eu
read -r nonce </proc/sys/kernel/random/uuid
echo "$nonce" >nonce
make -j2
./calc <sums
echo "nonce $nonce"
