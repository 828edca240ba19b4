//! The input of a batch, line by line: checked as a whole first, then read again row by row.

use std::collections::HashSet;
use std::time::Duration;

use bytes::{Buf, Bytes};

use super::document::LineError;
use super::line::{Row, Wrong};
use crate::api::file_objects::Parts;
use crate::config;
use crate::store::StoreError;

/// Most mistakes that are told.
const MOST_ERRORS: usize = 100;
/// Between two tries of a store that is not there.
const AGAIN: Duration = Duration::from_secs(2);

/// The lines of a file that are not blank. A part and a line are in memory.
#[derive(Debug)]
pub(super) struct Lines {
    parts: Parts,
    part: Bytes,
    /// Longest line, bytes.
    most: usize,
    number: u64,
    ended: bool,
}

/// A line with its number, from 1 on.
pub(super) struct Line {
    pub(super) number: u64,
    /// `None` of one that is too long.
    pub(super) text: Option<Vec<u8>>,
}

impl Lines {
    pub(super) fn new(parts: Parts, most: usize) -> Self {
        Self { parts, part: Bytes::new(), most, number: 0, ended: false }
    }

    /// The next one that is not blank. Fails where the file has gone; a store that is away is waited for.
    pub(super) async fn next(&mut self) -> Result<Option<Line>, StoreError> {
        loop {
            let Some(line) = self.any().await? else { return Ok(None) };
            let is_blank = line.text.as_ref().is_some_and(|text| text.trim_ascii().is_empty());
            if !is_blank {
                return Ok(Some(line));
            }
        }
    }

    async fn any(&mut self) -> Result<Option<Line>, StoreError> {
        let mut text = Vec::new();
        let (mut began, mut too_long) = (false, false);
        loop {
            if self.part.is_empty() {
                if !self.ended {
                    match self.part().await? {
                        Some(part) => self.part = part,
                        None => self.ended = true,
                    }
                }
                if self.ended {
                    return Ok(began.then(|| self.line(text, too_long)));
                }
            }
            began = true;
            let end = self.part.iter().position(|byte| *byte == b'\n');
            let piece = self.part.split_to(end.unwrap_or(self.part.len()));
            too_long |= text.len() + piece.len() > self.most;
            if !too_long {
                text.extend_from_slice(&piece);
            }
            if end.is_some() {
                self.part.advance(1);
                return Ok(Some(self.line(text, too_long)));
            }
        }
    }

    async fn part(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            match self.parts.next().await {
                Err(StoreError::Unavailable { reason }) => {
                    tracing::warn!(reason, "the input of a batch cannot be read now");
                    tokio::time::sleep(AGAIN).await;
                }
                read => {
                    // A store in memory never makes one wait.
                    tokio::task::yield_now().await;
                    return read;
                }
            }
        }
    }

    fn line(&mut self, mut text: Vec<u8>, too_long: bool) -> Line {
        const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
        self.number += 1;
        if self.number == 1 && text.starts_with(BYTE_ORDER_MARK) {
            text.drain(..BYTE_ORDER_MARK.len());
        }
        Line { number: self.number, text: (!too_long).then_some(text) }
    }
}

/// What a check of the whole input has found.
pub(super) struct Checked {
    pub(super) rows: u64,
    /// Where all rows name the same.
    pub(super) model: Option<String>,
    pub(super) errors: Vec<LineError>,
}

/// Reads all lines.
pub(super) async fn check(mut lines: Lines, endpoint: &str, most_rows: usize) -> Result<Checked, StoreError> {
    // Of the ids: every line's would be much.
    let mut ids: HashSet<[u8; 32]> = HashSet::new();
    let (mut rows, mut errors) = (0, Vec::new());
    let (mut model, mut mixed) = (None, false);
    while let Some(line) = lines.next().await? {
        rows += 1;
        if rows > most_rows as u64 {
            let message = format!("The file has more than {most_rows} requests (`batches.max_rows`).");
            errors.push(LineError::new(Wrong::new("too_many_requests", message), None));
            break;
        }
        let row = line.read(lines.most).and_then(|row| {
            if row.url != endpoint {
                let message = "The URL of this request is not the endpoint of the batch.";
                return Err(Wrong { param: Some("url"), ..Wrong::new("invalid_url", message) });
            }
            if !ids.insert(config::digest(row.custom_id.as_bytes())) {
                let message = "The custom_id of this request is a duplicate: each must be another one.";
                return Err(Wrong { param: Some("custom_id"), ..Wrong::new("duplicate_custom_id", message) });
            }
            Ok(row)
        });
        match row {
            Ok(row) if rows == 1 => model = row.model,
            Ok(row) => mixed |= model != row.model,
            Err(wrong) => errors.push(LineError::new(wrong, Some(line.number))),
        }
        if errors.len() >= MOST_ERRORS {
            break;
        }
    }
    if rows == 0 {
        errors.push(LineError::new(Wrong::new("empty_file", "The file has no request."), None));
    }
    Ok(Checked { rows, model: model.filter(|_| !mixed), errors })
}

impl Line {
    pub(super) fn read(&self, most: usize) -> Result<Row, Wrong> {
        let Some(text) = &self.text else {
            let message = format!("This line is longer than {most} bytes (`server.max_body_bytes`).");
            return Err(Wrong::new("request_too_large", message));
        };
        Row::of(text)
    }
}
