//! One emulated machine: its shape, its launch, and what came out of it.

use std::{
    fs::{self, File},
    io::{Read as _, Write},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    kernel::Kernel,
    payload::{self, Job},
};
use crate::{process, tools::qemu::Qemu, workspace};

/// Which of KVM's memory managements the guests of the machine get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mmu {
    /// Nested paging with the TDP MMU.
    Tdp,
    /// Nested paging with the older rmap-based MMU (`tdp_mmu=0`).
    Shadow,
    /// Shadow paging: no nested paging at all (`npt=0`).
    Npt0,
}

impl Mmu {
    /// The parameters a module is loaded with.
    pub fn parameters(self, module: &str) -> &'static str {
        match (module, self) {
            // The prefix changes nothing for a guest that does not use it.
            ("kvm", Self::Tdp) => "tdp_mmu=1 force_emulation_prefix=1",
            ("kvm", Self::Shadow | Self::Npt0) => "tdp_mmu=0 force_emulation_prefix=1",
            ("kvm_amd", Self::Tdp | Self::Shadow) => "nested=1 npt=1",
            ("kvm_amd", Self::Npt0) => "nested=1 npt=0",
            _ => "",
        }
    }
}

/// The machine's shape.
#[derive(Debug, Clone, clap::Args)]
pub struct Shape {
    /// Memory management of KVM in the machine.
    #[arg(long, value_enum, default_value = "tdp")]
    pub mmu: Mmu,
    /// CPUs of the machine.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub cpus: u32,
    /// Memory of the machine in MiB.
    #[arg(long = "mem", value_name = "MIB", default_value_t = 1024)]
    pub memory_mib: u32,
    /// Seconds until a machine that does not end is killed.
    #[arg(long = "timeout", value_name = "SECONDS", default_value_t = 300)]
    pub timeout_s: u64,
}

/// Whether the job's output is passed on while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// To our own standard output and error.
    Streamed,
    /// Only into the run's folder.
    Kept,
}

/// What a run left behind.
#[derive(Debug)]
pub struct Run {
    /// The job's exit status.
    pub status: u8,
    /// Release and package version of the kernel.
    pub release: String,
    /// Launches that died, or hung, before the machine spoke.
    pub retries: u32,
    /// From launch to the first word of process 1.
    pub boot: Duration,
    /// From launch to power-off.
    pub whole: Duration,
    /// Holds `stdout`, `stderr`, `console.log`, and the machine's `/out` as `out`.
    pub folder: PathBuf,
}

/// Launches that may die before the machine speaks. The emulator aborts about once in fifty while
/// it starts.
const RETRIES_MAX: u32 = 3;

/// A machine speaks after 2 to 30 seconds, as the load of the build machine is. Once in about a hundred launches
/// it spun without a word (7.3 on four CPUs); another launch of the same machine came up.
const BOOT_MAX: Duration = Duration::from_secs(150);

/// How often the files the emulator writes are looked at.
const BEAT: Duration = Duration::from_millis(20);

/// Boots a kernel, runs a job, and collects what it left.
///
/// # Errors
///
/// The machine does not come up, does not end in time, or dies before the job ends.
pub fn run(kernel: &Kernel, shape: &Shape, job: &Job, folder: &str, output: Output) -> Result<Run> {
    let qemu = Qemu::find()?;
    let image = kernel.image()?;
    let folder = workspace::make_empty(workspace::root().join("target/lab").join(folder))?;
    let initrd = folder.join("initrd.cpio");
    fs::write(&initrd, payload::initramfs(&image, shape.mmu, job)?)
        .with_context(|| format!("write {}", initrd.display()))?;
    let mut retries = 0;
    loop {
        let mut launch = Launch::start(&qemu, &image.vmlinuz, shape, folder.clone())?;
        match launch.follow(output)? {
            Ending::Exited { status, boot, whole } => {
                unpack_out(&folder)?;
                workspace::remove(&initrd)?;
                let release = format!("{} ({})", image.release, image.version);
                return Ok(Run { status, release, retries, boot, whole, folder });
            }
            Ending::Silent if retries < RETRIES_MAX => {
                retries += 1;
                eprintln!("the machine ended or hung before it spoke; launch {}", retries + 1);
            }
            Ending::Silent => bail!("the machine never spoke: {}", launch.last_words()),
            Ending::Died => bail!("the machine died during the job: {}", launch.last_words()),
            Ending::TimedOut => bail!(
                "the machine did not end within {} s (--timeout): {}",
                shape.timeout_s,
                launch.last_words()
            ),
        }
    }
}

fn unpack_out(folder: &Path) -> Result<()> {
    let archive = folder.join("files");
    let out = workspace::make_empty(folder.join("out"))?;
    if fs::metadata(&archive).is_ok_and(|file| 0 < file.len()) {
        let mut tar = std::process::Command::new("tar");
        process::run_quietly(tar.arg("-xf").arg(&archive).arg("-C").arg(out))?;
    }
    workspace::remove(&archive)
}

