//! `POST /v1/files`: a form, read field by field as it comes and kept part by part.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use multer::{Constraints, Field, Multipart, SizeLimit};
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use super::shelf::{BATCH, Files, Head, StoredFile};
use crate::api::edge::Edge;
use crate::api::error::ApiError;
use crate::api::extract::no_room;
use crate::api::read::{missing, not_one_of};
use crate::api::time::unix_seconds;
use crate::model::KeyId;
use crate::store::{Entry, StoreError};

/// Bytes of a part, and of an upload in memory.
pub(super) const PART: usize = 256 * 1024;
/// Most bytes of a form beside its file, and of its other fields.
const FORM: u64 = 64 * 1024;
const WORD: u64 = 1024;
/// Longest name of a file, bytes.
const LONGEST_NAME: usize = 512;
/// How long after its upload must have ended what is left of it is swept.
const AFTER: Duration = Duration::from_secs(60);
/// `purpose`s of the official API; here files are for batches.
const PURPOSES: &[&str] = &["assistants", "batch", "fine-tune", "vision", "user_data", "evals"];

/// What a form says beside its file.
#[derive(Debug, Default)]
struct Form {
    purpose: Option<String>,
    anchor: Option<String>,
    seconds: Option<String>,
}

/// A file that is not whole yet; dropped so, it goes.
struct Draft {
    files: Files,
    owner: KeyId,
    id: String,
    filename: String,
    created_at: u64,
    /// Not in a part yet.
    rest: BytesMut,
    parts: u64,
    /// Bytes in all; they count as coming until it is whole.
    bytes: u64,
    settled: bool,
    /// Held by the write under way, which outlives a caller that leaves.
    writing: Arc<Mutex<()>>,
}

/// Takes the file of a form. What fails leaves nothing.
pub(super) async fn take(edge: &Edge, owner: &KeyId, request: Request) -> Result<StoredFile, ApiError> {
    let files = &edge.files;
    let boundary = check_head(files, request.headers())?;
    // What comes and what is written.
    let _room = timeout(edge.body_timeout, edge.intake.take(owner, 2 * PART))
        .await
        .ok()
        .flatten()
        .ok_or_else(no_room)?;
    files.check_room().await?;
    let most = files.max_file_bytes as u64;
    let sizes = ["purpose", "expires_after[anchor]", "expires_after[seconds]", "expires_after"];
    let sizes = sizes.into_iter().fold(SizeLimit::new(), |sizes, field| sizes.for_field(field, WORD));
    let sizes = sizes.for_field("file", most).whole_stream(most.saturating_add(FORM));
    let body = request.into_body().into_data_stream();
    let form = Multipart::with_constraints(body, boundary, Constraints::new().size_limit(sizes));
    let taken = timeout(files.upload_timeout, read(files, owner, form)).await;
    taken.unwrap_or_else(|_| {
        let message = "The upload was not complete in time (`batches.upload_timeout`).";
        Err(ApiError::new("request_timeout", message))
    })
}

/// What the head alone tells; gives the form's boundary.
fn check_head(files: &Files, headers: &HeaderMap) -> Result<String, ApiError> {
    let unsupported = |message| ApiError::new("unsupported_media_type", message);
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let boundary = multer::parse_boundary(kind)
        .map_err(|_| unsupported("Send the file as `Content-Type: multipart/form-data`."))?;
    let encoding = headers.get(CONTENT_ENCODING).map(|encoding| encoding.as_bytes().trim_ascii());
    if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
        return Err(unsupported("Send the file without a `Content-Encoding`."));
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > (files.max_file_bytes as u64).saturating_add(FORM)) {
        return Err(too_large(files));
    }
    Ok(boundary)
}

async fn read(files: &Files, owner: &KeyId, mut fields: Multipart<'_>) -> Result<StoredFile, ApiError> {
    let broken = |error: multer::Error| match error {
        multer::Error::FieldSizeExceeded { field_name: Some(name), .. } if name != "file" => {
            ApiError::invalid(name, "The field is too long.").with_code("string_above_max_length")
        }
        multer::Error::FieldSizeExceeded { .. } | multer::Error::StreamSizeExceeded { .. } => {
            too_large(files)
        }
        _ => ApiError::invalid("file", "The form is not well made, or ended before it was complete."),
    };
    let mut form = Form::default();
    let mut draft: Option<Draft> = None;
    while let Some(mut field) = fields.next_field().await.map_err(broken)? {
        match field.name().unwrap_or_default() {
            "file" if draft.is_some() => {
                return Err(ApiError::invalid("file", "A form has one 'file'."));
            }
            "file" => {
                let draft = draft.insert(Draft::begin(files, owner, filename(&field)?).await?);
                while let Some(chunk) = field.chunk().await.map_err(broken)? {
                    draft.write(&chunk).await?;
                }
            }
            "purpose" => {
                form.purpose = Some(field.text().await.map_err(broken)?);
                // Before the file is taken, where it comes first.
                form.check_purpose()?;
            }
            "expires_after[anchor]" => form.anchor = Some(field.text().await.map_err(broken)?),
            "expires_after[seconds]" => form.seconds = Some(field.text().await.map_err(broken)?),
            // Without effect.
            _ => {}
        }
    }
    let lives = form.check()?.unwrap_or(files.ttl);
    draft.ok_or_else(|| missing("file"))?.finish(lives).await
}

