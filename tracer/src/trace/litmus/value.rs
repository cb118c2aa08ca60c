//! Values that are KVM's own: slots, SPTEs, pages, ioctls, bitmap words.

use super::field::{Fields, Problem, Value, Words, number};
use crate::event::{
    Gfn, IoctlOp, IoctlRef, MarkWord, PageRef, SlotId, SlotRef, Spte, SpteMasks, VcpuId,
};

impl Value for VcpuId {
    const WANTED: &'static str = "vcpu id";

    fn parse(text: &str, _: &Fields<'_>) -> Option<Self> {
        number(text)?.try_into().ok().map(Self)
    }

    fn show(&self, _: &str, _: &Words<'_>) -> String {
        self.0.to_string()
    }
}

impl Value for SlotId {
    const WANTED: &'static str = "as:id";

    fn parse(text: &str, _: &Fields<'_>) -> Option<Self> {
        let (as_id, id) = text.split_once(':')?;
        Some(Self { as_id: as_id.parse().ok()?, id: id.parse().ok()? })
    }

    fn show(&self, _: &str, _: &Words<'_>) -> String {
        self.to_string()
    }
}

impl Value for SlotRef {
    const WANTED: &'static str = "as:id[+log][+map]";

    fn parse(text: &str, fields: &Fields<'_>) -> Option<Self> {
        let mut parts = text.split('+');
        let id = SlotId::parse(parts.next()?, fields)?;
        let mut slot = Self { id, logging: false, has_bitmap: false };
        for part in parts {
            match part {
                "log" => slot.logging = true,
                "map" => slot.has_bitmap = true,
                _ => return None,
            }
        }
        Some(slot)
    }

    fn show(&self, _: &str, _: &Words<'_>) -> String {
        let logging = if self.logging { "+log" } else { "" };
        let bitmap = if self.has_bitmap { "+map" } else { "" };
        format!("{}{logging}{bitmap}", self.id)
    }

    fn take(
        fields: &Fields<'_>,
        name: &'static str,
        default: Option<Self>,
    ) -> Result<Self, Problem> {
        if let Some(slot) = fields.value(name)?.or(default) {
            return Ok(slot);
        }
        let Some(gfn) = fields.page.get() else {
            return Err(Problem::Missing { field: name, wanted: Self::WANTED });
        };
        fields.slots.of(fields.vm, gfn).ok_or(Problem::NoSlot(gfn))
    }
}

/// The SPTE values with a name. `rwd` comes last, so that it is written only where there is a D to tell it from `rw`.
fn named_sptes(masks: &SpteMasks) -> [(&'static str, u64); 3] {
    let ro = masks.present | masks.mmu_writable;
    let rw = ro | masks.writable;
    [("rw", rw), ("ro", ro), ("rwd", rw | masks.dirty)]
}

impl Value for Spte {
    const WANTED: &'static str = "none|ro|rw|rwd[+0x...] or 0x...";

    fn parse(text: &str, fields: &Fields<'_>) -> Option<Self> {
        if text == "none" {
            return Some(Self(0));
        }
        let (name, rest) = text.split_once('+').unwrap_or((text, "0"));
        match named_sptes(fields.masks).iter().find(|(known, _)| *known == name) {
            Some((_, bits)) => Some(Self(bits | number(rest)?)),
            None if name == text => number(text).map(Self),
            None => None,
        }
    }

    fn show(&self, _: &str, words: &Words<'_>) -> String {
        if self.0 == 0 {
            return String::from("none");
        }
        let masks = words.masks;
        let all = masks.present | masks.mmu_writable | masks.writable | masks.dirty;
        let named =
            named_sptes(masks).into_iter().find(|(_, bits)| *bits != 0 && self.0 & all == *bits);
        match named {
            Some((name, bits)) if bits == self.0 => name.to_owned(),
            Some((name, bits)) => format!("{name}+{:#x}", self.0 & !bits),
            None => self.to_string(),
        }
    }
}

impl Value for PageRef {
    const WANTED: &'static str = "gfn";

    fn parse(_: &str, _: &Fields<'_>) -> Option<Self> {
        None
    }

    fn show(&self, _: &str, _: &Words<'_>) -> String {
        self.gfn.to_string()
    }

    fn take(fields: &Fields<'_>, _: &'static str, _: Option<Self>) -> Result<Self, Problem> {
        Ok(Self {
            gfn: Gfn::take(fields, "gfn", None)?,
            level: u8::take(fields, "level", Some(1))?,
            as_id: Value::take(fields, "as_id", Some(Some(0)))?,
        })
    }

    fn put(&self, words: &mut Words<'_>, _: &'static str, _: Option<Self>) {
        let Self { gfn, level, as_id } = self;
        gfn.put(words, "gfn", None);
        level.put(words, "level", Some(1));
        as_id.put(words, "as_id", Some(Some(0)));
    }
}

/// The ioctls by the name litmus files use.
const IOCTLS: [(IoctlOp, &str); 5] = [
    (IoctlOp::GetDirtyLog, "get-dirty-log"),
    (IoctlOp::ClearDirtyLog, "clear-dirty-log"),
    (IoctlOp::ResetDirtyRings, "reset-dirty-rings"),
    (IoctlOp::SetMemory, "set-memory"),
    (IoctlOp::EnableCap, "enable-cap"),
];

impl Value for IoctlOp {
    const WANTED: &'static str =
        "get-dirty-log|clear-dirty-log|reset-dirty-rings|set-memory|enable-cap";

    fn parse(text: &str, _: &Fields<'_>) -> Option<Self> {
        IOCTLS.iter().find(|(_, name)| *name == text).map(|(op, _)| *op)
    }

    fn show(&self, _: &str, _: &Words<'_>) -> String {
        IOCTLS.iter().find(|(op, _)| op == self).map_or("", |(_, name)| *name).to_owned()
    }
}

impl Value for IoctlRef {
    const WANTED: &'static str = IoctlOp::WANTED;

    fn parse(_: &str, _: &Fields<'_>) -> Option<Self> {
        None
    }

    fn show(&self, name: &str, words: &Words<'_>) -> String {
        self.op.show(name, words)
    }

    fn take(fields: &Fields<'_>, _: &'static str, _: Option<Self>) -> Result<Self, Problem> {
        Ok(Self {
            op: IoctlOp::take(fields, "op", None)?,
            slot: SlotId::take(fields, "slot", Some(SlotId::default()))?,
            mem_flags: u32::take(fields, "mem_flags", Some(0))?,
        })
    }

    fn put(&self, words: &mut Words<'_>, _: &'static str, _: Option<Self>) {
        let Self { op, slot, mem_flags } = self;
        op.put(words, "op", None);
        slot.put(words, "slot", Some(SlotId::default()));
        mem_flags.put(words, "mem_flags", Some(0));
    }
}

impl Value for MarkWord {
    const WANTED: &'static str = "bitmap word";

    fn parse(_: &str, _: &Fields<'_>) -> Option<Self> {
        None
    }

    fn show(&self, _: &str, _: &Words<'_>) -> String {
        String::new()
    }

    fn take(fields: &Fields<'_>, _: &'static str, _: Option<Self>) -> Result<Self, Problem> {
        if let Some(index) = fields.value("ring")? {
            return Ok(Self::Ring(index));
        }
        Ok(fields.value("word")?.map_or(Self::Unread, Self::Bitmap))
    }

    fn put(&self, words: &mut Words<'_>, _: &'static str, _: Option<Self>) {
        match self {
            Self::Unread => {}
            Self::Bitmap(word) => word.put(words, "word", None),
            Self::Ring(index) => index.put(words, "ring", None),
        }
    }
}