/// How a launch ended.
enum Ending {
    Exited {
        status: u8,
        boot: Duration,
        whole: Duration,
    },
    /// Before process 1 said anything.
    Silent,
    /// After it spoke, before the job's status came.
    Died,
    TimedOut,
}

/// A started emulator; killed when dropped.
struct Launch {
    emulator: Child,
    folder: PathBuf,
    started: Instant,
    deadline: Instant,
    streams: [Stream; 2],
}

/// Ports of the machine, each a file in the run's folder.
const PORTS: [&str; 4] = ["stdout", "stderr", "files", "control"];

impl Launch {
    fn start(qemu: &Qemu, vmlinuz: &Path, shape: &Shape, folder: PathBuf) -> Result<Self> {
        for port in PORTS.into_iter().chain(["console.log"]) {
            let file = folder.join(port);
            File::create(&file).with_context(|| format!("create {}", file.display()))?;
        }
        let mut command = qemu.command();
        // KASLR and the mitigations cost boot time and change nothing that is judged here.
        command
            .args("-nodefaults -no-user-config -display none -no-reboot".split(' '))
            .args("-machine q35 -accel tcg,thread=multi -cpu max".split(' '))
            .args(["-smp", &shape.cpus.to_string(), "-m", &shape.memory_mib.to_string()])
            .arg("-kernel")
            .arg(vmlinuz)
            .args(["-initrd", "initrd.cpio", "-serial", "file:console.log"])
            .args(["-append", "console=ttyS0 quiet panic=-1 nokaslr mitigations=off"])
            .args(["-device", "virtio-serial-pci"]);
        for port in PORTS {
            command.args(["-chardev", &format!("file,id={port},path={port}")]);
            command.args(["-device", &format!("virtserialport,chardev={port},name={port}")]);
        }
        let errors = folder.join("emulator.log");
        let errors =
            File::create(&errors).with_context(|| format!("create {}", errors.display()))?;
        let emulator = command
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .context("start the emulator")?;
        let started = Instant::now();
        let deadline = started + Duration::from_secs(shape.timeout_s);
        let streams = ["stdout", "stderr"].map(|port| Stream { file: folder.join(port), read: 0 });
        Ok(Self { emulator, folder, started, deadline, streams })
    }

    /// Waits for the end and passes output on.
    fn follow(&mut self, output: Output) -> Result<Ending> {
        let mut spoke = None;
        loop {
            let has_ended = self.emulator.try_wait().context("wait for the emulator")?.is_some();
            let control = self.control()?;
            if spoke.is_none() && control.starts_with("ready") {
                spoke = Some(self.started.elapsed());
            }
            if output == Output::Streamed {
                let [stdout, stderr] = &mut self.streams;
                stdout.pass_on(&mut std::io::stdout())?;
                stderr.pass_on(&mut std::io::stderr())?;
            }
            if has_ended {
                let status =
                    control.lines().find_map(|line| line.strip_prefix("exit ")?.parse().ok());
                let is_done = control.ends_with("done\n");
                let whole = self.started.elapsed();
                return Ok(match (spoke, status) {
                    (None, _) => Ending::Silent,
                    (Some(boot), Some(status)) if is_done => Ending::Exited { status, boot, whole },
                    (Some(_), _) => Ending::Died,
                });
            }
            if spoke.is_none() && BOOT_MAX <= self.started.elapsed() {
                return Ok(Ending::Silent);
            }
            if self.deadline <= Instant::now() {
                return Ok(Ending::TimedOut);
            }
            thread::sleep(BEAT);
        }
    }

    fn control(&self) -> Result<String> {
        let file = self.folder.join("control");
        fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
    }

    /// The end of what kernel and emulator had to say.
    fn last_words(&self) -> String {
        let read = |name: &str| {
            let bytes = fs::read(self.folder.join(name)).unwrap_or_default();
            process::tail(&String::from_utf8_lossy(&bytes), 12)
        };
        let words = read("console.log") + "\n" + &read("emulator.log");
        match words.trim() {
            "" => format!("its console is empty ({})", self.folder.display()),
            words => format!("see {}; it ends\n{words}", self.folder.display()),
        }
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        // It has ended already in the normal case, and a failing kill leaves nothing we could do.
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }
}

/// A file that grows, and how much of it was passed on.
struct Stream {
    file: PathBuf,
    read: u64,
}

impl Stream {
    fn pass_on(&mut self, to: &mut dyn Write) -> Result<()> {
        use std::io::{Seek as _, SeekFrom};
        let mut file =
            File::open(&self.file).with_context(|| format!("open {}", self.file.display()))?;
        file.seek(SeekFrom::Start(self.read)).context("seek")?;
        let mut new = Vec::new();
        file.read_to_end(&mut new).with_context(|| format!("read {}", self.file.display()))?;
        self.read += u64::try_from(new.len()).context("length of output")?;
        to.write_all(&new).and_then(|()| to.flush()).context("pass the job's output on")
    }
}
