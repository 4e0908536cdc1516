# Installs the distribution's nginx for tests that start their own. Runs as root.
set -eu
export DEBIAN_FRONTEND=noninteractive

# The package would start a server, and again at each boot: nobody asked for one on this machine.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi

apt-get update
apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends nginx
update-rc.d nginx disable
