# SPDX-License-Identifier: Apache-2.0 OR MIT
# The same without make: gcc waits for the compiler.
set -eu
read -r nonce </proc/sys/kernel/random/uuid
echo "$nonce" >nonce
./mktable >table.h
gcc -O2 -Wall -o calc main.c lexer.c parser.c functions.c -lm
./calc <sums
echo "nonce $nonce"
