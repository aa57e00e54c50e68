# Runs in the guest, by systemd. The first command that fails ends it.
set -eu
export SYSTEMD_COLORS=0 SYSTEMD_URLIFY=0 SYSTEMD_EMOJI=0 LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin
trap 'echo "check: ended with status $?"; systemctl poweroff --force' EXIT
unit=whyrst-record.service
say() { echo "check: $*"; }
property() { systemctl show --property "$1" --value "$unit"; }
fail() {
    say "$*"
    journalctl --no-pager --unit "$unit"
    exit 1
}

dpkg --install /whyrst.deb
say "installed: $(whyrst -V)"
test "$(systemctl is-active "$unit" || true)" = inactive || fail "it runs without having been asked for"

# A journal that is followed ends with the first line that says what is waited for.
await() { timeout 300 journalctl --follow --lines=all --unit "$unit" | grep -q -m 1 "$1" || fail "it does not say: $1"; }
systemctl start "$unit"
await 'waiting for nf_conntrack'
modprobe nf_conntrack
await 'listening to'
say "listening: $(journalctl --output cat --no-pager --unit "$unit" | grep -m 1 'listening to')"
pid=$(property MainPID)
say "capabilities it can have: $(sed -n 's/^CapBnd:\t//p' "/proc/$pid/status"), it has: $(sed -n 's/^CapEff:\t//p' "/proc/$pid/status")"

# Resets in namespaces that come after it. The lab also checks the report of a second whyrst.
/lab run seq-over || fail "the lab has failed"
systemctl reload "$unit"
/lab run seq-over || fail "the lab has failed"

say "memory: $(($(cat "/sys/fs/cgroup/system.slice/$unit/memory.peak") / 1024)) KiB at most, limit $(property MemoryMax)"
systemctl stop "$unit"
test "$(property Result)" = success || fail "it ended with $(property Result), $(property ExecMainStatus)"
test "$(property NRestarts)" = 0 || fail "it was started again"
test "$(stat -c %a /var/log/whyrst)" = 700 || fail "others can list the recordings"
test -z "$(find /var/log/whyrst -type f ! -perm 600)" || fail "others can read the recordings"
files=$(find /var/log/whyrst -type f | wc -l)
test "$files" = 2 || fail "there are $files files, where a reload has begun the second: $(ls /var/log/whyrst)"
whyrst report --from /var/log/whyrst --format json >/tmp/report.json
count=$(grep -c '"cause": "out-of-window"' /tmp/report.json || true)
test "$count" -ge 2 || fail "its recordings hold $count flows: $(whyrst report --from /var/log/whyrst)"
say "recorded: $files files, $(whyrst report --from /var/log/whyrst | grep -c out-of-window) lines about out-of-window"
say "$(systemd-analyze security --no-pager "$unit" | tail -n 1)"

dpkg --purge whyrst
for path in /etc/whyrst.toml /var/log/whyrst /usr/bin/whyrst /usr/lib/systemd/system/"$unit"; do
    test ! -e "$path" || fail "$path is left"
done
test "$(systemctl show --property LoadState --value "$unit")" = not-found || fail "systemd still knows it"
say passed
