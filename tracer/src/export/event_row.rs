//! Events as rows: one flat table for all kinds; a column is absent where its kind has no such value.

use super::inventory::Inventory;
use super::row::{Bits, Flags, Slot, Time, rows};
use crate::event::{Class, Event, EventKind, IoctlOp, IoctlRef, MarkWord, PageRef, SlotRef};
use crate::verdict::{EdgeKind, Witness};
use kvmdirty_common::kind::writer;
use serde_json::json;

rows! {
    /// A row of [`super::Table::Events`].
    EventRow {
        ts_ns: Time = "End of the operation.",
        begin_ns: Time = "Begin of the operation; equal to ts_ns for instants, 0 where it is not bounded.",
        kind: &'static str = "What happened.",
        vm: Option<Bits> = "Address of the VM's struct kvm; absent: the probe could not tell.",
        tid: u32 = "Thread that did it.",
        vcpu: Option<u32> = "The vCPU of the event, or the one its thread runs.",
        cpu: u16 = "CPU.",
        lane: &'static str = "page, boundary or syscall: with cpu, the stream that seq counts.",
        seq: u32 = "Number of the record on its lane, wrapping.",
        op: Option<&'static str> = "Ioctl: get, clear, reset, set-memory, enable-cap.",
        slot: Option<Slot> = "Memslot, as_id:id; for user-word that of the enclosing ioctl, for others that of gfn.",
        gfn: Option<u64> = "First page.",
        npages: Option<u64> = "Pages from gfn on that the event speaks of.",
        level: Option<u8> = "SPTE level: 1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB.",
        flags: Flags = "Flags of the kind.",
        mask: Option<Bits> = "Pages taken; bit n is gfn + n.",
        protected: Option<Bits> = "Pages of the mask that lost W (or D), or were read back without it.",
        writable: Option<Bits> = "Pages of the mask that were read back with W.",
        old_spte: Option<Bits> = "SPTE before; mark: SPTE at the entry of the mark.",
        new_spte: Option<Bits> = "SPTE after.",
        sptep: Option<Bits> = "Address of the SPTE.",
        word: Option<Bits> = "Bitmap word of the page, re-read.",
        ring_index: Option<u32> = "Ring index after the operation: dirty_index of a push or mark, reset_index of a reset.",
        ring_index_before: Option<u32> = "reset_index before a reset.",
        dirty_index: Option<u32> = "dirty_index at a reset.",
        ring_size: Option<u32> = "Entries of the ring.",
        offset: Option<u64> = "Page offset in the slot.",
        addr: Option<Bits> = "Fault address, first hva, gpa written, bitmap or lock.",
        end_addr: Option<Bits> = "End of the hva range.",
        error_code: Option<Bits> = "Error code of the fault.",
        bytes: Option<u64> = "Bytes written.",
        writer: Option<&'static str> = "Function that wrote guest memory.",
        ret: Option<i64> = "Return value; split: errno.",
        exit_reason: Option<u64> = "KVM_EXIT_* of KVM_RUN.",
        first: Option<u64> = "First page (clear) or first gfn (set-memory) argument of the ioctl; enable-cap: the capability.",
        count: Option<u64> = "Pages argument of the ioctl; enable-cap: its args[0].",
        flushes_before: Option<u64> = "The VM's flush counter at entry.",
        flushes: Option<u64> = "The VM's flush counter at the event, or at exit.",
        words: Option<u64> = "Bitmap words emitted by the ioctl.",
        mem_flags: Option<u32> = "KVM_MEM_* of set-memory.",
        lcb_flags: Option<u32> = "LCB_F_* of a lock wait.",
        tgid: Option<u32> = "Process that created the VM.",
        manual_protect: Option<u32> = "manual_dirty_log_protect of the VM.",
        ring_bytes: Option<u32> = "Bytes of each dirty ring, 0 in bitmap mode.",
        generation: Option<u64> = "Generation of the memslots.",
    }
}

