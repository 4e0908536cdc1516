# Installs a package of the distribution, if it has it in this version or a later one: PACKAGE VERSION. Runs as root.
set -eu
package=$1
version=$2
export DEBIAN_FRONTEND=noninteractive
apt-get update
candidate=$(LC_ALL=C apt-cache policy "$package" | sed -n 's/^  Candidate: //p')
case $candidate in
'' | '(none)')
    echo "there is no package $package" >&2
    exit 1
    ;;
esac
# What is too old stays as it is.
if ! dpkg --compare-versions "$candidate" ge "$version"; then
    echo "$package would be $candidate, which is too old" >&2
    exit 1
fi
apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$package"
