//! The program the demo guest runs, as bytes with their assembly beside them.
//!
//! 64-bit code for ring 3 with I/O privilege 3, no stack, no interrupts, no descriptor tables. It
//! walks a list of *regions* that the VMM wrote into the vCPU's control page, stores a fixed number
//! of times in each, and leaves by `out` after every walk. What it counts goes to its own state
//! page.
//!
//! ```text
//! r15 = control page (the VMM writes, the guest reads)      r14 = state page (the guest writes)
//!   +0x00 stores per visit                                    +0x00 random state, never zero
//!   +0x08 number of regions                                   +0x08 walks done
//!   +0x10 cold mask: a random store goes to the whole         +0x20 next page of region n, at +8 n
//!         region when `random & mask == 0`, otherwise
//!         to its hot pages
//!   +0x20 region n, at +0x20 n: address of this vCPU's
//!         word in the first page, pages, hot pages, kind
//! ```
//!
//! One store is one increment of this vCPU's word in a page, so that word is the page's sequence
//! number. The emulated kinds store once per visit, because KVM takes microseconds for each.

/// What a region asks of the guest; the number stands in the control page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// Increments the word of one page after the other.
    Sequential = 0,
    /// Increments the word of pages drawn by xorshift64, most of them among the hot ones.
    Random = 1,
    /// Stores eight bytes, of which the last four lie in a hole: KVM emulates the store.
    Crossing = 2,
    /// `lock cmpxchg` on a word; emulated where KVM shadows the page as a page table.
    Exchange = 3,
    /// `lock cmpxchg` behind KVM's forced-emulation prefix.
    ForcedExchange = 4,
    /// A store behind KVM's forced-emulation prefix.
    ForcedStore = 5,
    /// Increments the word of one page as often as it stores per visit, and of the next page with the next visit.
    Streak = 6,
}

/// Bytes of one region entry in the control page.
pub const REGION_BYTES: u64 = 0x20;
/// Offset of the first region entry in the control page.
pub const REGION_TABLE: u64 = 0x20;
/// Most regions a control page may list; bounded by both pages, small because a walk visits them
/// all.
pub const REGIONS_MAX: usize = 64;
/// Offset in the state page of the number of walks done.
pub const WALKS: u64 = 0x08;
/// I/O port of the `out` that ends a walk.
pub const PORT: u16 = 0xf4;

/// Offset of the instruction that ends a walk, for tests that look for it.
#[cfg(test)]
const END_OF_WALK: usize = 0xec;

