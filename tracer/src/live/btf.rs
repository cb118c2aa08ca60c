//! BTF: where the running kernel keeps its fields, which values its enums have and which parameters its functions take.
//!
//! A reader of its own because what is needed is small and the usual crates lack it: `vmlinux` plus the *split* BTF of
//! the `kvm` module (whose type ids and string offsets continue those of `vmlinux`), a few lookups, few milliseconds.
//! Format: Documentation/bpf/btf.rst.

use std::collections::HashMap;
use std::path::Path;

use super::LiveError;

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;

/// Types of the kernel: `vmlinux` and, where KVM is a module that has BTF, `kvm`.
#[derive(Debug)]
pub struct Btf {
    parts: Vec<Part>,
    /// Named structs and unions.
    structs: HashMap<Box<[u8]>, u32>,
    /// Functions that belong to KVM or that hooks read arguments of.
    functions: HashMap<Box<[u8]>, u32>,
    /// Ids of all enums.
    enums: Vec<u32>,
}

#[derive(Debug)]
struct Part {
    bytes: Vec<u8>,
    /// Byte position of each type record, in order of ids.
    positions: Vec<u32>,
    /// Id of the first type of this part (1 for a base: id 0 is `void`).
    first_id: u32,
    /// String offset at which this part's strings begin.
    first_string: u32,
    strings: std::ops::Range<usize>,
}

/// A struct member.
#[derive(Clone, Copy, Debug)]
struct Member {
    name: u32,
    type_id: u32,
    bit_offset: u32,
}

