//! Takes DWARF out of the linked object and keeps BTF.
//!
//! bpf-linker needs full debug information to make BTF of, and leaves both in the object. The
//! kernel and the loader read only BTF; DWARF is two thirds of the size.

use anyhow::{Result, ensure};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

/// The object without its `.debug_*` sections, their relocations and the symbols that pointed at
/// them.
///
/// # Errors
///
/// The bytes are no ELF object, or there is no BTF in it.
pub fn debug_sections(whole: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(whole)?;
    let mut has_btf = false;
    for section in &mut elf.sections {
        let name = section.name.to_string();
        has_btf |= name == ".BTF";
        section.delete = name.starts_with(".debug_") || name.starts_with(".rel.debug_");
    }
    ensure!(has_btf, "the linker wrote no .BTF section");
    let gone: Vec<_> =
        elf.sections.iter().filter(|section| section.delete).map(|section| section.id()).collect();
    for symbol in &mut elf.symbols {
        symbol.delete = symbol.section.is_some_and(|section| gone.contains(&section));
    }
    // The relocations of BTF only repeat offsets the linker has already written, and some name
    // deleted symbols.
    for section in &mut elf.sections {
        let name = section.name.to_string();
        if name.starts_with(".rel.BTF") && matches!(section.data, SectionData::Relocation(_)) {
            section.delete = true;
        }
    }
    // LLVM keeps section names among the symbol names; the writer wants a table of their own.
    let names = elf.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    elf.write(&mut stripped)?;
    Ok(stripped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_refused() {
        assert!(debug_sections(b"not an object").is_err());
    }
}
