# Installs the distribution's PostgreSQL for tests that start their own servers. Runs as root.
set -eu
export DEBIAN_FRONTEND=noninteractive

# The package would make a cluster of its own and start it: nobody asked for a server on this machine.
conf=/etc/postgresql-common/createcluster.d/steadfast-tests.conf
mkdir -p "${conf%/*}"
trap 'rm -f "$conf"' EXIT
# Not every shell keeps the first trap when a signal ends it.
trap 'exit 1' HUP INT TERM
echo 'create_main_cluster = false' >"$conf"

apt-get update
apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends postgresql
