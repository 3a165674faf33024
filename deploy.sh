#!/bin/sh
# Installs Berth on a server, or tries it from a checkout. `deploy.sh --help` tells how.
#
# Plain POSIX sh, and everything is inside one pair of braces that the last line closes: a download that breaks
# off anywhere is a syntax error and runs nothing. The two modes share the small parts (what is missing, is a port free, does the daemon answer).
# What this script never does: restart or reconfigure a Docker Engine that is there, pipe anything it fetched
# into a shell (rustup's own installer apart, and only for --try), or remove data without being told to.
{
set -eu

usage() {
  cat <<'EOF'
Installs Berth on this server, or tries it from a checkout.

  curl -fsSL URL/deploy.sh | sudo sh -s -- --domain apps.example.org
  ./deploy.sh --try                 build, start and deploy an example, all below one data directory

Install (the default; running it again upgrades or does nothing):
  --version VERSION     this version (default: the newest at the base URL)
  --base-url URL        where archives are (BERTH_BASE_URL; https, or http on this machine)
  --domain NAME         base domain: an app is served at https://<app>.NAME, Berth itself at https://berth.NAME.
                        Certificates come from Let's Encrypt; installing so means that you agree to its terms
                        (https://letsencrypt.org/repository/)
  --email ADDRESS       where Let's Encrypt may write to about them
  --no-acme             order no certificates
  --data-dir DIR        default /var/lib/berth
  --http-port PORT      default 80
  --https-port PORT     default 443; served with certificates as above, or with yours:
  --tls-cert FILE --tls-key FILE   PEM files of a certificate for all names; none are ordered for apps then
  --control-port PORT   default 7700, on 127.0.0.1 only
  --bind ADDRESS        the address the proxy listens on (default: all)
  --no-docker           do not install Docker; only static apps will run until it is there
  --start               start the daemon also where no systemd runs
  --dry-run             check everything, print the plan, change nothing
  --prefix DIR          install below DIR instead of / (no root, no system user, no service)
  --uninstall           remove the program, keep the data; with --purge the data and settings too

Try (needs a checkout):
  --try                 install what is missing, build, start, deploy an example
  --try --stop          stop what --try started
  --try --clean         stop it and remove its data directory
  --data-dir DIR        default ~/.local/share/berth-try
  --release             build with all optimisations (takes several times as long)
  --binary FILE         use this program instead of building
  --no-docker           do not install or start Docker
  --prepare             only install what a build needs, then stop

The last line of an install is for programs: BERTH_INSTALL {"status": "installed|upgraded|unchanged|...", ...}
EOF
}

# ---------------------------------------------------------------------------------------------- settings

defaults() {
  MODE=install
  VERSION='' DOMAIN='' EMAIL='' DATA_DIR='' PREFIX='' BINARY='' BIND='' TLS_CERT='' TLS_KEY=''
  BASE_URL=${BERTH_BASE_URL:-}
  RELEASES=https://github.com/berth-dev/berth/releases
  HTTP_PORT='' HTTPS_PORT='' CONTROL_PORT=''
  WANT_DOCKER=1 WANT_ACME=1 WANT_START=0 DRY_RUN=0 PURGE=0 TRY_ACTION=run PROFILE=dev
  # Seconds to wait for the daemon's first answer: a start takes well under one, a migration may take more.
  WAIT_S=${BERTH_INSTALL_WAIT_S:-60}
  RUST_NEEDED=1.91 APT_UPDATED=0
  BLOCKERS='' WARNINGS='' SUMMARY_DONE=0 TEMP='' PREVIOUS=''
  if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    BOLD=$(printf '\033[1m') RED=$(printf '\033[31m') YELLOW=$(printf '\033[33m')
    GREEN=$(printf '\033[32m') RESET=$(printf '\033[0m')
  else
    BOLD='' RED='' YELLOW='' GREEN='' RESET=''
  fi
}

parse_arguments() {
  while [ $# -gt 0 ]; do
    case $1 in
      --version | --base-url | --domain | --email | --data-dir | --http-port | --https-port | --control-port | --bind | --prefix | --binary | --tls-cert | --tls-key)
        [ $# -ge 2 ] || die "$1 needs a value" "See deploy.sh --help."
        ;;
    esac
    case $1 in
      --try) MODE=try ;;
      --prepare) MODE=prepare ;;
      --uninstall) MODE=uninstall ;;
      --stop) TRY_ACTION=stop ;;
      --clean) TRY_ACTION=clean ;;
      --release) PROFILE=release ;;
      --no-docker) WANT_DOCKER=0 ;;
      --no-acme) WANT_ACME=0 ;;
      --start) WANT_START=1 ;;
      --dry-run) DRY_RUN=1 ;;
      --purge) PURGE=1 ;;
      --version) VERSION=${2#v} && shift ;;
      --base-url) BASE_URL=$2 && shift ;;
      --domain) DOMAIN=$2 && shift ;;
      --email) EMAIL=$2 && shift ;;
      --data-dir) DATA_DIR=$2 && shift ;;
      --http-port) HTTP_PORT=$2 && shift ;;
      --https-port) HTTPS_PORT=$2 && shift ;;
      --control-port) CONTROL_PORT=$2 && shift ;;
      --bind) BIND=$2 && shift ;;
      --tls-cert) TLS_CERT=$2 && shift ;;
      --tls-key) TLS_KEY=$2 && shift ;;
      --prefix) PREFIX=$2 && shift ;;
      --binary) BINARY=$2 && shift ;;
      -h | --help) usage && SUMMARY_DONE=1 && exit 0 ;;
      *) die "unknown option: $1" "See deploy.sh --help." ;;
    esac
    shift
  done
  check_arguments
}