impl EventRow {
    /// The row of an event.
    #[must_use]
    pub fn new(event: &Event, inventory: &Inventory) -> Self {
        let mut row = Self {
            ts_ns: Time(event.span.hi.0),
            begin_ns: Time(event.span.lo.0),
            kind: event.kind.kind().name(),
            vm: address(event.vm.0),
            tid: event.tid.0,
            vcpu: inventory.vcpu(event.tid).map(|vcpu| vcpu.0),
            cpu: event.lane.cpu.0,
            lane: class_name(event.lane.class),
            seq: event.seq,
            ..Self::default()
        };
        match event.kind {
            EventKind::VmSeen { .. }
            | EventKind::VmGone
            | EventKind::SlotState { .. }
            | EventKind::SlotProtect { .. }
            | EventKind::Invalidate { .. }
            | EventKind::LockWait { .. } => row.take_state(&event.kind),
            EventKind::IoctlBegin { .. }
            | EventKind::IoctlEnd { .. }
            | EventKind::Flush { .. }
            | EventKind::RingReset { .. }
            | EventKind::RunBegin { .. }
            | EventKind::RunEnd { .. }
            | EventKind::Fault { .. } => row.take_bracket(&event.kind),
            EventKind::HarvestWord { .. }
            | EventKind::UserWord { .. }
            | EventKind::RmapAdd { .. }
            | EventKind::HostWrite { .. }
            | EventKind::RingPush { .. } => row.take_page(event, inventory),
            EventKind::Mark { .. }
            | EventKind::SpteChange { .. }
            | EventKind::FastFault { .. }
            | EventKind::SpteSet { .. }
            | EventKind::Split { .. }
            | EventKind::Zap { .. } => row.take_spte(event, inventory),
        }
        row
    }

    /// VMs, slots, and what befalls them as a whole.
    fn take_state(&mut self, kind: &EventKind) {
        match *kind {
            EventKind::VmSeen {
                tgid,
                manual_protect,
                ring_bytes,
                generation,
                created,
                flushes,
            } => {
                self.tgid = Some(tgid);
                self.manual_protect = Some(manual_protect);
                self.ring_bytes = Some(ring_bytes);
                self.generation = Some(generation);
                self.flushes = Some(flushes);
                self.flags = Flags::default().with(created, "created");
            }
            EventKind::VmGone => {}
            EventKind::SlotState { slot, base, npages, bitmap, commit } => {
                self.set_slot(slot);
                self.flags = std::mem::take(&mut self.flags).with(commit, "commit");
                self.gfn = Some(base.0);
                self.npages = Some(npages);
                self.addr = address(bitmap);
            }
            EventKind::SlotProtect { slot, level } => {
                self.set_slot(slot);
                self.level = Some(level);
            }
            EventKind::Invalidate { start, end, flushes_before, flushes_after } => {
                self.addr = Some(Bits(start));
                self.end_addr = Some(Bits(end));
                self.flushes_before = Some(flushes_before);
                self.flushes = Some(flushes_after);
            }
            EventKind::LockWait { lock, lcb_flags, ret } => {
                self.addr = address(lock);
                self.lcb_flags = Some(lcb_flags);
                self.ret = Some(ret);
            }
            _ => unreachable!("new passes on only the kinds above"),
        }
    }

    /// Ioctls, faults and flushes.
    fn take_bracket(&mut self, kind: &EventKind) {
        match *kind {
            EventKind::IoctlBegin { op, first, count, flushes } => {
                self.set_op(op);
                self.first = Some(first);
                self.count = Some(count);
                self.flushes = Some(flushes);
            }
            EventKind::IoctlEnd { op, ret, flushes, words, words_cut } => {
                self.set_op(op);
                self.ret = Some(ret);
                self.flushes = Some(flushes);
                self.words = Some(words);
                self.flags = Flags::default().with(words_cut, "words-cut");
            }
            EventKind::Flush { before, after, first, npages } => {
                self.flushes_before = Some(before);
                self.flushes = Some(after);
                self.gfn = (npages != 0).then_some(first.0);
                self.npages = (npages != 0).then_some(npages);
            }
            EventKind::RingReset { vcpu, before, after, ret, dirty_index, size, bracketed } => {
                self.vcpu = Some(vcpu.0);
                self.ring_index_before = Some(before);
                self.ring_index = Some(after);
                self.ret = Some(ret);
                self.dirty_index = Some(dirty_index);
                self.ring_size = Some(size);
                self.flags = Flags::default().with(!bracketed, "at-tracepoint");
            }
            EventKind::RunBegin { vcpu } => self.vcpu = Some(vcpu.0),
            EventKind::RunEnd { vcpu, ret, exit_reason } => {
                self.vcpu = Some(vcpu.0);
                self.ret = ret;
                self.exit_reason = Some(exit_reason);
            }
            EventKind::Fault { addr, error_code, ret, vcpu } => {
                self.addr = Some(Bits(addr));
                self.error_code = Some(Bits(error_code));
                self.ret = Some(ret);
                self.vcpu = Some(vcpu.0);
            }
            _ => unreachable!("new passes on only the kinds above"),
        }
    }

