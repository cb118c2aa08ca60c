//! Which module files a machine needs, in the order in which they load.

use std::{
    collections::BTreeMap,
    fs,
    io::BufReader,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _};

/// A module, ready for `insmod`.
#[derive(Debug)]
pub struct Module {
    /// Its name with underscores, as `lsmod` prints it.
    pub name: String,
    /// The uncompressed object.
    pub object: Vec<u8>,
}

/// The modules of one kernel.
#[derive(Debug)]
pub struct Modules {
    files: BTreeMap<String, PathBuf>,
    /// Those the kernel has built in.
    builtin: Vec<String>,
}

impl Modules {
    /// Lists the modules below a `lib/modules/<release>` folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        walk(&folder.join("kernel"), &mut files)?;
        let index = folder.join("modules.builtin");
        let builtin =
            fs::read_to_string(&index).with_context(|| format!("read {}", index.display()))?;
        let builtin = builtin.lines().filter_map(|line| name_of(Path::new(line))).collect();
        Ok(Self { files, builtin })
    }

    /// Takes one module from another file, such as a `kvm.ko` with a planted bug.
    pub fn replace(&mut self, name: &str, file: PathBuf) {
        self.files.insert(name.to_owned(), file);
    }

    /// The wanted modules and all they depend on, dependencies first; those built in are left out.
    ///
    /// # Errors
    ///
    /// A module is neither a file nor built in.
    pub fn with_dependencies(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut ordered = Vec::new();
        for name in wanted {
            self.visit(name, &mut ordered)?;
        }
        Ok(ordered)
    }

    fn visit(&self, name: &str, ordered: &mut Vec<Module>) -> Result<()> {
        let name = name.replace('-', "_");
        let is_there = self.builtin.contains(&name) || ordered.iter().any(|m| m.name == name);
        if is_there {
            return Ok(());
        }
        let Some(file) = self.files.get(&name) else {
            bail!("the kernel has no module {name}");
        };
        let object = read(file).with_context(|| format!("read {}", file.display()))?;
        for dependency in
            dependencies(&object).with_context(|| format!("read {}", file.display()))?
        {
            self.visit(&dependency, ordered)?;
        }
        ordered.push(Module { name, object });
        Ok(())
    }
}

fn walk(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else if let Some(name) = name_of(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The module's name, from a file `kvm-amd.ko` or `kvm-amd.ko.xz`.
fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let name = file.strip_suffix(".ko").or_else(|| file.strip_suffix(".ko.xz"))?;
    Some(name.replace('-', "_"))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(file)?;
    if file.extension().is_none_or(|end| end != "xz") {
        return Ok(bytes);
    }
    let mut object = Vec::new();
    lzma_rs::xz_decompress(&mut BufReader::new(bytes.as_slice()), &mut object)
        .map_err(|error| anyhow::anyhow!("decompress: {error:?}"))?;
    Ok(object)
}

fn dependencies(object: &[u8]) -> Result<Vec<String>> {
    let elf = object::File::parse(object)?;
    let info = elf.section_by_name(".modinfo").context("no .modinfo section")?.data()?;
    let depends = info
        .split(|&byte| byte == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="))
        .unwrap_or_default();
    let names = std::str::from_utf8(depends).context("read .modinfo")?;
    Ok(names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_use_underscores_with_or_without_compression() {
        let names = ["a/kvm-amd.ko", "kvm-amd.ko.xz", "modules.dep"].map(Path::new).map(name_of);
        assert_eq!(names, [Some("kvm_amd".to_owned()), Some("kvm_amd".to_owned()), None]);
    }
}