# Whatever ends up in a URL, a unit or a TOML file has a narrow alphabet, so that nothing needs quoting later.
check_arguments() {
  for port in "$HTTP_PORT" "$HTTPS_PORT" "$CONTROL_PORT"; do
    case $port in
      *[!0-9]* | ??????*) die "not a port: $port" "Give a number from 1 to 65535." ;;
    esac
    [ -z "$port" ] || { [ "$port" -ge 1 ] && [ "$port" -le 65535 ]; } || die "not a port: $port" "Give a number from 1 to 65535."
  done
  case $VERSION in *[!0-9A-Za-z.+-]*) die "not a version: $VERSION" "A version looks like 0.1.0." ;; esac
  case $DOMAIN in *[!0-9A-Za-z.-]* | .* | -*) die "not a domain name: $DOMAIN" "Give a name like apps.example.org." ;; esac
  case $EMAIL in
    '') ;;
    *[!0-9A-Za-z.@_+-]* | *@*@* | @* | *@) die "not an e-mail address: $EMAIL" "Give one like you@example.org." ;;
    *@*) ;;
    *) die "not an e-mail address: $EMAIL" "Give one like you@example.org." ;;
  esac
  case $BIND in *[!0-9A-Fa-f.:]*) die "not an address: $BIND" "Give an IP address like 0.0.0.0 or ::." ;; esac
  for dir in "$DATA_DIR" "$PREFIX" "$TLS_CERT" "$TLS_KEY"; do
    case $dir in
      '') ;;
      *[!0-9A-Za-z._/@%+,-]*) die "unusual characters in the path $dir" "Use letters, digits and . _ - / only." ;;
      */../* | */..) die "the path $dir contains .." "Give it without." ;;
    esac
  done
  case $DATA_DIR in '' | /*) ;; *) DATA_DIR=$(pwd)/$DATA_DIR ;; esac
  case $PREFIX in '' | /*) ;; *) PREFIX=$(pwd)/$PREFIX ;; esac
  PREFIX=${PREFIX%/}
  if [ -n "$TLS_CERT$TLS_KEY" ]; then
    if [ ! -r "$TLS_CERT" ] || [ ! -r "$TLS_KEY" ]; then die "cannot read --tls-cert '$TLS_CERT' and --tls-key '$TLS_KEY'" "Give both, as PEM files."; fi
  fi
  if [ "$PURGE" = 1 ] && [ "$MODE" != uninstall ]; then die "--purge goes with --uninstall" "See deploy.sh --help."; fi
  if [ "$TRY_ACTION" != run ] && [ "$MODE" != try ]; then die "--$TRY_ACTION goes with --try" "See deploy.sh --help."; fi
}

# ------------------------------------------------------------------------------------------ talking to people

step() { printf '%s==>%s %s\n' "$BOLD$GREEN" "$RESET" "$*"; }
say() { printf '    %s\n' "$*"; }
warn() { printf '%swarning:%s %s\n' "$YELLOW" "$RESET" "$*" >&2; }

# die WHAT WHAT-TO-DO
die() {
  printf '%serror:%s %s\n' "$BOLD$RED" "$RESET" "$1" >&2
  [ -z "${2:-}" ] || printf '       %s\n' "$2" >&2
  summary failed "$1"
  exit 1
}

json_string() {
  printf '"%s"' "$(printf '%s' "$1" | tr '\n\t' '  ' | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g')"
}

# The line for programs; printed once, last, by every install and uninstall, also by one that failed.
# summary STATUS [ERROR]
summary() {
  [ "$SUMMARY_DONE" = 0 ] || return 0
  SUMMARY_DONE=1
  case $MODE in install | uninstall) ;; *) return 0 ;; esac
  printf 'BERTH_INSTALL {"status": %s' "$(json_string "$1")"
  [ -z "${2:-}" ] || printf ', "error": %s' "$(json_string "$2")"
  [ -z "$VERSION" ] || printf ', "version": %s' "$(json_string "$VERSION")"
  [ -z "$PREVIOUS" ] || printf ', "previous": %s' "$(json_string "$PREVIOUS")"
  [ -z "${CONTROL_URL:-}" ] || printf ', "control_url": %s, "mcp_url": %s' "$(json_string "$CONTROL_URL")" "$(json_string "$CONTROL_URL/mcp")"
  [ -z "${HTTP_URL:-}" ] || printf ', "http_url": %s' "$(json_string "$HTTP_URL")"
  printf ', "binary": %s, "data_dir": %s, "service": %s}\n' "$(json_string "${BIN:-}")" "$(json_string "${DATA:-}")" "$(json_string "${SERVICE:-none}")"
}

# shellcheck disable=SC2317 # called by the trap
on_exit() {
  status=$?
  trap - EXIT
  [ -z "$TEMP" ] || rm -rf "$TEMP"
  [ -z "${NEW_BIN:-}" ] || rm -f "$NEW_BIN"
  [ "$status" = 0 ] || summary failed "stopped with status $status"
  exit "$status"
}

# ------------------------------------------------------------------------------------------- this machine

have() { command -v "$1" >/dev/null 2>&1; }
am_root() { [ "$(id -u)" = 0 ]; }
systemd_runs() { [ -z "$PREFIX" ] && [ -d /run/systemd/system ]; }

as_root() {
  if am_root; then
    "$@" </dev/null
  elif have sudo; then
    sudo -- "$@"
  else
    die "this needs root: $*" "Run it as root, then start this script again."
  fi
}

# Facts of the machine, read below --prefix where a test put its own.
machine_file() { if [ -n "$PREFIX" ] && [ -e "$PREFIX$1" ]; then printf '%s' "$PREFIX$1"; else printf '%s' "$1"; fi; }

detect_machine() {
  os_release=$(machine_file /etc/os-release)
  OS=unknown OS_NAME='an unknown system'
  if [ -r "$os_release" ]; then
    OS=$(sed -n 's/^ID="\{0,1\}\([a-z0-9._-]*\)"\{0,1\}$/\1/p' "$os_release" | head -n 1)
    OS_NAME=$(sed -n 's/^PRETTY_NAME="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' "$os_release" | head -n 1)
  fi
  ARCH=$(uname -m)
  case $ARCH in amd64) ARCH=x86_64 ;; arm64) ARCH=aarch64 ;; esac
}

apt_install() {
  have apt-get || die "these packages are missing: $*" "Install them with this system's package manager, then start this script again."
  say "installing $*"
  if [ "$APT_UPDATED" = 0 ]; then
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq || warn "apt-get update failed; going on with the lists that are there"
    APT_UPDATED=1
  fi
  # NEEDRESTART_MODE=l: other services, Docker among them, are left running as they are.
  as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l \
    apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "$@" >/dev/null ||
    die "apt-get could not install: $*" "Look at the message above; 'apt-get install $*' by hand shows more."
}

# Who listens on TCP port $1: nothing if it is free, else "program (pid N)" or "another program".
port_holder() {
  hex=$(printf ':%04X' "$1")
  inodes=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v port="$hex" '$4 == "0A" && substr($2, length($2) - 4) == port { print $10 }')
  [ -n "$inodes" ] || return 0
  for inode in $inodes; do
    fd=$(find /proc/[0-9]*/fd -lname "socket:\[$inode\]" -print 2>/dev/null | head -n 1) || true
    if [ -n "$fd" ]; then
      pid=${fd#/proc/} && pid=${pid%%/*}
      printf '%s (pid %s)' "$(cat "/proc/$pid/comm" 2>/dev/null || echo process)" "$pid"
      return 0
    fi
  done
  printf 'another program'
}

# The first free port from $1 on.
free_port() {
  port=$1
  while [ -n "$(port_holder "$port")" ]; do port=$((port + 1)); done
  printf '%s' "$port"
}

# fetch URL FILE: over https, or over http from this very machine.
fetch() {
  case $1 in
    *@*) die "refusing a URL with credentials in it: $1" "Give --base-url without user and password." ;;
    https://*) set -- "$1" "$2" --proto '=https' --proto-redir '=https' ;;
    http://127.0.0.1[:/]* | http://localhost[:/]* | http://\[::1\][:/]*) set -- "$1" "$2" --proto '=http' --max-redirs 0 --noproxy '*' ;;
    *) die "refusing $1: neither https nor on this machine" "Give --base-url an https:// address." ;;
  esac
  url=$1 file=$2
  shift 2
  curl "$@" --fail --silent --show-error --location --retry 2 \
    --connect-timeout 15 --max-time 900 --output "$file" -- "$url"
}

# One string field of a small JSON file of ours.
json_number() { sed -n "s/.*\"$2\"[[:space:]]*:[[:space:]]*\([0-9][0-9]*\).*/\1/p" "$1" 2>/dev/null | head -n 1; }
json_field() { sed -n "s/.*\"$2\"[[:space:]]*:[[:space:]]*\"\([^\"]*\)\".*/\1/p" "$1" 2>/dev/null | head -n 1; }

# ------------------------------------------------------------------------------------------------- Docker