/// The guest program, position independent, entered at its first byte.
#[rustfmt::skip]
pub const PROGRAM: &[u8] = &[
    // start: take up the random state
    0x4d, 0x8b, 0x2e,                         // 00 mov   r13, [r14]
    // walk: region index = 0
    0x31, 0xed,                               // 03 xor   ebp, ebp
    // visit: read the region entry, branch by kind
    0x48, 0x89, 0xeb,                         // 05 mov   rbx, rbp
    0x48, 0xc1, 0xe3, 0x05,                   // 08 shl   rbx, 5
    0x49, 0x8d, 0x5c, 0x1f, 0x20,             // 0c lea   rbx, [r15+rbx+0x20]
    0x4c, 0x8b, 0x03,                         // 11 mov   r8, [rbx]         word in the first page
    0x4c, 0x8b, 0x4b, 0x08,                   // 14 mov   r9, [rbx+8]       pages
    0x4c, 0x8b, 0x53, 0x10,                   // 18 mov   r10, [rbx+0x10]   hot pages
    0x8b, 0x43, 0x18,                         // 1c mov   eax, [rbx+0x18]   kind
    0x49, 0x8b, 0x0f,                         // 1f mov   rcx, [r15]        stores
    0xff, 0xc8,                               // 22 dec   eax
    0x74, 0x3e,                               // 24 je    random
    0xff, 0xc8,                               // 26 dec   eax
    0x74, 0x78,                               // 28 je    crossing
    0xff, 0xc8,                               // 2a dec   eax
    0x74, 0x7d,                               // 2c je    exchange
    0xff, 0xc8,                               // 2e dec   eax
    0x0f, 0x84, 0x83, 0x00, 0x00, 0x00,       // 30 je    forced_exchange
    0xff, 0xc8,                               // 36 dec   eax
    0x0f, 0x89, 0xb5, 0x00, 0x00, 0x00,       // 38 jns   more
    // sequential: go on where the last visit stopped
    0x49, 0x8b, 0x54, 0xee, 0x20,             // 3e mov   rdx, [r14+rbp*8+0x20]
    0x4c, 0x39, 0xca,                         // 43 cmp   rdx, r9
    0x72, 0x02,                               // 46 jb    +2
    0x31, 0xd2,                               // 48 xor   edx, edx
    0x48, 0x89, 0xd0,                         // 4a mov   rax, rdx
    0x48, 0xc1, 0xe0, 0x0c,                   // 4d shl   rax, 12
    0x49, 0xff, 0x04, 0x00,                   // 51 inc   qword [r8+rax]
    0x48, 0xff, 0xc2,                         // 55 inc   rdx
    0x48, 0xff, 0xc9,                         // 58 dec   rcx
    0x75, 0xe6,                               // 5b jnz   43
    0x49, 0x89, 0x54, 0xee, 0x20,             // 5d mov   [r14+rbp*8+0x20], rdx
    0xeb, 0x74,                               // 62 jmp   next
    // random: xorshift64, then page = high half of (random * range)
    0x4c, 0x89, 0xe8,                         // 64 mov   rax, r13
    0x48, 0xc1, 0xe0, 0x0d,                   // 67 shl   rax, 13
    0x49, 0x31, 0xc5,                         // 6b xor   r13, rax
    0x4c, 0x89, 0xe8,                         // 6e mov   rax, r13
    0x48, 0xc1, 0xe8, 0x07,                   // 71 shr   rax, 7
    0x49, 0x31, 0xc5,                         // 75 xor   r13, rax
    0x4c, 0x89, 0xe8,                         // 78 mov   rax, r13
    0x48, 0xc1, 0xe0, 0x11,                   // 7b shl   rax, 17
    0x49, 0x31, 0xc5,                         // 7f xor   r13, rax
    0x4c, 0x89, 0xd6,                         // 82 mov   rsi, r10
    0x4d, 0x85, 0x6f, 0x10,                   // 85 test  [r15+0x10], r13
    0x49, 0x0f, 0x44, 0xf1,                   // 89 cmovz rsi, r9
    0x4c, 0x89, 0xe8,                         // 8d mov   rax, r13
    0x48, 0xf7, 0xe6,                         // 90 mul   rsi
    0x48, 0xc1, 0xe2, 0x0c,                   // 93 shl   rdx, 12
    0x49, 0xff, 0x04, 0x10,                   // 97 inc   qword [r8+rdx]
    0x48, 0xff, 0xc9,                         // 9b dec   rcx
    0x75, 0xc4,                               // 9e jnz   random
    0xeb, 0x36,                               // a0 jmp   next
    // crossing: the number of walks, half of it into the hole
    0x49, 0x8b, 0x46, 0x08,                   // a2 mov   rax, [r14+8]
    0x49, 0x89, 0x00,                         // a6 mov   [r8], rax
    0xeb, 0x2d,                               // a9 jmp   next
    // exchange: adds 2, so that a page-table entry stays not present
    0x49, 0x8b, 0x00,                         // ab mov   rax, [r8]
    0x48, 0x8d, 0x50, 0x02,                   // ae lea   rdx, [rax+2]
    0xf0, 0x49, 0x0f, 0xb1, 0x10,             // b2 lock cmpxchg [r8], rdx
    0xeb, 0x1f,                               // b7 jmp   next
    // forced_exchange
    0x49, 0x8b, 0x00,                         // b9 mov   rax, [r8]
    0x48, 0x8d, 0x50, 0x02,                   // bc lea   rdx, [rax+2]
    0x0f, 0x0b, b'k', b'v', b'm',             // c0 ud2; "kvm"
    0xf0, 0x49, 0x0f, 0xb1, 0x10,             // c5 lock cmpxchg [r8], rdx
    0xeb, 0x0c,                               // ca jmp   next
    // forced_store
    0x49, 0x8b, 0x46, 0x08,                   // cc mov   rax, [r14+8]
    0x0f, 0x0b, b'k', b'v', b'm',             // d0 ud2; "kvm"
    0x49, 0x89, 0x00,                         // d5 mov   [r8], rax
    // next: the next region, or the end of the walk
    0x48, 0xff, 0xc5,                         // d8 inc   rbp
    0x49, 0x3b, 0x6f, 0x08,                   // db cmp   rbp, [r15+8]
    0x0f, 0x82, 0x20, 0xff, 0xff, 0xff,       // df jb    visit
    0x49, 0xff, 0x46, 0x08,                   // e5 inc   qword [r14+8]
    0x4d, 0x89, 0x2e,                         // e9 mov   [r14], r13
    0xe6, 0xf4,                               // ec out   0xf4, al
    0xe9, 0x10, 0xff, 0xff, 0xff,             // ee jmp   walk
    // more: the kinds for which the branches above are too short
    0x74, 0xd7,                               // f3 je    forced_store
    // streak: all stores of a visit to one page, the next page with the next visit
    0x49, 0x8b, 0x54, 0xee, 0x20,             // f5 mov   rdx, [r14+rbp*8+0x20]
    0x4c, 0x39, 0xca,                         // fa cmp   rdx, r9
    0x72, 0x02,                               // fd jb    +2
    0x31, 0xd2,                               // ff xor   edx, edx
    0x48, 0x89, 0xd0,                         // 101 mov   rax, rdx
    0x48, 0xc1, 0xe0, 0x0c,                   // 104 shl   rax, 12
    0x49, 0xff, 0x04, 0x00,                   // 108 inc   qword [r8+rax]
    0x48, 0xff, 0xc9,                         // 10c dec   rcx
    0x75, 0xf7,                               // 10f jnz   108
    0x48, 0xff, 0xc2,                         // 111 inc   rdx
    0x49, 0x89, 0x54, 0xee, 0x20,             // 114 mov   [r14+rbp*8+0x20], rdx
    0xeb, 0xbd,                               // 119 jmp   next
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the jump whose displacement ends at `end` goes to.
    fn target(end: usize, width: usize) -> usize {
        let displacement = match width {
            1 => i64::from(PROGRAM[end - 1] as i8),
            4 => i64::from(i32::from_le_bytes(PROGRAM[end - 4..end].try_into().unwrap())),
            other => panic!("no such displacement: {other} bytes"),
        };
        usize::try_from(end as i64 + displacement).unwrap()
    }

    #[test]
    fn program_fits_one_page_and_a_walk_ends_with_the_jump_back() {
        assert_eq!(PROGRAM.len(), 0x11b);
        assert_eq!(target(0xf3, 4), 0x03);
        assert_eq!(PROGRAM[END_OF_WALK..END_OF_WALK + 2], [0xe6, PORT as u8]);
    }

    #[test]
    fn every_kind_jumps_to_its_own_landmark() {
        let random = target(0x26, 1);
        assert_eq!(PROGRAM[random..random + 3], [0x4c, 0x89, 0xe8]);
        let crossing = target(0x2a, 1);
        assert_eq!(PROGRAM[crossing..crossing + 4], [0x49, 0x8b, 0x46, 0x08]);
        let exchange = target(0x2e, 1);
        assert_eq!(PROGRAM[exchange + 7..exchange + 9], [0xf0, 0x49]);
        let forced_exchange = target(0x36, 4);
        assert_eq!(PROGRAM[forced_exchange + 7..forced_exchange + 12], *b"\x0f\x0bkvm");
        let more = target(0x3e, 4);
        assert_eq!(PROGRAM[more + 2..more + 7], [0x49, 0x8b, 0x54, 0xee, 0x20]);
        let forced_store = target(more + 2, 1);
        assert_eq!(PROGRAM[forced_store + 4..forced_store + 9], *b"\x0f\x0bkvm");
    }

    #[test]
    fn every_path_meets_at_the_next_region() {
        for end in [0x64, 0xa2, 0xab, 0xb9, 0xcc, 0x11b] {
            assert_eq!(target(end, 1), 0xd8);
        }
        assert_eq!(target(0xe5, 4), 0x05);
    }

    #[test]
    fn loops_close_on_their_first_instruction() {
        assert_eq!(target(0x5d, 1), 0x43);
        assert_eq!(target(0xa0, 1), 0x64);
        assert_eq!(target(0x111, 1), 0x108);
    }
}
