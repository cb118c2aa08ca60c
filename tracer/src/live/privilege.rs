//! The capabilities tracing takes, and which of them this process lacks.

/// A capability tracing takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Its name.
    pub name: &'static str,
    bit: u32,
    /// What it is for.
    pub purpose: &'static str,
}

/// Every capability tracing takes. `CAP_SYS_ADMIN` stands in for all but `CAP_SYSLOG` and `CAP_SYS_PTRACE`.
pub const NEEDED: [Capability; 4] = [
    Capability { name: "CAP_BPF", bit: 39, purpose: "create BPF maps and load programs" },
    Capability { name: "CAP_PERFMON", bit: 38, purpose: "attach to kprobes and tracepoints" },
    Capability { name: "CAP_SYSLOG", bit: 34, purpose: "see kernel addresses in /proc/kallsyms" },
    Capability { name: "CAP_SYS_PTRACE", bit: 19, purpose: "find the VMs of another process" },
];

const CAP_SYS_ADMIN: u32 = 21;

/// The capabilities of [`NEEDED`] this process lacks.
#[must_use]
pub fn missing() -> Vec<Capability> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    missing_of(effective(&status))
}

/// How to grant every capability of [`NEEDED`] to this program.
pub const GRANT: &str = "run as root, or `sudo setcap cap_bpf,cap_perfmon,cap_syslog,cap_sys_ptrace,cap_sys_resource+ep \
                         $(command -v kvmdirty-trace)`";

/// [`missing`] as text, for an error.
#[must_use]
pub fn missing_text() -> String {
    let names: Vec<_> = missing().iter().map(|capability| capability.name).collect();
    if names.is_empty() {
        "access past this host's security policy (lockdown, seccomp, an LSM)".to_owned()
    } else {
        names.join(", ")
    }
}

fn missing_of(effective: u64) -> Vec<Capability> {
    let has = |bit: u32| effective & 1 << bit != 0;
    NEEDED
        .into_iter()
        .filter(|capability| {
            let is_covered =
                matches!(capability.name, "CAP_BPF" | "CAP_PERFMON") && has(CAP_SYS_ADMIN);
            !has(capability.bit) && !is_covered
        })
        .collect()
}

/// The effective set of `/proc/self/status`.
fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(effective: u64) -> Vec<&'static str> {
        missing_of(effective).iter().map(|capability| capability.name).collect()
    }

    #[test]
    fn admin_stands_in_for_bpf_and_perfmon() {
        assert_eq!(names(1 << 21), ["CAP_SYSLOG", "CAP_SYS_PTRACE"]);
        assert_eq!(names(0).len(), 4);
        assert_eq!(names(u64::MAX), [] as [&str; 0]);
    }

    #[test]
    fn the_effective_set_is_hexadecimal() {
        assert_eq!(effective("Name:\tx\nCapEff:\t000001fffeffffff\n"), 0x1ff_feff_ffff);
    }
}
