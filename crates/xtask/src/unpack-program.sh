# Takes one program out of a package of the distribution: PACKAGE PROGRAM FOLDER, the program as the package places it.
#
# Installs nothing and needs no root. A package for a server would start it, at each boot too, and its removal would be somebody's work.
# Outside of the folder nothing changes.
set -eu
package=$1
program=$2
folder=$3

mkdir -p "$folder"
work=$(mktemp -d "$folder/.unpack.XXXXXX")
trap 'rm -rf "$work"' EXIT
# Not every shell keeps the first trap when a signal ends it.
trap 'exit 1' HUP INT TERM

# With lists of its own: the machine's may be old or missing, and only root may renew them.
mkdir -p "$work/lists/partial" "$work/archives/partial"
apt() {
    apt-get -qq -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work" -o APT::Sandbox::User=root "$@"
}
cd "$work"
apt update
apt download "$package"
dpkg-deb --extract "$package"_*.deb files
mv "files/$program" "$folder/"
