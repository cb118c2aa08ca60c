//! What the checked-in BPF object is made from, as one number.
//!
//! `cargo xtask build-ebpf` writes the digest beside the object, the build script computes it anew
//! and refuses an object that was made from other sources. Both include this file, so that there is
//! one definition. It needs only `std`, because it runs inside a build script.
//!
//! The inputs are the sources of `probe-ebpf` and `common`, the pinned toolchain, those lines of
//! the workspace manifest that reach the probe, and the exact versions of everything the probe
//! depends on. Formatting the digest as hex of a 128-bit FNV-1a sum is enough: it guards against
//! forgetting, not against malice.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

/// Folders whose manifest and `src` make the object, relative to the workspace root.
const CRATES: [&str; 2] = ["probe-ebpf", "common"];

/// Keys of the workspace manifest that reach the probe through inheritance.
const MANIFEST_KEYS: [&str; 5] =
    ["edition", "rust-version", "aya-ebpf", "aya-log-ebpf", "zerocopy"];

/// The inputs of the object in the workspace at `root`, digested.
pub fn digest(root: &Path) -> io::Result<String> {
    let mut sum = Fnv::new();
    for path in files(root)? {
        sum.add(path.to_string_lossy().as_bytes());
        sum.add(&fs::read(root.join(&path))?);
    }
    sum.add(&fs::read(root.join("rust-toolchain.toml"))?);
    for line in fs::read_to_string(root.join("Cargo.toml"))?.lines() {
        let key = line.split('=').next().unwrap_or_default().trim();
        if MANIFEST_KEYS.contains(&key) {
            sum.add(line.as_bytes());
        }
    }
    for package in dependencies(&fs::read_to_string(root.join("Cargo.lock"))?) {
        sum.add(package.as_bytes());
    }
    Ok(format!("{:032x}", sum.state))
}

/// Every file that is an input, relative to the workspace root and in a fixed order.
pub fn files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in CRATES.map(PathBuf::from) {
        for file in ["Cargo.toml", "build.rs"].map(|name| folder.join(name)) {
            if root.join(&file).is_file() {
                found.push(file);
            }
        }
        walk(root, &folder.join("src"), &mut found)?;
    }
    found.sort();
    Ok(found)
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            walk(root, &path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// Name, version and checksum of every package in the lock file that `probe-ebpf` depends on,
/// itself left out.
fn dependencies(lock: &str) -> BTreeSet<String> {
    let mut packages: BTreeMap<&str, Vec<Package<'_>>> = BTreeMap::new();
    for text in lock.split("[[package]]").skip(1) {
        let package = Package::parse(text);
        packages.entry(package.name).or_default().push(package);
    }
    let mut reached = BTreeSet::new();
    let mut open = vec![CRATES[0]];
    while let Some(wanted) = open.pop() {
        // A dependency is written "name", or "name version" where the lock file holds several
        // versions.
        let (name, version) = wanted.split_once(' ').unwrap_or((wanted, ""));
        for package in packages.get(name).into_iter().flatten() {
            let fits = version.is_empty() || package.version == version;
            if fits && (name == CRATES[0] || reached.insert(package.identity())) {
                open.extend(&package.dependencies);
            }
        }
    }
    reached
}

/// One entry of a lock file.
struct Package<'a> {
    name: &'a str,
    version: &'a str,
    checksum: &'a str,
    dependencies: Vec<&'a str>,
}

impl<'a> Package<'a> {
    fn parse(text: &'a str) -> Self {
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"'))
                .unwrap_or_default()
        };
        let dependencies =
            text.lines().filter_map(|line| line.strip_prefix(" \"")?.strip_suffix("\",")).collect();
        Self {
            name: value("name"),
            version: value("version"),
            checksum: value("checksum"),
            dependencies,
        }
    }

    fn identity(&self) -> String {
        format!("{} {} {}", self.name, self.version, self.checksum)
    }
}

/// FNV-1a with 128 bits, each part preceded by its length so that parts cannot run into each other.
struct Fnv {
    state: u128,
}

impl Fnv {
    fn new() -> Self {
        Self { state: 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d }
    }

    fn add(&mut self, part: &[u8]) {
        let length = u64::try_from(part.len()).expect("a length fits 64 bits").to_le_bytes();
        for &byte in length.iter().chain(part) {
            self.state ^= u128::from(byte);
            self.state = self.state.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
}