/// As the client calls it: one line, and no path.
fn filename(field: &Field<'_>) -> Result<String, ApiError> {
    let name = field.file_name().filter(|name| !name.is_empty()).unwrap_or("file");
    if name.len() > LONGEST_NAME {
        let message = format!("Invalid 'file': its name is longer than {LONGEST_NAME} bytes.");
        return Err(ApiError::invalid("file", message).with_code("string_above_max_length"));
    }
    Ok(name.chars().filter(|letter| !letter.is_control()).collect())
}

impl Form {
    fn check_purpose(&self) -> Result<(), ApiError> {
        match self.purpose.as_deref() {
            None => Err(missing("purpose")),
            Some(BATCH) => Ok(()),
            Some(other) if PURPOSES.contains(&other) => {
                let message = format!("Files of purpose '{other}' are not served here: only '{BATCH}' is.");
                Err(ApiError::invalid("purpose", message).with_code("unsupported_value"))
            }
            Some(_) => Err(not_one_of("purpose", &[BATCH])),
        }
    }

    /// Gives how long the file is to live, where that is said.
    fn check(&self) -> Result<Option<Duration>, ApiError> {
        self.check_purpose()?;
        if self.anchor.is_none() && self.seconds.is_none() {
            return Ok(None);
        }
        let not_a_number = |_| {
            ApiError::invalid(
                "expires_after.seconds",
                "Invalid type for 'expires_after.seconds': expected an integer.",
            )
            .with_code("invalid_type")
        };
        let seconds = self.seconds.as_deref().map(str::parse).transpose().map_err(not_a_number)?;
        let lives = super::lives("expires_after", self.anchor.as_deref(), seconds)?;
        Ok(Some(Duration::from_secs(lives)))
    }
}

impl Draft {
    async fn begin(files: &Files, owner: &KeyId, filename: String) -> Result<Self, StoreError> {
        let draft = Self {
            files: files.clone(),
            owner: owner.clone(),
            id: Files::new_id(),
            filename,
            created_at: unix_seconds(SystemTime::now()),
            rest: BytesMut::new(),
            parts: 0,
            bytes: 0,
            settled: false,
            writing: Arc::default(),
        };
        // Even a process that is killed leaves nothing: it has an end from the beginning.
        let end = SystemTime::now() + files.upload_timeout + AFTER;
        files.put(&draft.id, owner, &draft.head(0, false), Some(end)).await?;
        Ok(draft)
    }

    fn head(&self, bytes: u64, whole: bool) -> Head {
        let (filename, created_at) = (self.filename.clone(), self.created_at);
        Head { filename, purpose: BATCH.into(), bytes, created_at, whole }
    }

    async fn write(&mut self, chunk: &Bytes) -> Result<(), StoreError> {
        self.bytes += chunk.len() as u64;
        self.files.coming.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        self.rest.extend_from_slice(chunk);
        while self.rest.len() >= PART {
            let part = self.rest.split_to(PART);
            self.keep(part).await?;
        }
        Ok(())
    }

    async fn keep(&mut self, part: BytesMut) -> Result<(), StoreError> {
        let id = format!("{:08}", self.parts);
        self.parts += 1;
        let (files, file, part) = (self.files.clone(), self.id.clone(), Entry { id, body: part.to_vec() });
        let held = Arc::clone(&self.writing).lock_owned().await;
        let (told, kept) = oneshot::channel();
        self.files.tasks.spawn("part of an upload", async move {
            let _ = told.send(files.add(&file, vec![part]).await);
            drop(held);
        });
        kept.await.unwrap_or_else(|_| Err(StoreError::Unavailable { reason: "the bridge stops".into() }))
    }

    async fn finish(mut self, lives: Duration) -> Result<StoredFile, ApiError> {
        if self.bytes == 0 {
            return Err(ApiError::invalid("file", "The file is empty.").with_code("empty_file"));
        }
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            self.keep(rest).await?;
        }
        // Others may have come meanwhile.
        self.files.check_room().await?;
        let head = self.head(self.bytes, true);
        let expires_at = SystemTime::now().checked_add(lives);
        self.files.put(&self.id, &self.owner, &head, expires_at).await?;
        self.settled = true;
        Ok(StoredFile { id: self.id.clone(), expires_at, head })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.files.coming.fetch_sub(self.bytes, Ordering::Relaxed);
        if self.settled {
            return;
        }
        let (files, id) = (self.files.clone(), std::mem::take(&mut self.id));
        let writing = Arc::clone(&self.writing);
        self.files.tasks.spawn("half upload", async move {
            // What is written after its head has gone would never go.
            let _last = writing.lock().await;
            if let Err(error) = files.remove(&id).await {
                tracing::warn!(id, %error, "what is left of an upload goes with its time");
            }
        });
    }
}

fn too_large(files: &Files) -> ApiError {
    let most = files.max_file_bytes;
    let message = format!("The file is larger than {most} bytes (`batches.max_file_bytes`).");
    ApiError::new("request_too_large", message)
}
