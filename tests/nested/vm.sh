#!/bin/sh
# Two named machines, made outside: one shares two directories and a port, the other nothing any more.
# A job of the emulated machine. $1: krunpy. $2: the directory of what is shared. Each step says its exit status.
krunpy=$1 shared=$2
mkdir -p "$shared/rw" "$shared/ro"
echo from-host >"$shared/rw/in"
echo for-reading >"$shared/ro/in"
chown -R 1000:1000 "$shared"

{ "$krunpy" vm start first 2>&1; echo "first: $?"; } &
fetch="exec 3<>/dev/tcp/127.0.0.1/18080; printf 'GET /index.html HTTP/1.0\r\n\r\n' >&3; grep served <&3"
for _ in $(seq 100); do
  answer=$(timeout 3 bash -c "$fetch" 2>/dev/null) && break
  sleep 0.5
done
echo "port: $answer"
touch "$shared/rw/end"
wait
echo "written: $(cat "$shared/rw/out"), read: $(cat "$shared/ro/in"), owner $(stat -c %u:%g "$shared/rw/out")"

"$krunpy" vm start second -- sh -c 'pwd; ls /data /srv; grep MemTotal /proc/meminfo; exit 34' 2>&1
echo "second: $?"
"$krunpy" vm delete first
echo "delete: $?"
ls -A "$KRUNPY_DATA_DIR/vms" /run/krunpy
