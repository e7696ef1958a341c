# SPDX-License-Identifier: Apache-2.0 OR MIT
# Passes numbers through four programs; the sums show whether any was lost or duplicated.
set -eu -o pipefail
read -r nonce </proc/sys/kernel/random/uuid
echo "$nonce" >nonce
seq 1 60000 | sed 's/.*/line & of the stream/' | tee copy | sort -r | cksum
echo "statuses ${PIPESTATUS[*]}"
cksum <copy
wc -l <copy
rm copy
echo "nonce $nonce"