docker_socket() { case ${DOCKER_HOST:-} in unix://*) printf '%s' "${DOCKER_HOST#unix://}" ;; *) printf '/var/run/docker.sock' ;; esac; }

# Asked through the socket, because Debian has the engine without its command line as well.
docker_api() { # METHOD PATH SECONDS
  curl --noproxy '*' --silent --show-error --fail --max-time "$3" -X "$1" --unix-socket "$(docker_socket)" "http://localhost$2"
}
docker_answers() { have curl && [ -S "$(docker_socket)" ] && docker_api GET /_ping 5 >/dev/null 2>&1; }
docker_version() { docker_api GET /version 5 2>/dev/null | sed -n 's/.*"Version":"\([^"]*\)","ApiVersion".*/\1/p'; }
docker_installed() { have dockerd || [ -S "$(docker_socket)" ]; }

# docker_ready LOG: makes an engine answer if that is possible; says what it did. Returns 1 where there is none.
# One that is installed is started at most, never restarted; its settings are not touched.
docker_ready() {
  if docker_answers; then
    say "Docker Engine $(docker_version) answers: used as it is"
    return 0
  fi
  if [ "$WANT_DOCKER" = 0 ]; then return 1; fi
  if [ -S "$(docker_socket)" ] && [ ! -w "$(docker_socket)" ]; then
    warn "Docker is there, but $(id -un) may not use it: run this as root, or let an administrator add you to the group docker"
    return 1
  fi
  if ! docker_installed; then
    apt_install docker.io iptables
    # Where systemd runs, the package starts it.
    if systemd_runs && docker_wait 15; then
      say "Docker Engine $(docker_version) is installed and runs"
      return 0
    fi
  fi
  if systemd_runs; then
    say "starting Docker: systemctl start docker"
    as_root systemctl start docker || true
  elif [ -x /etc/init.d/docker ] && have service && as_root service docker start >/dev/null 2>&1 && docker_wait 10; then
    say "started Docker: service docker start"
  else
    start_dockerd "$1"
  fi
  if docker_wait 30; then
    say "Docker Engine $(docker_version) answers"
    return 0
  fi
  warn "Docker does not answer at $(docker_socket); apps that need a container will wait for it"
  return 1
}

docker_wait() {
  left=$(($1 * 2))
  while [ "$left" -gt 0 ]; do
    if docker_answers; then return 0; fi
    sleep 0.5
    left=$((left - 1))
  done
  return 1
}

start_dockerd() { # LOG
  say "starting dockerd in the background; it logs to $1"
  # Containers must not send packets larger than the way out takes.
  mtu=$(cat "/sys/class/net/$(ip -o route show default 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1)/mtu" 2>/dev/null || echo 1500)
  [ "$mtu" -le 1500 ] || mtu=1500
  if am_root; then
    setsid dockerd --mtu "$mtu" </dev/null >>"$1" 2>&1 &
  else
    as_root setsid -f dockerd --mtu "$mtu" >>"$1" 2>&1
  fi
}

# ------------------------------------------------------------------------------------------- the daemon

# healthy URL: the daemon answers.
healthy() { curl --noproxy '*' --silent --fail --output /dev/null --max-time 3 "$1/healthz"; }

# In braces, so that a process that is gone is no message.
command_line() { { tr '\0' ' ' <"/proc/$1/cmdline"; } 2>/dev/null; }

# Is the process in the pid file $1 one of ours? Prints its pid.
running_pid() {
  [ -s "$1" ] || return 1
  pid=$(tr -dc '0-9' <"$1")
  [ -n "$pid" ] && command_line "$pid" | grep -q 'berth.* serve' && printf '%s' "$pid"
}

# Has the process in the pid file $1 ended? One that was just started need not be the daemon yet; a zombie is gone.
ended() { [ -z "$(command_line "$(tr -dc '0-9' <"$1")")" ]; }

# stop_pid FILE: asks the daemon to leave and waits out its drain (30 s by default) before it insists.
stop_pid() {
  if pid=$(running_pid "$1"); then
    kill -TERM "$pid" 2>/dev/null || true
    left=90
    while [ "$left" -gt 0 ] && running_pid "$1" >/dev/null; do sleep 0.5 && left=$((left - 1)); done
    if pid=$(running_pid "$1"); then kill -KILL "$pid" 2>/dev/null || true; fi
  fi
  rm -f "$1"
}

# wait_healthy DATA [PIDFILE] [SECONDS]: until the daemon that wrote DATA/daemon.json answers, or its process is
# gone; sets CONTROL_URL, HTTP_URL.
wait_healthy() {
  left=$((${3:-$WAIT_S} * 5))
  while [ "$left" -gt 0 ]; do
    url=$(json_field "$1/daemon.json" control_url)
    if [ -n "$url" ] && healthy "$url"; then
      CONTROL_URL=${url%/}
      HTTP_URL=$(json_field "$1/daemon.json" http_url)
      return 0
    fi
    if [ -n "${2:-}" ] && ended "$2"; then return 1; fi
    sleep 0.2
    left=$((left - 1))
  done
  return 1
}

# print_connect URL TOKEN PROGRAM [JSON-TOKEN]: the lines to paste. TOKEN may be a $(cat ...) of the user's own
# shell; JSON-TOKEN then says what to put there.
print_connect() {
  say ""
  say "Connect Claude Code:"
  printf '%s\n' "claude mcp add --transport http berth $1/mcp --header \"Authorization: Bearer $2\""
  say ""
  say "Connect Claude Desktop (claude_desktop_config.json):"
  printf '{"mcpServers": {"berth": {"command": %s, "args": ["mcp"], "env": {"BERTH_URL": %s, "BERTH_TOKEN": %s}}}}\n' \
    "$(json_string "$3")" "$(json_string "$1")" "$(json_string "${4:-$2}")"
}

# ---------------------------------------------------------------------------------- what a build needs

rust_is_new_enough() {
  have cargo && have rustc || return 1
  version=$(rustc --version 2>/dev/null | sed -n 's/^rustc \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
  [ -n "$version" ] || return 1
  [ "${version% *}" -gt "${RUST_NEEDED%.*}" ] || { [ "${version% *}" = "${RUST_NEEDED%.*}" ] && [ "${version#* }" -ge "${RUST_NEEDED#*.}" ]; }
}

prepare_rust() {
  PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
  export PATH
  if rust_is_new_enough; then
    say "$(rustc --version) is new enough"
    return 0
  fi
  if ! have rustup && have apt-get && [ -n "$(apt-cache policy rustup 2>/dev/null | sed -n 's/^ *Candidate: \([0-9].*\)/\1/p')" ]; then
    apt_install rustup
  fi
  if have rustup; then
    say "installing Rust with rustup (minimal profile)"
    if rustup toolchain install stable --profile minimal --no-self-update; then rustup default stable || true; fi
  else
    say "installing Rust with rustup from https://sh.rustup.rs (minimal profile, PATH left alone)"
    if curl --proto '=https' --tlsv1.2 --silent --show-error --fail --output "$TEMP/rustup.sh" https://sh.rustup.rs; then
      sh "$TEMP/rustup.sh" -y --quiet --profile minimal --no-modify-path </dev/null || true
    fi
  fi
  hash -r
  rust_is_new_enough || die "no Rust $RUST_NEEDED or newer can be had here" \
    "Berth needs rustc >= $RUST_NEEDED. Install it from https://rustup.rs or from your distribution, then start this again."
}

prepare_build() {
  step "Looking for what a build needs"
  missing=''
  have cc || missing="$missing gcc libc6-dev"
  # Some of the C that is built in is C++ to its build files.
  have c++ || missing="$missing g++"
  have make || missing="$missing make"
  have cmake || missing="$missing cmake"
  have pkg-config || missing="$missing pkg-config"
  have git || missing="$missing git"
  have curl || missing="$missing curl"
  [ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
  # shellcheck disable=SC2086 # a list of package names
  if [ -n "$missing" ]; then apt_install $missing; else say "C compiler, cmake, pkg-config, git, curl: there"; fi
  prepare_rust
}

# ------------------------------------------------------------------------------------------------ --try

try_mode() {
  DATA=${DATA_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/berth-try}
  PID_FILE=$DATA/berth.pid LOG=$DATA/berth.log
  case $TRY_ACTION in
    stop) try_stop && return 0 ;;
    clean) try_clean && return 0 ;;
  esac
  find_checkout
  if [ -z "$BINARY" ]; then prepare_build && try_build; fi
  have curl || apt_install curl ca-certificates
  mkdir -p "$DATA"
  if [ ! -e "$DATA/.berth-try" ] && [ -n "$(ls -A "$DATA")" ]; then
    die "$DATA is not empty and was not made by --try" "Give another directory with --data-dir."
  fi
  chmod 700 "$DATA" && touch "$DATA/.berth-try"
  step "Looking for Docker"
  DOCKER=1
  docker_ready "$DATA/dockerd.log" || DOCKER=0
  [ "$DOCKER" = 1 ] || say "no Docker: the static example does not need it"
  try_start
  try_deploy
  try_tell
}

find_checkout() {
  case $0 in */*) SOURCE=$(cd "$(dirname "$0")" && pwd) ;; *) SOURCE=$(pwd) ;; esac
  [ -d "$SOURCE/evals/examples" ] || die "--try needs a checkout of Berth" \
    "git clone https://github.com/berth-dev/berth && cd berth && ./deploy.sh --try"
}

try_build() {
  # Outside the checkout, and the same place that .ci/test uses: the second command finds what the first built.
  CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/berth/target}
  CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}
  export CARGO_TARGET_DIR CARGO_INCREMENTAL
  case $PROFILE in
    release) folder=release && step "Building (release: 15 minutes and more on two cores, the first time)" ;;
    *) folder=debug && step "Building (unoptimised: 5 to 10 minutes on two cores, the first time; --release for the real speed)" ;;
  esac
  (cd "$SOURCE" && cargo build --locked -p berth --profile "$PROFILE") ||
    die "the build failed" "The compiler's message is above; a full disk and too little memory are the usual causes."
  BINARY=$CARGO_TARGET_DIR/$folder/berth
}

try_start() {
  # A copy, so that a later build does not pull the program away below a running daemon.
  if PID=$(running_pid "$PID_FILE") && cmp -s "$BINARY" "$DATA/berth" && wait_healthy "$DATA/data" "$PID_FILE"; then
    step "Berth is running already (pid $PID)"
    return 0
  fi
  stop_pid "$PID_FILE"
  step "Starting Berth"
  cp "$BINARY" "$DATA/berth.new" && chmod 755 "$DATA/berth.new" && mv -f "$DATA/berth.new" "$DATA/berth"
  rm -f "$DATA/data/daemon.json"
  CONTROL_PORT=${CONTROL_PORT:-7700} HTTP_PORT=${HTTP_PORT:-8080}
  control=$(free_port "$CONTROL_PORT") http=$(free_port "$HTTP_PORT")
  [ "$control" = "$CONTROL_PORT" ] || say "port $CONTROL_PORT is taken by $(port_holder "$CONTROL_PORT"): control listens on $control"
  [ "$http" = "$HTTP_PORT" ] || say "port $HTTP_PORT is taken by $(port_holder "$HTTP_PORT"): apps are served on $http"
  # A settings file of its own, so that one in /etc is not read here.
  [ -e "$DATA/berth.toml" ] || echo "# Settings of this trial; 'berth config' lists what there is." >"$DATA/berth.toml"
  setsid "$DATA/berth" serve --config "$DATA/berth.toml" --data-dir "$DATA/data" --http-addr "127.0.0.1:$http" \
    --control-addr "127.0.0.1:$control" --base-domain localhost --token-file "$DATA/token" </dev/null >>"$LOG" 2>&1 &
  echo $! >"$PID_FILE"
  wait_healthy "$DATA/data" "$PID_FILE" || {
    tail -n 20 "$LOG" >&2 || true
    stop_pid "$PID_FILE"
    die "the daemon ended, or did not answer within $WAIT_S s" "The end of its log is above; all of it is in $LOG."
  }
  # A daemon that has ended leaves nothing behind that says which containers were its.
  json_field "$DATA/data/daemon.json" instance >"$DATA/.berth-try"
  say "control at $CONTROL_URL, apps at $HTTP_URL"
}

# Neither uses nor changes the logins of whoever runs this.
try_cli() { env -u BERTH_CONTEXT BERTH_URL="$CONTROL_URL" BERTH_TOKEN="$(cat "$DATA/token")" XDG_CONFIG_HOME="$DATA/cli" "$DATA/berth" "$@"; }

try_deploy() {
  step "Deploying the examples"
  try_cli deploy "$SOURCE/evals/examples/static" --app hello || die "the example was not deployed" "The step that failed is above; the daemon's log is $LOG."
  APPS=hello
  [ "$DOCKER" = 1 ] || return 0
  if ! docker_api GET /images/python:3.12-slim/json 10 >/dev/null 2>&1; then
    say "fetching the base image of the second example, which runs in a container (two minutes at most)"
    docker_api POST '/images/create?fromImage=python&tag=3.12-slim' 120 >/dev/null 2>&1 || true
  fi
  if ! docker_api GET /images/python:3.12-slim/json 10 >/dev/null 2>&1; then
    say "python:3.12-slim cannot be had here: the container example is left out"
  elif try_cli deploy "$SOURCE/evals/examples/dockerfile" --app harbour; then
    APPS="$APPS harbour"
  else
    warn "the container example was not deployed; the static one runs"
  fi
}

try_tell() {
  port=${HTTP_URL##*:} && port=${port%%/*}
  step "Berth runs"
  for app in $APPS; do say "app      http://$app.localhost:$port/"; done
  say "control  $CONTROL_URL"
  if [ ! -e "$DATA/.token-shown" ]; then
    token=$(cat "$DATA/token")
    say "token    $token   (shown once; kept in $DATA/token)"
    : >"$DATA/.token-shown"
  else
    token="\$(cat $DATA/token)" hint="what is in $DATA/token"
    say "token    in $DATA/token"
  fi
  print_connect "$CONTROL_URL" "$token" "$DATA/berth" "${hint:-}"
  say ""
  say "Use it from here:  $DATA/berth login $CONTROL_URL --token-stdin <$DATA/token"
  say "                   $DATA/berth deploy YOUR-APP"
  say "Stop it:           ./deploy.sh --try --stop       Remove it: ./deploy.sh --try --clean"
}

try_stop() {
  if running_pid "$PID_FILE" >/dev/null; then
    step "Stopping Berth" && stop_pid "$PID_FILE" && say "stopped; its data is kept in $DATA"
  else
    say "nothing runs from $DATA"
  fi
}

try_clean() {
  [ -d "$DATA" ] || { say "nothing to remove: $DATA is not there" && return 0; }
  [ -e "$DATA/.berth-try" ] || die "$DATA was not made by --try" "Nothing was removed."
  # The daemon knows best what it made: containers, networks and images go with their apps.
  if running_pid "$PID_FILE" >/dev/null && wait_healthy "$DATA/data" "$PID_FILE" 5; then
    for app in $(try_cli app list --json | sed -n 's/^      "name": "\([a-z0-9-]*\)".*/\1/p'); do
      job=$(try_cli app delete "$app" --confirm "$app" --json | sed -n 's/^ *"job": "\([0-9a-f-]\{36\}\)".*/\1/p')
      # Deleting is a job of some seconds: stopping now would leave it for a start that does not come.
      if [ -n "$job" ] && try_cli job get "$job" --wait-s 50 >/dev/null; then say "deleted the app $app"; fi
    done
  fi
  instance=$(cat "$DATA/.berth-try")
  try_stop
  remove_containers "$instance"
  rm -rf "$DATA"
  say "removed $DATA; the build cache and Docker are left as they are"
}

# Removes the containers, networks and images that carry this instance's label, no others.
remove_containers() { # INSTANCE
  docker_answers || return 0
  case $1 in
    '' | *[!0-9A-Za-z-]*)
      say "containers of apps may be left in Docker: docker ps -a --filter label=berth.managed=true"
      return 0
      ;;
  esac
  filter="%7B%22label%22%3A%5B%22berth.instance%3D$1%22%5D%7D"
  for id in $(docker_api GET "/containers/json?all=true&filters=$filter" 30 | grep -o '"Id":"[0-9a-f]*"' | cut -d '"' -f 4); do
    docker_api DELETE "/containers/$id?force=true&v=true" 60 >/dev/null || warn "the container $id could not be removed"
  done
  for id in $(docker_api GET "/networks?filters=$filter" 30 | grep -o '"Id":"[0-9a-f]*"' | cut -d '"' -f 4); do
    docker_api DELETE "/networks/$id" 60 >/dev/null || warn "the network $id could not be removed"
  done
  for id in $(docker_api GET "/images/json?filters=$filter" 30 | grep -o '"Id":"sha256:[0-9a-f]*"' | cut -d '"' -f 4); do
    docker_api DELETE "/images/$id?force=true" 60 >/dev/null || warn "the image $id could not be removed"
  done
}

