# Installs the distribution's nodejs, for tests with an HTTP client of another make. Runs as root.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends nodejs
