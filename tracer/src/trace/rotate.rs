//! Rotation: one trace in several files, each a recording by itself, of which only the newest may be kept.
//!
//! The first file has the name that was asked for, `vm.kdt`; the next ones are `vm.2.kdt`, `vm.3.kdt` and so on.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::TraceError;
use super::carry::Carry;
use super::header::Header;
use super::writer::{WriteLimits, Writer};
use crate::event::{Batch, Nanos};

/// When a file ends, and how many are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationLimits {
    /// A file ends with the frame with which it reaches this size.
    pub bytes_max: u64,
    /// Older files are removed; `None`: all are kept.
    pub files_max: Option<u32>,
    /// When frames are written.
    pub write: WriteLimits,
}

/// Writes one trace to several files.
pub struct Rotation {
    path: PathBuf,
    header: Header,
    limits: RotationLimits,
    writer: Option<Writer>,
    carry: Carry,
    watermark: Nanos,
    /// Numbers of the files that are kept, the current one last.
    files: VecDeque<u32>,
    records_before: u64,
}

impl Rotation {
    /// Creates the first file, which must not exist.
    ///
    /// # Errors
    /// It cannot be created or written.
    pub fn create(path: &Path, header: Header, limits: RotationLimits) -> Result<Self, TraceError> {
        let writer = Writer::new(Box::new(create_new(path)?), &header, limits.write)?;
        Ok(Self {
            path: path.to_owned(),
            header,
            limits,
            writer: Some(writer),
            carry: Carry::default(),
            watermark: Nanos(0),
            files: VecDeque::from([1]),
            records_before: 0,
        })
    }

    /// Takes the next batch.
    ///
    /// # Errors
    /// It could not be written, or an old file not be removed. The files so far are valid recordings.
    pub fn write(&mut self, batch: &Batch) -> Result<(), TraceError> {
        let writer = self.writer.as_mut().ok_or(TraceError::Ended)?;
        for record in &batch.records {
            self.carry.note(record);
        }
        self.watermark = batch.watermark;
        writer.write(batch)?;
        if self.limits.bytes_max <= writer.bytes() { self.rotate() } else { Ok(()) }
    }

    /// Writes everything taken so far.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn flush(&mut self) -> Result<(), TraceError> {
        self.writer.as_mut().ok_or(TraceError::Ended)?.flush()
    }

    /// Writes what is left and ends the last file.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn finish(mut self) -> Result<(), TraceError> {
        self.writer.take().ok_or(TraceError::Ended)?.finish()
    }

    /// The files that are kept, oldest first.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.iter().map(|&number| file_name(&self.path, number)).collect()
    }

    /// Records written so far, in all files, removed ones too.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records_before + self.writer.as_ref().map_or(0, Writer::records)
    }

    fn rotate(&mut self) -> Result<(), TraceError> {
        // Without a writer from here on, an error ends the rotation.
        let Some(mut done) = self.writer.take() else {
            return Err(TraceError::Ended);
        };
        done.flush()?;
        self.records_before += done.records();
        done.finish()?;
        let number = self.files.back().map_or(1, |&last| last + 1);
        let file = create_new(&file_name(&self.path, number))?;
        let mut writer = Writer::new(Box::new(file), &self.header, self.limits.write)?;
        writer.write(&Batch {
            records: self.carry.records(self.watermark),
            gaps: Vec::new(),
            watermark: self.watermark,
        })?;
        self.files.push_back(number);
        self.writer = Some(writer);
        while self.limits.files_max.is_some_and(|max| max.max(1) < self.files.len() as u32) {
            if let Some(oldest) = self.files.pop_front() {
                let path = file_name(&self.path, oldest);
                std::fs::remove_file(&path)
                    .map_err(|source| TraceError::Remove { path, source })?;
            }
        }
        Ok(())
    }
}

/// The name of file `number` of a trace: `vm.kdt`, `vm.2.kdt`, ...
#[must_use]
pub fn file_name(path: &Path, number: u32) -> PathBuf {
    if number <= 1 {
        return path.to_owned();
    }
    match path.extension() {
        Some(extension) => path.with_extension(format!("{number}.{}", extension.to_string_lossy())),
        None => path.with_extension(number.to_string()),
    }
}

/// Creates a file that must not exist: a recording is never overwritten by the next one.
pub(super) fn create_new(path: &Path) -> Result<File, TraceError> {
    File::create_new(path).map_err(|source| TraceError::Create { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_keep_the_extension() {
        let name = |path: &str, number| file_name(Path::new(path), number).display().to_string();
        assert_eq!(name("a/vm.kdt", 1), "a/vm.kdt");
        assert_eq!(name("a/vm.kdt", 2), "a/vm.2.kdt");
        assert_eq!(name("vm", 3), "vm.3");
    }
}