    /// Pages named by words, rings and writers.
    fn take_page(&mut self, event: &Event, inventory: &Inventory) {
        match event.kind {
            EventKind::HarvestWord { first, mask, protected, slot } => {
                self.set_word(first.0, mask, protected);
                self.set_slot(slot);
            }
            EventKind::UserWord { first, mask, protected, writable } => {
                self.set_word(first.0, mask, protected);
                self.writable = Some(Bits(writable));
                self.slot = inventory.ioctl(event.tid).map(|op| Slot(op.slot));
            }
            EventKind::RmapAdd { gfn, sptep, slot } => {
                self.set_slot(slot);
                self.gfn = Some(gfn.0);
                self.npages = Some(1);
                self.sptep = address(sptep);
            }
            EventKind::HostWrite { gpa, bytes, slot, writer, failed, data_at_mark } => {
                self.set_slot(slot);
                self.flags = std::mem::take(&mut self.flags)
                    .with(failed, "failed")
                    .with(data_at_mark == Some(true), "data-at-mark")
                    .with(data_at_mark == Some(false), "no-data-at-mark");
                self.gfn = Some(gpa >> 12);
                self.npages = Some(pages_touched(gpa, bytes));
                self.addr = Some(Bits(gpa));
                self.bytes = Some(bytes);
                self.writer = Some(writer_name(writer));
            }
            EventKind::RingPush { offset, slot, index, vcpu } => {
                self.slot = Some(Slot(slot));
                self.offset = Some(offset);
                self.gfn = inventory.gfn_at(event.vm, slot, offset).map(|gfn| gfn.0);
                self.npages = Some(1);
                self.ring_index = Some(index);
                self.vcpu = Some(vcpu.0);
            }
            _ => unreachable!("new passes on only the kinds above"),
        }
    }

    /// Pages named by an SPTE.
    fn take_spte(&mut self, event: &Event, inventory: &Inventory) {
        let page_slot = |page: PageRef| inventory.slot_of(event.vm, page.as_id, page.gfn).map(Slot);
        match event.kind {
            EventKind::Mark { gfn, slot, word, spte, has_vcpu, in_fast } => {
                self.set_slot(slot);
                self.flags = std::mem::take(&mut self.flags)
                    .with(in_fast, "in-fast")
                    .with(!has_vcpu, "no-vcpu");
                self.gfn = Some(gfn.0);
                self.npages = Some(1);
                self.old_spte = spte.map(|spte| Bits(spte.0));
                match word {
                    MarkWord::Unread => {}
                    MarkWord::Bitmap(word) => self.word = Some(Bits(word)),
                    MarkWord::Ring(index) => self.ring_index = Some(index),
                }
            }
            EventKind::SpteChange { page, old, new, sptep, shadow } => {
                self.set_page(page, page_slot(page));
                self.old_spte = old.map(|spte| Bits(spte.0));
                self.new_spte = Some(Bits(new.0));
                self.sptep = address(sptep);
                self.flags = Flags::default().with(shadow, "shadow");
            }
            EventKind::FastFault { page, old, ret, sptep, fixed } => {
                self.set_page(page, page_slot(page));
                self.old_spte = Some(Bits(old.0));
                self.ret = Some(ret);
                self.sptep = address(sptep);
                self.flags = Flags::default().with(fixed, "fixed");
            }
            EventKind::SpteSet { page, new, word, sptep, logging, ring } => {
                self.set_page(page, page_slot(page));
                self.new_spte = Some(Bits(new.0));
                self.word = word.map(Bits);
                self.sptep = address(sptep);
                self.flags = Flags::default().with(logging, "logging").with(ring, "ring");
            }
            EventKind::Split { page, old, errno } => {
                self.set_page(page, page_slot(page));
                self.old_spte = Some(Bits(old.0));
                self.ret = Some(errno);
            }
            EventKind::Zap { page } => self.set_page(page, page_slot(page)),
            _ => unreachable!("new passes on only the kinds above"),
        }
    }

