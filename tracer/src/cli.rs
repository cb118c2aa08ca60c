//! The command line, as close to the flags as possible; `command` resolves and runs it.

mod files;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::demo::config::GuestConfig;

pub use files::{
    CheckArgs, DiffArgs, ExportArgs, ExportFormat, ImportArgs, RecordArgs, ReportFormat,
    SchemaArgs, SchemaDocument,
};

/// Shows, page by page and with evidence, where KVM's dirty logging lost a page or could lose one.
#[derive(Debug, Parser)]
#[command(
    name = "kvmdirty-trace",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  sudo kvmdirty-trace --pid $(pidof qemu-system-x86_64)\n  \
                  sudo kvmdirty-trace record --pid 4711 --output vm.kdt --duration 30s\n  \
                  kvmdirty-trace check vm.kdt --final\n\n\
                  Exit status: 0 clean, 1 hazard, 2 failed or misused, 3 inconclusive."
)]
pub struct Cli {
    /// What to do; without a subcommand, `--pid` opens the live dashboard.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The live dashboard's options.
    #[command(flatten)]
    pub live: LiveArgs,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Record a VMM's events to a file, without a dashboard.
    #[command(
        after_help = "Examples:\n  sudo kvmdirty-trace record --pid 4711 --output vm.kdt --duration 10s\n  \
                      sudo kvmdirty-trace record --pid 4711 --output vm.kdt --max-size 512M --max-files 8\n  \
                      sudo kvmdirty-trace record --pid 4711 --output vm.kdt --last 30s"
    )]
    Record(RecordArgs),
    /// Open a recording in the dashboard, with time travel.
    #[command(after_help = "Example:\n  kvmdirty-trace replay vm.kdt")]
    Replay(ReplayArgs),
    /// Judge a recording: report and exit status. Needs no root and no KVM.
    #[command(after_help = "Example:\n  kvmdirty-trace check vm.kdt --final --json > verdict.json")]
    Check(CheckArgs),
    /// Convert a recording for other tools.
    #[command(
        after_help = "Example:\n  kvmdirty-trace export vm.kdt --format perfetto --output vm.pftrace"
    )]
    Export(ExportArgs),
    /// Turn what trace-cmd recorded into a recording, so that it can be judged.
    #[command(
        after_help = "Example:\n  trace-cmd record -C mono -e kvm -e kvmmmu -e raw_syscalls -P 4711\n  \
                      kvmdirty-trace import trace.dat --output vm.kdt && kvmdirty-trace check vm.kdt"
    )]
    Import(ImportArgs),
    /// Compare two recordings, such as before and after a kernel change.
    #[command(after_help = "Example:\n  kvmdirty-trace diff 6.12.kdt 6.12-patched.kdt\n\n\
                            Exit status: 0 not worse, 1 worse, 2 failed, 3 the second proves too little.")]
    Diff(DiffArgs),
    /// Print what could be attached on this kernel, and which rules are off because of it.
    #[command(after_help = "Example:\n  sudo kvmdirty-trace doctor")]
    Doctor(JsonArgs),
    /// List the KVM VMs on this host.
    #[command(after_help = "Example:\n  sudo kvmdirty-trace list --json")]
    List(JsonArgs),
    /// Print a rule: its sentence, the kernel source, the race drawn, its look-alikes.
    #[command(after_help = "Example:\n  kvmdirty-trace explain K05")]
    Explain(ExplainArgs),
    /// Start a small KVM guest under a migration-like harvest loop and trace it live.
    #[command(
        after_help = "Example:\n  sudo kvmdirty-trace demo --mode ring --seconds 10 --headless"
    )]
    Demo(DemoArgs),
    /// The demo's guest, run in a process of its own.
    #[command(hide = true)]
    DemoGuest(GuestConfig),
    /// Print the JSON Schema of a document this tool writes.
    #[command(after_help = "Example:\n  kvmdirty-trace schema jsonl")]
    Schema(SchemaArgs),
    /// Print a shell completion script.
    #[command(
        after_help = "Example:\n  kvmdirty-trace completions bash > ~/.bash_completion.d/kvmdirty-trace"
    )]
    Completions(CompletionsArgs),
    /// Print the man page.
    #[command(after_help = "Example:\n  kvmdirty-trace man | man -l -")]
    Man,
}

/// Which VMM to watch.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// Process id of the VMM (QEMU, cloud-hypervisor, Firecracker, ...).
    #[arg(long, short = 'p', env = "KVMDIRTY_PID")]
    pub pid: u32,
}

