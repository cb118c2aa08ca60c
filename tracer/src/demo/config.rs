//! What a demo guest is asked to do, as flags and as a value.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::demo::DemoError;
use crate::demo::layout::{DATA_PAGES_MAX, SLOTS_MAX, VCPUS_MAX};
use crate::demo::workload::Workload;

/// How the dirty log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// `KVM_GET_DIRTY_LOG`, which takes the bits and protects the pages in one call.
    Get,
    /// `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`: GET reads, `KVM_CLEAR_DIRTY_LOG` takes and protects in
    /// chunks.
    Manual,
    /// As `manual`, with every page reported dirty from the start (`KVM_DIRTY_LOG_INITIALLY_SET`).
    ManualInitset,
    /// One dirty ring per vCPU (`KVM_CAP_DIRTY_LOG_RING`), read from memory and given back by
    /// RESET.
    Ring,
}

/// In which order the guest writes the pages it has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Even vCPUs randomly, odd ones sequentially.
    Mixed,
    /// One page after the other.
    Sequential,
    /// Randomly, most stores in a hot eighth of the pages.
    Random,
    /// One page after the other, all stores between two exits to the same one; no page is shared.
    Streaks,
}

/// Which CPUs the vCPUs keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pinning {
    /// Each a CPU of its own, the first the last CPU.
    Apart,
    /// All the last CPU, so that they preempt each other.
    Together,
}

/// What the guest's memory is made of on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    /// Private anonymous memory, as most VMMs use.
    Anonymous,
    /// A shared memory file, which can be unmapped under a running guest without losing its
    /// content.
    Memfd,
}

/// Everything a demo guest needs to know before it starts.
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct GuestConfig {
    /// How the dirty log is read.
    #[arg(long, value_enum, default_value = "get")]
    pub mode: Mode,
    /// Number of vCPUs.
    #[arg(long, default_value_t = 2)]
    pub vcpus: u32,
    /// Number of 4 KiB data pages, over all data slots.
    #[arg(long, default_value_t = 4096)]
    pub pages: u64,
    /// Pause between two harvests, in milliseconds.
    #[arg(long = "interval", value_name = "MS", default_value_t = 20)]
    pub interval_ms: u64,
    /// How long the guest runs, in seconds.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Seed of the guest's random stores.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Number of data slots.
    #[arg(long, default_value_t = 1)]
    pub slots: u32,
    /// Order of the guest's stores.
    #[arg(long, value_enum, default_value = "mixed")]
    pub pattern: Pattern,
    /// Stores per region between two exits.
    #[arg(long, default_value_t = 2048)]
    pub batch: u64,
    /// What the memory is made of.
    #[arg(long, value_enum, default_value = "anonymous")]
    pub backing: Backing,
    /// Ask for transparent huge pages, and map the data with huge pages in the guest.
    #[arg(long)]
    pub huge_pages: bool,
    /// Pages per KVM_CLEAR_DIRTY_LOG, a multiple of 64 (modes manual and manual-initset).
    #[arg(long, value_name = "PAGES", default_value_t = 256)]
    pub clear_chunk: u64,
    /// Entries of each dirty ring, a power of two (mode ring).
    #[arg(long, value_name = "ENTRIES", default_value_t = 4096)]
    pub ring_entries: u32,
    /// What else happens to the VM while it is harvested; several separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME")]
    pub workload: Vec<Workload>,
    /// Passes from one zap to the next (workload zap).
    #[arg(long, value_name = "PASSES", default_value_t = 1)]
    pub zap_every: u64,
    /// Keep the vCPUs on some CPUs; without a name apart. What else runs there stays.
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "apart"
    )]
    pub pin_vcpus: Option<Pinning>,
    /// Create the VM only after `go`, so that a tracer must pick it up by itself.
    #[arg(long)]
    pub late_vm: bool,
    /// Lose this page on purpose: its reports are ignored, and the content oracle must say so.
    #[arg(long, value_name = "GFN")]
    pub oracle_ignore_gfn: Option<u64>,
}