impl Btf {
    /// Reads the running kernel's BTF.
    ///
    /// # Errors
    /// [`LiveError::NoBtf`] if the kernel publishes none, [`LiveError::BadBtf`] if it cannot be read.
    pub fn of_running_kernel() -> Result<Self, LiveError> {
        let base = Path::new("/sys/kernel/btf/vmlinux");
        if !base.exists() {
            return Err(LiveError::NoBtf);
        }
        let module = Path::new("/sys/kernel/btf/kvm");
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| LiveError::Read { path: path.into(), source })
        };
        let module = if module.exists() { Some(read(module)?) } else { None };
        Self::parse(read(base)?, module).ok_or(LiveError::BadBtf)
    }

    /// Parses a base BTF and the split BTF that continues it; `None` if either is malformed.
    #[must_use]
    pub fn parse(base: Vec<u8>, split: Option<Vec<u8>>) -> Option<Self> {
        let mut parts = vec![Part::parse(base, 1, 0)?];
        if let Some(split) = split {
            let next_id = parts[0].first_id + parts[0].positions.len() as u32;
            let next_string = parts[0].strings.len() as u32;
            parts.push(Part::parse(split, next_id, next_string)?);
        }
        let mut btf =
            Self { parts, structs: HashMap::new(), functions: HashMap::new(), enums: Vec::new() };
        btf.index();
        Some(btf)
    }

    /// The KVM module's own BTF was there.
    #[must_use]
    pub fn has_module(&self) -> bool {
        self.parts.len() > 1
    }

    /// Byte offset of `path` (members joined by dots, through anonymous ones) in `struct name`.
    #[must_use]
    pub fn offset(&self, name: &str, path: &str) -> Option<u32> {
        let mut type_id = *self.structs.get(name.as_bytes())?;
        let mut bits = 0;
        for segment in path.split('.') {
            let (member, offset) = self.member(self.resolve(type_id)?, segment.as_bytes())?;
            bits += offset;
            type_id = member.type_id;
        }
        Some(bits / 8)
    }

    /// Size of `struct name`.
    #[must_use]
    pub fn size(&self, name: &str) -> Option<u32> {
        self.word(*self.structs.get(name.as_bytes())?, 2)
    }

    /// Value of an enumerator, searched in all enums.
    #[must_use]
    pub fn enumerator(&self, name: &str) -> Option<u32> {
        for &id in &self.enums {
            for n in 0..self.vlen(id)? {
                if self.string(self.word(id, 3 + 2 * n)?)? == name.as_bytes() {
                    return self.word(id, 4 + 2 * n);
                }
            }
        }
        None
    }

    /// Names of the parameters of a KVM function; `None` if the kernel publishes no such function.
    #[must_use]
    pub fn parameters(&self, function: &str) -> Option<Vec<String>> {
        let proto = self.word(*self.functions.get(function.as_bytes())?, 2)?;
        if self.kind(proto)? != KIND_FUNC_PROTO {
            return None;
        }
        (0..self.vlen(proto)?)
            .map(|n| {
                let name = self.string(self.word(proto, 3 + 2 * n)?)?;
                Some(String::from_utf8_lossy(name).into_owned())
            })
            .collect()
    }

    /// Number of arguments of a raw tracepoint (its `btf_trace_` prototype, less the leading context pointer).
    #[must_use]
    pub fn tracepoint_arguments(&self, name: &str) -> Option<usize> {
        // `typedef void (*btf_trace_NAME)(void *, ...)`: a typedef to a pointer to the prototype.
        let id = *self.functions.get(format!("btf_trace_{name}").as_bytes())?;
        let proto = self.word(self.word(id, 2)?, 2)?;
        (self.kind(proto)? == KIND_FUNC_PROTO).then_some(())?;
        Some((self.vlen(proto)? as usize).saturating_sub(1))
    }

    fn index(&mut self) {
        const KIND_TYPEDEF: u32 = 8;
        let last = self.parts.iter().map(|part| part.positions.len() as u32).sum();
        let (mut structs, mut functions, mut enums) = (HashMap::new(), HashMap::new(), Vec::new());
        for id in 1..=last {
            let (Some(kind), Some(name)) = (self.kind(id), self.word(id, 0)) else { continue };
            let name = self.string(name).unwrap_or_default();
            match kind {
                KIND_STRUCT | KIND_UNION if !name.is_empty() => {
                    structs.insert(name.into(), id);
                }
                KIND_FUNC => {
                    functions.insert(name.into(), id);
                }
                KIND_TYPEDEF if name.starts_with(b"btf_trace_") => {
                    functions.insert(name.into(), id);
                }
                KIND_ENUM => enums.push(id),
                _ => {}
            }
        }
        (self.structs, self.functions, self.enums) = (structs, functions, enums);
    }

    /// The member `name` of a struct, searching anonymous members too; its offset in bits from the struct's start.
    fn member(&self, id: u32, name: &[u8]) -> Option<(Member, u32)> {
        for n in 0..self.vlen(id)? {
            let member = self.member_at(id, n)?;
            let member_name = self.string(member.name)?;
            if member_name == name {
                return Some((member, member.bit_offset));
            }
            if member_name.is_empty()
                && let Some(inner) = self.resolve(member.type_id)
                && matches!(self.kind(inner), Some(KIND_STRUCT | KIND_UNION))
                && let Some((found, offset)) = self.member(inner, name)
            {
                return Some((found, member.bit_offset + offset));
            }
        }
        None
    }

    fn member_at(&self, id: u32, n: u32) -> Option<Member> {
        let is_bitfield_struct = self.word(id, 1)? >> 31 != 0;
        let offset = self.word(id, 3 + 3 * n + 2)?;
        Some(Member {
            name: self.word(id, 3 + 3 * n)?,
            type_id: self.word(id, 3 + 3 * n + 1)?,
            bit_offset: if is_bitfield_struct { offset & 0x00ff_ffff } else { offset },
        })
    }

    /// Follows typedefs, qualifiers and arrays to the type they stand for.
    fn resolve(&self, mut id: u32) -> Option<u32> {
        const KIND_ARRAY: u32 = 3;
        for _ in 0..16 {
            id = match self.kind(id)? {
                // typedef, volatile, const, restrict, type tag
                8..=11 | 18 => self.word(id, 2)?,
                KIND_ARRAY => self.word(id, 3)?,
                _ => return Some(id),
            };
        }
        None
    }

    fn kind(&self, id: u32) -> Option<u32> {
        Some(self.word(id, 1)? >> 24 & 0x1f)
    }

    fn vlen(&self, id: u32) -> Option<u32> {
        Some(self.word(id, 1)? & 0xffff)
    }

    /// The `n`th 32-bit word of a type record: name, info, size or type, then what the kind appends.
    fn word(&self, id: u32, n: u32) -> Option<u32> {
        let part = self.parts.iter().rev().find(|part| part.first_id <= id)?;
        let position = *part.positions.get((id - part.first_id) as usize)?;
        word_at(&part.bytes, (position + 4 * n) as usize)
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        let part = self.parts.iter().rev().find(|part| part.first_string <= offset)?;
        let strings = part.bytes.get(part.strings.clone())?;
        let tail = strings.get((offset - part.first_string) as usize..)?;
        tail.split(|&byte| byte == 0).next()
    }
}

