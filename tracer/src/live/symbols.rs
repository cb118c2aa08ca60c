//! Symbols of the running kernel and its modules, from `/proc/kallsyms`.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use super::LiveError;

/// The symbols that were asked for and exist.
#[derive(Debug, Default)]
pub struct Symbols {
    addresses: HashMap<String, u64>,
    is_hidden: bool,
}

impl Symbols {
    /// Reads the symbols `wanted` says yes to.
    ///
    /// # Errors
    /// [`LiveError::Read`] if `/proc/kallsyms` cannot be read.
    pub fn of_running_kernel(wanted: impl Fn(&str) -> bool) -> Result<Self, LiveError> {
        let path = Path::new("/proc/kallsyms");
        let failed = |source| LiveError::Read { path: path.into(), source };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let mut symbols = Self { addresses: HashMap::new(), is_hidden: true };
        let mut line = String::new();
        while reader.read_line(&mut line).map_err(failed)? != 0 {
            symbols.take(&line, &wanted);
            line.clear();
        }
        Ok(symbols)
    }

    /// `ffffffff81281220 T mark_page_dirty_in_slot\t[kvm]`
    fn take(&mut self, line: &str, wanted: &impl Fn(&str) -> bool) {
        let mut fields = line.split_ascii_whitespace();
        let (Some(address), Some(_), Some(name)) = (fields.next(), fields.next(), fields.next())
        else {
            return;
        };
        if wanted(name) {
            let address = u64::from_str_radix(address, 16).unwrap_or(0);
            self.is_hidden &= address == 0;
            self.addresses.insert(name.to_owned(), address);
        }
    }

    /// The symbol exists.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.addresses.contains_key(name)
    }

    /// Its address; `None` if there is no such symbol or addresses are hidden.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        self.addresses.get(name).copied().filter(|&address| address != 0)
    }

    /// Symbols are there, their addresses are not (`kernel.kptr_restrict`, no CAP_SYSLOG).
    #[must_use]
    pub fn are_hidden(&self) -> bool {
        self.is_hidden && !self.addresses.is_empty()
    }

    /// There is a raw tracepoint of that name.
    #[must_use]
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.has(&format!("__traceiter_{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_of_a_module_is_found_by_its_name() {
        let mut symbols = Symbols { is_hidden: true, ..Symbols::default() };
        symbols.take("ffffffffc0a01000 t kvm_vm_ioctl\t[kvm]\n", &|_| true);
        assert_eq!(symbols.address("kvm_vm_ioctl"), Some(0xffff_ffff_c0a0_1000));
        assert!(!symbols.are_hidden());
    }

    #[test]
    fn zero_addresses_are_hidden_ones() {
        let mut symbols = Symbols { is_hidden: true, ..Symbols::default() };
        symbols.take("0000000000000000 T kvm_flush_remote_tlbs\n", &|_| true);
        assert!(symbols.has("kvm_flush_remote_tlbs"));
        assert_eq!(symbols.address("kvm_flush_remote_tlbs"), None);
        assert!(symbols.are_hidden());
    }
}
