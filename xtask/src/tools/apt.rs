//! Debian packages without touching the system: an apt configuration of our own, below
//! `target/tools/apt`.
//!
//! The mirror is the one the system's own apt uses. Packages are downloaded and unpacked, never
//! installed, so that suites foreign to the machine cannot change it, and no root is needed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{process, workspace};

/// Suites the lab and the build take packages from.
pub const SUITES: [&str; 5] =
    ["bullseye", "bookworm", "bookworm-backports", "trixie", "trixie-backports"];

/// Signs all of Debian's suites.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Settings of the system that are needed to reach its mirror.
const KEPT_SETTINGS: [&str; 5] = [
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Check-",
    "Acquire::Retries",
    "Acquire::ForceIPv",
];

/// One package in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, as apt writes it.
    pub version: String,
}

/// A private apt configuration with up-to-date package lists.
#[derive(Debug)]
pub struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Writes the configuration and fetches the package lists if there are none yet.
    ///
    /// # Errors
    ///
    /// Not a Debian machine, no mirror in its apt sources, or the mirror cannot be reached.
    pub fn open() -> Result<Self> {
        let folder = workspace::tools()?.join("apt");
        let apt = Self { folder };
        if !apt.folder.join("updated").is_file() {
            apt.configure()?;
            apt.update()?;
        }
        Ok(apt)
    }

    fn configure(&self) -> Result<()> {
        ensure!(
            Path::new(KEYRING).is_file(),
            "{KEYRING} is missing: this needs a Debian machine with debian-archive-keyring"
        );
        let mirror = mirror(&system_sources()?)
            .context("no Debian mirror with component main in the system's apt sources")?;
        for folder in ["etc", "state", "lists/partial", "cache/archives/partial", "debs"] {
            workspace::make(self.folder.join(folder))?;
        }
        for suite in SUITES {
            let line = format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
            self.write(&format!("etc/{suite}.list"), &line)?;
        }
        let all = SUITES.map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"));
        self.write("etc/all.list", &all.concat())?;
        let bookworm = &all[1..3];
        self.write("etc/bookworm-only.list", &bookworm.concat())?;
        self.write("state/status", "")?;
        self.write("etc/apt.conf", &self.settings()?)
    }

    fn settings(&self) -> Result<String> {
        let at = self.folder.display();
        let system = process::output(Command::new("apt-config").arg("dump"))?;
        let kept = system
            .lines()
            .filter(|line| KEPT_SETTINGS.iter().any(|prefix| line.starts_with(prefix)))
            .fold(String::new(), |text, line| text + line + "\n");
        Ok(format!(
            r#"Dir::Etc "{at}/etc";
Dir::Etc::SourceList "all.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Parts "/dev/null";
Dir::Etc::Main "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "{at}/state";
Dir::State::Lists "{at}/lists";
Dir::State::status "{at}/state/status";
Dir::Cache "{at}/cache";
APT::Architecture "amd64";
APT::Architectures {{"amd64";}};
APT::Sandbox::User "";
Acquire::Languages "none";
{kept}"#
        ))
    }

    /// Fetches the package lists anew. A suite that has left the mirror only makes its own packages
    /// unavailable.
    fn update(&self) -> Result<()> {
        eprintln!("fetching Debian package lists");
        let outcome = process::run_quietly(self.command("apt-get").args(["update", "--quiet"]));
        let names = process::output(self.command("apt-cache").args(["pkgnames", "rust-src"]))?;
        if names.trim().is_empty() {
            outcome.context("fetch package lists")?;
            bail!("the mirror has no packages");
        }
        self.write("updated", "")
    }

    /// The newest version of a package that `fits`.
    ///
    /// # Errors
    ///
    /// There is none in any suite.
    pub fn newest(&self, name: &str, fits: impl Fn(&str) -> bool) -> Result<Package> {
        let table = process::output(self.command("apt-cache").args(["madison", name]))?;
        // Lines read "name | version | source"; the newest comes first.
        table
            .lines()
            .filter_map(|line| line.split('|').nth(1).map(str::trim))
            .find(|version| fits(version))
            .map(|version| Package { name: name.to_owned(), version: version.to_owned() })
            .with_context(|| format!("no fitting version of package {name} on the mirror"))
    }

    /// Names of packages that begin so.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = process::output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// What a package depends on, by name, without versions; alternatives are left out.
    pub fn depends(&self, package: &Package) -> Result<Vec<String>> {
        let id = format!("{}={}", package.name, package.version);
        let shown = process::output(self.command("apt-cache").args(["show", &id]))?;
        let line =
            shown.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
        Ok(line
            .split(", ")
            .filter(|depend| !depend.contains('|'))
            .filter_map(|depend| depend.split_whitespace().next())
            .map(str::to_owned)
            .collect())
    }

    /// Downloads packages (once) and unpacks them into a folder.
    pub fn unpack(&self, packages: &[Package], into: &Path) -> Result<()> {
        for package in packages {
            eprintln!("fetching {} {}", package.name, package.version);
            let deb = self.download(package)?;
            process::run_quietly(Command::new("dpkg-deb").arg("-x").arg(deb).arg(into))?;
        }
        Ok(())
    }

    fn download(&self, package: &Package) -> Result<PathBuf> {
        let folder = workspace::make(self.folder.join("debs").join(&package.name))?;
        let id = format!("{}={}", package.name, package.version);
        let get = || {
            let mut command = self.command("apt-get");
            command.args(["download", "--quiet", &id]).current_dir(&folder);
            process::run_quietly(&mut command)
        };
        if debs(&folder)?.is_empty() && get().is_err() {
            // Lists age: the mirror drops a version when the next one comes.
            self.update()?;
            get().with_context(|| format!("download {id}"))?;
        }
        debs(&folder)?.pop().with_context(|| format!("apt-get left no package of {id}"))
    }

    /// Downloads a package of bookworm or its backports with all it depends on, down to the C
    /// library, and unpacks it.
    pub fn unpack_with_libraries(&self, package: &str, into: &Path) -> Result<()> {
        eprintln!("fetching {package} and the libraries it needs");
        let archives = workspace::make_empty(self.folder.join("debs/closure"))?;
        workspace::make(archives.join("partial"))?;
        let mut command = self.command("apt-get");
        command
            .args(["install", "--yes", "--quiet", "--download-only", "--no-install-recommends"])
            .args(["-t", "bookworm-backports", "-o", "Dir::Etc::SourceList=bookworm-only.list"])
            .arg("-o")
            .arg(format!("Dir::Cache::archives={}/", archives.display()))
            .arg(package);
        process::run_quietly(&mut command)?;
        for deb in debs(&archives)? {
            process::run_quietly(Command::new("dpkg-deb").arg("-x").arg(deb).arg(into))?;
        }
        workspace::remove(&archives)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.folder.join("etc/apt.conf")).env("LC_ALL", "C");
        command
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|end| end == "deb")).collect())
}

