# Installs the distribution's Python with grpcio and requests, for tests with clients and servers of another make. Runs as root.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends python3 python3-grpcio python3-requests