# ----------------------------------------------------------------------------------------------- install

install_paths() {
  BIN_DIR=$PREFIX/usr/local/bin
  BIN=$BIN_DIR/berth
  SHARE=$PREFIX/usr/local/share/berth
  CONFIG=$PREFIX/etc/berth/berth.toml
  UNIT=$PREFIX/etc/systemd/system/berth.service
  DATA=${DATA_DIR:-$PREFIX/var/lib/berth}
  RUN=$PREFIX/run/berth
  PID_FILE=$RUN/berth.pid
  LOG=$PREFIX/var/log/berth.log
  TOKEN_FILE=$DATA/first-token
  NEW_BIN=''
  # Settings that are there are kept, so they also say which ports matter.
  if [ -e "$CONFIG" ] && [ -n "$HTTP_PORT$HTTPS_PORT$CONTROL_PORT$DOMAIN$EMAIL$BIND$TLS_CERT" ] && [ "$MODE" = install ]; then
    caution "$CONFIG is kept as it is: change ports, addresses and domain there, then restart Berth."
  fi
  HTTP_PORT=$(setting_port http_addr "${HTTP_PORT:-80}")
  HTTPS_PORT=$(setting_port https_addr "${HTTPS_PORT:-443}")
  CONTROL_PORT=$(setting_port control_addr "${CONTROL_PORT:-7700}")
  DOMAIN=$(setting base_domain "$DOMAIN")
  if systemd_runs; then
    SERVICE=systemd
  elif [ "$WANT_START" = 1 ] || running_pid "$PID_FILE" >/dev/null; then
    SERVICE=background
  else
    SERVICE=none
  fi
}