impl GuestConfig {
    /// Checks every bound.
    ///
    /// # Errors
    ///
    /// [`DemoError::Config`] names the first option outside its bounds.
    pub fn check(&self) -> Result<(), DemoError> {
        let bound = |ok: bool, option, given: &dyn ToString, bound: &str| {
            let error =
                || DemoError::Config { option, given: given.to_string(), bound: bound.to_owned() };
            if ok { Ok(()) } else { Err(error()) }
        };
        let data_pages = u64::from(self.slots.max(1)) * u64::from(self.vcpus.max(1)) * 8;
        let pages = data_pages..=DATA_PAGES_MAX;
        bound((1..=VCPUS_MAX).contains(&self.vcpus), "vcpus", &self.vcpus, "1 to 16")?;
        bound((1..=SLOTS_MAX).contains(&self.slots), "slots", &self.slots, "1 to 16")?;
        let pages_bound = format!("{data_pages} (8 for each vCPU and slot) to {DATA_PAGES_MAX}");
        bound(pages.contains(&self.pages), "pages", &self.pages, &pages_bound)?;
        let seconds = 0.0..=86_400.0;
        bound(seconds.contains(&self.seconds), "seconds", &self.seconds, "0 to 86400")?;
        bound(self.interval_ms <= 60_000, "interval", &self.interval_ms, "0 to 60000 ms")?;
        let batch = 1..=1 << 20;
        bound(batch.contains(&self.batch), "batch", &self.batch, "1 to 1048576 stores")?;
        let chunk = 64 <= self.clear_chunk && self.clear_chunk.is_multiple_of(64);
        bound(chunk, "clear-chunk", &self.clear_chunk, "a multiple of 64 pages")?;
        bound(0 < self.zap_every, "zap-every", &self.zap_every, "1 pass or more")?;
        let ring = self.ring_entries.is_power_of_two() && self.ring_entries <= 1 << 16;
        bound(ring, "ring-entries", &self.ring_entries, "a power of two up to 65536")
    }

    /// The flags that stand for this configuration, for a parent that starts the guest as a child.
    pub fn to_flags(&self) -> Vec<String> {
        let Self {
            mode,
            vcpus,
            pages,
            interval_ms,
            seconds,
            seed,
            slots,
            pattern,
            batch,
            backing,
            huge_pages,
            clear_chunk,
            ring_entries,
            workload,
            zap_every,
            pin_vcpus,
            late_vm,
            oracle_ignore_gfn,
        } = self;
        let mut flags = vec![
            format!("--mode={}", flag_name(mode)),
            format!("--vcpus={vcpus}"),
            format!("--pages={pages}"),
            format!("--interval={interval_ms}"),
            format!("--seconds={seconds}"),
            format!("--seed={seed}"),
            format!("--slots={slots}"),
            format!("--pattern={}", flag_name(pattern)),
            format!("--batch={batch}"),
            format!("--backing={}", flag_name(backing)),
            format!("--clear-chunk={clear_chunk}"),
            format!("--ring-entries={ring_entries}"),
            format!("--zap-every={zap_every}"),
        ];
        flags.extend(workload.iter().map(|name| format!("--workload={}", flag_name(name))));
        flags.extend(huge_pages.then(|| "--huge-pages".to_owned()));
        flags.extend(pin_vcpus.iter().map(|how| format!("--pin-vcpus={}", flag_name(how))));
        flags.extend(late_vm.then(|| "--late-vm".to_owned()));
        flags.extend(oracle_ignore_gfn.map(|gfn| format!("--oracle-ignore-gfn={gfn}")));
        flags
    }
}

/// The word that clap accepts for a value.
fn flag_name(value: &impl ValueEnum) -> String {
    let possible = value.to_possible_value().expect("no variant is skipped");
    possible.get_name().to_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        config: GuestConfig,
    }

    fn parse(flags: &[&str]) -> GuestConfig {
        Line::parse_from([&["guest"], flags].concat()).config
    }

    #[test]
    fn flags_of_a_configuration_parse_back_to_it() {
        let given = [
            "--mode=manual-initset",
            "--pages=123",
            "--seconds=0.25",
            "--workload=zap,kvm-clock",
            "--late-vm",
            "--pin-vcpus",
            "--huge-pages",
            "--oracle-ignore-gfn=1030",
            "--backing=memfd",
        ];
        let config = parse(&given);
        let flags = config.to_flags();
        assert_eq!(parse(&flags.iter().map(String::as_str).collect::<Vec<_>>()), config);
        assert_eq!(config.workload, [Workload::Zap, Workload::KvmClock]);
        assert_eq!(config.pin_vcpus, Some(Pinning::Apart));
        assert_eq!(parse(&["--pin-vcpus=together"]).pin_vcpus, Some(Pinning::Together));
    }

    #[test]
    fn defaults_are_within_bounds() {
        assert!(parse(&[]).check().is_ok());
    }

    #[test]
    fn each_bound_names_its_option() {
        for (flag, option) in [
            ("--vcpus=17", "vcpus"),
            ("--slots=0", "slots"),
            ("--pages=3", "pages"),
            ("--seconds=nan", "seconds"),
            ("--clear-chunk=100", "clear-chunk"),
            ("--ring-entries=1000", "ring-entries"),
        ] {
            let error = parse(&[flag]).check().unwrap_err();
            assert!(error.to_string().starts_with(&format!("--{option} ")), "{error}");
        }
    }
}