/// The text of every sources file of the system, in both formats.
fn system_sources() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())));
    }
    files.retain(|path| path.extension().is_some_and(|end| end == "list" || end == "sources"));
    files.sort();
    Ok(files
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect::<Vec<_>>()
        .join("\n\n"))
}

/// The first mirror that serves a Debian suite other than the security ones.
fn mirror(sources: &str) -> Option<String> {
    sources.split("\n\n").find_map(|stanza| deb822_mirror(stanza).or_else(|| line_mirror(stanza)))
}

fn deb822_mirror(stanza: &str) -> Option<String> {
    let field = |name: &str| {
        stanza.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let serves = field("Types")?.split_whitespace().any(|kind| kind == "deb")
        && field("Components")?.split_whitespace().any(|component| component == "main")
        && field("Suites")?.split_whitespace().any(is_debian_suite);
    serves.then(|| field("URIs")?.split_whitespace().next().map(str::to_owned)).flatten()
}

fn line_mirror(stanza: &str) -> Option<String> {
    stanza.lines().find_map(|line| {
        let rest = line.strip_prefix("deb ")?.trim();
        let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
        let mut words = rest.split_whitespace();
        let (mirror, suite) = (words.next()?, words.next()?);
        (is_debian_suite(suite) && words.any(|word| word == "main")).then(|| mirror.to_owned())
    })
}

fn is_debian_suite(suite: &str) -> bool {
    let known = ["bullseye", "bookworm", "trixie", "forky", "stable", "testing", "unstable", "sid"];
    let code = suite.split(['-', '/']).next().unwrap_or_default();
    known.contains(&code) && !suite.contains("security")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_is_read_from_deb822() {
        let sources = "Types: deb\nURIs: http://a/debian-security\nSuites: bookworm-security\n\
                       Components: main\n\n\
                       Types: deb\n# remark\nURIs: http://b/debian\n\
                       Suites: bookworm bookworm-updates\nComponents: main";
        assert_eq!(mirror(sources).as_deref(), Some("http://b/debian"));
    }

    #[test]
    fn mirror_is_read_from_one_line_style() {
        let sources = "deb http://x/other stable-other contrib\n\
                       deb [signed-by=/k arch=amd64] http://b/debian trixie main contrib";
        assert_eq!(mirror(sources).as_deref(), Some("http://b/debian"));
    }

    #[test]
    fn foreign_vendors_are_no_mirror() {
        let sources = "Types: deb\nURIs: https://vendor/node\nSuites: nodistro\nComponents: main";
        assert_eq!(mirror(sources), None);
    }
}
