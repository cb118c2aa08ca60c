//! The lab's kernels: stock Debian builds, fetched once.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    tools::{
        self,
        apt::{Apt, Package},
    },
    workspace,
};

/// A kernel series the lab boots.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What the user calls it.
    pub name: &'static str,
    /// Names of its image packages, as what stands before and after the point release; the first
    /// that exists is taken.
    packages: &'static [(&'static str, &'static str)],
}

/// Every kernel of the lab, oldest first.
pub const KERNELS: [Kernel; 4] = [
    Kernel { name: "5.10", packages: &[("linux-image-5.10.0-", "-cloud-amd64")] },
    Kernel { name: "6.1", packages: &[("linux-image-6.1.0-", "-cloud-amd64")] },
    Kernel {
        name: "6.12",
        packages: &[
            ("linux-image-6.12.", "+deb12-cloud-amd64"),
            ("linux-image-6.12.", "+deb13-cloud-amd64"),
        ],
    },
    Kernel { name: "7.3", packages: &[("linux-image-7.3.", "+deb13-cloud-amd64")] },
];

/// The kernel whose module the mutants rebuild: the full build, because only it has headers that
/// fit, of the release whose compiler and tools are Debian 12's.
pub const MUTANT_BASE: Kernel =
    Kernel { name: "6.12-full", packages: &[("linux-image-6.12.", "+deb12-amd64")] };

/// Looks a kernel up by its name.
///
/// # Errors
///
/// The lab has no such kernel; the error lists those it has.
pub fn named(name: &str) -> Result<&'static Kernel> {
    let Some(kernel) = KERNELS.iter().find(|kernel| kernel.name == name) else {
        let known = KERNELS.each_ref().map(|kernel| kernel.name).join(", ");
        bail!("unknown kernel {name}: the lab has {known}");
    };
    Ok(kernel)
}

/// A kernel on disk.
#[derive(Debug)]
pub struct Image {
    /// Its release string, as `uname -r` says it.
    pub release: String,
    /// The version of the Debian package.
    pub version: String,
    /// The bootable image.
    pub vmlinuz: PathBuf,
    /// The folder with its modules and their indexes.
    pub modules: PathBuf,
}

impl Kernel {
    /// The kernel's files, fetched once.
    ///
    /// # Errors
    ///
    /// The mirror has no such kernel (any more), or the packages are not laid out as expected.
    pub fn image(&self) -> Result<Image> {
        let _lock = tools::lock()?;
        let folder = workspace::tools()?.join("kernels").join(self.name);
        let stamp = folder.join("version");
        if !stamp.is_file() {
            let root = workspace::make_empty(folder.join("root"))?;
            let apt = Apt::open()?;
            let packages = self.packages(&apt)?;
            apt.unpack(&packages, &root)?;
            let main = packages.first().context("no package")?;
            fs::write(&stamp, format!("{}\n{}\n", main.name, main.version))
                .with_context(|| format!("write {}", stamp.display()))?;
        }
        let written =
            fs::read_to_string(&stamp).with_context(|| format!("read {}", stamp.display()))?;
        let (package, version) = written.trim().split_once('\n').context("read the version")?;
        let release = package.trim_start_matches("linux-image-").to_owned();
        locate(&folder.join("root"), release, version.to_owned())
    }

    /// The newest image package of the series, and the packages that carry its parts.
    fn packages(&self, apt: &Apt) -> Result<Vec<Package>> {
        for (before, after) in self.packages {
            let mut releases: Vec<(Vec<u32>, String)> = apt
                .names(before)?
                .into_iter()
                .filter_map(|name| {
                    let point = name.strip_prefix(before)?.strip_suffix(after)?;
                    let numbers =
                        point.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
                    Some((numbers, name))
                })
                .collect();
            releases.sort();
            while let Some((_, name)) = releases.pop() {
                if let Ok(package) = apt.newest(&name, |_| true) {
                    return with_parts(apt, package);
                }
            }
        }
        bail!("the Debian mirror has no kernel {} (any more)", self.name)
    }
}

/// Newer Debian kernels spread one image over several packages of the same release.
fn with_parts(apt: &Apt, package: Package) -> Result<Vec<Package>> {
    let release = package.name.trim_start_matches("linux-image-").to_owned();
    let parts = apt
        .depends(&package)?
        .into_iter()
        .filter(|name| name.starts_with("linux-") && name.ends_with(&release))
        .map(|name| apt.newest(&name, |version| version == package.version))
        .collect::<Result<Vec<_>>>()?;
    Ok([package].into_iter().chain(parts).collect())
}

fn locate(root: &Path, release: String, version: String) -> Result<Image> {
    let first = |places: [PathBuf; 2]| places.into_iter().find(|place| place.exists());
    let modules =
        first(["lib/modules", "usr/lib/modules"].map(|place| root.join(place).join(&release)))
            .with_context(|| format!("no modules of {release} in its packages"))?;
    let vmlinuz = first([root.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")])
        .with_context(|| format!("no vmlinuz of {release} in its packages"))?;
    Ok(Image { release, version, vmlinuz, modules })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_kernel_is_answered_with_the_known_ones() {
        let answer = named("4.19").map_err(|error| error.to_string());
        assert_eq!(answer, Err("unknown kernel 4.19: the lab has 5.10, 6.1, 6.12, 7.3".to_owned()));
    }
}
