#!/bin/sh
# Builds the Debian package with dpkg-deb alone, the same bytes each time:
# build.sh PROGRAM TOOL VERSION ARCHITECTURE FILE
# PROGRAM is what is packaged; TOOL is the same program for this machine, which
# writes manual pages and completions. DEB_MAINTAINER names who answers for the
# package. DEB_COMPRESS=none is for tests: xz takes
# its time.
set -eu
cd "$(dirname "$0")/../.."
program=$1 tool=$2 arch=$4 file=$5
# Debian's versions begin with a digit and have no hyphen without a revision.
version=$(printf %s "${3#v}" | sed 's/-/+/; s/-/./g')
case $version in [0-9]*.*) ;; *) version="0~$version" ;; esac
maintainer=${DEB_MAINTAINER:-The Chancery project <packages@chancery.invalid>}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
umask 022
chmod 0755 "$tree"

put() { # put MODE SOURCE DESTINATION
	mkdir -p "$tree/$(dirname "$3")"
	install -m "$1" "$2" "$tree/$3"
}
put 0755 "$program" usr/bin/chancery
put 0644 packaging/systemd/chancery.service lib/systemd/system/chancery.service
put 0644 packaging/systemd/chancery-agent.service lib/systemd/system/chancery-agent.service
put 0644 packaging/debian/chancery.toml etc/chancery/chancery.toml
put 0644 packaging/debian/agent.default etc/default/chancery-agent
put 0644 packaging/debian/agent.toml.example usr/share/doc/chancery/examples/agent.toml
put 0644 packaging/prometheus/chancery.rules.yml usr/share/doc/chancery/examples/prometheus/chancery.rules.yml
for f in packaging/grafana/*.json; do
	put 0644 "$f" "usr/share/doc/chancery/examples/grafana/$(basename "$f")"
done
put 0644 packaging/debian/lintian-overrides usr/share/lintian/overrides/chancery
for shell in bash zsh fish; do
	"$tool" completion "$shell" >"$tree/completion"
	case $shell in
	bash) put 0644 "$tree/completion" usr/share/bash-completion/completions/chancery ;;
	zsh) put 0644 "$tree/completion" usr/share/zsh/vendor-completions/_chancery ;;
	fish) put 0644 "$tree/completion" usr/share/fish/vendor_completions.d/chancery.fish ;;
	esac
	rm "$tree/completion"
done
mkdir -p "$tree/usr/share/man/man1"
"$tool" man --dir "$tree/usr/share/man/man1"
find "$tree/usr/share/man/man1" -type f -exec gzip -9n {} +

doc=$tree/usr/share/doc/chancery
put 0644 packaging/debian/copyright usr/share/doc/chancery/copyright
gzip -9n <CHANGELOG.md >"$doc/CHANGELOG.md.gz"
{
	echo "chancery ($version) unstable; urgency=medium"
	echo
	echo "  * See CHANGELOG.md.gz."
	echo
	echo " -- $maintainer  $(date -u -R -d "@$SOURCE_DATE_EPOCH")"
} | gzip -9n >"$doc/changelog.gz"

mkdir "$tree/DEBIAN"
for script in postinst prerm postrm; do
	install -m 0755 "packaging/debian/$script" "$tree/DEBIAN/$script"
done
(cd "$tree" && find etc -type f | sort | sed 's,^,/,') >"$tree/DEBIAN/conffiles"
(cd "$tree" && find usr lib -type f -print0 | sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
cat >"$tree/DEBIAN/control" <<END
Package: chancery
Version: $version
Architecture: $arch
Maintainer: $maintainer
Installed-Size: $(du -ks "$tree" | cut -f1)
Depends: passwd
Recommends: ca-certificates, systemd
Suggests: postgresql, prometheus, nats-server
Section: net
Priority: optional
Description: certificate authority, ACME server and renewal engine in one program
 Chancery keeps the certificates of a fleet alive: it issues them (ACME, OCSP,
 CRLs), finds them (scans, clouds, Certificate Transparency), renews them from
 any authority, puts them into service, and shows and guards all of it through
 an API, a web UI and alerts.
 .
 It needs no other server: SQLite is inside. PostgreSQL and NATS carry several
 replicas.
END
# Times of the files are part of the package.
find "$tree" -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$(dirname "$file")"
dpkg-deb --root-owner-group "-Z${DEB_COMPRESS:-xz}" --build "$tree" "$file" >/dev/null
echo "$file"
