//! The results of a batch as they come: lines of two files that nobody sees before it has ended. A row's line is the
//! part that its number names, so that writing it again is no second one.

use std::collections::HashSet;
use std::time::SystemTime;

use serde_json::Value;

use super::document::{Batch, Counts, ResultFile};
use super::line::{Outcome, Used};
use crate::api::file_objects::{Files, Head};
use crate::api::time::unix_seconds;
use crate::model::KeyId;
use crate::store::{Entry, StoreError};

/// `purpose` of what batches write.
const PURPOSE: &str = "batch_output";

/// A row that has its result.
#[derive(Debug)]
pub(super) struct Finished {
    /// Its number in the input.
    pub(super) line: u64,
    pub(super) outcome: Outcome,
}

/// Where a batch's results go.
#[derive(Debug, Clone)]
pub(super) struct Results {
    files: Files,
    owner: KeyId,
    batch: String,
    output: String,
    failures: String,
}

/// What is written.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Rows that have a result.
    pub(super) lines: HashSet<u64>,
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) used: Used,
    output_bytes: u64,
    failure_bytes: u64,
}

impl Results {
    pub(super) fn of(files: &Files, owner: &KeyId, id: &str, batch: &Batch) -> Self {
        let (output, failures) = (batch.output.id.clone(), batch.failures.id.clone());
        Self { files: files.clone(), owner: owner.clone(), batch: id.to_owned(), output, failures }
    }

    /// Makes both files, which last until the batch has ended one way or another.
    pub(super) async fn begin(&self, until: SystemTime) -> Result<(), StoreError> {
        for id in [&self.output, &self.failures] {
            self.files.put(id, &self.owner, &self.head(id, 0, false), Some(until)).await?;
        }
        Ok(())
    }

    /// Writes results. Asked for again after a failure, it leaves the same.
    pub(super) async fn add(&self, finished: &[Finished]) -> Result<(), StoreError> {
        for (id, good) in [(&self.output, true), (&self.failures, false)] {
            let these = finished.iter().filter(|finished| finished.outcome.is_good() == good);
            let lines =
                these.map(|finished| Entry { id: part(finished.line), body: finished.outcome.line() });
            let lines: Vec<Entry> = lines.collect();
            if !lines.is_empty() {
                self.files.add(id, lines).await?;
            }
        }
        Ok(())
    }

    /// Counts what is there. Of a row that two bridges have each given another fate, the good one stays.
    pub(super) async fn written(&self) -> Result<Written, StoreError> {
        let mut written = Written::default();
        let mut lines = self.files.parts(&self.output);
        while let Some(line) = lines.next_entry().await? {
            written.output_bytes += line.body.len() as u64;
            written.completed += 1;
            written.lines.extend(line.id.parse::<u64>());
            let outcome: Value = serde_json::from_slice(&line.body).unwrap_or_default();
            written.used.add(&outcome["response"]["body"]);
        }
        let mut twice = Vec::new();
        let mut lines = self.files.parts(&self.failures);
        while let Some(line) = lines.next_entry().await? {
            if line.id.parse().is_ok_and(|number| written.lines.insert(number)) {
                written.failure_bytes += line.body.len() as u64;
                written.failed += 1;
            } else {
                twice.push(line.id);
            }
        }
        for part in twice {
            self.files.remove_part(&self.failures, &part).await?;
        }
        Ok(written)
    }

    /// Lets everybody see what was written; an empty file goes.
    pub(super) async fn show(
        &self,
        written: &Written,
        expires_at: Option<SystemTime>,
        files: [&mut ResultFile; 2],
    ) -> Result<(), StoreError> {
        for (file, bytes) in files.into_iter().zip([written.output_bytes, written.failure_bytes]) {
            if bytes == 0 {
                self.files.remove(&file.id).await?;
            } else {
                let head = self.head(&file.id, bytes, true);
                self.files.put(&file.id, &self.owner, &head, expires_at).await?;
            }
            file.shown = bytes > 0;
        }
        Ok(())
    }

    fn head(&self, id: &str, bytes: u64, whole: bool) -> Head {
        let what = if id == self.output { "output" } else { "error" };
        Head {
            filename: format!("{}_{what}.jsonl", self.batch),
            purpose: PURPOSE.into(),
            bytes,
            created_at: unix_seconds(SystemTime::now()),
            whole,
        }
    }
}

impl Written {
    pub(super) fn counts(&self, total: u64) -> Counts {
        Counts { total, completed: self.completed, failed: self.failed }
    }
}

/// A row's part.
fn part(line: u64) -> String {
    format!("{line:08}")
}