# Whether certificates are to be ordered: for names that the world can know, and not where you bring one along.
orders_certificates() {
  [ "$WANT_ACME" = 1 ] && [ -z "$TLS_CERT" ] || return 1
  case $DOMAIN in
    localhost | *.localhost | *.local | *.internal | *.lan | *.home.arpa) return 1 ;;
    *.*) return 0 ;;
    *) return 1 ;;
  esac
}

# setting KEY OTHERWISE: what the settings file says; OTHERWISE where there is no such file or line.
setting() {
  value=$(sed -n "s/^$1[[:space:]]*=[[:space:]]*\"\([^\"]*\)\".*/\1/p" "$CONFIG" 2>/dev/null | head -n 1)
  if [ -e "$CONFIG" ] && [ -n "$value" ]; then printf '%s' "$value"; else printf '%s' "$2"; fi
}
# The same for what has no quotes.
setting_bare() { sed -n "s/^$1[[:space:]]*=[[:space:]]*\([a-z]*\).*/\1/p" "$CONFIG" 2>/dev/null | head -n 1; }
setting_port() {
  value=$(setting "$1" ":$2")
  printf '%s' "${value##*:}"
}

install_mode() {
  install_paths
  detect_machine
  step "Checking this machine"
  check_machine
  report_checks
  find_release
  if [ "$DRY_RUN" = 1 ]; then
    print_plan
    summary dry-run
    return 0
  fi
  ensure_docker
  if is_current; then
    unchanged
    return 0
  fi
  download_release
  PREVIOUS=$(version_of "$BIN")
  # A first install that did not get to its end is still the first.
  FIRST=1
  [ ! -e "$SHARE/archive.sha256" ] || FIRST=0
  make_account
  write_config
  activate
  finish_install
}

block() {
  BLOCKERS="$BLOCKERS
$1"
}
caution() {
  WARNINGS="$WARNINGS
$1"
}

# Everything that stands in the way is collected first, so that it is said at once.
check_machine() {
  case $OS in
    debian | ubuntu) say "$OS_NAME, $ARCH" ;;
    *) block "$OS_NAME is not supported: this installer knows Debian and Ubuntu. By hand: install Docker Engine, unpack berth-VERSION-ARCH-linux.tar.gz from the releases page, run 'berth serve' as a service." ;;
  esac
  case $ARCH in
    x86_64 | aarch64) ;;
    *) block "there is no archive for the processor $ARCH, only for x86_64 and aarch64: build it from a checkout with './deploy.sh --try --release'." ;;
  esac
  if [ -z "$PREFIX" ] && ! am_root; then
    block "this is run by $(id -un), and installing needs root: put sudo before it ('curl ... | sudo sh')."
  fi
  # An install brings it; a dry run brings nothing.
  if ! have curl && { [ "$DRY_RUN" = 1 ] || ! am_root || ! have apt-get; }; then block "curl is missing: apt-get install curl."; fi
  check_port "$HTTP_PORT" http block
  # Without a certificate nothing listens there yet.
  if [ -n "$TLS_CERT$(setting https_addr '')" ] || { [ ! -e "$CONFIG" ] && orders_certificates; }; then check_port "$HTTPS_PORT" https block; else check_port "$HTTPS_PORT" https caution; fi
  check_port "$CONTROL_PORT" control block
  check_memory
  check_disk
}

check_port() { # PORT WHAT-FOR block|caution
  holder=$(port_holder "$1")
  if [ -z "$holder" ]; then
    say "port $1 is free ($2)"
    return 0
  fi
  own=$(running_pid "$PID_FILE" || { systemd_runs && systemctl show -p MainPID --value berth 2>/dev/null; } || true)
  # Some containers hide even from root who listens; then these are the ports in the settings of what runs.
  if [ "$holder" = "another program" ] && [ "${own:-0}" != 0 ] && [ -e "$CONFIG" ]; then holder="berth (pid $own)"; fi
  case $holder in
    *"(pid ${own:-none})") say "port $1 is Berth's own ($2)" ;;
    *) "$3" "port $1 is taken by $holder: stop that, or choose another with --$2-port." ;;
  esac
}