impl Part {
    fn parse(bytes: Vec<u8>, first_id: u32, first_string: u32) -> Option<Self> {
        if u16::from_le_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let [header, types_at, types_len, strings_at, strings_len] =
            [4, 8, 12, 16, 20].map(|at| word_at(&bytes, at));
        let header = header?;
        let (mut at, end) = (header + types_at?, header + types_at? + types_len?);
        let strings = (header + strings_at?) as usize;
        let strings = strings..strings + strings_len? as usize;
        if strings.end > bytes.len() || end as usize > bytes.len() {
            return None;
        }
        let mut positions = Vec::new();
        while at < end {
            positions.push(at);
            let info = word_at(&bytes, at as usize + 4)?;
            at += 12 + appended_bytes(info >> 24 & 0x1f, info & 0xffff)?;
        }
        Some(Self { bytes, positions, first_id, first_string, strings })
    }
}

/// Bytes a kind appends to the 12-byte type record; `None` for kinds this reader does not know.
fn appended_bytes(kind: u32, vlen: u32) -> Option<u32> {
    Some(match kind {
        // int, var, decl tag
        1 | 14 | 17 => 4,
        // pointer, fwd, typedef, volatile, const, restrict, func, float, type tag
        2 | 7..=12 | 16 | 18 => 0,
        // array
        3 => 12,
        // struct, union, datasec, enum64
        KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * vlen,
        // enum, func proto
        KIND_ENUM | KIND_FUNC_PROTO => 8 * vlen,
        _ => return None,
    })
}

fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { int a; union { struct inner b; }; }`, `struct inner { int x; int y; }`, as words and strings.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0outer\0a\0inner\0b\0x\0y\0E\0RET\0";
        let at = |name: &[u8]| {
            let found = strings.windows(name.len() + 2).position(|window| {
                window[0] == 0 && window[name.len() + 1] == 0 && &window[1..=name.len()] == name
            });
            found.unwrap() as u32 + 1
        };
        let types: Vec<u32> = [
            vec![at(b"int"), 1 << 24, 4, 32],
            vec![at(b"outer"), 4 << 24 | 2, 12, at(b"a"), 1, 0, 0, 3, 32],
            vec![0, 5 << 24 | 1, 8, at(b"b"), 4, 0],
            vec![at(b"inner"), 4 << 24 | 2, 8, at(b"x"), 1, 0, at(b"y"), 1, 32],
            vec![at(b"E"), 6 << 24 | 1, 4, at(b"RET"), 7],
        ]
        .concat();
        let types_len = types.len() as u32 * 4;
        let mut out = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types_len, types_len, strings.len() as u32].iter().chain(&types) {
            out.extend(word.to_le_bytes());
        }
        out.extend(strings);
        out
    }

    #[test]
    fn finds_members_through_anonymous_unions() {
        let btf = Btf::parse(sample(), None).unwrap();
        assert_eq!(btf.offset("outer", "b.y"), Some(8));
        assert_eq!(btf.offset("outer", "missing"), None);
        assert_eq!(btf.size("inner"), Some(8));
        assert_eq!(btf.enumerator("RET"), Some(7));
    }

    #[test]
    fn a_cut_file_is_refused() {
        let whole = sample();
        for len in 0..whole.len() {
            assert!(Btf::parse(whole[..len].to_vec(), None).is_none(), "{len} bytes");
        }
    }
}
