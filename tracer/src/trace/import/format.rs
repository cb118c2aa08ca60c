//! Event formats: `events/<system>/<event>/format` of tracefs, as a trace.dat carries them.

use std::collections::BTreeMap;

use super::bytes::integer;

/// The layout of one event's records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EventFormat {
    pub id: u16,
    pub system: String,
    pub name: String,
    pub fields: Vec<Field>,
    /// How the kernel prints it; some facts are only said here, such as which value of `ret` means *fixed*.
    pub print: String,
}

/// One field of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub name: String,
    pub offset: usize,
    pub size: usize,
    pub is_signed: bool,
    /// Elements, 1 for plain fields.
    pub count: usize,
}

impl EventFormat {
    /// Parses a format file; `None` if it has no name, id or fields.
    pub(super) fn parse(system: &str, text: &str) -> Option<Self> {
        let mut format = Self { system: system.to_owned(), ..Self::default() };
        for line in text.lines() {
            let line = line.trim();
            if let Some(name) = line.strip_prefix("name:") {
                format.name = name.trim().to_owned();
            } else if let Some(id) = line.strip_prefix("ID:") {
                format.id = id.trim().parse().ok()?;
            } else if let Some(field) = line.strip_prefix("field:") {
                format.fields.extend(Field::parse(field));
            } else if let Some(print) = line.strip_prefix("print fmt:") {
                format.print = print.trim().to_owned();
            }
        }
        (!format.name.is_empty() && !format.fields.is_empty()).then_some(format)
    }

    /// The field's value in a record, sign-extended; element `idx` of arrays.
    pub(super) fn value(&self, record: &[u8], name: &str, idx: usize, big: bool) -> Option<u64> {
        let field = self.fields.iter().find(|field| field.name == name)?;
        let size = field.size / field.count;
        if field.count <= idx || !matches!(size, 1 | 2 | 4 | 8) {
            return None;
        }
        let begin = field.offset + idx * size;
        let value = integer(record.get(begin..begin + size)?, big);
        let unused = 64 - 8 * size as u32;
        Some(if field.is_signed { ((value << unused) as i64 >> unused) as u64 } else { value })
    }
}

impl Field {
    /// `unsigned long args[6]; offset:16; size:48; signed:0;`, with tabs.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let declaration = parts.next()?;
        let attributes: BTreeMap<&str, &str> =
            parts.filter_map(|part| part.split_once(':')).collect();
        let number = |name: &str| attributes.get(name)?.trim().parse::<usize>().ok();
        let size = number("size")?;
        let word = declaration.split_whitespace().next_back()?;
        let (name, count) = match word.split_once('[') {
            Some((name, count)) => (name, count.trim_end_matches(']').parse().unwrap_or(1)),
            None => (word, 1),
        };
        // A count that does not divide the size is a length in other units (`char comm[16]` of 4): one element.
        let count = if count != 0 && size % count == 0 { count } else { 1 };
        Some(Self {
            name: name.to_owned(),
            offset: number("offset").filter(|&offset| offset < 1 << 20)?,
            size: (size < 1 << 20).then_some(size)?,
            is_signed: number("signed") == Some(1),
            count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYS_ENTER: &str = "name: sys_enter\nID: 443\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:long id;\toffset:8;\tsize:8;\tsigned:1;\n\
        \tfield:unsigned long args[6];\toffset:16;\tsize:48;\tsigned:0;\n\n\
        print fmt: \"NR %ld\", REC->id\n";

    #[test]
    fn fields_are_read_by_the_files_own_layout() {
        let format = EventFormat::parse("raw_syscalls", SYS_ENTER).unwrap();
        assert_eq!((format.id, format.name.as_str()), (443, "sys_enter"));
        let mut record = [0; 64];
        record[4..8].copy_from_slice(&(-1i32).to_le_bytes());
        record[24..32].copy_from_slice(&0xae80u64.to_le_bytes());
        assert_eq!(format.value(&record, "args", 1, false), Some(0xae80));
        assert_eq!(format.value(&record, "common_pid", 0, false), Some(u64::MAX));
        assert_eq!(format.value(&record, "args", 6, false), None);
        assert_eq!(format.value(&record[..20], "args", 1, false), None);
        assert_eq!(format.value(&record, "no_such", 0, false), None);
    }

    #[test]
    fn nonsense_is_no_format() {
        assert_eq!(EventFormat::parse("kvm", "name: x\nID: many\n"), None);
        assert_eq!(Field::parse("int x; offset:-1; size:4;"), None);
        assert_eq!(Field::parse(""), None);
    }
}