check_memory() {
  kb=$(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' "$(machine_file /proc/meminfo)")
  mb=$((${kb:-0} / 1024))
  # A machine sold with 512 MB shows some 5 to 10 % less.
  if [ "$mb" -lt 440 ]; then
    block "$mb MB of memory: Berth with Docker wants 512 MB at least."
  elif [ "$mb" -lt 920 ]; then
    caution "$mb MB of memory is enough to run small apps; builds may fail below 1 GB (add swap, or build elsewhere and deploy an image)."
  else
    say "$mb MB of memory"
  fi
}

check_disk() {
  place=$DATA
  while [ ! -d "$place" ]; do place=$(dirname "$place"); done
  free_mb=$(($(df -Pk "$place" | awk 'NR == 2 { print $4 }') / 1024))
  if [ "$free_mb" -lt 1024 ]; then
    block "$free_mb MB free below $place: Berth and its first image need 1 GB at least."
  elif [ "$free_mb" -lt 5120 ]; then
    caution "$free_mb MB free below $place: 5 GB or more is comfortable for images and builds."
  else
    say "$free_mb MB free below $place"
  fi
}

report_checks() {
  printf '%s\n' "$WARNINGS" | while IFS= read -r line; do [ -z "$line" ] || warn "$line"; done
  [ -n "$BLOCKERS" ] || return 0
  printf '%s\n' "$BLOCKERS" | while IFS= read -r line; do
    [ -z "$line" ] || printf '%sin the way:%s %s\n' "$BOLD$RED" "$RESET" "$line" >&2
  done
  count=$(printf '%s\n' "$BLOCKERS" | grep -c .)
  die "$count thing(s) in the way; nothing was changed:$(printf '%s' "$BLOCKERS" | tr '\n' ' ')" "Mend what is named above, then run this again."
}

# Which version, and where its files are: sets VERSION, URL, NAME, CHECKSUM.
find_release() {
  have curl || apt_install curl ca-certificates
  TEMP=$(mktemp -d)
  if [ -n "$BASE_URL" ]; then
    URL=${BASE_URL%/}
  elif [ -n "$VERSION" ]; then
    URL=$RELEASES/download/v$VERSION
  else
    URL=$RELEASES/latest/download
  fi
  if [ -z "$VERSION" ]; then
    fetch "$URL/latest.json" "$TEMP/latest.json" || die "cannot read $URL/latest.json" "Check the network and --base-url, or name a version with --version."
    VERSION=$(json_field "$TEMP/latest.json" version)
    case $VERSION in
      '' | *[!0-9A-Za-z.+-]*) VERSION='' && die "$URL/latest.json names no version" "Name one with --version." ;;
    esac
  fi
  NAME=berth-$VERSION-$ARCH-linux
  fetch "$URL/$NAME.tar.gz.sha256" "$TEMP/sha256" || die "there is no $NAME.tar.gz.sha256 at $URL" "Check --version and --base-url."
  CHECKSUM=$(sed -n '1s/^\([0-9a-f]\{64\}\)\([[:space:]].*\)\{0,1\}$/\1/p' "$TEMP/sha256")
  [ -n "$CHECKSUM" ] || die "$URL/$NAME.tar.gz.sha256 holds no SHA-256" "The release is broken; take another version."
  say "version $VERSION at $URL"
}

version_of() {
  if [ -x "$1" ]; then "$1" --version 2>/dev/null | sed -n '1s/^berth \([0-9A-Za-z.+-]*\).*/\1/p' || true; fi
}

print_plan() {
  step "Plan"
  if docker_answers; then
    say "leave Docker Engine $(docker_version) as it is"
  elif docker_installed; then
    say "leave Docker as it is; it does not answer at the moment"
  elif [ "$WANT_DOCKER" = 1 ]; then
    say "install Docker Engine (docker.io) from the distribution"
  fi
  installed=$(version_of "$BIN")
  case $installed in
    '') say "install $BIN $VERSION" ;;
    "$VERSION") say "keep $BIN $VERSION, unless the archive differs" ;;
    *) say "upgrade $BIN from $installed to $VERSION" ;;
  esac
  if [ -e "$CONFIG" ]; then say "keep $CONFIG"; else say "write $CONFIG"; fi
  say "keep data in $DATA; start it by: $SERVICE"
  say "nothing was changed (--dry-run)"
}

ensure_docker() {
  [ "$WANT_DOCKER" = 1 ] || return 0
  step "Docker"
  if docker_answers; then
    say "Docker Engine $(docker_version) answers: left as it is"
  elif docker_installed; then
    warn "Docker is installed but does not answer; it is left alone. Start it ('systemctl start docker'); Berth picks it up by itself."
  elif [ "$SERVICE" = none ]; then
    apt_install docker.io iptables
    say "Docker Engine is installed; without systemd, start it with: dockerd &"
  else
    docker_ready "$PREFIX/var/log/dockerd.log" || true
  fi
}

# The same archive as last time, its program whole, its unit as this script would write it.
is_current() {
  [ "$(cat "$SHARE/archive.sha256" 2>/dev/null)" = "$CHECKSUM" ] && [ "$(version_of "$BIN")" = "$VERSION" ] && [ -e "$CONFIG" ] || return 1
  if [ -e "$UNIT" ]; then unit_text | cmp -s - "$UNIT" || return 1; fi
}

unchanged() {
  step "Berth $VERSION is installed already"
  if [ "$SERVICE" != none ] && ! answers_now; then
    say "it does not answer: starting it"
    start_service
    wait_service || daemon_failed
  fi
  [ -z "${CONTROL_URL:-}" ] || say "control  $CONTROL_URL"
  summary unchanged
}

answers_now() { wait_healthy "$DATA" '' 1; }

download_release() {
  step "Fetching $NAME.tar.gz"
  fetch "$URL/$NAME.tar.gz" "$TEMP/$NAME.tar.gz" || die "cannot fetch $URL/$NAME.tar.gz" "Check the network and --base-url."
  actual=$(sha256sum "$TEMP/$NAME.tar.gz" | cut -d ' ' -f 1)
  [ "$actual" = "$CHECKSUM" ] || die "the archive's SHA-256 is $actual, not $CHECKSUM: it is damaged or not the one that was released" \
    "Nothing was changed. Try again; if it stays so, do not install it."
  say "SHA-256 is right"
  if tar -tzf "$TEMP/$NAME.tar.gz" | grep -v "^$NAME/" | grep -q . || tar -tzf "$TEMP/$NAME.tar.gz" | grep -q '\.\.'; then
    die "the archive holds files outside $NAME/" "Nothing was changed. Do not install it."
  fi
  tar -xzf "$TEMP/$NAME.tar.gz" -C "$TEMP" --no-same-owner
  mkdir -p "$BIN_DIR"
  NEW_BIN=$BIN_DIR/.berth.new.$$
  cp "$TEMP/$NAME/berth" "$NEW_BIN" && chmod 755 "$NEW_BIN"
  [ "$(version_of "$NEW_BIN")" = "$VERSION" ] || die "the new program does not run here, or is not version $VERSION" \
    "Nothing was changed. It may need a newer system; './deploy.sh --try --release' from a checkout builds one for this system."
}

# A user of its own. In the group docker it could still become root by way of a container: it is the daemon that
# starts containers. The account keeps mistakes small; it is no wall.
make_account() {
  if [ -n "$PREFIX" ]; then
    mkdir -p "$DATA" "$RUN" "$PREFIX/var/log" && chmod 700 "$DATA"
    return 0
  fi
  getent group berth >/dev/null || groupadd --system berth
  getent passwd berth >/dev/null || useradd --system --gid berth --home-dir "$DATA" --no-create-home --shell /usr/sbin/nologin berth
  if getent group docker >/dev/null; then usermod --append --groups docker berth; fi
  mkdir -p "$DATA" "$RUN"
  chown berth:berth "$DATA" && chmod 700 "$DATA"
}

