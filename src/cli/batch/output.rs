//! The results' file: lines are only ever added, and each is on the device before its row counts.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::api::batch_line::{Outcome, Used};

/// What is written, and what was there.
#[derive(Debug)]
pub(super) struct Output {
    path: PathBuf,
    /// Locked: two runs at once would write rows twice.
    file: File,
    /// Rows that have a line.
    pub(super) ids: HashSet<String>,
    pub(super) failed: u64,
    pub(super) used: Used,
}

/// One line.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    #[serde(flatten)]
    pub(super) outcome: Outcome,
    /// The answer's object, where one was asked for: `null` where the answer is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parsed: Option<Value>,
}

impl Line {
    pub(super) fn is_good(&self) -> bool {
        self.outcome.is_good() && self.parsed.as_ref().is_none_or(|parsed| !parsed.is_null())
    }
}

impl Output {
    pub(super) fn open(path: &Path, resume: bool) -> anyhow::Result<Self> {
        let file = File::options().read(true).append(true).create(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => bail!("{}: another run writes it", path.display()),
            Err(std::fs::TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        let length = file.metadata()?.len();
        ensure!(
            resume || length == 0,
            "{} is not empty: go on with --resume, or name another file",
            path.display()
        );
        let mut output =
            Self { path: path.to_owned(), file, ids: HashSet::new(), failed: 0, used: Used::default() };
        output.read().with_context(|| path.display().to_string())?;
        // Its name is to outlive a power cut as its lines do.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if let Ok(folder) = File::open(folder) {
            let _ = folder.sync_all();
        }
        Ok(output)
    }

    /// Takes over what is there; a last line that was not written to its end goes.
    fn read(&mut self) -> anyhow::Result<()> {
        let mut reader = BufReader::new(self.file.try_clone()?);
        reader.seek(SeekFrom::Start(0))?;
        let (mut whole, mut text) = (0, Vec::new());
        for number in 1_u64.. {
            text.clear();
            let length = reader.read_until(b'\n', &mut text)? as u64;
            if length == 0 {
                break;
            }
            let line = serde_json::from_slice(&text).ok().filter(|_| text.ends_with(b"\n"));
            let Some(line) = line else {
                let is_last = reader.fill_buf()?.is_empty();
                ensure!(is_last, "line {number} is no result: repair it, or name another file");
                self.file.set_len(whole)?;
                self.file.sync_data()?;
                super::super::complain("the last line of the output was not whole, and is written anew");
                break;
            };
            self.take(&line).with_context(|| format!("line {number} is no result"))?;
            whole += length;
        }
        Ok(())
    }

    fn take(&mut self, line: &Value) -> anyhow::Result<()> {
        let id = line["custom_id"].as_str().context("it has no `custom_id`")?;
        let status = line["response"]["status_code"].as_u64().unwrap_or(0);
        let is_good =
            (200..300).contains(&status) && line.get("parsed").is_none_or(|parsed| !parsed.is_null());
        self.failed += u64::from(!is_good);
        self.used.add(&line["response"]["body"]);
        self.ids.insert(id.to_owned());
        Ok(())
    }

    /// Adds lines, and waits until they are on the device.
    pub(super) fn add(&mut self, lines: &[Line]) -> anyhow::Result<()> {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
        }
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        written.with_context(|| format!("cannot write {}", self.path.display()))?;
        for line in lines {
            self.failed += u64::from(!line.is_good());
            if let Some(answered) = &line.outcome.response {
                self.used.add(&answered.body);
            }
            self.ids.insert(line.outcome.custom_id.clone());
        }
        Ok(())
    }
}
