#!/bin/sh
# Install the Debian packages that the end-to-end tests use. Run as root; where nothing is missing,
# it does nothing. The tests need the programs only: no service is started.
set -eu

missing() {
    ls /usr/lib/postgresql/*/bin/pg_ctl /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 \
        || echo postgresql
    ls /usr/lib/postgresql/*/bin/pgbench >/dev/null 2>&1 || echo postgresql-contrib
    command -v curl >/dev/null || echo curl
    command -v ssh >/dev/null || echo openssh-client
    [ -x /usr/sbin/sshd ] || echo openssh-server
    PATH=$PATH:/usr/sbin:/sbin command -v tc >/dev/null || echo iproute2
    PATH=$PATH:/usr/sbin:/sbin command -v nft >/dev/null || echo nftables
    ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || echo libfaketime
}

packages=$(missing)
[ -n "$packages" ] || exit 0
echo "install.sh: missing: "$packages

if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "install.sh: this needs apt-get and root; the tests that use these packages will skip" >&2
    exit 1
fi

# Debian starts what it installs, unless this file says no. One that is there already is kept.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt="apt-get -q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300"
$apt update
$apt install --no-install-recommends $packages
[ -z "$(missing)" ] || { echo "install.sh: still missing: $(missing)" >&2; exit 1; }