listen_address() { # PORT
  case $BIND in
    *:*) printf '[%s]:%s' "$BIND" "$1" ;;
    ?*) printf '%s:%s' "$BIND" "$1" ;;
    # [::] takes IPv4 as well, but not on a machine without IPv6.
    *) if [ -s /proc/net/if_inet6 ]; then printf '[::]:%s' "$1"; else printf '0.0.0.0:%s' "$1"; fi ;;
  esac
}

write_config() {
  if [ -e "$CONFIG" ]; then
    say "$CONFIG is kept as it is"
    return 0
  fi
  mkdir -p "$(dirname "$CONFIG")"
  {
    echo "# Berth's settings. 'berth config' shows every one, and where its value comes from."
    printf 'data_dir = "%s"\n' "$DATA"
    printf 'http_addr = "%s"\n' "$(listen_address "$HTTP_PORT")"
    if [ -n "$TLS_CERT" ]; then
      printf 'https_addr = "%s"\ntls_cert = "%s"\ntls_key = "%s"\n' "$(listen_address "$HTTPS_PORT")" "$TLS_CERT" "$TLS_KEY"
    elif orders_certificates; then
      printf 'https_addr = "%s"\n' "$(listen_address "$HTTPS_PORT")"
      echo "# You agree to the terms of service of Let's Encrypt: https://letsencrypt.org/repository/"
      echo 'acme = true'
      if [ -n "$EMAIL" ]; then printf 'acme_email = "%s"\n' "$EMAIL"; else echo '# acme_email = "you@example.org"'; fi
      printf 'public_url = "%s"\n' "$(public_url)"
    fi
    printf 'control_addr = "127.0.0.1:%s"\n' "$CONTROL_PORT"
    if [ -n "$DOMAIN" ]; then printf 'base_domain = "%s"\n' "$DOMAIN"; else echo '# base_domain = "apps.example.org"'; fi
  } >"$CONFIG.new"
  if [ -z "$PREFIX" ]; then chown root:berth "$CONFIG.new" && chmod 640 "$CONFIG.new"; fi
  mv "$CONFIG.new" "$CONFIG"
}

# Where Berth itself answers over HTTPS.
public_url() {
  if [ "$HTTPS_PORT" = 443 ]; then printf 'https://berth.%s' "$DOMAIN"; else printf 'https://berth.%s:%s' "$DOMAIN" "$HTTPS_PORT"; fi
}

unit_text() {
  cat <<EOF
# Written by Berth's installer; put your own settings into a drop-in (systemctl edit berth).
[Unit]
Description=Berth, a self-hosted platform for apps
Documentation=https://github.com/berth-dev/berth
Wants=network-online.target
After=network-online.target docker.service

[Service]
Type=notify
NotifyAccess=main
ExecStart=$BIN serve --config $CONFIG --token-file $TOKEN_FILE
# Hands over to the program that is installed now: no connection is refused, no request cut.
ExecReload=/bin/kill -USR2 \$MAINPID
# Listening sockets outlive a restart and a crash.
FileDescriptorStoreMax=8
Restart=always
RestartSec=1
TimeoutStartSec=60
TimeoutStopSec=60
KillMode=mixed
User=berth
Group=berth
Environment=HOME=$DATA
# Memory that was freed goes back to the system after 10 ms: a second, the allocator's own choice, keeps what a burst took.
Environment=MIMALLOC_PURGE_DELAY=10
UMask=0077
LimitNOFILE=1048576
TasksMax=infinity
OOMScoreAdjust=-500

AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths=$DATA
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=multi-user.target
EOF
}

# Swap and have the running daemon hand over; where it cannot: stop, swap, start, and back again if the new program
# does not answer.
activate() {
  step "Installing Berth $VERSION${PREVIOUS:+ over $PREVIOUS}"
  if can_hand_over; then
    swap_program
    hand_over
    return 0
  fi
  stop_service
  back_up
  swap_program
  [ "$SERVICE" != none ] || return 0
  start_service
  wait_service || roll_back
  rm -rf "$DATA/before-upgrade"
}

swap_program() {
  if [ -e "$BIN" ]; then rm -f "$BIN.previous" && ln "$BIN" "$BIN.previous"; fi
  mv -f "$NEW_BIN" "$BIN"
  NEW_BIN=''
  if [ "$SERVICE" = systemd ] || [ -n "$PREFIX" ]; then
    mkdir -p "$(dirname "$UNIT")"
    if [ -e "$UNIT" ]; then cp -p "$UNIT" "$TEMP/unit.previous"; fi
    unit_text >"$UNIT.new" && mv "$UNIT.new" "$UNIT"
  fi
}

# The running daemon, if it is one that can hand over. An older one would take the signal for its end.
can_hand_over() {
  [ "$SERVICE" != none ] && [ -n "$PREVIOUS" ] && "$BIN" upgrade --help >/dev/null 2>&1 || return 1
  [ "$(json_field "$DATA/daemon.json" version)" = "$PREVIOUS" ] && answers_now || return 1
  RUNNING=$(json_number "$DATA/daemon.json" pid)
  [ -n "$RUNNING" ] && command_line "$RUNNING" | grep -q 'berth.* serve'
}

# The new process takes the sockets, and opens the store when the old one has closed it. If it fails, the old one goes
# on, with the database as it was; then its program comes back as well.
hand_over() {
  if [ "$SERVICE" = systemd ]; then systemctl daemon-reload; fi
  kill -USR2 "$RUNNING"
  left=$((WAIT_S * 5))
  while [ "$left" -gt 0 ]; do
    pid=$(json_number "$DATA/daemon.json" pid)
    if [ -n "$pid" ] && [ "$pid" != "$RUNNING" ] && answers_now; then
      if [ "$SERVICE" != systemd ]; then echo "$pid" >"$PID_FILE"; fi
      say "version $VERSION has taken over; requests that were open end in the process before"
      return 0
    fi
    sleep 0.2
    left=$((left - 1))
  done
  show_log
  cp -p "$BIN.previous" "$BIN.restored" && mv -f "$BIN.restored" "$BIN"
  if [ -e "$TEMP/unit.previous" ]; then cp -p "$TEMP/unit.previous" "$UNIT"; fi
  if [ "$SERVICE" = systemd ]; then systemctl daemon-reload; fi
  die "version $VERSION did not take over within $WAIT_S s; version $PREVIOUS goes on, and is installed again" "The log is above; tell us what it says."
}

# The new program may bring the database forward before it fails, and the previous one would refuse it then.
back_up() {
  rm -rf "$DATA/before-upgrade"
  if [ -z "$PREVIOUS" ] || [ ! -e "$DATA/berth.db" ]; then return 0; fi
  mkdir -m 700 "$DATA/before-upgrade"
  for file in "$DATA/berth.db" "$DATA/berth.db-wal"; do
    [ -e "$file" ] || continue
    cp -p --reflink=auto "$file" "$DATA/before-upgrade/" || die "cannot back up the database below $DATA" "Make room on that disk, then run this again."
  done
}