/// What bounds a live trace.
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    /// Stop after this long, for example `10s`, `500ms` or `2m`; without it: on Ctrl-C or when the VMM ends.
    #[arg(long, value_parser = duration, env = "KVMDIRTY_DURATION")]
    pub duration: Option<Duration>,
    /// The last harvest of every slot is the final one: what is left over after it counts as a hazard.
    #[arg(long = "final")]
    pub is_final: bool,
    /// Accept a process that has nothing of KVM open yet, and pick its VMs up when they appear.
    #[arg(long)]
    pub wait: bool,
    /// Create this file once every hook is attached, so that scripts can wait for a fact.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Stop tracing when the probe takes more than this share of one CPU, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 25, env = "KVMDIRTY_BUDGET")]
    pub budget: u32,
    /// Size of each CPU's ring of page records, for example `64k`; a smaller one drops records sooner. By default what
    /// suits this machine, up to 4M.
    #[arg(long, value_name = "SIZE", value_parser = size, env = "KVMDIRTY_RING_SIZE")]
    pub ring_size: Option<u64>,
}

/// `kvmdirty-trace --pid PID`.
#[derive(Debug, Clone, Args)]
pub struct LiveArgs {
    /// Process id of the VMM (QEMU, cloud-hypervisor, Firecracker, ...).
    #[arg(long, short = 'p', env = "KVMDIRTY_PID", required = true)]
    pub pid: Option<u32>,
    /// Bounds of the trace.
    #[command(flatten)]
    pub trace: TraceArgs,
    /// Also record to this file, which must not exist yet.
    #[arg(long, short = 'o', value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print text lines instead of the dashboard (the default when stdout is no terminal).
    #[arg(long)]
    pub headless: bool,
    /// How the screen looks.
    #[command(flatten)]
    pub screen: ScreenArgs,
}

/// How the dashboard looks.
#[derive(Debug, Clone, Args)]
pub struct ScreenArgs {
    /// Colours and glyphs.
    #[arg(long, value_enum, env = "KVMDIRTY_THEME")]
    pub theme: Option<Theme>,
    /// Take clicks and the wheel (`mouse = true` in the configuration file); the terminal's own selection then needs
    /// Shift.
    #[arg(long, env = "KVMDIRTY_MOUSE")]
    pub mouse: bool,
    /// Configuration file; by default `kvmdirty-trace/config.toml` in the user's configuration folder.
    #[arg(long, value_name = "FILE", env = "KVMDIRTY_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Themes of the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Theme {
    /// For dark terminals.
    Dark,
    /// For light terminals.
    Light,
    /// No colour (also with NO_COLOR set).
    Mono,
    /// No colour, ASCII only.
    Ascii,
}

/// `replay`.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    /// The recording.
    pub file: PathBuf,
    /// The last harvest of every slot is the final one.
    #[arg(long = "final")]
    pub is_final: bool,
    /// How the screen looks.
    #[command(flatten)]
    pub screen: ScreenArgs,
}

/// Commands that print text or JSON.
#[derive(Debug, Clone, Args)]
pub struct JsonArgs {
    /// One JSON document.
    #[arg(long)]
    pub json: bool,
}

/// `explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// The rule, K01 to K15; without it: a list.
    pub rule: Option<String>,
}

/// `completions`.
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// The guest and its harvest loop.
    #[command(flatten)]
    pub guest: GuestConfig,
    /// Print a text report instead of the dashboard (the default when stdout is no terminal).
    #[arg(long)]
    pub headless: bool,
    /// Print one JSON document; implies --headless.
    #[arg(long)]
    pub json: bool,
    /// Also record to this file, which must not exist yet.
    #[arg(long, short = 'o', value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Size of each CPU's ring of page records, for example `4k` to see what dropped records do to the verdicts.
    #[arg(long, value_name = "SIZE", value_parser = size, env = "KVMDIRTY_RING_SIZE")]
    pub ring_size: Option<u64>,
    /// Replay the bundled recording even where KVM and BPF work.
    #[arg(long)]
    pub bundled: bool,
    /// How the screen looks.
    #[command(flatten)]
    pub screen: ScreenArgs,
}

/// Parses `10s`, `500ms`, `2m`, `1h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unit {unit:?} is none of ms, s, m, h")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{number:?} is no number"))?;
    Duration::try_from_secs_f64(number * scale).map_err(|_| format!("{text:?} is no time span"))
}

/// Parses `512M`, `2G`, `100k`; a bare number is bytes.
fn size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(format!("unit {unit:?} is none of k, M, G")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{number:?} is no whole number"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_and_sizes_take_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("3 weeks").is_err());
        assert_eq!(size("512M"), Ok(512 << 20));
        assert!(size("x").is_err());
    }

    #[test]
    fn every_command_has_an_example() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{} --help has no example", command.get_name());
        }
    }
}
