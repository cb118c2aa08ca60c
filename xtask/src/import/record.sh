# What docs/import.md tells, done in a lab machine: the tool and trace-cmd record the same guest at the same time.
cd /out
while read -r line; do
    echo "$line" >> /sys/kernel/tracing/kprobe_events || echo "$line" >> refused
done < /lab/kprobes
mkfifo /tmp/control
kvmdirty-trace demo-guest --mode="$MODE" --vcpus=2 --pages=128 --interval=50 --seconds=3600 < /tmp/control > guest.json &
guest=$!
exec 9> /tmp/control
until [ -s guest.json ]; do sleep 0.1; done
# Both tracers and an emulated CPU: the budget is for hosts that do something else as well.
kvmdirty-trace record --budget=400 --pid "$guest" --output native.kdt --ready-file ready 2> native.log &
native=$!
until [ -e ready ]; do sleep 0.1; done
echo go >&9
sleep 0.5
threads=$(echo $(ls /proc/$guest/task) | tr ' ' ,)
events="-C mono -e kvm -e kvmmmu -e raw_syscalls -P $threads"
{
    trace-cmd record $events -b 20000 -e kvmdirty --file-version 7 -o v7.dat sleep 0.4
    trace-cmd record $events -b 20000 -e kvmdirty --file-version 6 -o v6.dat sleep 0.4
    trace-cmd record $events -b 20000 --file-version 7 --compression none -o poor.dat sleep 0.4
    # A buffer that is read only afterwards, and too small: the oldest records are overwritten.
    trace-cmd start $events -b 64 -e kvmdirty
    sleep 1
    trace-cmd stop
    trace-cmd extract -o lossy.dat
    # Without the kernel's 100,000 symbols: tracer/tests/import/kprobes-v7.dat is such a file.
    grep '\[kvm\]' /proc/kallsyms | grep -E ' (mark_page_dirty|kvm_(get|clear)_dirty_log|fast_page)' > /tmp/kallsyms
    mount --bind /tmp/kallsyms /proc/kallsyms
    trace-cmd record $events -b 20000 -e kvmdirty -o small.dat sleep 0.1
    umount /proc/kallsyms
} > trace-cmd.log 2>&1
# The guest runs on: the end of a trace must not look like a loss.
kill -INT "$native"
wait "$native"
echo $? > native.status
echo stop >&9
wait "$guest"
