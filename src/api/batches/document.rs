//! What is kept of a batch: its document, and the official object made of it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::line::{Used, Wrong};
use crate::api::lease::Leased;
use crate::api::time::unix_seconds;
use crate::store::{Document, DocumentKind, StoreError};

/// How a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Validating,
    Failed,
    InProgress,
    Finalizing,
    Completed,
    Expired,
    Cancelling,
    Cancelled,
}

/// The document's body.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub(super) status: Status,
    pub(super) endpoint: String,
    pub(super) input_file: String,
    pub(super) metadata: BTreeMap<String, String>,
    /// The class of task that all rows are of, unless they name another one.
    pub(super) task_class: Option<String>,
    /// How many seconds its result files live.
    pub(super) results_live: Option<u64>,
    pub(super) model: Option<String>,
    pub(super) errors: Vec<LineError>,
    pub(super) counts: Counts,
    pub(super) used: Used,
    /// Where results are written, from the first one on.
    pub(super) output: ResultFile,
    pub(super) failures: ResultFile,
    /// Unix milliseconds.
    created_ms: u64,
    expires_ms: u64,
    reached: Reached,
}

/// When each status was reached, Unix seconds; where it was.
#[derive(Debug, Clone, Copy, Default, JsonSchema, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the official names")]
struct Reached {
    #[serde(skip_serializing_if = "Option::is_none")]
    in_progress_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finalizing_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expired_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelling_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled_at: Option<u64>,
}

/// A file of results.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ResultFile {
    pub(super) id: String,
    /// Whether everybody can see it: it is whole, and not empty.
    pub(super) shown: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) total: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
}

/// What is wrong with the input.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub(crate) struct LineError {
    code: String,
    message: String,
    param: Option<String>,
    /// From 1 on.
    line: Option<u64>,
}

impl LineError {
    pub(super) fn new(wrong: Wrong, line: Option<u64>) -> Self {
        Self { code: wrong.code.into(), message: wrong.message, param: wrong.param.map(Into::into), line }
    }
}

impl Status {
    /// Nothing will change any more.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::Failed | Self::Completed | Self::Expired | Self::Cancelled)
    }
}

impl Reached {
    fn of(&mut self, status: Status) -> Option<&mut Option<u64>> {
        match status {
            // That is when it was made.
            Status::Validating => None,
            Status::Failed => Some(&mut self.failed_at),
            Status::InProgress => Some(&mut self.in_progress_at),
            Status::Finalizing => Some(&mut self.finalizing_at),
            Status::Completed => Some(&mut self.completed_at),
            Status::Expired => Some(&mut self.expired_at),
            Status::Cancelling => Some(&mut self.cancelling_at),
            Status::Cancelled => Some(&mut self.cancelled_at),
        }
    }
}

impl Leased for Batch {
    const KIND: DocumentKind = DocumentKind::Batch;

    fn of(document: &Document) -> Result<Self, StoreError> {
        serde_json::from_slice(&document.body)
            .map_err(|error| StoreError::Unreadable { reason: error.to_string() })
    }
}

/// What a new batch is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) endpoint: String,
    pub(super) input_file: String,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) task_class: Option<String>,
    pub(super) results_live: Option<u64>,
}

impl Batch {
    pub(super) fn new(asked: Asked, window: Duration) -> Self {
        let Asked { endpoint, input_file, metadata, task_class, results_live } = asked;
        let result = || ResultFile { id: crate::api::file_objects::Files::new_id(), shown: false };
        let now = SystemTime::now();
        Self {
            status: Status::Validating,
            endpoint,
            input_file,
            metadata,
            task_class,
            results_live,
            model: None,
            errors: Vec::new(),
            counts: Counts::default(),
            used: Used::default(),
            output: result(),
            failures: result(),
            created_ms: millis(now),
            expires_ms: millis(now + window),
            reached: Reached::default(),
        }
    }

    /// Changes the status, unless it is that already.
    pub(super) fn reach(&mut self, status: Status) {
        self.status = status;
        if let Some(at) = self.reached.of(status) {
            at.get_or_insert_with(|| unix_seconds(SystemTime::now()));
        }
    }

    /// Whether a row may have run.
    pub(super) fn has_begun(&self) -> bool {
        self.reached.in_progress_at.is_some()
    }

    /// How long its rows may still run.
    pub(super) fn left(&self) -> Duration {
        Duration::from_millis(self.expires_ms.saturating_sub(millis(SystemTime::now())))
    }

    pub(super) fn written(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The official object.
    pub(super) fn object<'a>(&'a self, id: &'a str) -> Object<'a> {
        let shown = |file: &'a ResultFile| file.shown.then_some(file.id.as_str());
        let (begun, is_wrong) = (self.status != Status::Validating, !self.errors.is_empty());
        Object {
            id,
            object: "batch",
            endpoint: &self.endpoint,
            model: self.model.as_deref(),
            errors: is_wrong.then_some(Errors { object: "list", data: &self.errors }),
            input_file_id: &self.input_file,
            completion_window: super::WINDOW,
            status: self.status,
            output_file_id: shown(&self.output),
            error_file_id: shown(&self.failures),
            created_at: self.created_ms / 1000,
            expires_at: self.expires_ms / 1000,
            reached: self.reached,
            request_counts: self.counts,
            usage: begun.then_some(self.used),
            metadata: &self.metadata,
        }
    }
}

/// What the API calls a batch.
#[derive(Debug, JsonSchema, Serialize)]
#[expect(clippy::struct_field_names, reason = "the official names")]
pub(crate) struct Object<'a> {
    id: &'a str,
    object: &'static str,
    endpoint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Errors<'a>>,
    input_file_id: &'a str,
    completion_window: &'static str,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_file_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_file_id: Option<&'a str>,
    created_at: u64,
    expires_at: u64,
    #[serde(flatten)]
    reached: Reached,
    request_counts: Counts,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Used>,
    metadata: &'a BTreeMap<String, String>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Errors<'a> {
    object: &'static str,
    data: &'a [LineError],
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::spec::assert_valid;

    #[test]
    fn every_status_is_an_official_object() {
        let asked = Asked {
            endpoint: "/v1/responses".into(),
            input_file: "file-1".into(),
            metadata: BTreeMap::from([("a".into(), "b".into())]),
            task_class: None,
            results_live: None,
        };
        let mut batch = Batch::new(asked, Duration::from_secs(60));
        batch.errors.push(LineError::new(Wrong::new("invalid_json_line", "No."), Some(3)));
        batch.output.shown = true;
        let all = [
            Status::Validating,
            Status::InProgress,
            Status::Finalizing,
            Status::Completed,
            Status::Failed,
            Status::Expired,
            Status::Cancelling,
            Status::Cancelled,
        ];
        for status in all {
            batch.reach(status);
            let object = serde_json::to_value(batch.object("batch_1")).unwrap();
            assert_valid("Batch", &object);
            assert!(batch.reached.of(status).is_none_or(|at| at.is_some()), "{object}");
        }
        let object = serde_json::to_value(batch.object("batch_1")).unwrap();
        assert_eq!(object["errors"]["data"][0]["line"], 3);
        assert_eq!(
            (&object["output_file_id"], &object["error_file_id"]),
            (&json!(batch.output.id), &json!(null))
        );
    }
}
