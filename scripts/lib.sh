# Shared by the scripts beside it: paths, messages, packages, the list of programs. Source it; it is not run.
# shellcheck shell=bash
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${VGPU_BUILD_DIR:-$root/build} # a bundle for another machine has the same folders
programs_list=$root/tests/programs/programs.tsv
# shellcheck disable=SC2034
nvidia=$build/cuda/nvidia # NVIDIA's compiler and libraries, by pip

say() { printf '[%4ds] %s\n' "$SECONDS" "$*" >&2; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# die_with_log LOG MESSAGE…: the message, the log's path and its end.
die_with_log() {
    local log=$1
    shift
    {
        printf '%s: %s\nlast lines of %s:\n' "${0##*/}" "$*" "$log"
        tail -n 25 "$log" | sed 's/^/    /'
    } >&2
    exit 1
}

# logged LOG WHAT COMMAND…: runs the command quietly, shows its log only if it fails.
logged() {
    local log=$1 what=$2
    shift 2
    mkdir -p "$(dirname "$log")"
    say "$what"
    "$@" > "$log" 2>&1 < /dev/null || die_with_log "$log" "$what failed"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo > /dev/null; then
        sudo "$@"
    else
        die "this needs root or sudo: $*"
    fi
}

has_package() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2> /dev/null)" = installed ]; }

# need_apt PACKAGE…: installs those that are missing, from the machine's own sources.
need_apt() {
    local missing=() package
    for package; do
        has_package "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get > /dev/null || die "install these packages first (there is no apt-get here): ${missing[*]}"
    logged "$build/log/apt-update.log" "apt: refreshing the package lists" as_root apt-get update
    logged "$build/log/apt-install.log" "apt: installing ${missing[*]}" \
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

need_cargo() {
    if ! command -v cargo > /dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    fi
    command -v cargo > /dev/null ||
        die "no Rust toolchain: cargo is not on the PATH. Install Rust (rustup, or your distribution's rustc and cargo if they are new enough), then run this again"
}

# need_file FILE SCRIPT: says which script makes the file if it is missing.
need_file() { [ -e "$1" ] || die "$1 is missing: run ./scripts/$2 first"; }

# A GPU counts as present when NVIDIA's driver library loads.
has_gpu() { [ -z "$(LD_PRELOAD=libcuda.so.1 /bin/true 2>&1)" ]; }

# wait_for SECONDS PID PATH: until the path exists; fails at once when the process is gone.
wait_for() {
    local steps=$(($1 * 50))
    while [ ! -e "$3" ]; do
        kill -0 "$2" 2> /dev/null || return 1
        [ $((steps--)) -gt 0 ] || return 1
        sleep 0.02
    done
}

# ldd FILE… | copy_libraries TREE: the shared libraries that the files need, with the loader, where the loader of a system in TREE looks
# for them; not the build's own. Whether ldd may fail is the caller's to say.
copy_libraries() {
    local library
    mkdir -p "$1/lib/x86_64-linux-gnu" "$1/lib64"
    grep -o '/[^ ]*' | grep -v ':$' | sort -u | while read -r library; do
        case $library in
            */ld-linux-x86-64.so.2) cp -L "$library" "$1/lib64/" ;;
            "$build"/*) ;;
            *) cp -L "$library" "$1/lib/x86_64-linux-gnu/" ;;
        esac
    done
}

# program_runs soft|gpu: one line per program file: FILE LIMIT GUEST ARGUMENTS, separated by tabs.
program_runs() {
    local name variants soft gpu guest limit variant arguments
    while IFS=$'\t' read -r name variants soft gpu guest limit; do
        case $name in '' | \#*) continue ;; esac
        arguments=$soft
        [ "$1" = soft ] || arguments=$gpu
        [ "$arguments" != - ] || arguments=
        for variant in ${variants//,/ }; do
            case $variant in
                static13 | driver | loader) printf '%s\t%s\t%s\t%s\n' "$name" "$limit" "$guest" "$arguments" ;;
                *) printf '%s\t%s\t%s\t%s\n' "$name.$variant" "$limit" "$guest" "$arguments" ;;
            esac
        done
    done < "$programs_list"
}
