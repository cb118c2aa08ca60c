//! STD, the text form of RAPID and other analysers of concurrent traces: `T11|w(V0B1027)|32`.
//!
//! | record | line |
//! |---|---|
//! | mark, ring push | `w` of the page's dirty bit `V<vm>B<gfn>` |
//! | spte-change, spte-set, fast-fault that fixed | `w` of its SPTE `V<vm>S<gfn>` |
//! | harvest-word | `acq` of mmu_lock `L<vm>M`, per page `r` and `w` of the bit, `w` of the SPTE if protected, `rel` |
//! | user-word | per page `r` of the bit |
//! | host-write | per page `w` of its content `V<vm>P<gfn>` |
//! | flush | `w` of `V<vm>T`, the translations of all CPUs |
//! | ioctl-begin, ioctl-end | `begin`, `end`: a block that should look atomic |
//!
//! VMs are numbered by appearance, threads are `T<tid>`, the location is the number of the record's kind. Lines follow
//! the end of each operation. What has no place in STD - intervals, gaps, the lock of a fault, which no record shows -
//! is left out, so an analyser's findings on this file are hints, not verdicts.

use std::io::Write;

use super::event_row::pages_touched;
use super::inventory::Inventory;
use super::{Export, ExportError, Item, Origin};
use crate::event::{Event, EventKind, Gfn, VmId};

/// Writes STD.
#[derive(Debug)]
pub struct StdForm<W> {
    out: W,
    vms: Vec<VmId>,
}

impl<W: Write> StdForm<W> {
    /// Writes to `out`, which should be buffered.
    pub const fn new(out: W) -> Self {
        Self { out, vms: Vec::new() }
    }

    fn event(&mut self, event: &Event, inventory: &Inventory) -> Result<(), ExportError> {
        let vm = self.number(event.vm);
        match event.kind {
            EventKind::Mark { gfn, .. } => self.line(event, "w", &format!("V{vm}B{}", gfn.0)),
            EventKind::RingPush { offset, slot, .. } => {
                match inventory.gfn_at(event.vm, slot, offset) {
                    Some(gfn) => self.line(event, "w", &format!("V{vm}B{}", gfn.0)),
                    None => Ok(()),
                }
            }
            EventKind::SpteChange { page, .. }
            | EventKind::SpteSet { page, .. }
            | EventKind::FastFault { page, fixed: true, .. } => {
                self.line(event, "w", &format!("V{vm}S{}", page.gfn.0))
            }
            EventKind::HarvestWord { first, mask, protected, .. } => {
                self.line(event, "acq", &format!("L{vm}M"))?;
                for Gfn(gfn) in pages(first, mask) {
                    self.line(event, "r", &format!("V{vm}B{gfn}"))?;
                    self.line(event, "w", &format!("V{vm}B{gfn}"))?;
                }
                for Gfn(gfn) in pages(first, protected) {
                    self.line(event, "w", &format!("V{vm}S{gfn}"))?;
                }
                self.line(event, "rel", &format!("L{vm}M"))
            }
            EventKind::UserWord { first, mask, .. } => pages(first, mask)
                .try_for_each(|Gfn(gfn)| self.line(event, "r", &format!("V{vm}B{gfn}"))),
            EventKind::HostWrite { gpa, bytes, failed: false, .. } => (gpa >> 12..)
                .zip(0..pages_touched(gpa, bytes))
                .try_for_each(|(gfn, _)| self.line(event, "w", &format!("V{vm}P{gfn}"))),
            EventKind::Flush { .. } => self.line(event, "w", &format!("V{vm}T")),
            EventKind::IoctlBegin { .. } => self.line(event, "begin", "0"),
            EventKind::IoctlEnd { .. } => self.line(event, "end", "0"),
            EventKind::VmSeen { .. }
            | EventKind::VmGone
            | EventKind::SlotState { .. }
            | EventKind::RingReset { .. }
            | EventKind::SlotProtect { .. }
            | EventKind::Invalidate { .. }
            | EventKind::LockWait { .. }
            | EventKind::FastFault { fixed: false, .. }
            | EventKind::Fault { .. }
            | EventKind::RmapAdd { .. }
            | EventKind::HostWrite { failed: true, .. }
            | EventKind::RunBegin { .. }
            | EventKind::RunEnd { .. }
            | EventKind::Split { .. }
            | EventKind::Zap { .. } => Ok(()),
        }
    }

    fn line(&mut self, event: &Event, op: &str, on: &str) -> Result<(), ExportError> {
        writeln!(self.out, "T{}|{op}({on})|{}", event.tid, event.kind.kind() as u8)?;
        Ok(())
    }

    fn number(&mut self, vm: VmId) -> usize {
        self.vms.iter().position(|&known| known == vm).unwrap_or_else(|| {
            self.vms.push(vm);
            self.vms.len() - 1
        })
    }
}

fn pages(first: Gfn, mask: u64) -> impl Iterator<Item = Gfn> {
    (0..64).filter(move |bit| mask >> bit & 1 != 0).map(move |bit| Gfn(first.0.wrapping_add(bit)))
}

impl<W: Write> Export for StdForm<W> {
    fn needs_judgement(&self) -> bool {
        false
    }

    fn begin(&mut self, _: &Origin) -> Result<(), ExportError> {
        Ok(())
    }

    fn item(&mut self, item: &Item<'_>, inventory: &Inventory) -> Result<(), ExportError> {
        match item {
            Item::Event(event) => self.event(event, inventory),
            Item::Gap(_)
            | Item::Anomaly(_)
            | Item::Window(_)
            | Item::Harvest(_)
            | Item::Finding(_)
            | Item::Slot { .. } => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), ExportError> {
        self.out.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Filter, sample};
    use super::*;

    #[test]
    fn a_fault_and_its_harvest_as_reads_and_writes() {
        let mut out = Vec::new();
        sample::export(Filter::default(), &mut StdForm::new(&mut out));
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        T10|begin(0)|4
        T10|end(0)|5
        T11|w(V0B1027)|32
        T11|w(V0S1027)|33
        T11|w(V0S1027)|34
        T11|w(V0S1027)|43
        T11|w(V0B1027)|40
        T10|begin(0)|4
        T10|acq(L0M)|36
        T10|r(V0B1027)|36
        T10|w(V0B1027)|36
        T10|w(V0S1027)|36
        T10|rel(L0M)|36
        T10|w(V0T)|6
        T10|r(V0B1027)|37
        T10|end(0)|5
        T10|w(V0P1027)|39
        T10|w(V0P1028)|39
        ");
    }
}
