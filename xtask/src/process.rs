//! Running other programs, with errors that name the command line.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Cargo as the pinned toolchain has it, in the workspace root.
///
/// `RUSTUP_TOOLCHAIN` is dropped so that `rust-toolchain.toml` decides even under `cargo +nightly
/// xtask`.
pub fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(crate::workspace::root()).env_remove("RUSTUP_TOOLCHAIN");
    cargo
}

/// Runs a command to its end with our own output streams.
///
/// # Errors
///
/// The program cannot be started, or does not succeed.
pub fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    let status = command.status().with_context(|| format!("start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Runs a command to its end and shows its output only if it fails.
///
/// # Errors
///
/// The program cannot be started, or does not succeed; the error carries the end of its output.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
///
/// The program cannot be started, does not succeed, or prints something other than UTF-8.
pub fn output(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("start `{line}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed ({}): {}", output.status, tail(&said, 20));
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed no UTF-8"))
}

/// Runs a command to its end, passes its standard output on and returns it as well, with whether
/// it succeeded.
///
/// # Errors
///
/// The program cannot be started.
pub fn stream(command: &mut Command) -> Result<(bool, String)> {
    let line = line(command);
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("start `{line}`"))?;
    let mut said = String::new();
    for text in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
        let text = text.with_context(|| format!("read what `{line}` prints"))?;
        println!("{text}");
        said += &text;
        said.push('\n');
    }
    let status = child.wait().with_context(|| format!("wait for `{line}`"))?;
    Ok((status.success(), said))
}

/// The last lines of a text.
pub fn tail(text: &str, lines_max: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(lines_max)..].join("\n")
}

/// A command line a person can read: program and arguments without folders of ours.
fn line(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    command.get_args().fold(program, |line, argument| line + " " + &argument.to_string_lossy())
}
