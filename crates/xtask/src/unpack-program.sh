# Takes one program out of a package of the distribution: PROGRAM FOLDER PACKAGE..., the program as the package places it. Of the
# packages it is the first that there is.
#
# Installs nothing and needs no root. A package for a server would start it, at each boot too, and its removal would be somebody's work.
# Outside of the folder nothing changes.
set -eu
program=$1
folder=$2
shift 2

mkdir -p "$folder"
work=$(mktemp -d "$folder/.unpack.XXXXXX")
trap 'rm -rf "$work"' EXIT
# Not every shell keeps the first trap when a signal ends it.
trap 'exit 1' HUP INT TERM

# With lists of its own: the machine's may be old or missing, and only root may renew them.
mkdir -p "$work/lists/partial" "$work/archives/partial"
with_lists() {
    command=$1
    shift
    "$command" -qq -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work" -o APT::Sandbox::User=root "$@"
}
cd "$work"
with_lists apt-get update
for package; do
    if with_lists apt-cache show "$package" >/dev/null 2>&1; then
        break
    fi
done
with_lists apt-get download "$package"
dpkg-deb --extract "$package"_*.deb files
mv "files/$program" "$folder/"
