//! Files as documents: a head that tells what it is, and parts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::api::list::Paging;
use crate::config::Config;
use crate::model::KeyId;
use crate::store::{Document, DocumentKind, Documents, Entry, Listed, Page, StoreError};
use crate::tasks::Tasks;

const KIND: DocumentKind = DocumentKind::File;
/// Files looked at together.
const LOOK: usize = 64;
/// Parts in memory for each reader; an uploaded part is at most [`super::upload::PART`] bytes, a written one a line.
const AHEAD: usize = 4;

/// `purpose` of what can be uploaded here.
pub(crate) const BATCH: &str = "batch";

/// All files. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    documents: Arc<Documents>,
    pub(super) tasks: Tasks,
    /// How long one lives, where nobody says.
    pub(crate) ttl: Duration,
    /// Largest upload, bytes.
    pub(super) max_file_bytes: usize,
    /// All files, bytes.
    max_bytes: u64,
    pub(super) upload_timeout: Duration,
    /// Bytes of uploads under way.
    pub(super) coming: Arc<AtomicU64>,
}

/// What a file is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) filename: String,
    pub(crate) purpose: String,
    pub(crate) bytes: u64,
    /// Unix seconds.
    pub(crate) created_at: u64,
    /// Until then nobody sees it.
    pub(crate) whole: bool,
}

/// A file that is whole.
#[derive(Debug)]
pub(crate) struct StoredFile {
    pub(crate) id: String,
    pub(crate) expires_at: Option<SystemTime>,
    pub(crate) head: Head,
}

impl Files {
    pub(crate) fn new(documents: Arc<Documents>, config: &Config, tasks: &Tasks) -> Self {
        Self {
            documents,
            tasks: tasks.clone(),
            ttl: config.store.document_ttl,
            max_file_bytes: config.batches.max_file_bytes,
            max_bytes: config.batches.max_files_bytes as u64,
            upload_timeout: config.batches.upload_timeout,
            coming: Arc::default(),
        }
    }

    /// An id that cannot be guessed.
    pub(crate) fn new_id() -> String {
        format!("file-{}", uuid::Uuid::new_v4().simple())
    }

    /// Keeps a file's head, in place of an earlier one. One that is not whole goes at `expires_at` with its parts.
    pub(crate) async fn put(
        &self,
        id: &str,
        owner: &KeyId,
        head: &Head,
        expires_at: Option<SystemTime>,
    ) -> Result<(), StoreError> {
        let body = serde_json::to_vec(head).unwrap_or_default();
        self.documents.put(KIND, &Document { id: id.into(), owner: owner.clone(), expires_at, body }).await
    }

    /// Adds parts at its end; one whose id is there takes the earlier one's place. Fails where the file has gone.
    pub(crate) async fn add(&self, id: &str, parts: Vec<Entry>) -> Result<(), StoreError> {
        if self.documents.append(KIND, id, parts).await? { Ok(()) } else { Err(gone()) }
    }

    /// The whole file of `owner`'s.
    pub(crate) async fn find(&self, id: &str, owner: &KeyId) -> Result<Option<StoredFile>, StoreError> {
        let document = self.documents.get(KIND, id).await?;
        let document = document.filter(|document| document.owner == *owner);
        Ok(document.as_ref().map(read).transpose()?.filter(|file| file.head.whole))
    }

    /// The whole files of `owner`'s; `None` if `paging.after` is none of them.
    pub(crate) async fn list(
        &self,
        owner: &KeyId,
        purpose: Option<&str>,
        paging: &Paging,
    ) -> Result<Option<Listed<StoredFile>>, StoreError> {
        let mut found = Vec::new();
        let mut after = paging.after.clone();
        loop {
            let page = Page { after: after.as_deref(), limit: LOOK, descending: paging.descending };
            let Some(listed) = self.documents.list(KIND, owner, page).await? else { return Ok(None) };
            after = listed.found.last().map(|document| document.id.clone());
            for document in &listed.found {
                let file = read(document)?;
                if file.head.whole && purpose.is_none_or(|purpose| purpose == file.head.purpose) {
                    found.push(file);
                }
            }
            if found.len() > paging.limit || !listed.has_more {
                let has_more = found.len() > paging.limit;
                found.truncate(paging.limit);
                return Ok(Some(Listed { found, has_more }));
            }
        }
    }

    pub(crate) async fn remove(&self, id: &str) -> Result<bool, StoreError> {
        self.documents.delete(KIND, id).await
    }

    /// Its parts from the first one on.
    pub(crate) fn parts(&self, id: &str) -> Parts {
        let documents = Arc::clone(&self.documents);
        Parts { documents, id: id.into(), after: None, ahead: VecDeque::new(), ended: false }
    }

    /// Deletes a part.
    pub(crate) async fn remove_part(&self, id: &str, part: &str) -> Result<bool, StoreError> {
        self.documents.remove_entry(KIND, id, part).await
    }

    /// Whether all files, whosever, with those that are coming are within their bound.
    pub(super) async fn check_room(&self) -> Result<(), StoreError> {
        let mut bytes = self.coming.load(Ordering::Relaxed);
        let mut after: Option<String> = None;
        loop {
            let listed = self.documents.all(KIND, after.as_deref(), LOOK).await?;
            after = listed.found.last().map(|document| document.id.clone());
            let heads = listed.found.iter().filter_map(|document| read(document).ok());
            bytes = heads.fold(bytes, |bytes, file| bytes.saturating_add(file.head.bytes));
            if bytes > self.max_bytes {
                return Err(StoreError::Refused { reason: "batches.max_files_bytes is reached".into() });
            }
            if !listed.has_more {
                return Ok(());
            }
        }
    }
}

fn gone() -> StoreError {
    StoreError::Unreadable { reason: "the file was deleted".into() }
}

fn read(document: &Document) -> Result<StoredFile, StoreError> {
    let head = serde_json::from_slice(&document.body)
        .map_err(|error| StoreError::Unreadable { reason: error.to_string() })?;
    Ok(StoredFile { id: document.id.clone(), expires_at: document.expires_at, head })
}

/// A file's parts, read as they are wanted.
#[derive(Debug)]
pub(crate) struct Parts {
    documents: Arc<Documents>,
    id: String,
    after: Option<String>,
    ahead: VecDeque<Entry>,
    ended: bool,
}

impl Parts {
    /// The next part's bytes.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        Ok(self.next_entry().await?.map(|entry| entry.body.into()))
    }

    /// The next part. After a failure it may be asked for again.
    pub(crate) async fn next_entry(&mut self) -> Result<Option<Entry>, StoreError> {
        if self.ahead.is_empty() && !self.ended {
            let page = Page { after: self.after.as_deref(), limit: AHEAD, descending: false };
            let listed = self.documents.entries(KIND, &self.id, page).await?;
            let listed = listed.ok_or_else(gone)?;
            self.ended = !listed.has_more;
            self.after = listed.found.last().map(|entry| entry.id.clone());
            self.ahead = listed.found.into();
        }
        Ok(self.ahead.pop_front())
    }
}
