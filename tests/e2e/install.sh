#!/bin/sh
# Install what the end-to-end tests use: Debian's packages (as root), and version 2 of the AWS CLI,
# which is unpacked into .tools/ and not installed. Where nothing is missing, it does nothing. The
# tests need the programs only: no service is started.
set -eu
cd "$(dirname "$0")/../.."

export DEBIAN_FRONTEND=noninteractive
apt="apt-get -q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300"

missing() {
    ls /usr/lib/postgresql/*/bin/pg_ctl /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 \
        || echo postgresql
    ls /usr/lib/postgresql/*/bin/pgbench >/dev/null 2>&1 || echo postgresql-contrib
    ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || echo libfaketime
    [ -x /usr/sbin/sshd ] || echo openssh-server
    [ -x /usr/bin/python3 ] || echo python3 # runs version 2 of the AWS CLI
    missing_command curl curl
    missing_command jq jq
    missing_command ssh openssh-client
    missing_command tc iproute2
    missing_command nft nftables
    missing_command rsync rsync
    missing_command git git
    missing_command tmux tmux
    missing_command vim vim
    missing_command less less
    missing_command top procps
    missing_command nc netcat-openbsd
    missing_command proxychains4 proxychains4
    missing_command chromium chromium
    missing_command redis-server redis-server
    missing_command zsh zsh
    missing_command fish fish
    # Without any font a browser draws no text.
    [ -n "$(find /usr/share/fonts -name '*.ttf' 2>/dev/null | head -n 1)" ] \
        || echo fonts-dejavu-core
}

missing_command() { # missing_command COMMAND PACKAGE
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || echo "$2"
}

install_packages() {
    packages=$(missing)
    [ -n "$packages" ] || return 0
    echo "install.sh: missing: "$packages
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
        echo "install.sh: these need apt-get and root; the tests that use them will skip" >&2
        return 1
    fi

    # Debian starts what it installs, unless this file says no. One that is there already is kept.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    $apt update && $apt install --no-install-recommends $packages || return
    packages=$(missing)
    [ -z "$packages" ] || { echo "install.sh: still missing: "$packages >&2; return 1; }
}

cli=$PWD/.tools/aws-cli-v2

unpack_aws_cli() {
    "$cli/aws" --version 2>/dev/null | grep -q '^aws-cli/2\.' && return
    echo "install.sh: unpacking version 2 of the AWS CLI into $cli"
    if ! command -v apt-get >/dev/null || [ ! -x /usr/bin/python3 ]; then
        echo "install.sh: that is Debian's package; the tests that use it will skip" >&2
        return 1
    fi
    rm -rf "$cli"
    mkdir -p "$cli/debs/partial"
    # Into a folder of its own, which takes no root. What apt fetches it verifies, as ever.
    download="$apt -o Dir::Cache::archives=$cli/debs -o Debug::NoLocking=1 -o APT::Sandbox::User="
    if [ "$(id -u)" != 0 ]; then
        mkdir -p "$cli/lists/partial"
        download="$download -o Dir::State::lists=$cli/lists -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache="
    fi
    # The lists may be missing, or too old to fetch by.
    fetch_aws_cli 2>/dev/null || { $download update && fetch_aws_cli; } || return
    for deb in "$cli"/debs/*.deb; do
        dpkg-deb -x "$deb" "$cli" || return
    done
    rm -rf "$cli/debs" "$cli/lists"

    # Not by PYTHONPATH, which the plugin would inherit, and that may be another Python's.
    cat >"$cli/aws" <<PYTHON
#!/usr/bin/python3 -Es
import sys
sys.path.insert(1, "$cli/usr/lib/python3/dist-packages")
from awscli.clidriver import main
sys.exit(main())
PYTHON
    chmod +x "$cli/aws"
    "$cli/aws" --version | grep '^aws-cli/2\.' \
        || { echo "install.sh: that is not version 2, or does not run" >&2; return 1; }
}

fetch_aws_cli() { # with those of its dependencies that are not installed
    $download install --download-only --no-install-recommends awscli
}

outcome=0
install_packages || outcome=1
unpack_aws_cli || outcome=1
exit $outcome