    fn set_slot(&mut self, slot: SlotRef) {
        let SlotRef { id, logging, has_bitmap } = slot;
        self.slot = Some(Slot(id));
        self.flags = Flags::default().with(logging, "logging").with(has_bitmap, "bitmap");
    }

    fn set_op(&mut self, op: IoctlRef) {
        let IoctlRef { op, slot, mem_flags } = op;
        self.op = Some(op_name(op));
        match op {
            IoctlOp::GetDirtyLog | IoctlOp::ClearDirtyLog => self.slot = Some(Slot(slot)),
            IoctlOp::SetMemory => {
                self.slot = Some(Slot(slot));
                self.mem_flags = Some(mem_flags);
            }
            IoctlOp::ResetDirtyRings | IoctlOp::EnableCap => {}
        }
    }

    fn set_page(&mut self, page: PageRef, slot: Option<Slot>) {
        self.gfn = Some(page.gfn.0);
        self.npages = Some(pages_of_level(page.level));
        self.level = Some(page.level);
        self.slot = slot;
    }

    fn set_word(&mut self, first: u64, mask: u64, protected: u64) {
        self.gfn = Some(first);
        self.npages = Some(64);
        self.mask = Some(Bits(mask));
        self.protected = Some(Bits(protected));
    }
}

/// Pages an SPTE of that level maps.
#[must_use]
pub fn pages_of_level(level: u8) -> u64 {
    1 << (9 * u32::from(level.clamp(1, 5) - 1))
}

/// Pages a write of `bytes` bytes at `gpa` touches.
#[must_use]
pub fn pages_touched(gpa: u64, bytes: u64) -> u64 {
    let last = gpa.saturating_add(bytes.saturating_sub(1));
    (last >> 12) - (gpa >> 12) + 1
}

fn address(value: u64) -> Option<Bits> {
    (value != 0).then_some(Bits(value))
}

/// An ioctl in exports.
#[must_use]
pub const fn op_name(op: IoctlOp) -> &'static str {
    match op {
        IoctlOp::GetDirtyLog => "get",
        IoctlOp::ClearDirtyLog => "clear",
        IoctlOp::ResetDirtyRings => "reset",
        IoctlOp::SetMemory => "set-memory",
        IoctlOp::EnableCap => "enable-cap",
    }
}

/// A class in exports.
#[must_use]
pub const fn class_name(class: Class) -> &'static str {
    match class {
        Class::Page => "page",
        Class::Boundary => "boundary",
        Class::Syscall => "syscall",
    }
}

/// Who wrote into guest memory for the host, by the number a record has for it (`kvmdirty_common::kind::writer`).
#[must_use]
pub fn writer_name(number: u8) -> &'static str {
    match number {
        writer::GUEST_PAGE => "guest-page",
        writer::CACHED => "cached",
        writer::UNMAP => "unmap",
        writer::CMPXCHG => "cmpxchg",
        writer::STEAL_TIME => "steal-time",
        writer::PVCLOCK => "pvclock",
        writer::STEAL_TIME_PREEMPTED => "steal-time-preempted",
        _ => "unknown",
    }
}

/// A witness as JSON: its events as in JSON lines, with what each does here.
#[must_use]
pub fn witness_json(witness: &Witness) -> serde_json::Value {
    let nothing = Inventory::default();
    let steps: Vec<_> = witness
        .steps
        .iter()
        .map(|step| json!({ "note": step.note, "event": EventRow::new(&step.event, &nothing) }))
        .collect();
    let edges: Vec<_> = witness
        .edges
        .iter()
        .map(|edge| json!({ "from": edge.from, "to": edge.to, "kind": edge.kind.name() }))
        .collect();
    let missing = witness.missing.map(EdgeKind::name);
    json!({ "steps": steps, "edges": edges, "losing": witness.losing, "missing": missing })
}