roll_back() {
  show_log
  stop_service
  if [ -z "$PREVIOUS" ] || [ ! -e "$BIN.previous" ]; then daemon_failed; fi
  warn "version $VERSION ended, or did not answer within $WAIT_S s: putting $PREVIOUS back"
  cp -p "$BIN.previous" "$BIN.restored" && mv -f "$BIN.restored" "$BIN"
  if [ -e "$TEMP/unit.previous" ]; then cp -p "$TEMP/unit.previous" "$UNIT"; fi
  if [ -d "$DATA/before-upgrade" ]; then
    rm -f "$DATA/berth.db" "$DATA/berth.db-wal" "$DATA/berth.db-shm"
    cp -p --reflink=auto "$DATA"/before-upgrade/* "$DATA/" && rm -rf "$DATA/before-upgrade"
  fi
  failed=$VERSION VERSION=$PREVIOUS PREVIOUS=''
  start_service
  if wait_service; then
    die "version $failed did not answer; version $VERSION is back and answers" "The log is above; tell us what it says."
  fi
  die "version $failed did not answer, and neither does version $VERSION now" "Look at the log: $(log_place)."
}

daemon_failed() {
  die "the daemon ended, or did not answer within $WAIT_S s" "Its log: $(log_place). The program stays installed; run this again when the cause is mended."
}

log_place() { if [ "$SERVICE" = systemd ]; then printf 'journalctl -u berth'; else printf '%s' "$LOG"; fi; }

show_log() {
  if [ "$SERVICE" = systemd ]; then
    journalctl -u berth -n 20 --no-pager >&2 || true
  else
    tail -n 20 "$LOG" >&2 2>/dev/null || true
  fi
}

stop_service() {
  if [ "$SERVICE" = systemd ]; then
    # Also while it restarts over and over: that is not "active".
    if [ -e "$UNIT" ]; then systemctl stop berth || true; fi
  else
    stop_pid "$PID_FILE"
  fi
}

start_service() {
  rm -f "$DATA/daemon.json"
  if [ "$SERVICE" = systemd ]; then
    systemctl daemon-reload
    systemctl enable --quiet berth
    # Not waited for here: wait_service does that, and shows the log of a failure.
    systemctl reset-failed berth 2>/dev/null || true
    systemctl start --no-block berth
    return 0
  fi
  mkdir -p "$RUN"
  set -- "$BIN" serve --config "$CONFIG" --token-file "$TOKEN_FILE"
  if [ -z "$PREFIX" ]; then
    # As the unit does it: its own account, and of root's powers only the low ports.
    set -- setpriv --reuid berth --regid berth --init-groups --bounding-set=-all,+net_bind_service \
      --inh-caps=-all,+net_bind_service --ambient-caps=-all,+net_bind_service --no-new-privs env HOME="$DATA" "$@"
  fi
  setsid "$@" </dev/null >>"$LOG" 2>&1 &
  echo $! >"$PID_FILE"
}

wait_service() {
  if [ "$SERVICE" = systemd ]; then wait_healthy "$DATA"; else wait_healthy "$DATA" "$PID_FILE"; fi
}

finish_install() {
  rm -rf "$SHARE.new" && mkdir -p "$SHARE.new"
  # Licences, README and completions.
  (cd "$TEMP/$NAME" && rm -f berth && cp -R . "$SHARE.new/")
  echo "$CHECKSUM" >"$SHARE.new/archive.sha256"
  rm -rf "$SHARE" && mv "$SHARE.new" "$SHARE"
  if [ "$SERVICE" = none ]; then
    step "Berth $VERSION is installed"
    say "no systemd runs here. Start it yourself (or run this again with --start):"
    say "$BIN serve --config $CONFIG --token-file $TOKEN_FILE"
  else
    step "Berth $VERSION runs"
    tell_addresses
  fi
  if [ "$FIRST" = 1 ]; then summary installed; else summary upgraded; fi
}

tell_addresses() {
  port=:$HTTP_PORT
  [ "$port" != :80 ] || port=''
  if [ "$(setting_bare acme)" = true ]; then
    [ "$HTTPS_PORT" = 443 ] && port='' || port=:$HTTPS_PORT
    say "apps     https://<app>.$DOMAIN$port, with certificates of Let's Encrypt"
    say "         for that, *.$DOMAIN must lead to this machine in DNS, with ports 80 and 443 open"
    say "control  $(setting public_url '') as soon as DNS leads here"
  else
    say "apps     http://<app>.${DOMAIN:-localhost}$port"
  fi
  if [ -z "$DOMAIN" ]; then
    say "         no --domain was given: set base_domain in $CONFIG, point *.that-domain at this machine, restart"
  fi
  control_port=${CONTROL_URL##*:}
  say "control  $CONTROL_URL, on this machine only. From yours, through SSH:"
  say "         ssh -N -L $control_port:127.0.0.1:$control_port root@$(uname -n)"
  [ -s "$TOKEN_FILE" ] || return 0
  token=$(cat "$TOKEN_FILE") && rm -f "$TOKEN_FILE"
  say "token    $token"
  say "         shown this once and kept nowhere in the clear: put it into your password manager"
  print_connect "$CONTROL_URL" "$token" berth
  say ""
  say "Then, in a project: berth login $CONTROL_URL && berth deploy"
}

# --------------------------------------------------------------------------------------------- uninstall

uninstall_mode() {
  install_paths
  [ -n "$PREFIX" ] || am_root || die "uninstalling needs root" "Put sudo before it."
  VERSION=$(version_of "$BIN")
  step "Removing Berth"
  if [ "$DRY_RUN" = 1 ]; then
    say "would remove $BIN, $SHARE and $UNIT"
    if [ "$PURGE" = 1 ]; then say "would remove $DATA, $(dirname "$CONFIG") and the apps' containers"; fi
    summary dry-run
    return 0
  fi
  instance=$(json_field "$DATA/daemon.json" instance)
  stop_service
  if systemd_runs && [ -e "$UNIT" ]; then systemctl disable --quiet berth || true; fi
  rm -f "$BIN" "$BIN.previous" "$UNIT" "$PID_FILE"
  rm -rf "$SHARE"
  if systemd_runs; then systemctl daemon-reload; fi
  if [ "$PURGE" = 1 ]; then
    purge "$instance"
    summary purged
  else
    say "kept: the data in $DATA, the settings in $CONFIG, Docker and the apps' containers"
    say "remove data, settings and containers too: deploy.sh --uninstall --purge"
    summary uninstalled
  fi
}

purge() { # INSTANCE
  if [ -d "$DATA" ] && [ -n "$(ls -A "$DATA")" ] && [ ! -e "$DATA/secret.key" ] && [ ! -e "$DATA/daemon.json" ]; then
    die "$DATA does not look like Berth's data" "It was left alone; the program is removed."
  fi
  remove_containers "$1"
  rm -rf "$DATA" "$(dirname "$CONFIG")" "$RUN" "$LOG"
  if [ -z "$PREFIX" ]; then
    if getent passwd berth >/dev/null; then userdel berth || true; fi
    if getent group berth >/dev/null; then groupdel berth || true; fi
  fi
  say "removed $DATA and $(dirname "$CONFIG"); Docker is left as it is"
}

# ---------------------------------------------------------------------------------------------------- main

prepare_mode() {
  prepare_build
  if [ "$WANT_DOCKER" = 1 ]; then
    step "Looking for Docker"
    docker_ready "${TMPDIR:-/tmp}/dockerd.log" || true
  fi
}

main() {
  defaults
  trap on_exit EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  parse_arguments "$@"
  case $MODE in
    try) TEMP=$(mktemp -d) && try_mode ;;
    prepare) TEMP=$(mktemp -d) && prepare_mode ;;
    uninstall) uninstall_mode ;;
    install) install_mode ;;
  esac
}

main "$@"
exit
}
