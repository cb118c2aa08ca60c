#!/bin/sh
# Process 1 of a lab machine: mounts, loads the modules, runs the job, hands everything back, powers off.
#
# The host listens on four virtio ports: "stdout" and "stderr" of the job, "files" (a tar of /out), and "control", where
# one line each says "ready", "exit <status>" and "done".
export PATH=/bin HOME=/root
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs tmp /run
mount -t tracefs trace /sys/kernel/tracing
mount -t debugfs debug /sys/kernel/debug
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs out /out

load() {
    while read -r module parameters; do
        # Parameters are words by intention.
        insmod "/lab/modules/$module" $parameters || echo "init: $module does not load"
    done < "/lab/$1"
}

# The path of the port with a name, once the driver has made it.
port() {
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        for entry in /sys/class/virtio-ports/*; do
            if [ "$(cat "$entry/name" 2>/dev/null)" = "$1" ]; then
                echo "/dev/${entry##*/}"
                return
            fi
        done
        sleep 0.1
    done
    echo /dev/console
}

load transport
stdout=$(port stdout)
stderr=$(port stderr)
files=$(port files)
control=$(port control)
exec 3> "$control"
echo ready >&3
load modules.list > "$stderr" 2>&1
cd /root
sh /lab/job < /dev/null > "$stdout" 2> "$stderr" 3>&-
echo "exit $?" >&3
if [ -n "$(ls -A /out)" ]; then
    tar -C /out -cf "$files" .
fi
echo done >&3
poweroff -f
